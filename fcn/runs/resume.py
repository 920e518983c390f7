"""`python train.py resume=<run> KEY=VALUE`: change the configuration of a run before it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError, changed_keys, check_resumable, flatten, to_container
from fcn.config.overrides import split_override, without_keys


def apply_overrides(run_dir: Path, composed: Config, overrides: Sequence[str]) -> None:
    """Change the configuration of a run by the overrides given with resume=..., if all changes are allowed.

    Keys that never change a number can always be changed, others must be named in `allow`, and some are fixed; see
    `fcn.config.resumable_keys`.

    Args:
        run_dir: of the run.
        composed: configuration of the command line.
        overrides: of the command line.

    Raises:
        ConfigError: if a change is not allowed; the run is left unchanged.
    """
    overrides = without_keys(overrides, "resume")
    before = runs.load_config(run_dir)
    after = _merge(run_dir, before, composed, overrides)
    changed = changed_keys(*(flatten(to_container(each)) for each in (before, after)))
    check_resumable(changed, allowed=after.allow, run=str(run_dir))
    # Earlier permissions stay: the next execution may start from a checkpoint written before the change.
    after.allow = list(dict.fromkeys([*before.allow, *after.allow]))
    if changed and runs.read_status(run_dir) is runs.Status.finished:
        if after.epochs <= before.epochs:
            raise ConfigError(f"resume (={run_dir}) is finished; use more epochs than {before.epochs} to continue it")
        runs.set_status(run_dir, runs.Status.interrupted)
    if to_container(after) != to_container(before):
        runs.change(run_dir, after, overrides=without_keys(overrides, "allow"))


def _merge(run_dir: Path, before: Config, composed: Config, overrides: Sequence[str]) -> Config:
    """Return the configuration of the run with the values of the overridden keys."""
    merged, requested = (OmegaConf.structured(each) for each in (before, composed))
    merged.allow = []
    for override in overrides:
        key, _ = split_override(override)
        if key in ("experiment", "study", "hydra") or key.startswith("hydra."):
            raise ConfigError(f"resume (={run_dir}) uses the configuration of the run; remove {override}")
        # trainer=... only changes the devices; the rest of the group stays that of the run.
        for each in ("trainer.accelerator", "trainer.devices") if key == "trainer" else (key,):
            OmegaConf.update(merged, each, OmegaConf.select(requested, each))
    return configuration.validate_run(merged)
