"""Composition of configurations from conf/ with Hydra; the processes of a run do not import this module."""

from __future__ import annotations

import contextlib
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from fcn.config import Config, ConfigError, validate_run
from fcn.config.choices import ModelName
from fcn.config.messages import explain_composition
from fcn.config.overrides import choose_length

_PACKAGE = Path(__file__).resolve().parents[1]

CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
"""Folder of the YAML files: next to the package in a checkout, inside it in an installed wheel."""


def compose(*overrides: str) -> Config:
    """Compose the configuration of `python train.py OVERRIDES`, for example for `fcn.train`.

    Raises:
        ConfigError: if a key, a value or an option is invalid.
    """
    register_schema(Config)
    within_command = GlobalHydra().is_initialized()
    with contextlib.nullcontext() if within_command else initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            composed = hydra.compose("config", list(overrides))
            choose_length(composed, overrides)
            return validate_run(composed)
        except Exception as error:  # also built-in ones, which Hydra and the YAML reader let through
            if (explanation := explain_composition(error)) is None:
                raise
            raise ConfigError(explanation) from error


def register_schema(schema: type) -> None:
    """Register the schema that conf/*.yaml name in their defaults, and the resolvers of conf/."""
    ConfigStore.instance().store(name="schema", node=schema, provider="fcn")
    OmegaConf.register_new_resolver("backbone_of", _backbone_of, replace=True)


def _backbone_of(name: ModelName | str) -> str:
    """Return the backbone of a torchvision network, given its name."""
    backbone = ModelName(str(name)).backbone
    if backbone is None:
        known = ", ".join(model for model in ModelName if model.backbone)
        raise ConfigError(f"model.name (={name}) must be one of torchvision's under model=torchvision: {known}")
    return backbone.value
