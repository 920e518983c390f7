"""Fully convolutional networks on Pascal VOC: configuration, training, evaluation and comparison of runs.

`fcn.compose(*overrides)` composes a configuration, `fcn.train(config)` trains it, `fcn.load(run)` loads a trained run.
`fcn.component` registers an option of a group, such as a loss, and `fcn.setting` defines one of its keys.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn.config.components import component as component
    from fcn.config.components import setting as setting
    from fcn.config.composition import compose as compose
    from fcn.inference.predictor import load as load
    from fcn.training.train import train as train

__version__ = "0.1.0"

_API = {
    "component": "fcn.config.components",
    "compose": "fcn.config.composition",
    "load": "fcn.inference.predictor",
    "setting": "fcn.config.components",
    "train": "fcn.training.train",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line must not wait for torch to print its help.
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
