"""A run that fails says why in one line and leaves what it had."""

import json

import pytest

from fcn.data import shapes
from tests.commands import TINY, type_in


def test_a_loss_that_is_no_number_stops_the_run_at_once(monkeypatch, capsys, tmp_path, shapes_root):
    monkeypatch.chdir(tmp_path)
    diverging = (f"data.root={shapes_root}", "name=diverged", "lr=1e30", "schedule=constant", "trainer=cpu")
    status, _, err = type_in(monkeypatch, capsys, *TINY, *diverging)
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: train/loss became ")
    for expected in ("at step ", "lr 1e+30", "try lr=1e+29", "schedule.warmup_steps"):
        assert expected in line, line
    (run,) = (tmp_path / "outputs" / "diverged").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert not list(run.rglob("*.tmp"))


def test_an_error_in_a_loader_process_is_told_and_ends_the_command(command):
    """The process that made the crops waits for nobody: multiprocessing tells it to end, and joins it."""
    drawn = shapes.ensure_shapes(command.folder / "voc", num_train=16, num_val=5, seed=0)
    name = (drawn / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").read_text().split()[1]
    mask = drawn / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png"
    mask.write_bytes(mask.read_bytes()[:60])
    data = ["data=voc", f"data.root={drawn}", f"data.classes=[{','.join(shapes.CLASSES)}]", "data.cache=false"]
    done = command(*TINY, *data, "epochs=1", "name=broken", "trainer=cpu", "data.num_workers=1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{name}.png must be a readable image" in line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.weights=absent.pth"], "backbone.weights (=absent.pth)"),
        (["data.shapes.num_train=4"], "batch_size (=8) must not exceed the 4 images"),
        (
            ["schedule.warmup_steps=100"],
            "schedule.warmup_steps (=100) must be below the number of steps of the run (=4)",
        ),
        (["data.train_split=trian"], "did you mean train"),
    ],
)
def test_what_cannot_be_run_is_one_line(monkeypatch, capsys, tmp_path, shapes_root, overrides, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = type_in(monkeypatch, capsys, *TINY, f"data.root={shapes_root}", "trainer=cpu", *overrides)
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    (run,) = (tmp_path / "outputs" / "shapes").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
