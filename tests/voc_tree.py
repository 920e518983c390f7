"""VOC trees, palette masks and split lists for tests."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from fcn.data import shapes
from fcn.data.mask_formats import MaskReader
from fcn.data.pair_reader import PairReader
from fcn.data.palette import color_map

VOC = Path("VOCdevkit/VOC2012")


def palette_mask(indices: ArrayLike, palette: Iterable[int] | None = None) -> Image.Image:
    """Return a palette image of class indices [H, W]; the default palette is VOC's."""
    mask = Image.fromarray(np.asarray(indices, np.uint8)).convert("P")
    mask.putpalette(list(color_map().tobytes() if palette is None else palette))
    return mask


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Return uint8 pixels [H, W, 3] drawn uniformly."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_list(tree: Path, split: str, *lines: str) -> None:
    """Write the split list of a VOC2012 folder, one line per image."""
    path = tree / "ImageSets" / "Segmentation" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_voc_tree(
    root: Path,
    masks: Mapping[str, ArrayLike],
    lists: Mapping[str, Iterable[str]],
    *,
    images: Mapping[str, np.ndarray] | None = None,
    mask_folder: str = "SegmentationClass",
) -> Path:
    """Write a VOC tree below `root`.

    Args:
        root: value for `data.root`.
        masks: class indices [H, W] by image name.
        lists: image names by split.
        images: pixels [H, W, 3] by image name; noise by default.
        mask_folder: name of the folder of the masks.

    Returns:
        The folder VOC2012.
    """
    tree = root / VOC
    for folder in ("JPEGImages", mask_folder):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for number, (name, indices) in enumerate(masks.items()):
        mask = palette_mask(indices)
        mask.save(tree / mask_folder / f"{name}.png")
        pixels = noise(mask.height, mask.width, seed=number) if images is None else images[name]
        Image.fromarray(pixels).save(tree / "JPEGImages" / f"{name}.jpg", quality=95)
    for split, names in lists.items():
        write_list(tree, split, *names)
    return tree


def shapes_as_voc(root: Path) -> tuple[Path, list[str]]:
    """Draw the built-in synthetic dataset below `root`; its VOC2012 folder, and the overrides that read it uncached."""
    drawn = shapes.ensure_shapes(root, num_train=16, num_val=5, seed=0)
    classes = ",".join(shapes.CLASSES)
    return drawn / VOC, ["data=voc", f"data.root={drawn}", f"data.classes=[{classes}]", "data.cache=false"]


def truncate(path: Path, share: float = 0.5) -> None:
    """Keep only the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def pair_reader(num_classes: int) -> PairReader:
    """Return the reader of a dataset with masks like VOC's."""
    return PairReader(MaskReader(num_classes))


def make_listed_tree(root: Path, lists: dict[str, str], *, aug: bool = False) -> Path:
    """Create a VOC tree below `root` with 4 x 6 pairs a and b; return the folder VOC2012."""
    masks = {"a": np.zeros((4, 6), np.uint8), "b": np.ones((4, 6), np.uint8)}
    tree = make_voc_tree(root, masks, {}, mask_folder="SegmentationClassAug" if aug else "SegmentationClass")
    (tree / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, text in lists.items():
        (tree / "ImageSets" / "Segmentation" / f"{split}.txt").write_bytes(text.encode())
    return tree
