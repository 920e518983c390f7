"""What is measured how often, on what; and the configurations and images that follow. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fcn.config import Config
from fcn.config.composition import compose
from fcn.data import palette, shapes, voc

DRAWN = 24
"""Different images in a drawn tree; more are links to these."""

VOC_SIZE = (375, 500)
"""Height and width of most images of VOC."""


@dataclass(frozen=True)
class Variant:
    """How the network computes: `trainer.precision`, and whether it is compiled."""

    precision: str
    compile: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, compiled" if self.compile else self.precision

    @property
    def overrides(self) -> list[str]:
        return [f"trainer.precision={self.precision}", f"compile={str(self.compile).lower()}"]


@dataclass(frozen=True)
class Settings:
    """Of all benchmarks of one command.

    Attributes:
        on_gpu: whether they compute on a GPU.
        rounds: how often the contestants take turns.
        steps: measured steps of one turn.
        batch_size: images of a step.
        size: height and width of the training crop, pixels.
        variants: ways to compute that are measured one after the other.
        overrides: typed keys of our configuration, added at its end.
        data_root: folder that holds VOCdevkit/VOC2012; None draws images of VOC's size.
        folder: empty, for trees and run directories.
        quick: whether only the way through the code counts, as in a test.
        tell: called with a line on what is being measured.
    """

    on_gpu: bool
    rounds: int
    steps: int
    batch_size: int
    size: tuple[int, int]
    variants: Sequence[Variant]
    folder: Path
    overrides: Sequence[str] = ()
    data_root: Path | None = None
    quick: bool = False
    tell: Callable[[str], object] = lambda line: None

    @property
    def device(self) -> str:
        return "cuda" if self.on_gpu else "cpu"

    @property
    def as_promised(self) -> bool:
        """Whether crop and batch are those that goals were set for."""
        return self.size == (320, 480) and self.batch_size == (32 if self.on_gpu else 8)

    @property
    def slow_rounds(self) -> int:
        """Rounds of what starts processes."""
        return min(self.rounds, 1 if self.quick else 3)

    def config(self, tree: Path, variant: Variant, *overrides: str) -> Config:
        """The chapter's training by our means, on the images of `tree`.

        Raises:
            ConfigError: if an override is wrong.
        """
        return compose(
            "experiment=d2l",
            "data.protocol=voc",
            "data.download=false",
            "backbone.weights=none",
            "lr=1e-4",  # from random weights, for as long as it takes: it must not diverge
            f"trainer={'gpu' if self.on_gpu else 'cpu'}",
            f"data.root={tree}",
            f"batch_size={self.batch_size}",
            "data.crop_size=[{},{}]".format(*self.size),
            *variant.overrides,
            *overrides,
            *self.overrides,
        )


def make_tree(folder: Path, *, num_train: int, num_val: int = 1, source: Path | None = None) -> Path:
    """A VOC tree of as many images as asked for, without copies: links to those of `source` in turn, or to drawn ones.

    Args:
        folder: of the tree; it must not exist.
        num_train: images in train.txt.
        num_val: images in val.txt; the first ones of train.txt.
        source: folder that holds VOCdevkit/VOC2012; None draws `DRAWN` images of `VOC_SIZE`.

    Returns:
        `folder`.

    Raises:
        DataError: if `source` holds no VOC.
    """
    tree = folder / voc.TREE
    for name in ("JPEGImages", "SegmentationClass", voc.SPLIT_LISTS):
        (tree / name).mkdir(parents=True)
    pairs = draw(folder / "drawn", min(DRAWN, num_train)) if source is None else voc.read_split(source, "train")
    names = [f"{number:06d}" for number in range(num_train)]
    for number, name in enumerate(names):
        pair = pairs[number % len(pairs)]
        (tree / "JPEGImages" / f"{name}.jpg").symlink_to(pair.image.absolute())
        (tree / "SegmentationClass" / f"{name}.png").symlink_to(pair.mask.absolute())
    for split, listed in (("train", names), ("val", names[:num_val])):
        (tree / voc.SPLIT_LISTS / f"{split}.txt").write_text("\n".join(listed), encoding="utf-8")
    return folder


def draw(folder: Path, count: int) -> list[voc.Pair]:
    """Images of the embedded set enlarged to `VOC_SIZE`, with noise: files of about the size of VOC's."""
    folder.mkdir()
    pairs = []
    height, width = VOC_SIZE
    for number in range(count):
        rng = np.random.default_rng(number)
        image, mask = (Image.fromarray(array) for array in shapes.draw_sample(rng))
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) + rng.normal(
            0, 8, (height, width, 1)
        )
        pair = voc.Pair(str(number), folder / f"{number}.jpg", folder / f"{number}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(pair.image, quality=92)
        large = mask.resize((width, height), Image.Resampling.NEAREST)
        palette.palette_image(np.asarray(large)).save(pair.mask)
        pairs.append(pair)
    return pairs
