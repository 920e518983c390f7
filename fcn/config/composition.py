"""Composition of configurations from conf/ with Hydra; the processes of a run do not import this module."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser import overrides_parser, overrides_visitor
from omegaconf import MISSING, DictConfig, OmegaConf

from fcn.config import Config, ConfigError, validate_run
from fcn.config.choices import Init, TorchvisionModel
from fcn.config.components import GROUPS, LIST_GROUPS, Component, load_components, options, run_keys_of
from fcn.config.messages import explain_composition
from fcn.config.overrides import choose_length
from fcn.config.written_text import quote_texts, texts_as_written
from fcn.errors import nearest


class _LoaderWithAssertions(SourceFileLoader):
    """Loader of a module whose assertions are executed also under `python -O`."""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True, optimize=0)


if not __debug__:  # some assertions of Hydra's parser read the next token
    _LoaderWithAssertions(overrides_visitor.__name__, str(overrides_visitor.__file__)).exec_module(overrides_visitor)
    overrides_parser.HydraOverrideVisitor = overrides_visitor.HydraOverrideVisitor  # type: ignore[attr-defined]

_PACKAGE = Path(__file__).resolve().parents[1]

CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
"""Folder of the YAML files: next to the package in a checkout, inside it in an installed wheel."""


_registered: tuple[type, dict[str, dict[str, type[Component]]]] | None = None  # arguments of the last registration


def compose(*overrides: str) -> Config:
    """Compose the configuration of `python train.py OVERRIDES`, for example for `fcn.train`.

    Raises:
        ConfigError: if a key, a value or an option is invalid.
    """
    load_components()
    register_schema(Config)
    within_command = GlobalHydra().is_initialized()
    initialized = contextlib.nullcontext() if within_command else initialize_config_dir(str(CONF), version_base="1.3")
    with initialized, texts_as_written(Config):
        try:
            composed = hydra.compose("config", quote_texts(overrides, Config))
            choose_length(composed, overrides)
            return validate_run(composed)
        except Exception as error:  # also built-in ones, which Hydra and the YAML reader let through
            if (explanation := explain_composition(error)) is None:
                raise
            raise ConfigError(explanation) from error


def register_schema(schema: type) -> None:
    """Register the schema that conf/*.yaml name in their defaults, the options of the groups, and the resolvers.

    A section of a group has no option in the schema, because an option cannot replace another one. Registering takes
    0.1 s, so that it is not repeated for the next composition with the same options.
    """
    global _registered
    OmegaConf.register_new_resolver("backbone_of", _backbone_of, replace=True)
    current = schema, {group: options(group) for group in (*GROUPS, *LIST_GROUPS)}
    if current == _registered:
        return
    store = ConfigStore.instance()
    node = OmegaConf.structured(schema)
    for entry in dataclasses.fields(schema):
        if entry.metadata.get("has_default"):
            node[entry.name] = MISSING
        if entry.metadata.get("list_group"):
            node[entry.name] = {}
    store.store(name="schema", node=node, provider="fcn")
    for group in (*GROUPS, *LIST_GROUPS):
        for name, option in options(group).items():
            keys, node = run_keys_of(option), _with_open_maps(OmegaConf.structured(option))
            section = {name: node} if group in LIST_GROUPS else node
            chosen = {key: value for key, value in keys.items() if key in GROUPS and isinstance(value, str)}
            values = {group: section, **{key: keys[key] for key in keys if key not in chosen}}
            values["defaults"] = [{f"override /{key}": value} for key, value in chosen.items()]
            store.store(group=group, name=name, node=values, package="_global_", provider="fcn")
    for init in Init:
        store.store(group="model/init", name=init.value, node={"init": init.value}, package="model", provider="fcn")
    _registered = current


def _with_open_maps(section: DictConfig) -> DictConfig:
    """Let overrides add entries to keys that are maps, such as data.label_map: Hydra forbids keys that do not exist."""
    for key in section:
        if isinstance(section[key], DictConfig) and not dataclasses.is_dataclass(OmegaConf.get_type(section, str(key))):
            OmegaConf.set_struct(section[key], False)
    return section


def group_options(groups: Iterable[str], folders: Iterable[Path]) -> dict[str, list[str]]:
    """Return groups with their options: registered ones, and the YAML files of the group in `folders`."""
    folders = list(folders)
    registered = {group: options(group) for group in (*GROUPS, *LIST_GROUPS)} | {"model/init": Init.__members__}
    return {
        group: sorted(
            {*registered.get(group, ()), *(path.stem for folder in folders for path in (folder / group).glob("*.yaml"))}
        )
        for group in groups
    }


def _backbone_of(name: str) -> str:
    """Return the backbone of a torchvision network."""
    known = TorchvisionModel.__members__
    if name not in known:
        raise ConfigError(f"model.name (={name}) must be one of {', '.join(known)}{nearest(name, known)}")
    return known[name].backbone
