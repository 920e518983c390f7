"""Cross-validation: a fold is trained, evaluated, swept, resumed and searched like any other run."""

import json

import numpy as np
import pytest

from tests.commands import TINY, error_message, load_command, train_in_process, type_in

FOLD = ("data.fold=1", "data.folds=3", "epochs=1", "batch_size=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes_root):
    return train_in_process(tmp_path_factory.mktemp("fold") / "run", shapes_root, *FOLD)


def evaluate(monkeypatch, capsys, *arguments):
    return type_in(monkeypatch, capsys, "worst=0", *arguments, script=load_command("evaluate"))


def test_evaluation_scores_the_images_that_validated_the_run(run, monkeypatch, capsys):
    status, _, err = evaluate(monkeypatch, capsys, f"run={run}")
    assert status == 0, err
    summary = json.loads((run / "summary.json").read_text())
    evaluation = json.loads((run / "evaluation/fold/evaluation.json").read_text())
    assert evaluation["scores"]["mean_iou"] == pytest.approx(summary["metrics"]["val/mean_iou"], abs=1e-9)
    assert evaluation["num_images"] == summary["data"]["val"]["images"] == 5
    validated = set(np.load(run / "evaluation/fold/confusions.npz")["names"])

    status, _, err = evaluate(monkeypatch, capsys, f"run={run}", "split=train")
    assert status == 0, err
    trained = set(np.load(run / "evaluation/train/confusions.npz")["names"])
    assert trained | validated == {f"train_{number:05d}" for number in range(16)}
    assert not trained & validated
    assert "11 training and 5 validation images (fold 1 of 3)" in (run / "train.log").read_text()


@pytest.mark.parametrize(("override", "own"), [("data.fold=0", 1), ("data.split_seed=3", 0)])
def test_evaluation_on_another_fold_is_refused(run, monkeypatch, capsys, override, own):
    status, _, err = evaluate(monkeypatch, capsys, f"run={run}", override)
    key, _, value = override.partition("=")
    assert status == 1
    assert error_message(err) == (
        f"{key} (={value}) must be that of {run / 'checkpoints/best.ckpt'} (={own}), which was trained on other images "
        "of data.train_split; use that, or split=val"
    )


def test_fold_of_a_changed_list_is_not_evaluated(run, monkeypatch, capsys):
    """Of 9 images, fold 1 of 3 has other images than of 16, on which the network was trained."""
    status, _, err = evaluate(monkeypatch, capsys, f"run={run}", "data.limit=9")
    assert status == 1
    assert error_message(err) == (
        f"split (=fold) must be the 5 images that validated {run / 'checkpoints/best.ckpt'}, but has 3 images that are "
        "not the same, because the images of train have changed; restore them and data.limit, or use split=val"
    )


def test_prepare_voc_reads_whole_splits(monkeypatch, capsys):
    status, _, err = type_in(monkeypatch, capsys, "data.fold=0", script=load_command("prepare_voc"))
    assert (status, error_message(err)) == (1, "data.fold (=0) must be null, because whole splits are read; omit it")


@pytest.mark.exhaustive
def test_folds_are_swept_repeated_and_searched(command):
    keys = (*TINY, f"data.root={command.data}", "data.folds=3", "epochs=1", "batch_size=4", "trainer=cpu")
    done = command("-m", *keys, "data.fold=0,1,2", "name=folds")
    assert done.returncode == 0, done.stderr
    jobs = sorted(command.run_of("folds").glob("*_fold-*"))
    images = [json.loads((job / "summary.json").read_text())["data"]["val"]["images"] for job in jobs]
    assert images == [6, 5, 5]
    done = command(f"rerun={jobs[1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    done = command(f"resume={jobs[1]}", "epochs=2", "data.fold=2", "allow=[epochs,data]")
    assert error_message(done.stderr).startswith("data.fold (=2) must stay 1 in ")
    search = ("search.lr={choices: [0.1,0.01]}", "trials=2", "name=search")
    done = command(*keys, "data.fold=0", *search, script="scripts/tune.py")
    assert done.returncode == 0, done.stderr
    paths = command.run_of("search").glob("*/summary.json")
    assert [json.loads(path.read_text())["data"]["val"]["images"] for path in paths] == [6, 6]
