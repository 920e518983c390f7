"""`hydra/launcher=runs`, the launcher of sweeps. Hydra accepts launchers from this namespace package only."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus

from fcn.cli import explain
from fcn.launch import job_names


class RunsLauncher(BasicLauncher):
    """Hydra's launcher for sweeps, one job after the other, each in a directory named by what differs.

    A failed job does not stop the others; the sweep then ends with its error.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        names = job_names(job_overrides, first=initial_job_idx)
        named = [
            [*overrides, f"hydra.sweep.subdir={name}"] for overrides, name in zip(job_overrides, names, strict=True)
        ]
        returns = super().launch(named, initial_job_idx)
        failed = [(name, job) for name, job in zip(names, returns, strict=True) if job.status is JobStatus.FAILED]
        for name, job in failed:
            print(f"failed: {name}: {explain(job._return_value)}", file=sys.stderr)
        if failed:
            raise SystemExit(f"error: {len(failed)} of {len(returns)} jobs failed")
        return returns


ConfigStore.instance().store(
    group="hydra/launcher", name="runs", node={"_target_": f"{__name__}.RunsLauncher"}, provider="fcn"
)
