"""The embedded set: a small dataset of drawn shapes in the layout of VOC, so that a first run needs no download.

Facts: 6 shape classes and background; JPEG images with sides of 96 to 176 pixels, landscape and portrait; 1 to 4 objects
an image, rotated, scaled and covering each other; palette PNG masks of the image's size, whose index is the class and
255 (void) along a 2-pixel border of every object, as in VOC.

Shape is the only certain cue: a class has a favourite hue, but a good part of the objects take a random one, and
backgrounds take any. Discs and rings, or squares and crosses, differ in thin parts or holes, which is where finer strides
(FCN-16s, FCN-8s) have something to gain.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from fcn.data.voc import color_map

CLASSES: tuple[str, ...] = ("background", "disc", "square", "triangle", "star", "cross")

VERSION: int = 1
"""Raised whenever the drawing changes: it is part of the folder's name, so that old drawings are never read as new ones."""

VOID = 255
MIN_SIDE, MAX_SIDE = 96, 176
MAX_OBJECTS = 4
MIN_RADIUS, MAX_RADIUS = 0.20, 0.42  # of the image's shorter side
FAVOURITE_HUE_SHARE = 0.7  # of the objects; the others take a random hue
HUE_SPREAD = 15
BACKGROUND_SATURATION = 0, 35
OBJECT_SATURATION = 60, 100
SUPERSAMPLING = 4  # shapes are drawn this much larger and averaged down, which PIL's polygons need for smooth edges

FloatArray = NDArray[np.float32]


def ensure_shapes(root: Path, *, num_train: int, num_val: int, seed: int) -> Path:
    """The folder that contains `VOCdevkit/VOC2012` with the drawn set; draws it first where it is absent.

    Other parameters or another VERSION go to another folder. The set appears all at once or not at all, so several
    processes may ask for it at the same time. An image depends on `seed`, its split and its number in the split alone:
    a larger set begins with the images of a smaller one.

    Args:
        root: folder under which the sets lie; it is made where it does not exist.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        seed: any integer from 0.

    Returns:
        `<root>/v<VERSION>-<num_train>-<num_val>-seed<seed>`.

    Raises:
        ValueError: for a count below 1 or a seed below 0.
        OSError: where the folder cannot be written.
    """
    _require_at_least("num_train", num_train, minimum=1)
    _require_at_least("num_val", num_val, minimum=1)
    _require_at_least("seed", seed, minimum=0)
    folder = root / f"v{VERSION}-{num_train}-{num_val}-seed{seed}"
    if not folder.is_dir():
        _draw_in_one_step(folder, {"train": num_train, "val": num_val}, seed=seed)
    return folder


def _require_at_least(name: str, value: int, *, minimum: int) -> None:
    if value < minimum:
        raise ValueError(f"{name} (={value}) must be at least {minimum}; use e.g. {name}={minimum}")


def _draw_in_one_step(folder: Path, counts: dict[str, int], *, seed: int) -> None:
    """Draws beside `folder` and renames, so that nobody ever sees an unfinished set."""
    # Not tempfile.mkdtemp: its mode 0700 would survive the rename and lock out the other users of a shared root.
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        _write_voc(unfinished / "VOCdevkit" / "VOC2012", counts, seed=seed)
        os.rename(unfinished, folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Otherwise another process was first: a rename onto a folder with files in it fails. Its set equals ours.
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_voc(voc: Path, counts: dict[str, int], *, seed: int) -> None:
    """Writes the images, masks and split lists of all splits under `voc`."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    palette = color_map().tobytes()
    lists = {split: [f"{split}_{index:05d}" for index in range(count)] for split, count in counts.items()}
    for split_number, (split, ids) in enumerate(lists.items()):
        for index, image_id in enumerate(ids):
            image, mask = draw_sample(np.random.default_rng((seed, split_number, index)))
            mask.putpalette(palette)
            image.save(voc / "JPEGImages" / f"{image_id}.jpg", quality=95)
            mask.save(voc / "SegmentationClass" / f"{image_id}.png")
    lists["trainval"] = [image_id for ids in lists.values() for image_id in ids]
    for name, ids in lists.items():
        (voc / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


def draw_sample(rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """One image (RGB) and its mask (mode P, no palette yet) of the same size, with all choices drawn from `rng`."""
    height, width = (int(side) for side in rng.integers(MIN_SIDE, MAX_SIDE, size=2, endpoint=True))
    image = _textured(rng, (height, width), hue=rng.uniform(0, 360), saturation=rng.uniform(*BACKGROUND_SATURATION))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, MAX_OBJECTS, endpoint=True)):
        label = int(rng.integers(1, len(CLASSES)))
        cover = _random_cover(rng, CLASSES[label], (height, width))
        fill = _textured(rng, (height, width), hue=_object_hue(rng, label), saturation=rng.uniform(*OBJECT_SATURATION))
        alpha = np.asarray(cover, np.float32)[..., None] / 255
        image += alpha * (fill - image)
        _paint_label(mask, cover, label)
    image += rng.normal(scale=rng.uniform(0, 10), size=(height, width, 1))  # sensor noise
    return Image.fromarray(image.clip(0, 255).astype(np.uint8)), Image.fromarray(mask).convert("P")


def _object_hue(rng: np.random.Generator, label: int) -> float:
    """The class's favourite hue give or take, or any hue, in degrees."""
    if rng.random() < FAVOURITE_HUE_SHARE:
        return float(rng.normal(360 * label / (len(CLASSES) - 1), HUE_SPREAD)) % 360
    return float(rng.uniform(0, 360))


def _paint_label(mask: NDArray[np.uint8], cover: Image.Image, label: int) -> None:
    """Writes one object into the mask: its class inside, void on the last pixel inside and the first outside."""
    inner = np.asarray(cover.filter(ImageFilter.MinFilter(3))) >= 128
    outer = np.asarray(cover.filter(ImageFilter.MaxFilter(3))) >= 128
    mask[outer] = VOID
    mask[inner] = label


def _random_cover(rng: np.random.Generator, name: str, size: tuple[int, int]) -> Image.Image:
    """The named shape at a random place, scale and rotation: mode L of `size` (H, W), 255 where it covers a pixel wholly."""
    height, width = size
    radius = min(size) * rng.uniform(MIN_RADIUS, MAX_RADIUS)
    center = np.array([width, height]) * rng.uniform(0.15, 0.85, size=2)
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cover = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(cover)
    for outline, fill in _outlines(name):
        points = (outline * (1, rng.uniform(0.8, 1)) if False else outline) @ rotation * radius + center
        draw.polygon([tuple(p) for p in points * SUPERSAMPLING], fill=fill)
    return cover.reduce(SUPERSAMPLING)


def _outlines(name: str) -> Iterator[tuple[FloatArray, int]]:
    """The polygons of a shape within the unit circle, [N, 2] as (x, y), in drawing order, with fill 255 or 0 (a hole)."""
    if name == "disc":
        yield 0.9 * _spokes(48), 255
    elif name == "ring":
        yield _spokes(48), 255
        yield 0.6 * _spokes(48), 0
    elif name == "square":
        yield _spokes(4), 255
    elif name == "triangle":
        yield _spokes(3), 255
    elif name == "star":
        yield _spokes(10) * np.where(np.arange(10) % 2, 0.5, 1.0)[:, None], 255
    elif name == "cross":
        arm = np.array([[1, -0.33], [1, 0.33], [0.33, 0.33]])
        yield np.concatenate([arm @ np.array([[0, 1], [-1, 0]]).T.__pow__(1) if False else _quarter_turn(arm, k) for k in range(4)]), 255


def _quarter_turn(points, k):
    for _ in range(k):
        points = np.stack([-points[:, 1], points[:, 0]], 1)
    return points


def _spokes(count: int) -> FloatArray:
    """`count` points evenly round the unit circle, [count, 2]."""
    angles = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _textured(rng: np.random.Generator, size: tuple[int, int], *, hue: float, saturation: float) -> FloatArray:
    """A surface of one colour with a gradient, stripes or blotches in brightness: float32 [H, W, 3] in 0..255."""
    lightness = rng.uniform(30, 70)
    base = np.array(ImageColor.getrgb(f"hsl({hue:.0f},{saturation:.0f}%,{lightness:.0f}%)"), np.float32)
    kind = rng.choice(["gradient", "stripes", "blotches"])
    return base + rng.uniform(10, 50) * _pattern(rng, str(kind), size)[..., None]


def _pattern(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> FloatArray:
    """Brightness of the named texture, float32 [H, W] in about -1..1."""
    height, width = size
    if kind == "blotches":
        coarse = Image.fromarray(rng.normal(0, 0.6, (height // 12, width // 12)).astype(np.float32))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    if kind == "stripes":
        return np.sin(along * np.float32(2 * np.pi / rng.uniform(6, 24)))
    return 2 * (along - along.min()) / np.ptp(along) - 1
