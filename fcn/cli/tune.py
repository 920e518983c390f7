"""Searches for the settings with the best validation mIoU; every trial is a run directory.

    python scripts/tune.py epochs=5 model=fcn8s search=default trials=30

The same command resumes the search; executed in two terminals, or with storage=... on several machines, it shares the
work between them.
"""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console

from fcn.cli.hydra_entry import run_command
from fcn.config import ConfigError
from fcn.config.composition import compose
from fcn.execution.search_plan import SearchPlan, TuneConfig, plan_search


def tune(config: TuneConfig) -> None:
    """Hydra's task: plan and execute the search, then report its results."""
    settings = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(settings.overrides.task)  # keeps storage=${oc.env:...} as text
    plan, slots = plan_search(
        config,
        overrides,
        option=settings.runtime.choices["search"],
        compose=lambda overrides: compose(*overrides),
    )
    try:
        import optuna  # noqa: F401  # an optional dependency
    except ModuleNotFoundError as error:
        raise ConfigError('tune.py needs Optuna; use pip install -e ".[tune]"') from error
    _execute(plan, slots)


def _execute(plan: SearchPlan, slots: list[dict[str, str]]) -> None:
    from optuna.trial import TrialState

    from fcn.execution.search import Search
    from fcn.execution.search_locks import RESULTS_LOCK, search_lock
    from fcn.execution.search_report import check_search_succeeded, report_search
    from fcn.execution.study_storage import explaining_storage_failures, list_trials

    with explaining_storage_failures(plan):
        search = Search.open(plan)
        number = search.run(slots)
        with search_lock(plan, name=RESULTS_LOCK):  # the process that ends last writes the results of all
            report_search(plan, search.study, Console())
        num_running = len(list_trials(search.study, TrialState.RUNNING))
    if number:
        print("stopped: the same command resumes the search")
        raise SystemExit(128 + number)
    if num_running:
        trials = f"{num_running} trial{'s' * (num_running != 1)}"
        print(f"running  {trials} in other processes; if these are killed, the same command resumes their trials")
    check_search_succeeded(search.study)


def main() -> None:
    run_command(tune, config_name="tune", schema=TuneConfig)
