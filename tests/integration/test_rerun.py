"""`python train.py rerun=<run>`: a bit-identical repetition, or a report of the differences."""

import json
import shutil

import pytest

import fcn
from tests.commands import TINY, type_in

SMALL = ("data.shapes.num_train=8", "batch_size=4", "trainer.sample_images=0", "trainer=cpu", "backbone=squeezenet1_0")


ANOTHER = (
    "epochs=null", "steps=3", "trainer.val_every_steps=2", "optim=lamb", "optim.clip_norm=0.5", "schedule=onecycle",
    "backbone.trainable=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shapes_root):
    """Working directory in which outputs/mine/run is a finished run."""
    folder = tmp_path_factory.mktemp("reruns")
    config = fcn.compose(*TINY, *SMALL, f"data.root={shapes_root}", "name=mine")
    fcn.train(config, folder / "outputs" / "mine" / "run")
    return folder


def only_new(folder, *known):
    (path,) = {path for path in folder.iterdir() if path.name not in known}
    return path


def test_rerun_is_bit_identical(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    run = folder / "outputs" / "mine" / "run"
    status, out, err = type_in(monkeypatch, capsys, "rerun=outputs/mine/run")
    assert (status, err) == (0, "")
    again = only_new(run.parent, "run")
    report = json.loads((again / "rerun.json").read_text())
    assert report["same"] is True
    assert report["weights"]["compared"] > 50
    assert "same     all " in out
    assert (again / "config.yaml").read_text() == (run / "config.yaml").read_text().replace(
        "rerun: null", "rerun: outputs/mine/run"
    )
    before = (again / "checkpoints" / "last.ckpt").read_bytes()
    status, out, _ = type_in(monkeypatch, capsys, f"resume={again.relative_to(folder)}")
    assert status == 0
    assert "same     all " in out  # a resumed repetition ends with the comparison too
    assert (again / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.slow
def test_rerun_of_steps_with_clipping_and_frozen_backbone(folder, shapes_root, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    run = folder / "outputs" / "another" / "run"
    fcn.train(fcn.compose(*TINY, *SMALL, *ANOTHER, f"data.root={shapes_root}", "name=another"), run)
    status, out, err = type_in(monkeypatch, capsys, "rerun=outputs/another/run")
    assert (status, err) == (0, "")
    assert "same     all " in out


def test_rerun_of_changed_run_reports_the_difference(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    edited = folder / "outputs" / "edited"
    shutil.copytree(folder / "outputs" / "mine" / "run", edited)
    (edited / "config.yaml").write_text((edited / "config.yaml").read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    status, out, err = type_in(monkeypatch, capsys, "rerun=outputs/edited", "name=other")
    again = only_new(folder / "outputs" / "other").relative_to(folder)
    assert status == 1
    assert err == f"error: {again} differs from outputs/edited, which it repeats; see {again}/rerun.json\n"
    report = json.loads((again / "rerun.json").read_text())
    assert report["same"] is False
    assert (report["first"]["epoch"], report["first"]["scalar"]) == (1, "train/loss")
    assert report["causes"]["seed"] == [0, 1]
    assert "because? seed 1 instead of 0" in out
    assert json.loads((again / "summary.json").read_text())["status"] == "finished"


def test_rerun_without_a_run_writes_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, err = type_in(monkeypatch, capsys, "rerun=outputs/none")
    assert (status, err) == (1, "error: outputs/none must be a run directory, but it holds no config.yaml\n")
    assert not list(tmp_path.iterdir())
