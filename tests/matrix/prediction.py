"""Invalid input of predict.py and the other commands."""

from pathlib import Path

from PIL import Image

from tests.matrix.case import Case, own_data
from tests.voc_tree import truncate


def predict(description: str, given, *arguments: str) -> Case:
    """Return a case of scripts/predict.py on the folder `photos`, which `given` fills."""

    def make(folder: Path) -> None:
        (folder / "photos").mkdir()
        given(folder / "photos")

    return Case(description, ("run=run", "input=photos", *arguments), script="predict", given=make)


def photo(folder: Path, name: str = "a.png", **options) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", options.pop("size", (40, 30))).save(path, **options)
    return path


def huge(folder: Path) -> None:
    """Save an image of 225 million pixels in a file of 30 kB."""
    Image.new("1", (15_000, 15_000)).save(folder / "a.png")


def read_only(folder: Path) -> None:
    photo(folder)
    (folder.parent / "predictions").mkdir(mode=0o500)


PREDICTED = [
    Case("`run` is missing", ("input=photos",), script="predict"),
    Case("`input` is missing", ("run=run",), script="predict"),
    Case("no such run", ("run=nowhere", "input=run/curves.png"), script="predict"),
    Case("no such input", ("run=run", "input=photos"), script="predict"),
    Case("a glob that matches nothing", ("run=run", "input='photos/*.jpg'"), script="predict"),
    predict("a folder without images", lambda photos: (photos / "a.txt").touch()),
    predict("a file that is not an image", lambda photos: (photos / "a.jpg").write_text("no image")),
    predict("a truncated image", lambda photos: truncate(photo(photos, "a.jpg"))),
    predict("an empty image file", lambda photos: (photos / "a.jpg").touch()),
    predict("an image with 225 million pixels", huge),
    predict("an empty `output`", lambda photos: photo(photos), "output="),
    predict("an output that is a file", lambda photos: photo(photos), "output=run/config.yaml"),
    predict("an output folder without write permission", read_only),
    predict(
        "an output folder with the masks of a dataset",
        lambda photos: (own_data(photos.parent), photo(photos)),
        "output=VOCdevkit/VOC2012/SegmentationClass",
    ),
    predict("two images with the same name", lambda photos: (photo(photos), photo(photos, "a.jpg"))),
    predict("predicted masks that would overwrite the images", lambda photos: photo(photos), "output=photos"),
    predict("a tile size that is not a multiple of the stride", lambda photos: photo(photos), "tile_size=[100,100]"),
    predict("an empty list of scales", lambda photos: photo(photos), "scales=[]"),
    predict("a scale of zero", lambda photos: photo(photos), "scales=[0]"),
    predict("a VOC submission with other classes", lambda photos: photo(photos), "voc_submission=true"),
    predict("`accelerator=gpu` without a GPU", lambda photos: photo(photos), "accelerator=gpu"),
    predict("a key of another command", lambda photos: photo(photos), "split=val"),
]

OTHERS = [
    Case("compare.py: no such folder", ("nowhere",), script="compare"),
    Case("compare.py: a folder without runs", ("VOCdevkit",), script="compare", given=own_data),
    Case("prepare_voc.py: no such folder", ("root=nowhere",), script="prepare_voc"),
    Case("prepare_voc.py: an empty list of splits", ("root=.", "splits=[]"), script="prepare_voc", given=own_data),
    Case("upsample.py: `input` is missing", (), script="upsample"),
    Case("upsample.py: an input that is not an image", ("input=run/config.yaml",), script="upsample"),
    Case("upsample.py: a factor of zero", ("input=run/curves.png", "factor=0"), script="upsample"),
    Case("tune.py: an unknown search", ("search=bayes",), script="tune"),
    Case("tune.py: zero trials", ("search=default", "trials=0"), script="tune"),
    Case("tune.py: an unknown distribution", ("search=default", "search.space={lr:guess}"), script="tune"),
    Case("compare.py: an unknown option", ("run", "--htlm=x"), script="compare"),
    Case("benchmark.py: an unknown benchmark", ("stepp",), script="benchmark"),
]

SECTIONS = {"predict.py": PREDICTED, "Other commands": OTHERS}
