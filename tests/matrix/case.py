"""A case of the matrix, and the small things that cases are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.voc_tree import make_voc_tree, noise, palette_mask

CLASSES = "[background,thing]"
# A run on `own_data`, of which nothing is ever trained.
OWN = (
    "data=voc", "data.root=.", f"data.classes={CLASSES}", "data.crop_size=[32,32]", "backbone=squeezenet1_0",
    "batch_size=2", "epochs=1", "trainer=cpu", "data.num_workers=0",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Something wrong.

    Attributes:
        what: for people, as it stands on the page.
        arguments: that are typed.
        script: of scripts/, or train.
        given: makes what lies in the folder in which the command is typed; it gets the folder, in which `run` is the
            directory of an untrained run of the first two classes, and has become the working directory.
        accepted: whether it is no mistake at all: the command must succeed.
    """

    what: str
    arguments: Sequence[str]
    script: str = "train"
    given: Callable[[Path], object] = lambda folder: None
    accepted: bool = False


def own_data(folder: Path) -> Path:
    """A set of two classes in VOC's layout: a, b and c to train on, d to validate with; the tree's folder."""
    half = np.zeros((40, 48), np.uint8)
    half[:20] = 1
    return make_voc_tree(folder, dict.fromkeys("abcd", half), {"train": "abc", "val": "d"})


def save_image(tree: Path, name: str, *, size: tuple[int, int] = (40, 48), mode: str = "RGB", **options) -> Path:
    """Noise of height and width `size` as JPEGImages/<name>.jpg, in a format that has the mode."""
    image = Image.fromarray(noise(*size)).convert("L" if mode in ("I;16", "F") else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    path = tree / "JPEGImages" / f"{name}.jpg"
    image_format = {"I;16": "PNG", "F": "TIFF"}.get(mode, "JPEG")
    (image.convert("F") if mode == "F" else image).save(path, image_format, **options)
    return path


def save_mask(tree: Path, name: str, *, size: tuple[int, int] = (40, 48), mode: str = "P", value: int = 1) -> Path:
    """A mask whose upper half is `value`, as SegmentationClass/<name>.png."""
    mask = np.zeros(size, np.uint8)
    mask[: (size[0] + 1) // 2] = value
    image = palette_mask(mask)
    if mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16))
    elif mode != "P":
        image = image.convert(mode) if mode != "L" else Image.fromarray(mask)
    path = tree / "SegmentationClass" / f"{name}.png"
    image.save(path)
    return path


class Malicious:
    """Pickled, it is a call that leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def change_checkpoint(path: Path, change: Callable[[dict], object]) -> None:
    """Load, change and save a checkpoint."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
