"""`python -m benchmarks.first_step ARGUMENTS`: `python train.py ARGUMENTS`, which ends at its first step.

What the command imports, and when, stays as it is: a thread waits until it has imported torch.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any


def _leave(*arguments: Any) -> None:
    os._exit(0)  # at once: nothing of the end of a run is measured


def _watch() -> None:
    while True:
        module = sys.modules.get("torch.optim.optimizer")
        if register := getattr(module, "register_optimizer_step_post_hook", None):
            register(_leave)
            return
        time.sleep(0.01)


if __name__ == "__main__":
    threading.Thread(target=_watch, daemon=True).start()
    from fcn.cli.train import main

    main()
