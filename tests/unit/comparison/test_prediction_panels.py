"""Predictions of the best run of every row, by untrained networks."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from fcn import config as configuration
from fcn import runs
from fcn.comparison.prediction_panels import choose_runs, draw_prediction_panels
from fcn.comparison.run_comparison import compare_runs
from fcn.comparison.run_records import ComparisonError
from fcn.config import VOC_CLASSES, option
from fcn.errors import DataError
from fcn.models.network import SegmentationNetwork
from fcn.visualization.panels import draw_side_by_side
from tests.comparisons import CLASSES, make_run
from tests.voc_tree import make_voc_tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A VOC tree of five images, and runs on it: two seeds of one row and one of another, with checkpoints."""
    folder = tmp_path_factory.mktemp("panels")
    rng = np.random.default_rng(0)
    masks = {name: rng.integers(0, 3, (40, 60), np.uint8) for name in "abcde"}
    make_voc_tree(folder / "data", masks, {"train": masks, "val": masks})
    data = configuration.to_container(option("data", "voc", root=str(folder / "data"), classes=CLASSES))
    keys = {"data": data, "backbone__name": "squeezenet1_0"}
    save(make_run(folder / "runs" / "0", lr=0.1, seed=0, mean_iou=0.5, **keys))
    save(make_run(folder / "runs" / "1", lr=0.1, seed=1, mean_iou=0.6, **keys))
    save(make_run(folder / "runs" / "2", lr=0.2, seed=0, mean_iou=0.3, status="interrupted", **keys))
    make_run(folder / "runs" / "3", lr=0.3, mean_iou=0.9, **keys)  # without a checkpoint
    return folder


def save(run):
    """Save a checkpoint of a network initialised from the run's seed."""
    config = configuration.validate_run(OmegaConf.load(run / "config.yaml"))
    torch.manual_seed(config.seed + int(config.lr * 100))
    network = SegmentationNetwork(config)
    (run / "checkpoints").mkdir()
    content = {"config": configuration.to_container(config), "state_dict": network.state_dict()}
    torch.save(content, run / runs.BEST)
    return run


def test_column_per_row_shows_its_best_run_with_a_checkpoint(folder):
    comparison = compare_runs([folder / "runs"])
    assert [(group.label, run.path.name) for group, run in choose_runs(comparison)] == [
        ("lr=0.1", "1"),
        ("lr=0.2", "2"),
    ]


def test_columns_show_the_predictions_of_the_runs(folder):
    from fcn.inference.predictor import load

    sheet, caption = draw_prediction_panels(compare_runs([folder / "runs"]), 2)
    assert caption == (
        "images evenly spread over val; the run of best mean IoU of each row: "
        "row 2 1 (0.610), row 3 2 (0.310); 1 more rows are not drawn"
    )
    tree = folder / "data" / "VOCdevkit" / "VOC2012"
    columns = {}
    for title, name in (("2: lr=0.1", "1"), ("3: lr=0.2", "2")):
        predictor = load(folder / "runs" / name)
        samples = []
        for image in "ac":  # places 0 and 5 // 2
            pixels = np.asarray(Image.open(tree / "JPEGImages" / f"{image}.jpg"))
            target = np.asarray(Image.open(tree / "SegmentationClass" / f"{image}.png"))
            samples.append((pixels, target, predictor.predict(pixels)))
        columns[title] = samples
    expected = draw_side_by_side(columns, CLASSES, names=["a", "c"])
    np.testing.assert_array_equal(np.asarray(sheet), np.asarray(expected))


def test_number_of_images_is_limited_by_the_split(folder):
    few, _ = draw_prediction_panels(compare_runs([folder / "runs" / "0"]), 50)
    five, _ = draw_prediction_panels(compare_runs([folder / "runs" / "0"]), 5)
    assert few.size == five.size


def test_runs_validated_on_other_images_are_left_out(folder, tmp_path):
    other = make_run(tmp_path / "x", lr=0.5, mean_iou=0.01, data__classes=list(VOC_CLASSES))
    (other / "checkpoints").mkdir()
    (other / runs.BEST).touch()
    comparison = compare_runs([folder / "runs" / "0", other])
    assert [run.path.name for _, run in choose_runs(comparison)] == ["0"]


def test_missing_checkpoint_or_data_is_an_error(folder, tmp_path):
    with pytest.raises(ComparisonError, match=r"need a run with checkpoints/best.ckpt; compare"):
        choose_runs(compare_runs([folder / "runs" / "3"]))
    data = configuration.to_container(option("data", "voc", root=str(tmp_path / "gone"), download=True))
    save(make_run(tmp_path / "run", backbone__name="squeezenet1_0", data=data))
    with pytest.raises(DataError, match="gone"):  # and is not downloaded
        draw_prediction_panels(compare_runs([tmp_path / "run"]), 1)
