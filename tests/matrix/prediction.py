"""What the other commands are given wrong."""

from pathlib import Path

from PIL import Image

from tests.matrix.case import Case, own_data
from tests.voc_tree import truncate


def predict(what: str, given, *typed: str) -> Case:
    """scripts/predict.py on `photos`, a folder with what `given` puts there."""

    def make(folder: Path) -> None:
        (folder / "photos").mkdir()
        given(folder / "photos")

    return Case(what, ("run=run", "input=photos", *typed), script="predict", given=make)


def photo(folder: Path, name: str = "a.png", **options) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", options.pop("size", (40, 30))).save(path, **options)
    return path


def huge(folder: Path) -> None:
    """An image of 225 million pixels, which a file of 30 kB can be."""
    Image.new("1", (15_000, 15_000)).save(folder / "a.png")


def read_only(folder: Path) -> None:
    photo(folder)
    (folder.parent / "predictions").mkdir(mode=0o500)


PREDICTED = [
    Case("no run named", ("input=photos",), script="predict"),
    Case("no input named", ("run=run",), script="predict"),
    Case("no such run", ("run=nowhere", "input=run/curves.png"), script="predict"),
    Case("no such input", ("run=run", "input=photos"), script="predict"),
    Case("a glob that matches nothing", ("run=run", "input='photos/*.jpg'"), script="predict"),
    predict("a folder without images", lambda photos: (photos / "a.txt").touch()),
    predict("a file that is no image", lambda photos: (photos / "a.jpg").write_text("no image")),
    predict("a truncated image", lambda photos: truncate(photo(photos, "a.jpg"))),
    predict("an image of zero bytes", lambda photos: (photos / "a.jpg").touch()),
    predict("a huge image", huge),
    predict("an output of no name", lambda photos: photo(photos), "output="),
    predict("an output that is a file", lambda photos: photo(photos), "output=run/config.yaml"),
    predict("an output that may not be written", read_only),
    predict(
        "an output among the masks of a set",
        lambda photos: (own_data(photos.parent), photo(photos)),
        "output=VOCdevkit/VOC2012/SegmentationClass",
    ),
    predict("two images of one name", lambda photos: (photo(photos), photo(photos, "a.jpg"))),
    predict("masks that would replace the images", lambda photos: photo(photos), "output=photos"),
    predict("a tile that is no multiple of the stride", lambda photos: photo(photos), "tile_size=[100,100]"),
    predict("no scale", lambda photos: photo(photos), "scales=[]"),
    predict("a scale of zero", lambda photos: photo(photos), "scales=[0]"),
    predict("an archive for VOC's server from other classes", lambda photos: photo(photos), "voc_submission=true"),
    predict("a GPU where there is none", lambda photos: photo(photos), "accelerator=gpu"),
    predict("a key of another command", lambda photos: photo(photos), "split=val"),
]

OTHERS = [
    Case("compare.py: no such folder", ("nowhere",), script="compare"),
    Case("compare.py: a folder without runs", ("VOCdevkit",), script="compare", given=own_data),
    Case("prepare_voc.py: no such folder", ("root=nowhere",), script="prepare_voc"),
    Case("prepare_voc.py: no split", ("root=.", "splits=[]"), script="prepare_voc", given=own_data),
    Case("upsample.py: no input", (), script="upsample"),
    Case("upsample.py: an input that is no image", ("input=run/config.yaml",), script="upsample"),
    Case("upsample.py: a factor of zero", ("input=run/curves.png", "factor=0"), script="upsample"),
    Case("tune.py: no such search", ("search=bayes",), script="tune"),
    Case("tune.py: no trial", ("search=default", "trials=0"), script="tune"),
    Case("tune.py: a distribution that is none", ("search=default", "search.space={lr:guess}"), script="tune"),
    Case("compare.py: an option that is none", ("run", "--htlm=x"), script="compare"),
    Case("benchmark.py: no such benchmark", ("stepp",), script="benchmark"),
]

SECTIONS = {"predict.py": PREDICTED, "Other commands": OTHERS}
