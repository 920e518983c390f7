"""Executes a run directory: `python -m fcn.worker RUN_DIR`, as one process or as one rank of several.

Needs no Hydra: the directory holds the resolved configuration. Executing a stopped run again goes on with it. On a
cluster: `torchrun --nproc-per-node 8 -m fcn.worker RUN_DIR`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from fcn import experiment, runs


def execute(run_dir: Path) -> dict[str, float]:
    """Train what `run_dir` says, from its last checkpoint if it has one; the final metrics.

    Raises:
        Whatever `fcn.experiment.train` raises.
    """
    return experiment.train(runs.load_config(run_dir), run_dir)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m fcn.worker RUN_DIR")
    run_dir = Path(sys.argv[1])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_parent()
    try:
        record(execute)(run_dir)  # leaves the root cause where the agent that started us finds it
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if (run_dir / runs.CONFIG).is_file():
            with open(run_dir / runs.LOG, "a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
        alone = "TORCHELASTIC_RUN_ID" not in os.environ
        raise SystemExit(f"error: {error}" if alone else 1) from None


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the agent dies, also by SIGKILL: a rank never outlives the command it belongs to."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    main()
