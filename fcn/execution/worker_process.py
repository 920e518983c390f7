"""The process behind `python -m fcn.worker RUN_DIR`: a run in one process, the agent of several, or one rank.

Under torchrun it is one rank: `torchrun --nproc-per-node 8 -m fcn.worker RUN_DIR`. The run directory holds the resolved
configuration, so nothing here imports Hydra. Executing an unfinished run again resumes it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fcn import errors, runs
from fcn.execution import processes
from fcn.execution.jobs import record_failure
from fcn.runs.locks import FolderLocked


def main() -> None:
    """Execute the run directory named on the command line.

    Raises:
        SystemExit: with 1 and one line on standard error after a failure, with 128 + signal after a stop signal.
    """
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
        reason = errors.explain(error)
        is_run = (run_dir / runs.CONFIG).is_file()
        if is_run and not is_rank and not isinstance(error, FolderLocked):
            record_failure(run_dir, reason)
        if errors.WANTS_TRACEBACK:
            raise
        # The agent reports the failure once for all ranks of a run.
        raise SystemExit(1 if is_run and is_rank else f"error: {reason}") from None


def _execute_rank(run_dir: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import record

    from fcn.training import train

    # `record` writes the exception to the file from which the agent reads the root cause.
    record(train.train)(runs.load_config(run_dir), run_dir)
    # Lightning does this for NCCL only. The threads of gloo may otherwise abort the process when the interpreter exits.
    if dist.is_initialized():
        dist.destroy_process_group()
