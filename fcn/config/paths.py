"""Where the configuration lies: beside the package in a checkout, inside it where a wheel is installed."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
"""Folder of the YAML files that Hydra composes."""
