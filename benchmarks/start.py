"""How long commands take to say something: processes of their own, in turns with what they cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import alternate
from benchmarks.results import BenchmarkError, Findings, Goal, Result, multiple
from benchmarks.settings import Settings, make_tree
from fcn.runs.provenance import CHECKOUT

TRAIN = ("-c", "from fcn.cli.train import main; main()")  # train.py, which a wheel has not
HYDRA = ("-c", "import hydra")
LIBRARIES = ("-c", "import hydra, torch, torchvision, pytorch_lightning, tensorboard")


def measure(settings: Settings) -> Findings:
    """Seconds of `--help`, `--cfg job`, and of a training until its first step, each with its ratio to an import."""
    tree = make_tree(settings.folder / "start-tree", num_train=4)
    first = (
        "-m", "benchmarks.first_step", f"trainer={'gpu' if settings.on_gpu else 'cpu'}", "data=voc",
        f"data.root={tree}", "data.crop_size=[64,64]", "batch_size=2", "epochs=1",
    )  # fmt: skip
    promised = Goal(1.5, at_least=False, of_ours=True)
    hydra, libraries = 'python -c "import hydra"', "importing the libraries"
    return Findings(
        [
            _turns(settings, "python train.py --help", (*TRAIN, "--help"), hydra, HYDRA, goal=promised),
            _turns(settings, "python train.py --cfg job", (*TRAIN, "--cfg", "job"), hydra, HYDRA, goal=promised),
            _turns(settings, "python train.py to its first step", first, libraries, LIBRARIES),
        ]
    )


def _turns(
    settings: Settings,
    name: str,
    arguments: Sequence[str],
    reference: str,
    theirs: Sequence[str],
    *,
    goal: Goal | None = None,
) -> Result:
    folder = settings.folder
    found = alternate(
        {"theirs": lambda: seconds_of(theirs, folder), "ours": lambda: seconds_of(arguments, folder)},
        rounds=settings.slow_rounds,
        tell=lambda line: settings.tell(f"{name}: {line}"),
    )
    return multiple(name, reference, ours=found["ours"], theirs=found["theirs"], unit="s", goal=goal)


def seconds_of(arguments: Sequence[str], folder: Path) -> float:
    """Wall time of an interpreter with these arguments, started in `folder`.

    Raises:
        BenchmarkError: if it fails.
    """
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"python {' '.join(arguments)} must succeed, but ended with {done.returncode}: {last}")
    return seconds
