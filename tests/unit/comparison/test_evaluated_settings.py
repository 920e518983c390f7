"""Rows of evaluations in place of runs: other settings of the same runs, and ensembles."""

import json

import numpy as np
import pytest

from fcn import runs
from fcn.comparison.bootstrap import percentile_interval, resample_class_iou
from fcn.comparison.output_files import write_comparison
from fcn.comparison.run_comparison import compare_runs
from fcn.comparison.run_records import ComparisonError
from fcn.comparison.tables import main_table, table_rows
from fcn.evaluation.scores import class_counts, mean_iou
from tests.comparisons import make_evaluation, make_run, random_confusions


def score(confusions):
    return float(mean_iou(class_counts(confusions).total().iou()))


@pytest.fixture
def matrices(tmp_path):
    """Two seeds, each evaluated without and with flip, and an ensemble of both; the matrices by seed and flip."""
    confusions = {}
    for seed in (0, 1):
        run = make_run(tmp_path / "runs" / str(seed), seed=seed)
        for flip in (False, True):
            confusions[seed, flip] = random_confusions(6, seed=2 * seed + flip)
            folder = run / "evaluation" / ("val_flip" if flip else "val")
            make_evaluation(run, confusions[seed, flip], folder=folder, flip=flip)
    confusions["ensemble"] = random_confusions(6, seed=9)
    paths = [str(tmp_path / "runs" / seed / "checkpoints" / "best.ckpt") for seed in "01"]
    make_evaluation(tmp_path, confusions["ensemble"], folder=tmp_path / "both", checkpoint=paths, sha256=["a", "b"])
    return confusions


def test_other_settings_and_ensembles_are_rows(tmp_path, matrices):
    comparison = compare_runs([tmp_path], evaluations=True)
    by_label = {group.label: group for group in comparison.groups}
    assert by_label.keys() == {"evaluation.flip=false members=1", "evaluation.flip=true members=1",
                               "evaluation.flip=false members=2"}  # fmt: skip
    for flip in (False, True):
        statistic = by_label[f"evaluation.flip={str(flip).lower()} members=1"].statistic("val/mean_iou")
        values = [score(matrices[seed, flip]) for seed in (0, 1)]
        assert (statistic.mean, statistic.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    (ensemble,) = by_label["evaluation.flip=false members=2"].runs
    assert ensemble.metrics["val/mean_iou"] == pytest.approx(score(matrices["ensemble"]))
    assert ensemble.config["seed"] == "0,1"


def test_difference_resamples_the_same_images(tmp_path, matrices):
    comparison = compare_runs([tmp_path / "runs"], evaluations=True, baseline=str(tmp_path / "runs/0/evaluation/val"))
    flipped = next(number for number, group in enumerate(comparison.groups) if group.values["evaluation.flip"])
    difference = comparison.differences[flipped]
    sides = [
        np.mean([mean_iou(resample_class_iou(class_counts(matrices[seed, flip]))) for seed in (0, 1)], axis=0)
        for flip in (True, False)
    ]
    assert difference.interval == pytest.approx([float(end) for end in percentile_interval(sides[0] - sides[1])])
    expected = np.mean([score(matrices[seed, True]) - score(matrices[seed, False]) for seed in (0, 1)])
    assert difference.value == pytest.approx(expected)


def test_table_has_no_columns_of_runs(tmp_path, matrices):
    table = main_table(compare_runs([tmp_path], evaluations=True))
    heads = [column.head for column in table]
    assert heads[:4] == ["#", "evaluation.flip", "members", "val mIoU"]
    assert not {"best mIoU", "train loss", "images/s"} & set(heads)
    assert len(table_rows(table)) == 3


def test_files_have_no_curves(tmp_path, matrices):
    comparison = compare_runs([tmp_path], evaluations=True)
    (page,) = write_comparison(tmp_path / "out", comparison, None, num_panels=2)
    assert page.endswith("comparison.html")
    assert not list((tmp_path / "out").glob("*.png"))


def test_evaluation_of_a_deleted_run_is_named(tmp_path, matrices):
    (tmp_path / "runs" / "1" / runs.CONFIG).unlink()
    comparison = compare_runs([tmp_path], evaluations=True)
    (path,) = comparison.unreadable.keys() - set((tmp_path / "runs").rglob("*"))
    assert path == tmp_path / "both"
    assert "config.yaml" in comparison.unreadable[path]


def test_replaced_checkpoint_of_an_ensemble_is_named(tmp_path, matrices):
    checkpoint = tmp_path / "runs" / "0" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"other weights")
    comparison = compare_runs([tmp_path], evaluations=True)
    ensemble = next(number for number, group in enumerate(comparison.groups) if group.values["evaluation.members"] == 2)
    assert "before its best checkpoint changed" in comparison.differences[ensemble].problem


def test_folder_without_evaluations_is_refused(tmp_path):
    make_run(tmp_path / "0")
    with pytest.raises(ComparisonError, match=r"must hold an evaluation, with an evaluation\.json"):
        compare_runs([tmp_path], evaluations=True)
    (tmp_path / "0" / "evaluation.json").write_text(json.dumps({}))
    with pytest.raises(ComparisonError, match="cannot be read as an evaluation"):
        compare_runs([tmp_path], evaluations=True)
