"""`python train.py resume=<run> KEY=VALUE`: a run goes on with some keys changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError, changes, check_changes, flatten, to_container
from fcn.config.overrides import split_override, without_keys


def prepare(run_dir: Path, composed: Config, overrides: Sequence[str]) -> None:
    """Change the configuration of a run as typed beside resume=..., if every change is one that may be.

    Keys that never change a number may change freely, others must be named in `allow`, and a few must stay; see
    `fcn.config.resumable_keys`.

    Args:
        run_dir: of the run.
        composed: of the command line.
        overrides: what was typed.

    Raises:
        ConfigError: if a change may not be; the run is left as it was.
    """
    typed = without_keys(overrides, "resume")
    before = runs.load_config(run_dir)
    merged, asked = (OmegaConf.structured(each) for each in (before, composed))
    merged.allow = []
    for override in typed:
        key, _ = split_override(override)
        if key in ("experiment", "study", "hydra") or key.startswith("hydra."):
            raise ConfigError(f"resume (={run_dir}) brings its own configuration; leave out {override}")
        # trainer=... says where to compute; the rest of that group stays the run's.
        for each in ("trainer.accelerator", "trainer.devices") if key == "trainer" else (key,):
            OmegaConf.update(merged, each, OmegaConf.select(asked, each))
    after = configuration.validate_run(merged)
    found = changes(*(flatten(to_container(each)) for each in (before, after)))
    check_changes(found, allowed=after.allow, run=str(run_dir))
    # Kept, since the next execution may go on from a checkpoint of before the change.
    after.allow = list(dict.fromkeys([*before.allow, *after.allow]))
    if found and runs.read_status(run_dir) is runs.Status.finished:
        if after.epochs <= before.epochs:
            raise ConfigError(f"resume (={run_dir}) is finished; it goes on only with more epochs than {before.epochs}")
        runs.set_status(run_dir, runs.Status.interrupted)
    if to_container(after) != to_container(before):
        runs.change(run_dir, after, overrides=without_keys(typed, "allow"))
