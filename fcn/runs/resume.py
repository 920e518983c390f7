"""`python train.py resume=<run> KEY=VALUE`: change the configuration of a run before it is resumed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError, flatten, to_container
from fcn.config.components import LIST_GROUPS
from fcn.config.messages import PRESET_GROUPS
from fcn.config.overrides import choose_length, split_override, without_keys
from fcn.config.resumable_keys import Changes, changed_keys, check_resumable

BACKUP = ".before_resume.json"
"""File with the texts of `CHANGEABLE` as they were before a run is resumed; deleted when training starts."""

LOCK = ".resume.lock"
"""Lock file of the command that resumes a run, so that no other changes its configuration before training starts."""

CHANGEABLE = (runs.CONFIG, runs.OVERRIDES, runs.SUMMARY)


@contextlib.contextmanager
def unchanged_unless_started(run_dir: Path) -> Iterator[None]:
    """Undo all changes of configuration, overrides and status at the end, unless `confirm_start` has been called.

    What is wrong with a resumed run may only be found when its data, weights and checkpoint are read. If the command is
    killed before, the next one undoes the changes.

    Raises:
        FolderLocked: on entering, if another process executes or resumes the run.
    """
    if not (run_dir / runs.CONFIG).is_file():
        yield  # which explains that this is no run
        return
    # A lock of its own, because the process that trains, maybe another one, holds that of the run.
    with runs.locked(run_dir, name=LOCK):
        with runs.locked(run_dir):
            _undo(run_dir)
        yield from _changes_until_start(run_dir)


def _changes_until_start(run_dir: Path) -> Iterator[None]:
    files = {name: run_dir / name for name in CHANGEABLE}
    texts = {name: path.read_text(encoding="utf-8") if path.is_file() else None for name, path in files.items()}
    runs.write_text(run_dir / BACKUP, json.dumps(texts))
    try:
        yield
    finally:
        _undo(run_dir)


def confirm_start(run_dir: Path) -> None:
    """Make the changes with which a run is resumed final, because its training starts."""
    (run_dir / BACKUP).unlink(missing_ok=True)


def _undo(run_dir: Path) -> None:
    backup = run_dir / BACKUP
    if not backup.is_file():
        return
    for name, text in json.loads(backup.read_text(encoding="utf-8")).items():
        path = run_dir / name
        if text is None:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            runs.write_text(path, text)
    backup.unlink()


def apply_overrides(run_dir: Path, composed: Config, overrides: Sequence[str]) -> None:
    """Change the configuration of a run by the overrides given with resume=..., if all changes are allowed.

    Keys without effect on the results can always be changed, others must be named in `allow`, and some are fixed; see
    `fcn.config.resumable_keys`.

    Args:
        run_dir: run directory.
        composed: configuration of the command line.
        overrides: overrides of the command line.

    Raises:
        ConfigError: if a change is not allowed; the run is left unchanged.
    """
    overrides = without_keys(overrides, "resume")
    before = runs.load_config(run_dir)
    for override in overrides:
        if split_override(override)[0].partition(".")[0] in (*PRESET_GROUPS, "hydra"):
            raise ConfigError(f"resume (={run_dir}) uses the configuration of the run; remove {override}")
    after = merge_overrides(replace(before, allow=[]), composed, overrides)
    changed = _changes(before, after)
    check_resumable(changed, allowed=after.allow, run=str(run_dir))
    # Earlier permissions remain valid: the next execution may start from a checkpoint written before the change.
    after.allow = list(dict.fromkeys([*before.allow, *after.allow]))
    if changed and runs.read_status(run_dir) is runs.Status.finished:
        _check_continues(run_dir, before, after, changed)
        runs.set_status(run_dir, runs.Status.interrupted)
    if to_container(after) != to_container(before):
        runs.change(run_dir, after, overrides=without_keys(overrides, "allow"))


def find_unfinished(run_dir: Path, config: Config) -> Path | None:
    """Return the newest run with the results of `config` that has not finished: `run_dir`, or one beside it.

    The configurations are equal except for keys without effect on the results.
    """
    unfinished = []
    for file in (run_dir / runs.CONFIG, *run_dir.parent.glob(f"*/{runs.CONFIG}")):
        with contextlib.suppress(ConfigError, FileNotFoundError):  # runs of other versions
            before = runs.load_config(file.parent)
            is_same = before.rerun is None and not _changes(before, config)
            if is_same and runs.read_status(file.parent) not in (runs.Status.finished, runs.Status.pruned):
                unfinished.append((file.stat().st_mtime_ns, file.parent))
    return max(unfinished)[1] if unfinished else None


def replace_configuration(run_dir: Path, config: Config) -> None:
    """Give a run the configuration of a command, which has the same results; see `find_unfinished`."""
    before = runs.load_config(run_dir)
    config = replace(config, allow=before.allow)
    if to_container(config) != to_container(before):
        runs.change(run_dir, config, overrides=[])


def _changes(before: Config, after: Config) -> Changes:
    return changed_keys(*(flatten(to_container(each)) for each in (before, after)))


def _check_continues(run_dir: Path, before: Config, after: Config, changed: Iterable[str]) -> None:
    """Check that a finished run has steps left: it is longer, or the callback that stopped it has other keys."""
    if reason := runs.read_summary(run_dir).get("stopped_early"):
        if any(key.partition(".")[0] == "callbacks" for key in changed):
            return
        raise ConfigError(
            f"resume (={run_dir}) is finished, because {reason}; to continue it, change the keys of the callback that "
            "stopped it, such as callbacks.early_stopping.patience"
        )
    for key in ("epochs", "steps"):  # of different keys, the run itself compares the numbers of steps
        old, new = getattr(before, key), getattr(after, key)
        if old is not None and new is not None and new <= old:
            raise ConfigError(f"resume (={run_dir}) is finished; use more {key} than {old} to continue it")


def merge_overrides(config: Config, composed: Config, overrides: Sequence[str]) -> Config:
    """Return the configuration of a run with the values of the overridden keys.

    Args:
        config: configuration of the run.
        composed: configuration of the command line.
        overrides: overrides of the command line; trainer=... changes only the devices, not the rest of the group, and
            the list of a list group, such as callbacks=[ema], changes only which options there are, not their keys.
    """
    merged, requested = (OmegaConf.create(to_container(each)) for each in (config, composed))
    for key in (split_override(override)[0] for override in overrides):
        for each in ("trainer.accelerator", "trainer.devices") if key == "trainer" else (key,):
            value = OmegaConf.select(requested, each)
            if each in LIST_GROUPS:  # options that the run has keep their keys
                value = {name: merged[each].get(name, keys) for name, keys in value.items()}
            OmegaConf.update(merged, each, value, merge=False, force_add=True)
    choose_length(merged, overrides)
    return configuration.validate_run(merged)
