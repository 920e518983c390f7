"""The built-in synthetic dataset: drawn shapes in VOC's layout, without a download.

Facts: 5 shape classes and background; JPEG images with sides of 96 to 160 pixels, landscape and portrait;
1 to 3 objects per image, rotated, scaled and overlapping; palette PNG masks of the image's size, whose index is the
class, with 255 (void) on the last pixel inside and the first pixel outside of every outline, as in VOC.

Most objects of a class, but not all, have its typical hue, so that colour is an easy cue but only the shape is
reliable. Corners, tips and arms are finer than a stride of 32, so that networks with finer strides score higher.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from fcn.config import IGNORE_INDEX
from fcn.data.dataset_options import SHAPES_CLASSES as CLASSES
from fcn.data.palette import palette_image
from fcn.data.split_lists import SPLIT_LISTS, TREE
from fcn.runs.atomic_files import new_folder

VERSION: int = 1
"""Must be raised whenever the drawing changes. It is part of the folder name, so outdated images are not reused."""

SPLITS = ("train", "val")  # the position in this tuple seeds the random numbers: append only
MIN_SIDE, MAX_SIDE = 96, 160
MAX_OBJECTS = 3
MIN_RADIUS, MAX_RADIUS = 0.28, 0.46  # of the circumscribed circle, as a fraction of the shorter side of the image
TYPICAL_HUE_SHARE = 0.9
HUE_SPREAD = 12  # standard deviation around the typical hue, degrees
BACKGROUND_SATURATION = 0, 35  # range in percent; paler than the objects, as in many photographs
OBJECT_SATURATION = 60, 100
SUPERSAMPLING = 4  # PIL draws polygons without antialiasing: they are drawn this much larger and averaged

FloatArray = NDArray[np.float64]


def _round_the_circle(num_rounds: int, *distances: float) -> FloatArray:
    """Return corners at equal angles whose distances from the centre repeat `distances`, [N, 2] as (x, y)."""
    radii = np.tile(distances, num_rounds)[:, None]
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    corners: FloatArray = radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return corners


_ARM = np.array([(3, -1), (3, 1), (1, 1)]) / 3
_QUARTER_TURN = np.array([(0, 1), (-1, 0)])
OUTLINES: dict[str, FloatArray] = {  # corners in order, [N, 2] as (x, y), in or close to the unit circle
    "disc": _round_the_circle(48, 0.9),
    "square": _round_the_circle(4, 1.0),
    "triangle": _round_the_circle(3, 1.0),
    "star": _round_the_circle(5, 1.0, 0.5),
    "cross": np.concatenate([_ARM @ np.linalg.matrix_power(_QUARTER_TURN, quarter) for quarter in range(4)]),
}


def ensure_shapes(root: Path, *, num_train: int, num_val: int, seed: int) -> Path:
    """Return the folder that contains `VOCdevkit/VOC2012` with the dataset, which is drawn unless it exists.

    Every combination of parameters and version has its own folder. A dataset appears complete or not at all, so
    several processes may call this at the same time. A sample depends only on `seed`, its split and its number in the
    split: a larger dataset begins with the samples of a smaller one.

    Args:
        root: folder of all drawn datasets; it is created if necessary.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        seed: at least 0.

    Returns:
        `<root>/v<VERSION>-<num_train>-<num_val>-seed<seed>`.

    Raises:
        OSError: if the dataset cannot be written below `root`.
    """
    folder = root / f"v{VERSION}-{num_train}-{num_val}-seed{seed}"
    if not folder.is_dir():
        with new_folder(folder) as temporary:
            _write_voc(temporary / TREE, dict(zip(SPLITS, (num_train, num_val), strict=True)), seed)
    return folder


def _write_voc(tree: Path, counts: dict[str, int], seed: int) -> None:
    """Write images, masks and split lists below `tree`, which must not exist."""
    for name in ("JPEGImages", "SegmentationClass", SPLIT_LISTS):
        (tree / name).mkdir(parents=True)
    names = {split: [f"{split}_{index:05d}" for index in range(count)] for split, count in counts.items()}
    for split, names_of_split in names.items():
        for index, name in enumerate(names_of_split):
            image, mask = draw_sample(np.random.default_rng((seed, SPLITS.index(split), index)))
            Image.fromarray(image).save(tree / "JPEGImages" / f"{name}.jpg", quality=95)
            palette_image(mask).save(tree / "SegmentationClass" / f"{name}.png")
    names["trainval"] = [name for split in SPLITS for name in names[split]]
    for split, names_of_split in names.items():
        (tree / SPLIT_LISTS / f"{split}.txt").write_text("\n".join([*names_of_split, ""]), encoding="utf-8")


def draw_sample(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image, uint8 [H, W, 3] RGB, and its mask, uint8 [H, W]; `rng` determines both."""
    height, width = rng.integers(MIN_SIDE, MAX_SIDE, size=2, endpoint=True).tolist()
    image = _surface(rng, (height, width), rng.uniform(0, 360), rng.uniform(*BACKGROUND_SATURATION))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, MAX_OBJECTS, endpoint=True)):
        label = int(rng.integers(1, len(CLASSES)))
        cover = _cover(rng, CLASSES[label], (height, width))
        surface = _surface(rng, (height, width), _hue(rng, label), rng.uniform(*OBJECT_SATURATION))
        image += np.asarray(cover)[..., None] / 255 * (surface - image)
        _write_label(mask, cover, label)
    image += rng.normal(scale=rng.uniform(0, 10), size=(height, width, 1))  # sensor noise
    return image.clip(0, 255).astype(np.uint8), mask


def _write_label(mask: NDArray[np.uint8], cover: Image.Image, label: int) -> None:
    """Write an object into `mask`, in place: its class, and void on both sides of the outline."""
    # The mean over 3x3 pixels is 255 only if all nine are inside, and 0 only if all nine are outside.
    share = np.asarray(cover.point([0] * 128 + [255] * 128).filter(ImageFilter.BoxBlur(1)))
    mask[share > 0] = IGNORE_INDEX
    mask[share == 255] = label


def _hue(rng: np.random.Generator, label: int) -> float:
    """Draw the hue of an object, degrees: close to that of its class, or any hue for some objects."""
    if rng.random() < TYPICAL_HUE_SHARE:
        return float(rng.normal(360 * label / (len(CLASSES) - 1), HUE_SPREAD)) % 360
    return float(rng.uniform(0, 360))


def _cover(rng: np.random.Generator, name: str, size: tuple[int, int]) -> Image.Image:
    """Draw a shape at a random place, scale and angle: mode L, `size` (H, W), covered part of every pixel in 1/255."""
    height, width = size
    radius = min(size) * rng.uniform(MIN_RADIUS, MAX_RADIUS)
    center = np.array([width, height]) * rng.uniform(0.15, 0.85, size=2)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = (radius * OUTLINES[name] @ turn + center) * SUPERSAMPLING
    cover = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    ImageDraw.Draw(cover).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return cover.reduce(SUPERSAMPLING)


def _surface(rng: np.random.Generator, size: tuple[int, int], hue: float, saturation: float) -> FloatArray:
    """Draw a surface with a gradient, stripes or blotches of brightness: [H, W, 3], about 0 to 255.

    `size` is (H, W), `hue` is in degrees, `saturation` in percent.
    """
    color = ImageColor.getrgb(f"hsl({hue:.0f}, {saturation:.0f}%, {rng.uniform(30, 70):.0f}%)")
    pattern = (_gradient, _stripes, _blotches)[rng.integers(3)](rng, size)
    return np.array(color) + rng.uniform(10, 50) * pattern[..., None]


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    along = _ramp(rng, size)
    return np.interp(along, [along.min(), along.max()], [-1, 1])


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    num_radians = 2 * np.pi / rng.uniform(6, 24)  # per pixel
    return np.sin(_ramp(rng, size) * num_radians)


def _blotches(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    height, width = size
    coarse = Image.fromarray(rng.normal(scale=0.6, size=(height // 12, width // 12)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    """Return the distance of each pixel from the top left corner along a random direction, pixels, [H, W]."""
    height, width = size
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    along: FloatArray = x * np.cos(angle) + y * np.sin(angle)
    return along
