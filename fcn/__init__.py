"""Fully convolutional networks on Pascal VOC: configuration, training, evaluation and comparison of runs.

`fcn.load(run)` gives a trained run's predictor, see `fcn.inference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn.inference import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: the command line must not wait for torch to print its help.
    if name == "load":
        from fcn.inference import load

        return load
    raise AttributeError(f"module {__name__} has no attribute {name}")
