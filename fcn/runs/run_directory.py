"""A run directory: where things are in it, and how they are written and read.

Everything of a run lies inside its directory, so that evaluating, resuming and comparing need its path alone.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fcn import config as configuration
from fcn.config import Config, ConfigError
from fcn.runs.atomic_files import named_in_errors, replacing

CONFIG = "config.yaml"
SUMMARY = "summary.json"
METRICS = "metrics.csv"
LOG = "train.log"
CONSOLE = "console.log"
LOCK = ".lock"
LAST = "checkpoints/last.ckpt"
PREVIOUS = "checkpoints/previous.ckpt"
BEST = "checkpoints/best.ckpt"
SAMPLES = "samples"
CURVES = "curves.png"
OVERRIDES = ".hydra/overrides.yaml"
EVALUATION = "evaluation"
"""Folder with a folder per split that was evaluated, which holds `SCORES`, `CONFUSIONS` and others."""
SCORES = "evaluation.json"
CONFUSIONS = "confusions.npz"

PATIENCE = 60
"""Seconds to wait for another process that holds a run: it may have been told to stop and be saving."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What stops an execution so that it can go on: Ctrl-C, `kill`, and what a cluster sends ahead of preemption."""


def hand_over(number: int, handler: Any) -> None:
    """After a run has been saved because of a signal, do what whoever waited for the signal before us does.

    Without anybody, end the program with 128 + signal. submitit, for one, requeues the job and ends the program at its
    preemption signal, and lets a job go on at SIGTERM, which often comes ahead of it: then this returns.

    Args:
        number: of the signal.
        handler: that was there before ours, as `signal.getsignal` has it.
    """
    if not callable(handler) or handler is signal.default_int_handler:
        raise SystemExit(128 + number)
    handler(number, None)


def create(run_dir: Path, config: Config, *, overrides: Sequence[str] = ()) -> None:
    """Make `run_dir` a job that can be executed: its resolved configuration and the overrides as typed.

    Raises:
        ConfigError: if the directory already holds a run; its files stay as they are.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Opening with "x" decides which of two commands of the same second owns the directory.
        with named_in_errors(run_dir / CONFIG), open(run_dir / CONFIG, "x", encoding="utf-8") as file:
            file.write(_to_yaml(config))
        _write_overrides(run_dir, overrides)
    except FileExistsError:
        raise ConfigError(
            f"{run_dir} already holds a run; go on with it by resume={run_dir}, or choose another name=..."
        ) from None
    except OSError:  # a full disk, say: half a configuration must not look like a run
        with contextlib.suppress(OSError):
            (run_dir / CONFIG).unlink(missing_ok=True)
            (run_dir / OVERRIDES).parent.rmdir()
        raise


def change(run_dir: Path, config: Config, *, overrides: Sequence[str]) -> None:
    """Give a run another configuration, by overrides that were typed after those that it began with."""
    write_text(run_dir / CONFIG, _to_yaml(config))
    _write_overrides(run_dir, [*load_overrides(run_dir), *overrides])


def _to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(configuration.to_container(config)))


def _write_overrides(run_dir: Path, overrides: Sequence[str]) -> None:
    (run_dir / OVERRIDES).parent.mkdir(exist_ok=True)
    write_text(run_dir / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))


def load_config(run_dir: Path) -> Config:
    """Configuration of the run in `run_dir`.

    Raises:
        ConfigError: if there is no run, or its configuration is not one of this version.
    """
    if not (run_dir / CONFIG).is_file():
        raise ConfigError(f"{run_dir} must be a run directory, but it holds no {CONFIG}")
    return configuration.load(run_dir / CONFIG)


def load_overrides(run_dir: Path) -> list[str]:
    """Overrides as they were typed; an empty list for a run made from Python."""
    path = run_dir / OVERRIDES
    return [str(item) for item in OmegaConf.load(path)] if path.is_file() else []


@contextlib.contextmanager
def locked(run_dir: Path, *, patience: float | None = None, name: str = LOCK) -> Iterator[None]:
    """Hold `run_dir` for one execution at a time; the lock goes with the process that holds it, however that ends.

    Args:
        run_dir: of the run.
        patience: seconds to wait for another process; None: `PATIENCE`.
        name: of the file that is locked.

    Raises:
        ConfigError: if another process still executes the run then.
    """
    with open(run_dir / name, "a+", encoding="utf-8") as file:
        end = time.monotonic() + (PATIENCE if patience is None else patience)
        while not _try_lock(file.fileno()):
            if time.monotonic() > end:
                file.seek(0)
                holder = file.read() or "another process"
                raise ConfigError(f"{run_dir} is being executed by {holder}; wait for it to end, or stop it")
            time.sleep(0.1)
        with named_in_errors(run_dir / name):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: as if there was nobody else
    return True


def checkpoint_of(run_dir: Path) -> Path | None:
    """The checkpoint of a run that stands for it: the best, or the last if there is no best; None without any."""
    return next((run_dir / name for name in (BEST, LAST) if (run_dir / name).is_file()), None)


def write_text(path: Path, text: str) -> None:
    """Write `text` to a temporary name beside `path` and rename it, so that readers see all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy `source` to `target` through a temporary name; sharing the bytes where the file system can."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json. A score that does not exist (the IoU of an absent class) is null: JSON has no NaN."""
    metrics = {name: value if math.isfinite(value) else None for name, value in summary["metrics"].items()}
    write_text(run_dir / SUMMARY, json.dumps({**summary, "metrics": metrics}, indent=2, allow_nan=False) + "\n")


def set_status(run_dir: Path, status: str) -> None:
    """Change the status in summary.json, if there is one."""
    if summary := read_summary(run_dir):
        write_summary(run_dir, {**summary, "metrics": final_metrics(run_dir), "status": status})


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Contents of summary.json; an empty dict if the run has not come so far.

    Raises:
        ConfigError: if the file holds anything else, which no execution writes.
    """
    path = run_dir / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path} must be JSON: {error}; delete it, and resume={run_dir} writes it anew") from error
    assert isinstance(summary, dict)
    return summary


def final_metrics(run_dir: Path) -> dict[str, float]:
    """Metrics of summary.json by name; NaN for a score that does not exist."""
    metrics = read_summary(run_dir).get("metrics", {})
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def read_metrics(run_dir: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv, oldest first; cells are text, empty where nothing was measured."""
    path = run_dir / METRICS
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_metrics(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv anew: a column for every name that occurs, in order of first occurrence."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(run_dir / METRICS) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
