"""Comparison of run directories: rows, differences on the same images, remarks and contrasts."""

import hashlib
import json

import numpy as np
import pytest
import torch

from fcn import runs
from fcn.comparison.bootstrap import percentile_interval, resample_class_iou
from fcn.comparison.remarks import collect_remarks, missing_intervals
from fcn.comparison.run_comparison import compare_runs, contrast_rows, default_contrast
from fcn.comparison.run_records import ComparisonError
from fcn.evaluation.metrics import segmentation_scores
from fcn.evaluation.scores import class_counts, mean_iou
from tests.comparisons import CLASSES, make_evaluation, make_run, random_confusions


def mean_iou_of(confusions):
    return segmentation_scores(torch.from_numpy(confusions.sum(axis=0)))["mean_iou"]


def class_iou_of(confusions):
    return class_counts(confusions).total().iou()


def notes(folder, **options):
    return missing_intervals(compare_runs([folder], **options))


@pytest.fixture
def sweep(tmp_path):
    """Two rows: lr 0.1 with two seeds, lr 0.01 with two seeds, one of which failed; evaluated on nine images."""
    matrices = {}
    for number, (lr, seed, status) in enumerate(
        [(0.1, 0, "finished"), (0.1, 1, "finished"), (0.01, 0, "finished"), (0.01, 1, "failed")]
    ):
        path = make_run(tmp_path / f"{number}", lr=lr, seed=seed, status=status, mean_iou=lr + 0.1 * seed)
        matrices[number] = random_confusions(9, seed=number)
        make_evaluation(path, matrices[number])
    return tmp_path, matrices


def test_rows_are_averaged_over_seeds_and_sorted(sweep):
    folder, _ = sweep
    comparison = compare_runs([folder])
    assert comparison.keys == {"lr": "lr"}
    assert [(group.label, group.state) for group in comparison.groups] == [
        ("lr=0.1", "2 finished"),
        ("lr=0.01", "1 of 2 finished (seed 1 failed)"),
    ]
    assert comparison.groups[0].statistic("val/mean_iou").mean == pytest.approx(0.15)
    assert comparison.baseline is comparison.groups[0]
    assert not missing_intervals(comparison)


def test_difference_is_between_means_over_seeds_on_the_same_images(sweep):
    folder, matrices = sweep
    _, difference = compare_runs([folder]).differences
    first = np.mean([mean_iou_of(matrices[0]), mean_iou_of(matrices[1])])
    assert difference.value == pytest.approx(mean_iou_of(matrices[2]) - first)
    scores = [mean_iou(resample_class_iou(class_counts(matrices[number]))) for number in range(3)]
    low, high = percentile_interval(scores[2] - (scores[0] + scores[1]) / 2)
    assert difference.interval == (pytest.approx(low), pytest.approx(high))
    assert low < difference.value < high
    assert (difference.source, difference.num_runs) == ("best checkpoints on 9 images of val", 1)


def test_key_missing_from_an_older_run_has_its_default(tmp_path):
    for seed, border in enumerate(("zero", "zero", "replicate")):
        make_run(tmp_path / str(seed), seed=seed, model__border=border)
    path = tmp_path / "0" / "config.yaml"
    config = json.loads(path.read_text())
    del config["model"]["border"]
    path.write_text(json.dumps(config))
    groups = compare_runs([tmp_path]).groups
    assert [(group.label, len(group.runs)) for group in groups] == [("border=replicate", 1), ("border=zero", 2)]


def test_keys_are_ignored_by_short_or_full_name(tmp_path):
    for seed, (init, alignment) in enumerate([("bilinear", "chapter"), ("xavier", "centered")]):
        make_run(tmp_path / str(seed), seed=seed, model__init=init, model__alignment=alignment)
    assert list(compare_runs([tmp_path]).keys.values()) == ["init", "alignment"]
    assert len(compare_runs([tmp_path], ignore=["init", "model.alignment"]).groups) == 1
    with pytest.raises(ComparisonError, match=r"ignore \(=model.inti\) must be a key .*; did you mean model.init\?"):
        compare_runs([tmp_path], ignore=["model.inti"])


def test_baseline_is_chosen_by_row_or_run(sweep):
    folder, _ = sweep
    default, *others = (compare_runs([folder], baseline=name) for name in ("1", "2", str(folder / "3")))
    for other in others:
        assert other.baseline.number == 2
        assert other.differences[0].value == pytest.approx(-default.differences[1].value)
        assert other.differences[1].interval == (0, 0)
    for name in ("0", "nowhere"):
        with pytest.raises(ComparisonError, match=rf"row \(={name}\) must be 1 to 2, or one of the compared run"):
            compare_runs([folder], baseline=name)


def test_metric_sorts_rows_and_must_be_known(sweep):
    folder, _ = sweep
    assert [group.label for group in compare_runs([folder], metric="train/loss").groups] == ["lr=0.01", "lr=0.1"]
    with pytest.raises(
        ComparisonError, match=r"metric \(=val/mean_io\) must be .* did you mean val/mean_iou.*val/pixel"
    ):
        compare_runs([folder], metric="val/mean_io")


@pytest.mark.parametrize(
    ("changes", "targets_seed", "problem"),
    [
        ({"names": [f"other_{place}" for place in range(9)]}, 0, "evaluated on other images than row 1"),
        ({"classes": ["ground", "cow", "dog"]}, 0, "evaluated on other classes than row 1"),
        ({"flip": True, "scales": [0.5, 1.0]}, 0, "evaluated with another flip, scales than row 1"),
        ({}, 1, "evaluated on images of the same names with other masks than row 1"),
        ({"batch_size": 8, "device": "a GPU", "accelerator": "gpu"}, 0, ""),  # these only change rounding
    ],
)
def test_evaluations_that_differ_give_no_interval(sweep, changes, targets_seed, problem):
    folder, _ = sweep
    make_evaluation(folder / "2", random_confusions(9, seed=2, targets_seed=targets_seed), **changes)
    comparison = compare_runs([folder])
    difference = comparison.differences[1]
    assert difference.problem == problem
    assert np.isnan(difference.value) == np.isnan(difference.interval[0]) == bool(problem)
    assert missing_intervals(comparison) == ([f"no interval for row 2: {problem}"] if problem else [])


def test_missing_evaluations_are_listed_with_commands(sweep):
    folder, _ = sweep
    command = "evaluate the runs: python scripts/evaluate.py run="
    (folder / "2" / "evaluation" / "val" / "confusions.npz").unlink()
    assert notes(folder) == [f"no interval for row 2: not evaluated; {command}{folder}"]
    assert notes(folder, baseline="2") == [f"no interval for row 1: row 2: not evaluated; {command}{folder}"]
    assert notes(folder, split="test") == [f"no interval for row 2: row 1: not evaluated; {command}{folder} split=test"]
    (folder / "1" / "evaluation" / "val" / "confusions.npz").unlink()
    assert "row 1: 1 of its 2 finished runs are evaluated on val" in notes(folder)


def save_checkpoint(run, content, *, name=runs.BEST):
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / name).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", [runs.BEST, runs.LAST])
def test_evaluation_of_a_replaced_checkpoint_gives_no_interval(sweep, name):
    folder, matrices = sweep
    sha256 = save_checkpoint(folder / "2", b"first", name=name)
    make_evaluation(folder / "2", matrices[2], checkpoint=f"runs/2/{name}", sha256=sha256)
    assert not compare_runs([folder]).differences[1].problem
    save_checkpoint(folder / "2", b"second", name=name)
    comparison = compare_runs([folder])
    remedy = f"evaluate the runs: python scripts/evaluate.py run={folder}"
    problem = "evaluated before its best checkpoint changed"
    assert missing_intervals(comparison) == [f"no interval for row 2: {problem}; {remedy}"]
    assert contrast_rows(comparison, *comparison.groups).source.endswith(f"without intervals (row 2: {problem})")
    (note,) = notes(folder, baseline="2")
    assert note.startswith(f"no interval for row 1: row 2: {problem}")
    (folder / "2" / name).unlink()  # deleted to save space
    assert not compare_runs([folder]).differences[1].problem


def test_evaluated_checkpoints_are_named(sweep):
    folder, matrices = sweep
    make_evaluation(folder / "2", matrices[2], checkpoint=runs.LAST)
    comparison = compare_runs([folder])
    assert contrast_rows(comparison, *comparison.groups).source == "best and last checkpoints on 9 images of val"
    for name in ("0", "1"):
        make_evaluation(folder / name, matrices[int(name)], checkpoint=runs.LAST)
    assert any("difference of mean IoU, last checkpoints on 9 images" in line
               for line in collect_remarks(compare_runs([folder])))  # fmt: skip


def test_default_split_is_the_most_common_one(sweep):
    folder, matrices = sweep
    make_evaluation(folder / "0", matrices[1], split="minival")
    assert compare_runs([folder]).split == "val"
    for name in ("1", "2"):
        make_evaluation(folder / name, matrices[1], split="minival")
        (folder / name / "evaluation" / "val" / "confusions.npz").unlink()
    comparison = compare_runs([folder])
    assert comparison.split == "minival"
    difference = comparison.differences[1]
    assert (difference.value, difference.interval) == (0, (0, 0))


@pytest.mark.parametrize("name", ["evaluation.json", "confusions.npz"])
def test_damaged_evaluation_gives_no_interval(sweep, name):
    folder, _ = sweep
    (folder / "2" / "evaluation" / "val" / name).write_text("{")
    assert compare_runs([folder]).differences[1].problem.startswith("the evaluation cannot be read: ")


def test_several_runs_of_one_seed_are_remarked(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name, seed=3)
    assert "row 1 holds several runs of one seed" in collect_remarks(compare_runs([tmp_path]))[1]


def test_comparison_without_a_finished_run(tmp_path):
    make_run(tmp_path / "a", status=None, lr=0.1)
    comparison = compare_runs([tmp_path], metric="anything")  # no metric is known
    assert comparison.groups[0].state == "unfinished"
    make_run(tmp_path / "b", status="failed", lr=0.2)
    assert notes(tmp_path) == ["no interval for row 2: row 1: not finished"]


def test_contrast_of_settings_and_classes(sweep):
    folder, matrices = sweep
    comparison = compare_runs([folder])
    contrast = contrast_rows(comparison, *comparison.groups)
    assert contrast.settings == {"lr": ("0.1", "0.01")}
    assert contrast.names == ("row 1: lr=0.1", "row 2: lr=0.01")
    assert contrast.source == "best checkpoints on 9 images of val"
    assert contrast.classes == CLASSES
    expected = [(class_iou_of(matrices[0]) + class_iou_of(matrices[1])) / 2, class_iou_of(matrices[2])]
    np.testing.assert_allclose(contrast.ious, expected)
    differences = contrast.ious[0] - contrast.ious[1]
    assert (contrast.intervals[0] < differences).all()
    assert (differences < contrast.intervals[1]).all()


def test_contrast_without_evaluations_uses_the_last_validation(tmp_path):
    def contrast_with(number):
        comparison = compare_runs([tmp_path])
        return contrast_rows(comparison, comparison.groups[0], comparison.groups[number])

    make_run(tmp_path / "a", lr=0.1, mean_iou=0.6, name="a")
    make_run(tmp_path / "b", lr=0.2, mean_iou=0.4, seed=5)
    contrast = contrast_with(1)
    assert contrast.settings == {"name": ("a", "x"), "lr": ("0.1", "0.2"), "seed": ("0", "5")}
    np.testing.assert_allclose(contrast.ious[0] - contrast.ious[1], 0.2)
    assert contrast.source == "last validation, without intervals (row 2: not evaluated)"
    assert contrast.intervals is None
    make_run(tmp_path / "c", lr=0.3, mean_iou=0.3, data__val_split="other")
    make_run(tmp_path / "d", lr=0.4, status=None)
    for number, problem in ((2, "not evaluated"), (3, "not finished")):
        contrast = contrast_with(number)
        assert (contrast.classes, contrast.source) == ([], f"no common validation (row {number + 1}: {problem})")


def test_default_contrast_is_of_two_rows_or_of_a_chosen_baseline(tmp_path):
    for place, lr in enumerate((0.1, 0.2)):
        make_run(tmp_path / f"{place}", lr=lr, mean_iou=lr)
    assert default_contrast(compare_runs([tmp_path])).names == ("row 1: lr=0.2", "row 2: lr=0.1")
    make_run(tmp_path / "2", lr=0.3, mean_iou=0.3)
    assert default_contrast(compare_runs([tmp_path])) is None
    assert default_contrast(compare_runs([tmp_path], baseline="2")).names == ("row 1: lr=0.3", "row 2: lr=0.2")
