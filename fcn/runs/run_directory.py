"""A run directory: the names of its files, its configuration and its overrides.

All files of a run are inside its directory, so that evaluating, resuming and comparing need only its path.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from fcn import config as configuration
from fcn.config import Config, ConfigError, older_versions
from fcn.config.components import GROUPS, LIST_GROUPS
from fcn.config.overrides import for_shell, format_value
from fcn.runs.atomic_files import named_in_errors, write_text
from fcn.runs.summary import read_summary

CONFIG = "config.yaml"
OVERRIDES = ".hydra/overrides.yaml"
LOG = "train.log"
CONSOLE = "console.log"
FAILURE = "failure.txt"
LAST = "checkpoints/last.ckpt"
PREVIOUS = "checkpoints/previous.ckpt"
BEST = "checkpoints/best.ckpt"
SAMPLES = "samples"
CURVES = "curves.png"
EVALUATION = "evaluation"
"""Folder with one subfolder per evaluated split, which holds `SCORES`, `CONFUSIONS` and other files."""
SCORES = "evaluation.json"
CONFUSIONS = "confusions.npz"


def alternatives(folder: Path) -> Iterator[Path]:
    """Yield a folder, then `<folder>_2`, `<folder>_3` and so on, for commands that start in the same second."""
    yield folder
    for number in itertools.count(2):
        yield folder.with_name(f"{folder.name}_{number}")


def create_folder(folder: Path) -> Path:
    """Create a folder or, if it exists, the first of its alternatives that does not, and return it."""
    for path in alternatives(folder):
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path


def create(run_dir: Path, config: Config, *, overrides: Sequence[str] = (), is_time: bool = False) -> Path:
    """Create a run directory that can be executed: write its resolved configuration and its overrides.

    Args:
        run_dir: the directory.
        config: configuration of the run.
        overrides: overrides of the command line.
        is_time: whether the name is the current time; if another run has taken it, the first free alternative is used.

    Returns:
        The directory.

    Raises:
        ConfigError: if the directory already holds a run, which is left unchanged.
    """
    for path in alternatives(run_dir):
        path.mkdir(parents=True, exist_ok=True)
        try:
            # Mode "x": if two commands start in the same second, only one can create the file.
            with named_in_errors(path / CONFIG), open(path / CONFIG, "x", encoding="utf-8") as file:
                file.write(_to_yaml(config))
            _write_overrides(path, overrides)
        except FileExistsError:
            if not is_time:
                remedy = f"resume it with {for_shell('resume', run_dir)}, or choose another name=..."
                raise ConfigError(f"{run_dir} already holds a run; {remedy}") from None
        except OSError:  # for example on a full disk: a truncated configuration must not look like a run
            with contextlib.suppress(OSError):
                (path / CONFIG).unlink(missing_ok=True)
                (path / OVERRIDES).parent.rmdir()
            raise
        else:
            break
    return path


def change(run_dir: Path, config: Config, *, overrides: Sequence[str]) -> None:
    """Replace the configuration of a run, and append to its overrides."""
    write_text(run_dir / CONFIG, _to_yaml(config))
    _write_overrides(run_dir, [*load_overrides(run_dir), *overrides])


def _to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(configuration.to_container(config)))


def _write_overrides(run_dir: Path, overrides: Sequence[str]) -> None:
    (run_dir / OVERRIDES).parent.mkdir(exist_ok=True)
    write_text(run_dir / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))


def load_config(run_dir: Path) -> Config:
    """Return the configuration of a run.

    Raises:
        ConfigError: if there is no run, or its configuration does not fit this version.
    """
    if not (run_dir / CONFIG).is_file():
        raise ConfigError(f"{run_dir} must be a run directory, but it holds no {CONFIG}")
    try:
        return configuration.read_config(run_dir / CONFIG)
    except ConfigError:
        configuration.check_available(read_summary(run_dir).get("components", {}), needed_by=run_dir)
        raise


def chosen_options(run_dir: Path) -> list[str]:
    """Return the options of a run as overrides, such as `optim=sgd`; an empty list if there is no readable run.

    A command line that changes keys of a run is composed with the options of the run, because other options may not
    have these keys.
    """
    try:
        values = older_versions.upgrade(OmegaConf.to_container(OmegaConf.load(run_dir / CONFIG)))
        names = {group: configuration.option_name(values[group]) for group in GROUPS}
        lists = {group: list(values.get(group) or ()) for group in LIST_GROUPS}
    except Exception:  # whatever is wrong with the file is reported when it is loaded
        return []
    every_name = [*names.items(), *((group, name) for group, chosen in lists.items() for name in chosen)]
    if not all(name in configuration.options(group) for group, name in every_name):
        return []
    return [f"{group}={format_value(chosen)}" for group, chosen in {**names, **lists}.items() if chosen]


def load_overrides(run_dir: Path) -> list[str]:
    """Return the overrides of a run; an empty list if it was created from Python."""
    path = run_dir / OVERRIDES
    return [str(item) for item in OmegaConf.load(path)] if path.is_file() else []


def is_rank_zero() -> bool:
    """Whether this process is rank 0 of its run, which is the only one that writes the files of the run."""
    return int(os.environ.get("RANK", "0")) == 0


def checkpoint_of(run_dir: Path) -> Path | None:
    """Return the best checkpoint of a run, else the last; None without checkpoints."""
    return next((run_dir / name for name in (BEST, LAST) if (run_dir / name).is_file()), None)
