"""Searches for the settings with the best validation mIoU; every trial is a run directory.

    python scripts/tune.py epochs=5 model=fcn8s search=default trials=30

The same command resumes the search; executed in two terminals, it shares the work between them.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from fcn.cli.hydra_entry import run_command
from fcn.config import ConfigError
from fcn.config.composition import compose
from fcn.execution.search_plan import SearchPlan, TuneConfig, plan_search


def tune(config: TuneConfig) -> None:
    """Hydra's task: plan and execute the search, then report its results."""
    settings = HydraConfig.get()
    plan, slots = plan_search(
        config,
        settings.overrides.task,
        option=settings.runtime.choices["search"],
        compose=lambda overrides: compose(*overrides),
    )
    try:
        import optuna  # noqa: F401  # an optional dependency
    except ModuleNotFoundError as error:
        raise ConfigError('tune.py needs Optuna; use pip install -e ".[tune]"') from error
    _execute(plan, slots)


def _execute(plan: SearchPlan, slots: list[dict[str, str]]) -> None:
    from fcn.execution.search import Search
    from fcn.execution.search_report import check_search_succeeded, report_search

    search = Search.open(plan)
    number = search.run(slots)
    report_search(plan, search.study, Console())
    if number:
        print("stopped: the same command resumes the search")
        raise SystemExit(128 + number)
    check_search_succeeded(search.study)


def main() -> None:
    run_command(tune, config_name="tune", schema=TuneConfig)
