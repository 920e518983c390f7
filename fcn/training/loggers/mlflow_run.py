"""Run of a run directory in MLflow."""

from __future__ import annotations

import contextlib
import os
import re
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from PIL import Image
from pytorch_lightning.loggers.logger import Logger

from fcn.config import Config
from fcn.runs.locks import locked
from fcn.runs.logger_ids import read_logger_id, save_logger_id
from fcn.runs.run_names import run_name, sweep_name
from fcn.training.loggers.options import MlflowOption

SQLITE = "sqlite:///"
DEFAULT_URI = f"{SQLITE}mlflow.db"
STATUS = {"success": "FINISHED", "failed": "FAILED", "aborted": "KILLED"}
"""MLflow's words for the end of a run."""

SEND_SECONDS = 10
"""Time after which logged scalars are sent together, because training waits for every request."""

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
MAX_BATCH = 1000  # scalars in a request, a limit of MLflow
MAX_PARAMS = 100


class MlflowRun(Logger):
    """Logger of a run of MLflow, whose id is saved in the run directory, so that a resumed run continues it.

    MLflow keeps the points that it has: a resumed run logs only later ones.

    Args:
        option: option of the group logger.
        config: configuration of the run.
        run_dir: run directory.
    """

    def __init__(self, option: MlflowOption, config: Config, run_dir: Path) -> None:
        super().__init__()
        # MLflow's default retries for four minutes, in which training would stand still.
        os.environ.setdefault(RETRIES, "4")
        uri = option.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        with _creating_database(uri):
            self._client = MlflowClient(uri)
        self._run = self._existing_run(run_dir) or self._new_run(option.experiment, config, run_dir)
        self._id: str = self._run.info.run_id
        self._logged = {key: self._last_step(key) for key in self._run.data.metrics}
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()

    def _existing_run(self, run_dir: Path) -> Run | None:
        identifier = read_logger_id(run_dir, "mlflow")
        if identifier is None:
            return None
        try:
            self._client.update_run(identifier, status="RUNNING")
            return self._client.get_run(identifier)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # for example with another tracking_uri
                return None
            raise

    def _new_run(self, experiment: str, config: Config, run_dir: Path) -> Run:
        sweep = sweep_name(config, run_dir)
        tags = resolve_tags({"run_directory": str(run_dir), **({"sweep": sweep} if sweep else {})})  # and user, source
        run = self._client.create_run(self._experiment_id(experiment), tags=tags, run_name=run_name(config, run_dir))
        save_logger_id(run_dir, "mlflow", run.info.run_id)
        return run

    def _experiment_id(self, name: str) -> str:
        if (existing := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another job of the sweep has created it
                if (existing := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(existing.experiment_id)

    def _last_step(self, key: str) -> int:
        last: int = max(point.step for point in self._client.get_metric_history(self._id, key))
        return last

    @property
    def name(self) -> str:
        return "mlflow"

    @property
    def version(self) -> str:
        return self._id

    @property
    def experiment(self) -> MlflowClient:
        return self._client

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log the configuration; MLflow cannot change a parameter, so what a resumed run changes becomes a tag."""
        texts = {key: str(value) for key, value in dict(params if isinstance(params, dict) else vars(params)).items()}
        logged = self._run.data.params
        new = [Param(key, value) for key, value in texts.items() if key not in logged]
        changed = [RunTag(key, value) for key, value in texts.items() if logged.get(key, value) != value]
        for start in range(0, len(new), MAX_PARAMS):
            self._client.log_batch(self._id, params=new[start : start + MAX_PARAMS])
        self._client.log_batch(self._id, tags=changed)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        named = {re.sub(r"[^\w/. :-]", "_", name): float(value) for name, value in metrics.items()}
        self._waiting += [
            Metric(name, value, now, step or 0)
            for name, value in named.items()
            if (step or 0) > self._logged.get(name, -1)
        ]
        if time.monotonic() - self._sent > SEND_SECONDS:
            self.save()

    def log_image(self, key: str, images: list[Image.Image], step: int | None = None) -> None:
        if (step or 0) > max(self._logged.values(), default=-1):
            for image in images:
                self._client.log_image(self._id, image, key=key, step=step)

    def save(self) -> None:
        """Send the waiting scalars."""
        for start in range(0, len(self._waiting), MAX_BATCH):
            self._client.log_batch(self._id, metrics=self._waiting[start : start + MAX_BATCH])
        self._waiting = []
        self._sent = time.monotonic()

    def finalize(self, status: str) -> None:
        self.save()
        self._client.set_terminated(self._id, STATUS[status])


@contextlib.contextmanager
def _creating_database(uri: str) -> Iterator[None]:
    """Let one process at a time create a database file: jobs of a sweep that start at once would disturb each other."""
    if not uri.startswith(SQLITE):
        yield
        return
    with locked(Path(uri.removeprefix(SQLITE)).parent, name=".mlflow.lock"):
        yield
