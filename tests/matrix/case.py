"""A case of the matrix, and functions that prepare invalid files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.voc_tree import make_voc_tree, noise, palette_mask

CLASSES = "[background,thing]"
# A run on `own_data`; most cases fail before its first step.
OWN = (
    "data=voc", "data.root=.", f"data.classes={CLASSES}", "data.crop_size=[32,32]", "backbone=squeezenet1_0",
    "batch_size=2", "epochs=1", "trainer=cpu", "data.num_workers=0",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Invalid input of a command.

    Attributes:
        description: name of the case in messages.txt.
        arguments: arguments of the command.
        script: name of the command: train, or one of scripts/.
        given: function that prepares the working directory, which contains `run`, a finished run with two classes.
        accepted: whether the input is unusual but valid, so that the command must succeed.
    """

    description: str
    arguments: Sequence[str]
    script: str = "train"
    given: Callable[[Path], object] = lambda folder: None
    accepted: bool = False


def own_data(folder: Path) -> Path:
    """Write a dataset of two classes in VOC's layout (train: a, b, c; val: d) and return its folder VOC2012."""
    half = np.zeros((40, 48), np.uint8)
    half[:20] = 1
    return make_voc_tree(folder, dict.fromkeys("abcd", half), {"train": "abc", "val": "d"})


def save_image(tree: Path, name: str, *, size: tuple[int, int] = (40, 48), mode: str = "RGB", **options) -> Path:
    """Save noise of height and width `size` as JPEGImages/<name>.jpg, in a format that supports the mode."""
    image = Image.fromarray(noise(*size)).convert("L" if mode in ("I;16", "F") else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    path = tree / "JPEGImages" / f"{name}.jpg"
    image_format = {"I;16": "PNG", "F": "TIFF"}.get(mode, "JPEG")
    (image.convert("F") if mode == "F" else image).save(path, image_format, **options)
    return path


def save_mask(tree: Path, name: str, *, size: tuple[int, int] = (40, 48), mode: str = "P", value: int = 1) -> Path:
    """Save a mask whose upper half is `value` as SegmentationClass/<name>.png."""
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
    """Creates a file named `executed` when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def change_checkpoint(path: Path, change: Callable[[dict], object]) -> None:
    """Load, change and save a checkpoint."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
