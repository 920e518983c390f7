"""Evaluation of a set of images: every pixel is counted once for any batch size and order."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fcn.config import ConfigError
from fcn.data import prefetch, shapes
from fcn.data.dataset_options import ShapesConfig, ShapesData, VocData
from fcn.data.datasets import WholeImages
from fcn.data.split_lists import Pair
from fcn.errors import DataError
from fcn.evaluation.evaluator import evaluate, evaluation_images
from tests.voc_tree import pair_reader, palette_mask

CLASSES = ["ground", "cat", "dog"]
SIZES = [(7, 5), (5, 7), (7, 5), (6, 6), (7, 5), (5, 7), (7, 5), (7, 5)]
VOID = 255


class PaintedPredictions:
    """Predictor whose class of a pixel is its red value divided by 100."""

    classes = CLASSES

    def __init__(self) -> None:
        self.batches: list[int] = []

    def batch_logits(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return F.one_hot(images[:, 0].long() // 100, 3).permute(0, 3, 1, 2).float()


def write_pair(folder: Path, name: str, target: np.ndarray, prediction: np.ndarray) -> Pair:
    pair = Pair(name, folder / f"{name}-image.png", folder / f"{name}-mask.png")
    Image.fromarray(np.stack([100 * prediction] * 3, axis=-1).astype(np.uint8)).save(pair.image)
    palette_mask(target).save(pair.mask)
    return pair


@pytest.fixture(scope="module")
def truth() -> list[tuple[np.ndarray, np.ndarray]]:
    """Target, in blocks with void, and prediction of each image; the third target is all void."""
    rng = np.random.default_rng(0)
    pairs = []
    for height, width in SIZES:
        blocks = rng.choice([0, 1, 2, VOID], size=(3, 3), p=[0.5, 0.2, 0.2, 0.1])
        target = np.kron(blocks, np.ones((3, 3), int))[:height, :width]
        pairs.append((target, rng.integers(0, 3, (height, width))))
    pairs[2][0][:] = VOID
    return pairs


@pytest.fixture(scope="module")
def images(truth, tmp_path_factory) -> WholeImages:
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [write_pair(folder, f"image{number}", *both) for number, both in enumerate(truth)]
    return WholeImages(pairs, reader=pair_reader(3))


def count(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the confusion matrix, counted pixel by pixel."""
    matrix = np.zeros((3, 3), np.int64)
    for row, column in zip(target.ravel(), prediction.ravel(), strict=True):
        if row != VOID:
            matrix[row, column] += 1
    return matrix


def mean_iou(matrix: np.ndarray) -> float:
    """Return the mean IoU in Python's own arithmetic; NaN without pixels."""
    unions = [int(matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]) for c in range(len(matrix))]
    ious = [int(matrix[c, c]) / union for c, union in enumerate(unions) if union]
    return sum(ious) / len(ious) if ious else float("nan")


def test_every_image_is_counted_once_in_the_order_of_the_list(images, truth):
    evaluation = evaluate(PaintedPredictions(), images)
    assert evaluation.names == [f"image{number}" for number in range(len(SIZES))]
    expected = np.array([count(*both) for both in truth])
    np.testing.assert_array_equal(evaluation.confusions, expected)
    np.testing.assert_array_equal(evaluation.confusion, expected.sum(axis=0))
    assert evaluation.confusions.dtype == torch.int64


@pytest.mark.parametrize("batch_size", [2, 4, 100])
def test_counts_do_not_depend_on_batches_and_order(images, batch_size):
    one_by_one = evaluate(PaintedPredictions(), images, widths=[1, 3], worst=3)
    predictor, steps = PaintedPredictions(), []
    order = random.Random(batch_size).sample(range(len(images)), len(images))
    shuffled = WholeImages([images.pairs[index] for index in order], reader=pair_reader(3))
    evaluation = evaluate(predictor, shuffled, batch_size=batch_size, widths=[1, 3], worst=3, advance=steps.append)
    assert max(predictor.batches) == min(batch_size, 5)  # five images have the same size
    assert steps == predictor.batches
    assert sum(steps) == len(images)
    assert evaluation.names == [one_by_one.names[index] for index in order]
    assert torch.equal(evaluation.confusions, one_by_one.confusions[order])
    assert torch.equal(evaluation.in_bands, one_by_one.in_bands)
    worst, expected = ([one.names[image.index] for image in one.worst] for one in (evaluation, one_by_one))
    assert worst == expected


def test_bands_are_counted_over_all_images(images, truth):
    evaluation = evaluate(PaintedPredictions(), images, widths=[1, 2])
    for number, width in enumerate((1, 2)):
        expected = np.zeros((3, 3), np.int64)
        for target, prediction in truth:
            padded = np.pad(target, width, constant_values=-1)
            windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * width + 1, 2 * width + 1))
            band = ((windows != target[..., None, None]) & (windows != -1)).any(axis=(2, 3))
            expected += count(np.where(band, target, VOID), prediction)
        np.testing.assert_array_equal(evaluation.in_bands[number], expected)
    first, second = evaluation.boundary_rows()
    assert (first["width"], second["width"]) == (1, 2)
    assert first["pixels"] == int(evaluation.in_bands[0].sum())
    assert first["mean_iou"] == pytest.approx(mean_iou(evaluation.in_bands[0].numpy()))


def test_worst_images_have_the_lowest_mean_iou(images, truth):
    evaluation = evaluate(PaintedPredictions(), images, batch_size=4, worst=3)
    ious = [mean_iou(count(*both)) for both in truth]
    expected = sorted((iou, index) for index, iou in enumerate(ious) if not np.isnan(iou))[:3]
    assert [one.index for one in evaluation.worst] == [index for _, index in expected]
    for one in evaluation.worst:
        target, prediction = truth[one.index]
        np.testing.assert_array_equal(one.target, target)
        np.testing.assert_array_equal(one.prediction, prediction)
        np.testing.assert_array_equal(one.image[..., 0], 100 * prediction)
        assert {one.image.dtype, one.target.dtype, one.prediction.dtype} == {np.dtype(np.uint8)}
    # The image that is all void has no mean IoU and is excluded.
    assert len(evaluate(PaintedPredictions(), images, worst=100).worst) == len(SIZES) - 1


def test_rows_of_images_and_classes(images, truth):
    evaluation = evaluate(PaintedPredictions(), images)
    for row, (target, prediction) in zip(evaluation.image_rows(), truth, strict=True):
        valid = target != VOID
        assert row["pixels"] == valid.sum()
        accuracy = (target == prediction)[valid].mean() if valid.any() else float("nan")
        assert row["pixel_accuracy"] == pytest.approx(accuracy, nan_ok=True)
        assert row["mean_iou"] == pytest.approx(mean_iou(count(target, prediction)), nan_ok=True)
    matrix = sum(count(*both) for both in truth)
    for index, row in enumerate(evaluation.class_rows()):
        assert row["class"] == CLASSES[index]
        assert row["target_pixels"] == matrix[index].sum()
        assert row["predicted_pixels"] == matrix[:, index].sum()
        assert row["accuracy"] == pytest.approx(matrix[index, index] / matrix[index].sum())
        union = matrix[index].sum() + matrix[:, index].sum() - matrix[index, index]
        assert row["iou"] == pytest.approx(matrix[index, index] / union)


def test_class_without_pixels_has_no_score(tmp_path):
    pair = write_pair(tmp_path, "a", np.zeros((2, 2)), np.array([[0, 0], [1, 0]]))
    rows = evaluate(PaintedPredictions(), WholeImages([pair], reader=pair_reader(3))).class_rows()
    assert [row["iou"] for row in rows] == pytest.approx([3 / 4, 0, float("nan")], nan_ok=True)
    assert [row["accuracy"] for row in rows] == pytest.approx([3 / 4, float("nan"), float("nan")], nan_ok=True)


def test_batches_contain_every_image_once_and_one_size_each(images):
    batches = images.batches(2)
    assert sorted(index for batch in batches for index in batch) == list(range(len(images)))
    assert all(len(batch) <= 2 and len({SIZES[index] for index in batch}) == 1 for batch in batches)


def test_unreadable_image_ends_the_evaluation(images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = Pair("broken", tmp_path / "broken.png", images.pairs[0].mask)
    reads = []

    class RecordedImages(WholeImages):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    with pytest.raises(DataError, match=r"broken\.png must be a readable image"):
        evaluate(PaintedPredictions(), RecordedImages([broken, *images.pairs * 20], reader=pair_reader(3)))
    assert len(reads) <= 3 * prefetch.THREADS + 1  # because a whole set does not fit into memory


def test_images_with_other_classes_are_rejected(images):
    with pytest.raises(ValueError, match=r"^images.num_classes \(=4\) must be the network's; use 3$"):
        evaluate(PaintedPredictions(), WholeImages(images.pairs, reader=pair_reader(4)))
    data = VocData(classes=["ground", "dog", "cat"])
    with pytest.raises(ConfigError, match=r"data.classes \(=\[ground,dog,cat\]\) must be those of the run"):
        evaluation_images(data, "val", classes=CLASSES)


def test_built_in_dataset_is_drawn_if_missing(tmp_path):
    names = list(shapes.CLASSES)
    data = ShapesData(root=str(tmp_path), classes=names, shapes=ShapesConfig(num_train=1, num_val=2))
    assert len(evaluation_images(data, "val", classes=names)) == 2
