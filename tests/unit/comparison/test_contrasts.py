"""The comparison of run directories: rows, differences on the same images, and what is said where there are none."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch

from fcn import runs
from fcn.comparison import ComparisonError, compare, contrast
from fcn.comparison.bootstrap import interval, resampled_class_iou
from fcn.comparison.tables import markdown
from fcn.evaluation.metrics import segmentation_scores
from fcn.evaluation.scores import class_counts, mean_iou
from tests.comparisons import CLASSES, make_evaluation, make_run, random_confusions


def mean_iou_of(confusions):
    return segmentation_scores(torch.from_numpy(confusions.sum(axis=0)))["mean_iou"]


def class_iou_of(confusions):
    return class_counts(confusions).total().iou()


@pytest.fixture
def sweep(tmp_path):
    """Two rows: lr 0.1 with two seeds, lr 0.01 with two seeds, of which one failed; evaluated on nine images."""
    matrices = {}
    for number, (lr, seed, status) in enumerate(
        [(0.1, 0, "finished"), (0.1, 1, "finished"), (0.01, 0, "finished"), (0.01, 1, "failed")]
    ):
        path = make_run(tmp_path / f"{number}", lr=lr, seed=seed, status=status, mean_iou=lr + 0.1 * seed)
        matrices[number] = random_confusions(9, seed=number)
        make_evaluation(path, matrices[number])
    return tmp_path, matrices


def test_rows_hold_seeds_and_stand_in_order(sweep):
    folder, _ = sweep
    found = compare([folder])
    assert found.keys == {"lr": "lr"}
    assert [(group.label, group.state) for group in found.groups] == [
        ("lr=0.1", "2 finished"),
        ("lr=0.01", "1 of 2 finished (seed 1 failed)"),
    ]
    assert found.groups[0].statistic("val/mean_iou").mean == pytest.approx(0.15)
    assert found.baseline is found.groups[0]
    assert not found.notes


def test_a_difference_is_between_means_over_seeds_on_the_same_images(sweep):
    folder, matrices = sweep
    _, difference = compare([folder]).differences
    first = np.mean([mean_iou_of(matrices[0]), mean_iou_of(matrices[1])])
    assert difference.value == pytest.approx(mean_iou_of(matrices[2]) - first)
    resampled = resampled_class_iou([class_counts(matrices[number]) for number in range(3)])
    scores = [mean_iou(one) for one in resampled]
    low, high = interval(scores[2] - (scores[0] + scores[1]) / 2)
    assert (difference.low, difference.high) == (pytest.approx(low), pytest.approx(high))
    assert difference.low < difference.value < difference.high
    assert (difference.num_images, difference.num_runs) == (9, (1, 2))


def test_a_key_that_an_older_run_lacks_has_its_default(tmp_path):
    """Only another value than the default tells the run apart that has it."""
    for seed, border in enumerate(("zero", "zero", "replicate")):
        make_run(tmp_path / str(seed), seed=seed, model__border=border)
    path = tmp_path / "0" / "config.yaml"
    config = json.loads(path.read_text())
    del config["model"]["border"]
    path.write_text(json.dumps(config))
    found = compare([tmp_path])
    assert [(group.label, len(group.runs)) for group in found.groups] == [("border=replicate", 1), ("border=zero", 2)]


def test_keys_are_ignored_by_short_or_full_name(tmp_path):
    for seed, (init, alignment) in enumerate([("bilinear", "chapter"), ("xavier", "centered")]):
        make_run(tmp_path / str(seed), seed=seed, model__init=init, model__alignment=alignment)
    assert list(compare([tmp_path]).keys.values()) == ["init", "alignment"]
    assert len(compare([tmp_path], ignore=["init", "model.alignment"]).groups) == 1
    with pytest.raises(ComparisonError, match=r"ignore \(=model.inti\) must be a key .*; did you mean model.init\?"):
        compare([tmp_path], ignore=["model.inti"])


def test_the_baseline_can_be_chosen_by_row_or_run(sweep):
    folder, _ = sweep
    usual, *others = (compare([folder], baseline=name) for name in ("1", "2", str(folder / "3")))
    for other in others:
        assert other.baseline.number == 2
        assert other.differences[0].value == pytest.approx(-usual.differences[1].value)
        assert (other.differences[1].low, other.differences[1].high) == (0, 0)
    for name in ("0", "nowhere"):
        with pytest.raises(ComparisonError, match=rf"row \(={name}\) must be 1 to 2, or one of the run directories"):
            compare([folder], baseline=name)


def test_an_unknown_metric_names_the_known_ones(sweep):
    folder, _ = sweep
    with pytest.raises(
        ComparisonError, match=r"metric \(=val/mean_io\) must be .* did you mean val/mean_iou.*val/pixel"
    ):
        compare([folder], metric="val/mean_io")
    assert [group.label for group in compare([folder], metric="train/loss").groups] == ["lr=0.01", "lr=0.1"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": [f"other_{place}" for place in range(9)]}, "evaluated on other images than row 1"),
        ({"classes": ["ground", "cow", "dog"]}, "evaluated on other classes than row 1"),
        ({"flip": True, "scales": [0.5, 1.0]}, "evaluated with another flip, scales than row 1"),
    ],
)
def test_without_the_same_images_there_is_no_interval_and_it_is_said_why(sweep, changes, reason):
    folder, matrices = sweep
    make_evaluation(folder / "2", matrices[2], **changes)
    found = compare([folder])
    assert found.differences[1].problem == reason
    assert np.isnan(found.differences[1].value)
    assert found.notes == [f"no interval for row 2: {reason}"]


def test_other_masks_under_the_same_names_are_noticed(sweep):
    folder, _ = sweep
    make_evaluation(folder / "2", random_confusions(9, seed=2, targets_seed=1))
    assert "the same names with other masks than row 1" in compare([folder]).notes[0]


def test_settings_that_only_round_do_not_matter(sweep):
    folder, matrices = sweep
    make_evaluation(folder / "2", matrices[2], batch_size=8, device="a GPU", accelerator="gpu")
    assert not compare([folder]).differences[1].problem


def test_runs_that_were_not_evaluated_are_named(sweep):
    folder, _ = sweep
    (folder / "2" / "evaluation" / "val" / "confusions.npz").unlink()
    command = "python scripts/evaluate.py run="
    told = "no interval for row 2: not evaluated; evaluate them: "
    assert compare([folder]).notes == [f"{told}{command}{folder}"]
    each = [folder / str(number) for number in range(4)]
    assert compare(each).notes == [f"{told}{command}{folder}/2"]
    (note,) = compare(each, baseline="2").notes
    assert note == f"no interval for row 1: row 2 was not evaluated; evaluate them: {command}{folder}/2"
    (note,) = compare([folder], split="test").notes
    assert note.endswith(f"not evaluated; evaluate them: {command}{folder} split=test")
    (folder / "1" / "evaluation" / "val" / "confusions.npz").unlink()
    assert "row 1: 1 of its 2 finished runs are evaluated on val" in compare([folder]).notes
    (folder / "0" / "evaluation" / "val" / "confusions.npz").write_text("torn")
    (note,) = compare([folder], split="val").notes
    assert note.startswith("no interval for row 2: ")
    assert compare([folder], split="test").differences[1].problem == "not evaluated"


def save_checkpoint(run, content, *, name=runs.BEST, time=None):
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / name).write_bytes(content)
    if time is not None:
        os.utime(run / name, (time, time))
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", [runs.BEST, runs.LAST])
def test_an_evaluation_of_another_checkpoint_gives_no_interval(sweep, name):
    folder, matrices = sweep
    sha256 = save_checkpoint(folder / "2", b"first", name=name)
    make_evaluation(folder / "2", matrices[2], checkpoint=f"runs/2/{name}", sha256=sha256)
    assert not compare([folder]).differences[1].problem
    save_checkpoint(folder / "2", b"second", time=0)  # an older time does not hide it
    found = compare([folder])
    assert np.isnan(found.differences[1].low)
    again = f"evaluate it again: python scripts/evaluate.py run={folder}"
    assert found.notes == [f"no interval for row 2: evaluated before its best checkpoint changed; {again}"]
    assert contrast(found, *found.groups).source.startswith("last validation; row 2 was evaluated before")
    (note,) = compare([folder], baseline="2").notes
    assert note.startswith("no interval for row 1: row 2 was evaluated before its best checkpoint changed")


def test_an_evaluation_without_a_hash_is_judged_by_its_time(sweep):
    folder, _ = sweep
    written = (folder / "2" / "evaluation" / "val" / "evaluation.json").stat().st_mtime
    save_checkpoint(folder / "2", b"x", time=written - 9)
    assert not compare([folder]).differences[1].problem
    save_checkpoint(folder / "2", b"x", time=written + 9)
    assert compare([folder]).differences[1].problem == "evaluated before its best checkpoint changed"
    (folder / "2" / runs.BEST).unlink()  # as one does to save space
    assert not compare([folder]).differences[1].problem


def test_last_checkpoints_are_not_called_best(sweep):
    folder, matrices = sweep
    make_evaluation(folder / "2", matrices[2], checkpoint=runs.LAST)
    found = compare([folder])
    assert contrast(found, *found.groups).source == "best and last checkpoints on 9 images of val"
    for name in ("0", "1"):
        make_evaluation(folder / name, matrices[int(name)], checkpoint=runs.LAST)
    assert "difference of mean IoU, last checkpoints on 9 images" in markdown(compare([folder]))


def test_the_split_is_the_one_that_most_runs_have(sweep):
    folder, matrices = sweep
    make_evaluation(folder / "0", matrices[1], split="minival")
    assert compare([folder]).split == "val"
    for name in ("1", "2"):
        make_evaluation(folder / name, matrices[1], split="minival")
        (folder / name / "evaluation" / "val" / "confusions.npz").unlink()
    found = compare([folder])
    assert found.split == "minival"
    assert (found.differences[1].value, found.differences[1].low, found.differences[1].high) == (0, 0, 0)


def test_a_damaged_evaluation_costs_its_interval_alone(sweep):
    folder, _ = sweep
    (folder / "2" / "evaluation" / "val" / "evaluation.json").write_text("{")
    assert compare([folder]).differences[1].problem.startswith("evaluated, but that cannot be read: ")


def test_several_runs_of_one_seed_are_pointed_out(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name, seed=3)
    assert "row 1 holds several runs of seed 3" in compare([tmp_path]).notes[0]


def test_no_finished_run_is_a_table_all_the_same(tmp_path):
    make_run(tmp_path / "a", status=None, lr=0.1)
    make_run(tmp_path / "b", status="failed", lr=0.2)
    found = compare([tmp_path])
    assert [group.state for group in found.groups] == ["unfinished", "failed"]
    assert found.notes == ["no interval for row 2: not finished"]
    make_run(tmp_path / "c" / "d", status=None)
    assert compare([tmp_path / "c"], metric="anything").groups[0].state == "unfinished"


def test_a_contrast_shows_settings_and_classes(sweep):
    folder, matrices = sweep
    found = compare([folder])
    both = contrast(found, *found.groups)
    assert both.settings == [("lr", [0.1], [0.01])]
    assert both.names == ("row 1: lr=0.1", "row 2: lr=0.01")
    assert both.source == "best checkpoints on 9 images of val"
    assert both.classes == CLASSES
    expected = [(class_iou_of(matrices[0]) + class_iou_of(matrices[1])) / 2, class_iou_of(matrices[2])]
    np.testing.assert_allclose(both.ious, expected)
    deltas = both.ious[0] - both.ious[1]
    assert (both.difference.lows < deltas).all()
    assert (deltas < both.difference.highs).all()


def test_without_evaluations_classes_are_those_of_the_last_validation(tmp_path):
    make_run(tmp_path / "a", lr=0.1, mean_iou=0.6, name="a")
    make_run(tmp_path / "b", lr=0.2, mean_iou=0.4, seed=5)
    found = compare([tmp_path])
    both = contrast(found, *found.groups)
    assert both.settings == [("name", ["a"], ["x"]), ("lr", [0.1], [0.2]), ("seed", [0], [5])]
    np.testing.assert_allclose(both.ious[0] - both.ious[1], 0.2)
    assert both.source == "last validation; not evaluated, so there are no intervals"
    make_run(tmp_path / "c", lr=0.3, mean_iou=0.3, data__val_split="other")
    found = compare([tmp_path])
    both = contrast(found, found.groups[0], found.groups[2])
    assert (list(both.classes), both.source) == ([], "not evaluated, and validated on other data")
    make_run(tmp_path / "d", lr=0.4, status=None)
    found = compare([tmp_path])
    both = contrast(found, found.groups[0], found.groups[3])
    assert (list(both.classes), both.source) == ([], "not evaluated, and no class was validated in both")
