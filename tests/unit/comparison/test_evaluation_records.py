"""Rows of runs on different folds: one score over the images of all folds, paired intervals, and what is missing."""

import hashlib
import json

import numpy as np
import pytest

from fcn import runs
from fcn.comparison.bootstrap import percentile_interval, resample_class_iou
from fcn.comparison.prediction_panels import choose_runs
from fcn.comparison.remarks import collect_remarks
from fcn.comparison.run_comparison import compare_runs, contrast_rows
from fcn.comparison.tables import main_table, runs_table
from fcn.evaluation.scores import class_counts, mean_iou
from tests.comparisons import CLASSES, make_evaluation, make_run, random_confusions

IMAGES = [["d", "b"], ["a", "e", "g"], ["c", "f"]]
"""Images of the folds."""


def make_fold(folder, fold, *, lr=0.1, seed=0, status="finished", images=IMAGES, **settings):
    """Write a run of a fold; return its matrix by image."""
    keys = {"lr": lr, "seed": seed, "data__fold": fold, "data__folds": len(images), **settings}
    path = make_run(folder / f"{lr}-{seed}-{fold}", status=status, mean_iou=lr + 0.1 * fold, **keys)
    names = images[fold]
    # The targets of an image are the same for every run.
    targets = [ord(name) for name in names]
    predictions = 1000 * seed + 100 * fold + int(10 * lr)
    confusions = np.concatenate([random_confusions(1, seed=predictions, targets_seed=target) for target in targets])
    make_evaluation(path, confusions, split="fold", names=names)
    return dict(zip(names, confusions, strict=True))


@pytest.fixture
def sweep(tmp_path):
    """Two learning rates with three folds of two seeds; the matrices [7, C, C] of each rate and seed, by image."""
    matrices = {}
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            by_image = {
                name: one for fold in range(3) for name, one in make_fold(tmp_path, fold, lr=lr, seed=seed).items()
            }
            matrices[lr, seed] = np.stack([by_image[name] for name in "abcdefg"])
    return tmp_path, matrices


def interval_of(resampled):
    return tuple(float(end) for end in percentile_interval(resampled))


def test_folds_are_one_row_with_the_deviation_over_all_runs(sweep):
    comparison = compare_runs([sweep[0]])
    assert comparison.keys == {"lr": "lr"}
    assert [group.label for group in comparison.groups] == ["lr=0.2", "lr=0.1"]
    statistic = comparison.groups[1].statistic("val/mean_iou")
    values = [0.1, 0.2, 0.3] * 2
    assert (statistic.mean, statistic.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert "mean ± sample standard deviation over seeds and folds (number of finished runs)" in collect_remarks(
        comparison
    )
    assert [run.config["data.fold"] for run in comparison.groups[0].runs] == [0, 1, 2, 0, 1, 2]
    assert next(column.cells for column in runs_table(comparison) if column.head == "fold") == ["0", "1", "2"] * 4


def test_difference_is_that_of_the_sums_over_all_folds_and_resamples_their_images(sweep):
    folder, matrices = sweep
    comparison = compare_runs([folder])
    assert comparison.split == "fold"
    best, other = comparison.differences
    counts = {key: class_counts(confusions) for key, confusions in matrices.items()}
    scores = {lr: np.mean([mean_iou(counts[lr, seed].total().iou()) for seed in (0, 1)]) for lr in (0.1, 0.2)}
    resampled = {
        lr: np.mean([mean_iou(resample_class_iou(counts[lr, seed])) for seed in (0, 1)], axis=0) for lr in (0.1, 0.2)
    }
    assert other.value == pytest.approx(scores[0.1] - scores[0.2])
    assert other.interval == pytest.approx(interval_of(resampled[0.1] - resampled[0.2]))
    assert (best.score, other.score) == pytest.approx((scores[0.2], scores[0.1]))
    assert other.score_interval == pytest.approx(interval_of(resampled[0.1]))
    assert other.source == "best checkpoints on 7 images of fold"
    assert other.num_runs == 6
    (line,) = (line for line in collect_remarks(comparison) if line.startswith("row 2: mean IoU"))
    assert line.startswith(f"row 2: mean IoU {scores[0.1]:.3f} [")


def test_rows_with_other_folds_are_compared_on_those_of_both(sweep):
    folder, matrices = sweep
    (folder / "0.1-1-1/summary.json").unlink()
    comparison = compare_runs([folder])
    places = [place for place, name in enumerate("abcdefg") if name not in IMAGES[1]]
    ious = {
        key: mean_iou(class_counts(confusions[places]).total().iou()) for key, confusions in matrices.items()
    }  # the fold is left out of both seeds and rows
    expected = np.mean([ious[0.1, 0], ious[0.1, 1]]) - np.mean([ious[0.2, 0], ious[0.2, 1]])
    assert comparison.differences[1].value == pytest.approx(expected)
    assert comparison.differences[1].source == "best checkpoints on 4 images of fold"
    remark = "row 2: finished on folds 0, 2 of 3 (seed 1) alone, so the scores are not those of all images"
    assert remark in collect_remarks(comparison)
    assert comparison.groups[1].state == "5 of 6 finished (seed 1 fold 1 unfinished)"


def test_divisions_into_other_numbers_of_folds_have_the_same_images(tmp_path):
    for fold in range(3):
        make_fold(tmp_path / "three", fold, lr=0.2)
    for fold in range(2):
        make_fold(tmp_path / "two", fold, lr=0.1, images=[list("gcab"), list("dfe")])
    comparison = compare_runs([tmp_path])
    assert comparison.keys == {"lr": "lr", "data.folds": "folds"}
    assert comparison.differences[1].source == "best checkpoints on 7 images of fold"
    (tmp_path / "two/0.1-0-1/summary.json").unlink()
    assert compare_runs([tmp_path]).differences[1].problem == "evaluated on other images than row 1"


def test_run_without_folds_is_another_row(tmp_path):
    for fold in range(3):
        make_fold(tmp_path, fold)
    make_evaluation(make_run(tmp_path / "whole", lr=0.1, mean_iou=0.9), random_confusions(4, seed=1))
    comparison = compare_runs([tmp_path])
    assert [column.cells for column in main_table(comparison) if column.head == "fold"] == [["null", "each"]]
    assert comparison.split == "fold"
    assert comparison.differences[1].problem == "row 1: not evaluated"


def test_folds_evaluated_on_one_split_are_averaged_like_seeds(tmp_path):
    confusions = {}
    for lr in (0.1, 0.2):
        for fold in range(3):
            make_fold(tmp_path, fold, lr=lr)
            confusions[lr, fold] = random_confusions(5, seed=10 * fold + int(10 * lr))
            make_evaluation(tmp_path / f"{lr}-0-{fold}", confusions[lr, fold])
    _, difference = compare_runs([tmp_path], split="val").differences
    means = [
        np.mean([mean_iou(class_counts(confusions[lr, fold]).total().iou()) for fold in range(3)]) for lr in (0.1, 0.2)
    ]
    assert difference.value == pytest.approx(means[0] - means[1])


def test_only_folders_of_splits_are_evaluations_of_a_run(tmp_path):
    matrices = {}
    for lr in (0.1, 0.2):
        path = make_run(tmp_path / str(lr), lr=lr, mean_iou=lr)
        matrices[lr] = random_confusions(4, seed=int(10 * lr))
        make_evaluation(path, matrices[lr])
        for name in ("flip", "scales"):
            make_evaluation(path, random_confusions(4, seed=9), folder=path / "evaluation" / name, flip=True)
    (tmp_path / "0.1/evaluation/val/confusions.npz").unlink()
    comparison = compare_runs([tmp_path])
    assert comparison.split == "val"
    assert comparison.differences[1].problem == "not evaluated"
    assert compare_runs([tmp_path], split="flip").differences[0].problem == "row 1: not evaluated"
    make_evaluation(tmp_path / "0.1", matrices[0.1])
    assert compare_runs([tmp_path]).differences[1].source == "best checkpoints on 4 images of val"


def test_ensemble_in_a_run_directory_is_no_evaluation_of_the_run(tmp_path):
    for lr in (0.1, 0.2):
        path = make_run(tmp_path / str(lr), lr=lr, mean_iou=lr)
        make_evaluation(path, random_confusions(4, seed=int(10 * lr)))
    checkpoint = tmp_path / "0.1" / runs.BEST
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    make_evaluation(
        tmp_path / "0.1",
        random_confusions(4, seed=5),
        checkpoint=[str(tmp_path / "0.2" / runs.BEST), str(checkpoint)],
        sha256=["other", sha256],
    )
    assert compare_runs([tmp_path]).differences[1].problem == "not evaluated"


def test_folds_with_other_settings_are_not_joined(sweep):
    folder, _ = sweep
    path = folder / "0.1-0-2/evaluation/fold/evaluation.json"
    content = json.loads(path.read_text())
    content["settings"]["flip"] = True
    path.write_text(json.dumps(content))
    _, difference = compare_runs([folder]).differences
    assert difference.problem == "evaluated with another flip than another fold of its seed"


def test_classes_without_evaluations_are_averaged_over_equal_folds(tmp_path):
    for lr in (0.1, 0.2):
        for fold in range(2):
            make_run(tmp_path / f"{lr}{fold}", lr=lr, data__fold=fold, data__folds=2, mean_iou=lr + fold / 2)
    comparison = compare_runs([tmp_path])
    contrast = contrast_rows(comparison, *comparison.groups)
    assert list(contrast.classes) == CLASSES
    assert contrast.ious[:, 0] == pytest.approx([0.45, 0.35])
    assert list(contrast.settings) == ["lr"]
    (tmp_path / "0.10/summary.json").unlink()
    comparison = compare_runs([tmp_path])
    assert contrast_rows(comparison, *comparison.groups).source.startswith("no common validation")


def test_panels_show_runs_of_one_fold(sweep):
    folder, _ = sweep
    for path in folder.iterdir():
        (path / runs.BEST).parent.mkdir()
        (path / runs.BEST).touch()
    assert [run.path.name for _, run in choose_runs(compare_runs([folder]))] == ["0.2-0-2", "0.1-0-2"]
