"""The synthetic dataset: VOC's layout, reproducible pixels, no incomplete dataset."""

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn.data import shapes
from fcn.data.palette import color_map
from fcn.data.shapes import CLASSES, ensure_shapes
from fcn.data.split_lists import read_split
from tests.voc_tree import pair_reader

VOID = 255
Masks = dict[str, list[np.ndarray]]
NUM_TRAIN, NUM_VAL = 16, 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_shapes(tmp_path_factory.mktemp("shapes"), num_train=NUM_TRAIN, num_val=NUM_VAL, seed=0)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below `folder` by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def masks(root: Path) -> Masks:
    """Mask indices of each split, read as VOC's are."""
    # The reader refuses an index that is neither a class nor void, and a mask of another size than its image.
    return {
        split: [pair_reader(len(CLASSES)).read(pair)[1].numpy() for pair in read_split(root, split)]
        for split in ("train", "val")
    }


# Layout


def test_folder_contains_the_listed_files_and_no_others(root: Path) -> None:
    train, val, both = ([pair.name for pair in read_split(root, split)] for split in ("train", "val", "trainval"))
    assert (len(train), len(val), both) == (NUM_TRAIN, NUM_VAL, train + val)
    names = set(both)
    assert len(names) == NUM_TRAIN + NUM_VAL
    tree = root / "VOCdevkit" / "VOC2012"
    assert {path.name for path in (tree / "JPEGImages").iterdir()} == {f"{name}.jpg" for name in names}
    assert {path.name for path in (tree / "SegmentationClass").iterdir()} == {f"{name}.png" for name in names}


def test_images_are_rgb_and_masks_have_the_colours_of_voc(root: Path) -> None:
    for pair in read_split(root, "val"):
        with Image.open(pair.image) as image, Image.open(pair.mask) as mask:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert (mask.format, mask.mode) == ("PNG", "P")
            np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), color_map()[np.asarray(mask)])


# Content


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_and_sizes_vary(masks: Masks, split: str) -> None:
    # The default set begins with these samples, so every class occurs there too.
    assert set(np.unique(np.concatenate([mask.ravel() for mask in masks[split]]))) == {*range(len(CLASSES)), VOID}
    sizes = [mask.shape for mask in masks[split]]
    assert all(shapes.MIN_SIDE <= side <= shapes.MAX_SIDE for size in sizes for side in size)
    assert len(set(sizes)) > len(sizes) / 2
    assert {height > width for height, width in sizes} == {True, False}


def test_void_keeps_different_classes_apart(masks: Masks) -> None:
    for mask in masks["val"]:
        for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            assert np.all((one == other) | (one == VOID) | (other == VOID))


def test_void_is_a_thin_border(masks: Masks) -> None:
    for mask in masks["val"]:
        # No 5x5 window is all void: a border of 2 pixels cannot fill one, even where two of them cross.
        windows = np.lib.stride_tricks.sliding_window_view(mask, (5, 5))
        assert not (windows == VOID).all(axis=(2, 3)).any()


def test_objects_are_filled_where_the_mask_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red objects without texture on a grey background: image and mask must agree."""

    def plain(_rng: np.random.Generator, size: tuple[int, int], _hue: float, saturation: float) -> np.ndarray:
        color = (200, 50, 50) if saturation >= shapes.OBJECT_SATURATION[0] else (90, 90, 90)
        return np.full((*size, 3), color, np.float64)

    monkeypatch.setattr(shapes, "_surface", plain)
    for seed in range(10):
        image, mask = shapes.draw_sample(np.random.default_rng(seed))
        redness = image[..., 0].astype(int) - image[..., 1]
        assert redness[(mask != 0) & (mask != VOID)].min() > 75  # at least half covered
        assert redness[mask == 0].max() < 75


# Determinism


def test_same_parameters_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again = ensure_shapes(tmp_path, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=0)
    assert contents(again) == contents(root)


def test_samples_do_not_depend_on_how_many_there_are(root: Path, tmp_path: Path) -> None:
    small = ensure_shapes(tmp_path, num_train=3, num_val=2, seed=0)
    drawn, known = contents(small / "VOCdevkit"), contents(root / "VOCdevkit")
    pictures = [name for name in drawn if not name.endswith(".txt")]
    assert len(pictures) == 10
    assert all(drawn[name] == known[name] for name in pictures)


def test_seeds_and_splits_differ(root: Path, tmp_path: Path) -> None:
    other = ensure_shapes(tmp_path, num_train=2, num_val=2, seed=1)
    images = [
        pair.image.read_bytes()
        for folder in (root, other)
        for split in ("train", "val")
        for pair in read_split(folder, split)
    ]
    assert len(set(images)) == len(images)


def test_every_combination_of_parameters_and_version_has_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parameters in ((1, 2, 0), (2, 1, 0), (1, 2, 1)):
        ensure_shapes(tmp_path, num_train=parameters[0], num_val=parameters[1], seed=parameters[2])
    monkeypatch.setattr(shapes, "VERSION", 999)
    ensure_shapes(tmp_path, num_train=1, num_val=2, seed=0)
    assert len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / "v999-1-2-seed0").is_dir()


# Complete or not at all


def test_existing_dataset_is_not_drawn_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "draw_sample", lambda _rng: pytest.fail("drew again"))
    assert ensure_shapes(root.parent, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=0) == root


def draw_together(root: Path, barrier: Barrier) -> None:
    barrier.wait(timeout=60)
    ensure_shapes(root, num_train=6, num_val=4, seed=0)


def test_simultaneous_processes_leave_one_complete_dataset(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=draw_together, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    alone = ensure_shapes(tmp_path / "alone", num_train=6, num_val=4, seed=0)
    assert [path.name for path in tmp_path.iterdir() if path.name != "alone"] == [alone.name]
    assert contents(tmp_path / alone.name) == contents(alone)


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    draw, num_drawn = shapes.draw_sample, 0

    def fail_at_the_second(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        nonlocal num_drawn
        num_drawn += 1
        if num_drawn == 2:
            raise error
        return draw(rng)

    monkeypatch.setattr(shapes, "draw_sample", fail_at_the_second)
    with pytest.raises(type(error)):
        ensure_shapes(tmp_path, num_train=2, num_val=1, seed=0)
    assert num_drawn == 2
    assert list(tmp_path.iterdir()) == []
