"""Invalid datasets: the run fails before its first step."""

import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.matrix.case import OWN, Case, own_data, save_image, save_mask
from tests.voc_tree import truncate, write_list


def data(
    description: str, spoil: Callable[[Path], object] = lambda tree: None, *arguments: str, accepted: bool = False
) -> Case:
    """Return a case of a run on a dataset that `spoil` has changed."""
    return Case(description, (*OWN, *arguments), given=lambda folder: spoil(own_data(folder)), accepted=accepted)


def link_to_itself(path: Path) -> None:
    if path.is_dir():
        path.rename(path.with_name("moved"))
    else:
        path.unlink()
    path.symlink_to(path.name)


TREES = [
    Case("no such folder", ("data=voc", "data.root=nowhere", "trainer=cpu")),
    data("images without lists", lambda tree: shutil.rmtree(tree / "ImageSets")),
    Case("a file instead of a folder", (*OWN, "data.root=a.txt"), given=lambda folder: (folder / "a.txt").touch()),
    Case(
        "a file in place of the folder of the synthetic dataset",
        ("data.root=a.txt", "trainer=cpu"),
        given=lambda folder: (folder / "a.txt").touch(),
    ),
    data("an image folder that is a link to itself", lambda tree: link_to_itself(tree / "JPEGImages")),
    data("a folder without read permission", lambda tree: (tree / "SegmentationClass").chmod(0)),
]

LISTS = [
    data("a missing list", lambda tree: None, "data.train_split=trian"),
    data("a split name with `../`", lambda tree: None, "data.train_split=../../a"),
    data("an empty list", lambda tree: write_list(tree, "train")),
    data("a line with `../`", lambda tree: write_list(tree, "train", "a", "../../../etc/passwd")),
    data("a line with an absolute path", lambda tree: write_list(tree, "train", "/etc/passwd")),
    data("a line with a suffix", lambda tree: write_list(tree, "train", "a.jpg")),
    data("a line with the flag of a class", lambda tree: write_list(tree, "train", "a  1")),
    data(
        "a binary file instead of a list",
        lambda tree: (tree / "ImageSets/Segmentation/train.txt").write_bytes(b"\x1b[31m\xff\x00"),
    ),
    data("fewer images than a batch", lambda tree: None, "batch_size=4"),
    data("all images smaller than the crop", lambda tree: None, "data.protocol=d2l", "data.crop_size=[64,64]"),
]

IMAGES = [
    data("a missing image", lambda tree: (tree / "JPEGImages/b.jpg").unlink()),
    data("a truncated image", lambda tree: truncate(tree / "JPEGImages/b.jpg")),
    data("an empty image file", lambda tree: truncate(tree / "JPEGImages/b.jpg", 0)),
    data("a text file instead of an image", lambda tree: (tree / "JPEGImages/b.jpg").write_text("no image")),
    data("an image with floating-point pixels", lambda tree: save_image(tree, "b", mode="F")),
    data("an image that is a link to itself", lambda tree: link_to_itself(tree / "JPEGImages/b.jpg")),
    data("an image without read permission", lambda tree: (tree / "JPEGImages/b.jpg").chmod(0)),
]

MASKS = [
    data("a missing mask", lambda tree: (tree / "SegmentationClass/b.png").unlink()),
    data("a truncated mask", lambda tree: truncate(tree / "SegmentationClass/b.png")),
    data("an empty mask file", lambda tree: truncate(tree / "SegmentationClass/b.png", 0)),
    data("an RGB mask", lambda tree: save_mask(tree, "b", mode="RGB")),
    data("an RGBA mask", lambda tree: save_mask(tree, "b", mode="RGBA")),
    data("a grey mask", lambda tree: save_mask(tree, "b", mode="L")),
    data("a 16-bit mask", lambda tree: save_mask(tree, "b", mode="I;16")),
    data("an index beyond the last class", lambda tree: save_mask(tree, "b", value=21)),
    data("index 254", lambda tree: save_mask(tree, "b", value=254)),
    data("a mask whose size differs from its image's", lambda tree: save_mask(tree, "b", size=(48, 40))),
    data("a validation mask with an index beyond the last class", lambda tree: save_mask(tree, "d", value=2)),
]


def all_kinds(tree: Path) -> None:
    """Write unusual but valid images and masks."""
    save_image(tree, "a", mode="L")
    save_image(tree, "b", mode="CMYK")
    save_image(tree, "c", mode="I;16")
    save_image(tree, "d", size=(1, 1))
    save_mask(tree, "d", size=(1, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees
    save_image(tree, "e", exif=exif)
    save_image(tree, "f", size=(1, 1))
    for name, size in {"e": (40, 48), "f": (1, 1)}.items():
        save_mask(tree, name, size=size, value=255)
    write_list(tree, "train", *"abcef")
    write_list(tree, "val", *"adf")


ACCEPTED = [
    data(
        "grey, CMYK, 16-bit, EXIF-rotated and 1x1 images, masks with only void",
        all_kinds,
        accepted=True,
    ),
]

STARTED = [
    data("`data=shapes data.classes=[background,thing]`", lambda tree: None, "data=shapes"),
    data("`backbone.output_stride=24`", lambda tree: None, "backbone.output_stride=24"),
    data(
        "`backbone.output_stride=8` with a backbone that cannot be dilated",
        lambda tree: None,
        "backbone.output_stride=8",
    ),
    data("a warm-up longer than the run", lambda tree: None, "schedule.warmup_steps=5"),
    data("a loss that overflows", lambda tree: None, "lr=1e30", "schedule=constant", "epochs=9"),
]

SECTIONS = {
    "Unusual but valid": ACCEPTED,
    "At the start of a run": STARTED,
    "Dataset folders": TREES,
    "Lists": LISTS,
    "Images": IMAGES,
    "Masks": MASKS,
}
