"""Rows of evaluations in place of runs: other settings of the same runs, and ensembles."""

import json
import shutil

import numpy as np
import pytest

from fcn import runs
from fcn.comparison.bootstrap import percentile_interval, resample_class_iou
from fcn.comparison.output_files import write_comparison
from fcn.comparison.remarks import collect_remarks
from fcn.comparison.run_comparison import compare_runs, contrast_rows
from fcn.comparison.run_records import ComparisonError
from fcn.comparison.tables import main_table, runs_table, table_rows
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


def test_evaluations_are_listed_with_their_scores(tmp_path, matrices):
    table = runs_table(compare_runs([tmp_path], evaluations=True))
    columns = {column.head: column.cells for column in table}
    assert "best mIoU" not in columns
    scores = dict(zip(columns["directory"], columns["val mIoU"], strict=True))
    assert scores[str(tmp_path / "both")] == f"{score(matrices['ensemble']):.3f}"
    assert len(scores) == 5


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


def evaluate_together(folder, members, *, seed=0, **changes):
    """Write the evaluation of an ensemble; return its score."""
    confusions = random_confusions(6, seed=seed)
    paths = [str(member / runs.BEST) for member in members]
    hashes = ["x" for _ in members]
    make_evaluation(members[0], confusions, folder=folder, **{"checkpoint": paths, "sha256": hashes, **changes})
    return score(confusions)


@pytest.fixture
def networks(tmp_path):
    """Run directories by network and seed."""
    names = ("fcn8s", "fcn16s", "fcn32s")
    return {(name, seed): make_run(tmp_path / f"runs/{name}{seed}", model__name=name, seed=seed)
            for name in names for seed in (0, 1)}  # fmt: skip


def test_ensembles_of_other_networks_are_rows(tmp_path, networks):
    pair = [networks["fcn8s", 0], networks["fcn16s", 1]]
    same = [networks["fcn16s", 0], networks["fcn8s", 1]]  # in another order, of other seeds
    scores = [evaluate_together(tmp_path / "a", pair, seed=1), evaluate_together(tmp_path / "b", same, seed=2)]
    other = evaluate_together(tmp_path / "c", [networks["fcn8s", 0], networks["fcn32s", 1]], seed=3)
    comparison = compare_runs([tmp_path], evaluations=True)
    assert list(comparison.keys) == ["model.name"]
    rows = {group.values["model.name"]: group for group in comparison.groups}
    assert rows.keys() == {"fcn16s,fcn8s", "fcn32s,fcn8s"}
    assert rows["fcn16s,fcn8s"].statistic("val/mean_iou").mean == pytest.approx(np.mean(scores))
    assert rows["fcn32s,fcn8s"].statistic("val/mean_iou").mean == pytest.approx(other)
    assert [run.config["seed"] for run in rows["fcn16s,fcn8s"].runs] == ["0,1", "1,0"]


def test_settings_of_the_runs_of_an_ensemble_stay_together(tmp_path):
    small, large = (
        [make_run(tmp_path / f"runs/{name}{rates}", model__name=name, lr=lr) for name, lr in
         zip(("fcn8s", "fcn16s"), rates, strict=True)] for rates in ((0.1, 0.2), (0.2, 0.1))
    )  # fmt: skip
    evaluate_together(tmp_path / "a", small)
    evaluate_together(tmp_path / "b", large)
    groups = compare_runs([tmp_path], evaluations=True).groups
    assert {group.label for group in groups} == {
        "model.name=fcn8s,fcn16s",
        "model.name=fcn16s,fcn8s",
    }  # each in the order of lr


def test_number_of_equal_networks_in_an_ensemble_separates_rows(tmp_path, networks):
    eights, sixteens = ([networks[name, seed] for seed in (0, 1)] for name in ("fcn8s", "fcn16s"))
    evaluate_together(tmp_path / "a", [*eights, sixteens[0]])
    evaluate_together(tmp_path / "b", [eights[0], *sixteens])
    labels = {group.label for group in compare_runs([tmp_path], evaluations=True).groups}
    assert labels == {"model.name=fcn16s,fcn8s,fcn8s", "model.name=fcn16s,fcn16s,fcn8s"}


def test_ensembles_of_one_seed_and_of_several_are_sorted(tmp_path, networks):
    again = make_run(tmp_path / "runs/again", model__name="fcn8s", seed=0)
    evaluate_together(tmp_path / "a", [networks["fcn8s", 0], networks["fcn8s", 1]])
    evaluate_together(tmp_path / "b", [networks["fcn8s", 0], again])
    (group,) = compare_runs([tmp_path], evaluations=True).groups
    assert [run.config["seed"] for run in group.runs] == [0, "0,1"]


def test_other_checkpoints_of_a_run_are_rows(tmp_path):
    scores = {}
    for seed in (0, 1):
        run = make_run(tmp_path / str(seed), seed=seed)
        for place, name in enumerate(("best", "last")):
            confusions = random_confusions(6, seed=10 * seed + place)
            scores[seed, name] = score(confusions)
            changes = {"checkpoint": str(run / f"checkpoints/{name}.ckpt"), "folder": run / "evaluation" / name}
            make_evaluation(run, confusions, **changes)
    rows = {group.label: group.statistic("val/mean_iou") for group in compare_runs([tmp_path], evaluations=True).groups}
    assert rows.keys() == {"checkpoint=best", "checkpoint=last"}
    for name in ("best", "last"):
        assert rows[f"checkpoint={name}"].mean == pytest.approx(np.mean([scores[seed, name] for seed in (0, 1)]))


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"root": "other"}, "evaluation.data.root=other"),
        ({"limit": 3}, "evaluation.data.limit=3"),
        ({"name": "folders", "root": "other"}, "evaluation.data.name=folders evaluation.data.root=other"),
        ({"label_map": {"2": 1}}, "label_map={2: 1}"),
        ({"num_workers": 5}, ""),  # has no effect on the scores
    ],
)
def test_other_data_of_a_run_are_rows(tmp_path, changes, label):
    for seed in (0, 1):
        run = make_run(tmp_path / str(seed), seed=seed)
        make_evaluation(run, random_confusions(6, seed=seed))
        make_evaluation(run, random_confusions(6, seed=9), folder=run / "evaluation/other", data=changes)
    groups = compare_runs([tmp_path], evaluations=True).groups
    assert len(groups) == (2 if label else 1)
    if label:
        assert label in {group.label for group in groups}
        assert all(len(group.runs) == 2 for group in groups)


def test_map_of_labels_of_the_run_is_no_other_data(tmp_path):
    """config.yaml has numbers as keys, evaluation.json has texts."""
    run = make_run(tmp_path / "a")
    config = (run / runs.CONFIG).read_text()
    (run / runs.CONFIG).write_text(config.replace('"name": "shapes"', '"name": "shapes", "label_map": {0: 1, 255: 0}'))
    assert "label_map" in (run / runs.CONFIG).read_text()
    make_evaluation(make_run(tmp_path / "b"), random_confusions(6, seed=1))
    shutil.copytree(tmp_path / "b/evaluation", run / "evaluation")
    path = run / "evaluation/val/evaluation.json"
    summary = json.loads(path.read_text())
    summary["data"]["label_map"] = {"0": 1, "255": 0}
    path.write_text(json.dumps(summary))
    comparison = compare_runs([run], evaluations=True)
    assert not [key for key in comparison.groups[0].runs[0].config if key.startswith("evaluation.data")]


@pytest.fixture
def splits(tmp_path):
    """Two runs of other learning rates, evaluated on val and on train; the matrices by rate and split."""
    matrices = {}
    for lr in (0.1, 0.2):
        run = make_run(tmp_path / str(lr), lr=lr)
        for place, (split, count) in enumerate((("train", 8), ("val", 5))):
            matrices[lr, split] = random_confusions(count, seed=int(100 * lr) + place, targets_seed=place)
            make_evaluation(run, matrices[lr, split], split=split)
    return matrices


@pytest.mark.parametrize(("split", "chosen", "other"), [(None, "val", "train"), ("train", "train", "val")])
def test_evaluations_of_one_split_are_compared(tmp_path, splits, split, chosen, other):
    comparison = compare_runs([tmp_path], evaluations=True, split=split)
    assert comparison.split == chosen
    assert list(comparison.keys) == ["lr"]
    scores = {group.values["lr"]: group.statistic("val/mean_iou").mean for group in comparison.groups}
    assert scores == {lr: pytest.approx(score(splits[lr, chosen])) for lr in (0.1, 0.2)}
    worse = min(scores, key=scores.get)
    difference = comparison.differences[1]
    assert difference.value == pytest.approx(scores[worse] - max(scores.values()))
    assert difference.source == f"best checkpoints on {len(splits[worse, chosen])} images of {chosen}"
    assert {f"{chosen} mIoU"} == {column.head for column in main_table(comparison) if column.head.endswith(" mIoU")}
    remark = f"left out: 2 evaluations on {other}, not {chosen}; use --split {other} for a comparison of those"
    assert remark in collect_remarks(comparison)


def test_split_without_evaluations_is_refused(tmp_path, splits):
    message = r"split \(=trian\) must be one of the evaluations'; did you mean train\?; known: train, val"
    with pytest.raises(ComparisonError, match=message):
        compare_runs([tmp_path], evaluations=True, split="trian")


@pytest.fixture
def folds(tmp_path):
    """Two learning rates with two folds, each evaluated on its fold of other images, and on val."""
    matrices = {}
    for lr in (0.1, 0.2):
        for fold, names in enumerate((["a", "c"], ["b", "d", "e"])):
            run = make_run(tmp_path / f"{lr}-{fold}", lr=lr, data__fold=fold, data__folds=2)
            seed = int(100 * lr) + fold
            matrices[lr, fold] = random_confusions(len(names), seed=seed, targets_seed=fold)
            make_evaluation(run, matrices[lr, fold], split="fold", names=names)
            matrices[lr, fold, "val"] = random_confusions(4, seed=seed)
            make_evaluation(run, matrices[lr, fold, "val"])
    return matrices


def test_evaluations_of_folds_are_joined(tmp_path, folds):
    comparison = compare_runs([tmp_path], evaluations=True, split="fold")
    scores = {lr: score(np.concatenate([folds[lr, 0], folds[lr, 1]])) for lr in (0.1, 0.2)}
    values = [scores[group.values["lr"]] for group in comparison.groups]
    assert comparison.differences[1].value == pytest.approx(values[1] - values[0])
    assert comparison.differences[1].source == "best checkpoints on 5 images of fold"
    assert not any("alone" in line for line in collect_remarks(comparison))
    shutil.rmtree(tmp_path / "0.1-1/evaluation/fold")
    row = 1 + [group.values["lr"] for group in compare_runs([tmp_path], evaluations=True, split="fold").groups].index(
        0.1
    )
    remark = f"row {row}: evaluated on fold 0 of 2 (seed 0) alone, so the scores are not those of all images"
    assert remark in collect_remarks(compare_runs([tmp_path], evaluations=True, split="fold"))


def test_folds_on_the_same_images_are_averaged(tmp_path, folds):
    comparison = compare_runs([tmp_path], evaluations=True, split="val")
    scores = {lr: np.mean([score(folds[lr, fold, "val"]) for fold in (0, 1)]) for lr in (0.1, 0.2)}
    values = [scores[group.values["lr"]] for group in comparison.groups]
    assert comparison.differences[1].value == pytest.approx(values[1] - values[0])
    assert comparison.differences[1].source == "best checkpoints on 4 images of val"
    shutil.rmtree(tmp_path / "0.1-1")
    assert not any(
        "of all images" in line for line in collect_remarks(compare_runs([tmp_path], evaluations=True, split="val"))
    )


def test_ensemble_of_folds_is_a_row_beside_the_folds(tmp_path, folds):
    expected = evaluate_together(tmp_path / "both", [tmp_path / "0.1-0", tmp_path / "0.1-1"])
    whole = make_run(tmp_path / "whole", lr=0.1, data__folds=2)
    evaluate_together(tmp_path / "mixed", [tmp_path / "0.1-0", whole])
    comparison = compare_runs([tmp_path], evaluations=True, split="val")
    rows = {(group.values["lr"], group.values["data.fold"], group.values["evaluation.members"]): group
            for group in comparison.groups}  # fmt: skip
    assert rows.keys() == {(0.1, "each", 1), (0.2, "each", 1), (0.1, "each", 2), (0.1, "each,null", 2)}
    assert rows[0.1, "each", 2].statistic("val/mean_iou").mean == pytest.approx(expected)


def test_ensembles_of_each_fold_are_joined(tmp_path):
    confusions = [random_confusions(3, seed=fold, targets_seed=fold) for fold in (0, 1)]
    for fold in (0, 1):
        members = [make_run(tmp_path / f"{fold}-{seed}", seed=seed, data__fold=fold, data__folds=2) for seed in (0, 1)]
        paths = [str(member / runs.BEST) for member in members]
        changes = {"checkpoint": paths, "sha256": ["x", "x"], "names": [f"{fold}{place}" for place in range(3)]}
        make_evaluation(members[0], confusions[fold], split="fold", folder=tmp_path / f"both{fold}", **changes)
    comparison = compare_runs([tmp_path], evaluations=True)
    (difference,) = comparison.differences
    assert difference.score == pytest.approx(score(np.concatenate(confusions)))


def test_nested_evaluations_are_compared(tmp_path, networks):
    members = [networks["fcn8s", 0], networks["fcn8s", 1]]
    evaluate_together(tmp_path / "ensemble", members)
    evaluate_together(tmp_path / "ensemble/flip", members, flip=True)
    evaluate_together(tmp_path / "ensemble/flip/scales", members, flip=True, scales=[1.0, 2.0])
    groups = compare_runs([tmp_path], evaluations=True).groups
    assert {group.runs[0].path.name for group in groups} == {"ensemble", "flip", "scales"}


def test_evaluation_in_the_directory_of_another_run_belongs_to_its_own(tmp_path):
    first, second = (make_run(tmp_path / str(lr), lr=lr) for lr in (0.1, 0.2))
    make_evaluation(first, random_confusions(6, seed=1), checkpoint=str(first / runs.BEST))
    inside = second / "evaluation/first"
    make_evaluation(first, random_confusions(6, seed=1), folder=inside, flip=True, checkpoint=str(first / runs.BEST))
    groups = compare_runs([tmp_path], evaluations=True).groups
    assert [run.config["lr"] for group in groups for run in group.runs] == [0.1, 0.1]


def test_evaluation_of_a_moved_run_belongs_to_the_run_around_it(tmp_path):
    run = make_run(tmp_path / "a", lr=0.3)
    make_evaluation(run, random_confusions(6, seed=1), checkpoint=str(run / runs.BEST))
    run.rename(tmp_path / "b")
    ((moved,),) = (group.runs for group in compare_runs([tmp_path], evaluations=True).groups)
    assert moved.config["lr"] == 0.3


def test_classes_of_evaluations_of_other_images_are_not_contrasted(tmp_path):
    for lr in (0.1, 0.2):
        names = [f"{lr}-{place}" for place in range(4)]
        make_evaluation(make_run(tmp_path / str(lr), lr=lr), random_confusions(4, seed=1), names=names)
    comparison = compare_runs([tmp_path], evaluations=True)
    contrast = contrast_rows(comparison, *comparison.groups)
    assert list(contrast.classes) == []
    assert contrast.source == "no common evaluation (evaluated on other images than row 2)"
