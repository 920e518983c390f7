"""Checkpoints that a crash, a full disk or a bad disk cannot take away."""

import logging
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn import runs
from fcn.config import ConfigError
from fcn.runs import checkpoints
from fcn.training import checkpointing


class Trainer(SimpleNamespace):
    """Saves what it holds, as Lightning's does through its checkpoint IO."""

    is_global_zero = True

    def save_checkpoint(self, path):
        checkpointing.AtomicCheckpointIO().save_checkpoint({"step": torch.tensor(self.step)}, path)


def saved(run, *steps, best=()):
    for step in steps:
        checkpointing.save_checkpoint(Trainer(step=step), run, best=step in best)


def step_of(path):
    return int(torch.load(path, weights_only=True)["step"])


def test_the_last_checkpoint_and_the_one_before_are_kept(tmp_path):
    saved(tmp_path, 1)
    assert not (tmp_path / runs.PREVIOUS).exists()
    saved(tmp_path, 2, 3, best=(2,))
    assert [step_of(tmp_path / name) for name in (runs.LAST, runs.PREVIOUS, runs.BEST)] == [3, 2, 2]
    assert checkpoints.newest(tmp_path) == tmp_path / runs.LAST


def test_a_run_without_checkpoints_has_no_newest(tmp_path):
    assert checkpoints.newest(tmp_path) is None


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    else:  # a bit of the stored step, whose value torch.load would take as it is
        place = content.index((3).to_bytes(8, "little"))
        content[place] ^= 1
    path.unlink()  # not through the link, which others share
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(tmp_path, caplog, how):
    saved(tmp_path, 1, 2, 3)
    damage(tmp_path / runs.LAST, how)
    with caplog.at_level(logging.WARNING, logger="fcn"):
        assert checkpoints.newest(tmp_path) == tmp_path / runs.LAST
    assert "last.ckpt is damaged or gone; going on from previous.ckpt" in caplog.text
    assert step_of(tmp_path / runs.LAST) == 2
    saved(tmp_path, 3)  # which keeps the sound one, not the damaged one
    assert step_of(tmp_path / runs.PREVIOUS) == 2


def test_weights_that_are_not_finite_give_way_to_the_ones_before(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    content = torch.load(tmp_path / runs.LAST, weights_only=True)
    (tmp_path / runs.LAST).unlink()
    torch.save({**content, "state_dict": {"a": torch.ones(3), "b": torch.tensor([0, torch.inf])}}, tmp_path / runs.LAST)
    with caplog.at_level(logging.WARNING, logger="fcn"):
        assert step_of(checkpoints.newest(tmp_path)) == 1
    assert "last.ckpt is damaged or gone; going on from previous.ckpt, the one before" in caplog.text


def test_the_best_is_gone_on_from_if_it_is_all_there_is(tmp_path):
    saved(tmp_path, 1, best=(1,))
    damage(tmp_path / runs.LAST, "truncated")
    checkpoints.newest(tmp_path)
    assert step_of(tmp_path / runs.LAST) == 1


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_unasked(tmp_path):
    saved(tmp_path, 1, 2)
    for name in (runs.LAST, runs.PREVIOUS):
        damage(tmp_path / name, "truncated")
    with pytest.raises(ConfigError, match=r"last\.ckpt must be a checkpoint to go on from, but all .* are damaged"):
        checkpoints.newest(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.data())
def test_whatever_is_damaged_is_no_error_but_a_fallback(tmp_path, data):
    saved(tmp_path, 1, 2)
    content = bytearray((tmp_path / runs.LAST).read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(1, 300))] = data.draw(st.binary(max_size=50))
    (tmp_path / runs.LAST).unlink()
    (tmp_path / runs.LAST).write_bytes(content)
    assert step_of(checkpoints.newest(tmp_path)) in (1, 2)


def test_a_run_that_had_a_checkpoint_does_not_begin_anew_without(tmp_path):
    runs.write_summary(tmp_path, {"metrics": {"train/loss": 1.0}})
    with pytest.raises(ConfigError, match=r"last\.ckpt must be there to go on from, .* bring it back, or begin"):
        checkpoints.newest(tmp_path)


def test_what_a_killed_process_had_half_written_is_removed(tmp_path):
    saved(tmp_path, 1)
    for folder in (tmp_path, tmp_path / "checkpoints"):
        (folder / ".0123.tmp").write_bytes(b"half")
    others = tmp_path / "export" / ".model.onnx.7.tmp"  # a folder, of a command that may still be at work
    others.mkdir(parents=True)
    checkpoints.newest(tmp_path)
    assert list(tmp_path.rglob("*.tmp")) == [others]


def test_a_failure_while_saving_leaves_what_was_there(tmp_path, monkeypatch):
    saved(tmp_path, 1)

    def full(content, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 2)
    monkeypatch.undo()
    assert step_of(tmp_path / runs.LAST) == 1
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
