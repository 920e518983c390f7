"""Start-up time of commands, in new processes, against that of importing the libraries they need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.results import BenchmarkError, Goal, Result
from benchmarks.settings import Settings, make_tree
from benchmarks.timing import compare_in_turns, seconds_once
from fcn.runs.provenance import CHECKOUT

TRAIN = ("-c", "from fcn.cli.train import main; main()")
HYDRA = ("-c", "import hydra")
LIBRARIES = ("-c", "import hydra, torch, torchvision, pytorch_lightning, tensorboard")


def measure_start(settings: Settings) -> list[Result]:
    """Compare `--help`, `--cfg job` and a training of one step with the imports that they cannot avoid."""
    tree = make_tree(settings.folder / "start-tree", num_train=2)
    one_step = (
        f"trainer={'gpu' if settings.on_gpu else 'cpu'}", "data=voc", f"data.root={tree}", "data.crop_size=[64,64]",
        "batch_size=2", "epochs=1", "trainer.sample_images=0",
    )  # fmt: skip
    goal = Goal(1.0, at_least=False, of_ours=True)
    cases = [
        ("python train.py --help", ("--help",), 'python -c "import hydra"', HYDRA, goal),
        ("python train.py --cfg job", ("--cfg", "job"), 'python -c "import hydra"', HYDRA, goal),
        ("python train.py, one step", one_step, "importing the libraries", LIBRARIES, None),
    ]
    return [
        compare_in_turns(
            settings, name, reference, "multiple", rounds=settings.process_rounds, unit="s", goal=bound,
            ours=partial(seconds_of, *TRAIN, *options, folder=settings.folder),
            theirs=partial(seconds_of, *imports, folder=settings.folder),
        )
        for name, options, reference, imports, bound in cases
    ]  # fmt: skip


def seconds_of(*arguments: str, folder: Path) -> float:
    """Return the wall time of a Python process with these arguments in `folder`.

    Raises:
        BenchmarkError: if it fails.
    """
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return seconds_once(lambda: _run(arguments, folder, environment))


def _run(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    process = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"python {' '.join(arguments)} failed with status {process.returncode}: {last}")
