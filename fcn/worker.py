"""Executes a run directory: `python -m fcn.worker RUN_DIR`, in as many processes as its configuration says.

Needs no Hydra: the directory holds the resolved configuration. Executing a stopped run again goes on with it. Under
torchrun this is one rank: `torchrun --nproc-per-node 8 -m fcn.worker RUN_DIR`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fcn import runs
from fcn.cli import hydra_entry
from fcn.execution import processes


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m fcn.worker RUN_DIR")
    run_dir = Path(sys.argv[1])
    is_rank = "TORCHELASTIC_RUN_ID" in os.environ
    processes.end_with_parent()
    try:
        if is_rank:
            _execute_rank(run_dir)
        else:
            processes.execute(run_dir)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if is_rank and not (run_dir / runs.CONFIG).is_file():
            print(f"error: {hydra_entry.explain(error)}", file=sys.stderr)  # else the agent says it, once for all ranks
        raise SystemExit(1 if is_rank else f"error: {hydra_entry.explain(error)}") from None


def _execute_rank(run_dir: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import record

    from fcn.training import train

    # `record` leaves the root cause where the agent that started us finds it.
    record(train.train)(runs.load_config(run_dir), run_dir)


if __name__ == "__main__":
    main()
