"""Checkpoints survive a crash, a full disk and damaged files."""

import io
import logging
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn import runs
from fcn.config import ConfigError
from fcn.runs.checkpoints import prepare_last_checkpoint
from fcn.training import checkpointing


class Trainer(SimpleNamespace):
    """Saves its attribute `step`, through the checkpoint IO like Lightning's."""

    is_global_zero = True

    def save_checkpoint(self, path):
        checkpointing.AtomicCheckpointIO().save_checkpoint({"step": torch.tensor(self.step)}, path)


def saved(run, *steps, best=()):
    for step in steps:
        checkpointing.save_checkpoint(Trainer(step=step), run, best=step in best)


def step_of(path):
    return int(torch.load(path, weights_only=True)["step"])


def test_last_and_previous_checkpoint_are_kept(tmp_path):
    saved(tmp_path, 1)
    assert not (tmp_path / runs.PREVIOUS).exists()
    saved(tmp_path, 2, 3, best=(2,))
    assert [step_of(tmp_path / name) for name in (runs.LAST, runs.PREVIOUS, runs.BEST)] == [3, 2, 2]
    assert prepare_last_checkpoint(tmp_path) == tmp_path / runs.LAST


def test_new_run_has_no_last_checkpoint(tmp_path):
    assert prepare_last_checkpoint(tmp_path) is None


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    elif how == "flipped":  # a bit of the stored step, which torch.load would not notice
        content[content.index((3).to_bytes(8, "little"))] ^= 1
    else:
        state = {"a": torch.ones(3), "b": torch.tensor([0, torch.inf])}
        torch.save({**torch.load(path, weights_only=True), "state_dict": state}, file := io.BytesIO())
        content = file.getvalue()
    path.unlink()  # not in place: previous.ckpt may be a link to the same file
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "infinite"])
def test_damaged_checkpoint_is_replaced_by_the_previous_one(tmp_path, caplog, how):
    saved(tmp_path, 1, 2, 3)
    damage(tmp_path / runs.LAST, how)
    with caplog.at_level(logging.WARNING, logger="fcn"):
        assert prepare_last_checkpoint(tmp_path) == tmp_path / runs.LAST
    assert "last.ckpt is damaged or missing; resuming from previous.ckpt" in caplog.text
    assert step_of(tmp_path / runs.LAST) == 2
    saved(tmp_path, 3)  # keeps the sound one as the previous one
    assert step_of(tmp_path / runs.PREVIOUS) == 2


def test_best_checkpoint_is_used_if_all_others_are_damaged(tmp_path):
    saved(tmp_path, 1, best=(1,))
    damage(tmp_path / runs.LAST, "truncated")
    prepare_last_checkpoint(tmp_path)
    assert step_of(tmp_path / runs.LAST) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.data())
def test_any_damage_is_detected(tmp_path, data):
    saved(tmp_path, 1, 2)
    content = bytearray((tmp_path / runs.LAST).read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(1, 300))] = data.draw(st.binary(max_size=50))
    (tmp_path / runs.LAST).unlink()
    (tmp_path / runs.LAST).write_bytes(content)
    assert step_of(prepare_last_checkpoint(tmp_path)) in (1, 2)


def test_run_whose_checkpoints_are_missing_does_not_start_again(tmp_path):
    runs.write_summary(tmp_path, {"metrics": {"train/loss": 1.0}})
    with pytest.raises(ConfigError, match=r"last\.ckpt is missing; restore it"):
        prepare_last_checkpoint(tmp_path)


def test_unfinished_files_of_a_killed_process_are_deleted(tmp_path):
    saved(tmp_path, 1)
    for folder in (tmp_path, tmp_path / "checkpoints"):
        (folder / ".0123.tmp").write_bytes(b"half")
    others = tmp_path / "export" / ".model.onnx.7.tmp"  # of another command that may be running
    others.mkdir(parents=True)
    prepare_last_checkpoint(tmp_path)
    assert list(tmp_path.rglob("*.tmp")) == [others]
