"""Register of components: every option of a group is a dataclass that holds its own keys and builds its own object.

Hydra's groups, `--help`, completion, range checks, the configuration reference and the reading of config.yaml all use
this register. Components from outside are Python modules with `@component` classes, found by the entry point group
`fcn.components` of an installed package or by the environment variable FCN_COMPONENTS. A configuration, a run directory
or a checkpoint contains the names of options only, never the name of a module that would be imported.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self, dataclass_transform

from fcn.errors import ConfigError, UserError, nearest

if TYPE_CHECKING:
    from fcn.config.schema import Config

MODULES = (
    "fcn.data.dataset_options",
    "fcn.models.backbone_options",
    "fcn.models.model_options",
    "fcn.models.smp_options",
    "fcn.models.timm_option",
    "fcn.training.callback_options",
    "fcn.training.loggers.options",
    "fcn.training.losses.cross_entropy",
    "fcn.training.losses.cross_entropy_dice",
    "fcn.training.losses.dice",
    "fcn.training.losses.focal",
    "fcn.training.losses.lovasz",
    "fcn.training.losses.ohem",
    "fcn.training.optimizer_options",
    "fcn.training.schedules",
    "fcn.training.timm_optimizer_options",
)
"""Modules of the built-in components. They import neither torch nor any other large library at module level."""

GROUPS = ("data", "backbone", "model", "loss", "optim", "schedule")
"""Groups with one chosen option."""

LIST_GROUPS = ("transforms", "callbacks", "logger")
"""Groups with any number of chosen options, such as `callbacks=[early_stopping,ema]`."""

ENVIRONMENT = "FCN_COMPONENTS"
ENTRY_POINTS = "fcn.components"

_options: dict[str, dict[str, type[Component]]] = {group: {} for group in (*GROUPS, *LIST_GROUPS)}
_run_keys: dict[type, Mapping[str, Any]] = {}
origins: dict[str, str] = {}
"""Package and version, or file hash, of every module that was loaded from outside, by its name."""


def setting(
    default: Any, meaning: str, *, low: float | None = None, high: float | None = None, remedy: str = ""
) -> Any:
    """Return a dataclass field with its meaning and its inclusive range (for a list, the range of each element).

    `remedy` is appended to messages about values of a wrong type and outside the range.
    """
    properties = {"meaning": meaning, "low": low, "high": high, "remedy": remedy}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=properties)
    return field(default=default, metadata=properties)


@dataclass(kw_only=True)
class Component:
    """Base of the options of all groups."""

    def check(self, config: Config) -> None:
        """Check the conditions between the keys of this option, and between them and the rest of the run.

        It is called when a run is composed and for every job of a sweep, so it should import large libraries only if a
        key needs them.

        Raises:
            ConfigError: naming key, value, rule and remedy.
        """


@dataclass(kw_only=True)
class NamedComponent(Component):
    """Base of the options of the groups with one chosen option.

    Attributes:
        name: name of the option. An option that covers many architectures, such as `backbone=timm`, declares `name`
            itself, for the architecture; it is then identified by the key `library`.
    """

    name: str = setting("", "name of the option")

    def untrained(self) -> Self:
        """Return this option without pretrained weights, for a network whose weights are in a checkpoint."""
        return self


AnyComponent = TypeVar("AnyComponent", bound=Component)


@dataclass_transform(kw_only_default=True, field_specifiers=(setting,))
def component(group: str, name: str, **run_keys: Any) -> Callable[[type[AnyComponent]], type[AnyComponent]]:
    """Register a class as the option `group=name`, and make it a keyword-only dataclass.

    Args:
        group: one of `GROUPS` or `LIST_GROUPS`; the class inherits from the base class of the group, such as
            `LossConfig` for `loss`.
        name: name of the option, as in `loss=focal`.
        run_keys: top-level keys of the run that are set when the option is chosen, such as `lr` for an optimiser. The
            name of a group that comes earlier in conf/config.yaml, with a string, chooses an option of that group.

    Raises:
        ConfigError: if the group does not exist, the option is registered by another module, a method is missing, or a
            key has no default value.
    """

    def register(declared: type[AnyComponent]) -> type[AnyComponent]:
        if group not in _options:
            raise ConfigError(
                f"the group in @component({group!r}, {name!r}) must be one of {', '.join(_options)}"
                f"{nearest(group, _options)}"
            )
        before = _options[group].get(name)
        if before is not None and (before.__module__, before.__qualname__) != (
            declared.__module__,
            declared.__qualname__,
        ):
            raise ConfigError(
                f"{group}={name} of {declared.__module__} must have a new name, because {before.__module__} defines it"
            )
        for method in dir(declared):
            if getattr(getattr(declared, method), "__isabstractmethod__", False):
                raise ConfigError(f"{group}={name} of {declared.__module__} must define the method {method}")
        if group in GROUPS:
            own = inspect.get_annotations(declared)
            key = "library" if "name" in own else "name"
            setattr(declared, key, setting(name, f"option of the group {group}; chosen by {group}={name}"))
            declared.__annotations__ = {key: "str", **own}
        registered = dataclass(kw_only=True)(declared)
        for entry in dataclasses.fields(registered):
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
                raise ConfigError(
                    f"{group}={name} of {declared.__module__} must have a default value for the key {entry.name}; use "
                    f"{entry.name}: <type> = setting(<default>, <description>)"
                )
        _options[group][name] = registered
        _run_keys[registered] = run_keys
        return registered

    return register


@functools.cache
def load_components() -> None:
    """Import the modules of all components, the built-in ones and those from outside.

    Raises:
        UserError: if a module from outside cannot be imported.
    """
    for module in MODULES:
        importlib.import_module(module)
    for entry_point in metadata.entry_points(group=ENTRY_POINTS):
        distribution = entry_point.dist
        version = f"{distribution.name} {distribution.version}" if distribution else entry_point.name
        _import_from_outside(entry_point.module, f"the entry point {entry_point.name} of {version}", version)
    names = [name.strip() for name in os.environ.get(ENVIRONMENT, "").split(",")]
    for name in filter(None, names):
        _import_from_outside(name, f"{ENVIRONMENT} (={name})")


def _import_from_outside(module: str, source: str, version: str | None = None) -> None:
    """Import a module of components; the current folder is searched after the path of Python.

    Args:
        module: dotted name.
        source: where the name comes from, for messages.
        version: package and version; None: the module's `__version__`, else a hash of its file.
    """
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # any exception of the code of another author
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            raise UserError(f"{source} must be a Python module on the path or in {folder}; check the name") from error
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if isinstance(error, UserError) else f"{type(error).__name__} in {frame.filename}:{frame.lineno}: "
        raise UserError(f"{source} must be importable, but it raises {place}{error}") from error
    origins[imported.__name__] = version or f"{module} {_version_of(imported)}"


def _version_of(module: Any) -> str:
    if version := getattr(module, "__version__", None):
        return str(version)
    return f"sha256:{hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()[:12]}"


def options(group: str) -> dict[str, type[Component]]:
    """Return the options of a group by name."""
    load_components()
    return dict(_options[group])


def option(group: str, name: str, /, **keys: Any) -> Any:
    """Return an option with its default values, except for those given by keys: `option("loss", "focal", gamma=3.0)`.

    Raises:
        ConfigError: if there is no such option.
    """
    return option_class(group, {"name": name}, default=Component)(**keys)


def run_keys_of(option: type[Component]) -> Mapping[str, Any]:
    """Return the top-level keys of the run that are set when an option is chosen."""
    return _run_keys[option]


def option_name(section: Mapping[str, Any]) -> str:
    """Return the name of the option to which a section of a configuration belongs; empty if it does not say."""
    return str(section.get("library") or section.get("name") or "")


def option_class(group: str, section: Mapping[str, Any], *, default: Callable[[], Any]) -> type[Component]:
    """Return the class of the option to which a section of a configuration belongs.

    Args:
        group: name of the group.
        section: keys and values of the group.
        default: returns the option of a section without a name.

    Raises:
        ConfigError: if there is no such option.
    """
    name = option_name(section)
    if not name:
        return type(default())
    known = options(group)
    if name not in known:
        raise ConfigError(
            f"{group} (={name}) must be a registered option{nearest(name, known)}; options: {', '.join(known)}"
        )
    return known[name]


def default_option(group: str, name: str) -> Any:
    """Return a dataclass field that holds a component: the option `name` unless another one is chosen."""
    return field(default_factory=lambda: options(group)[name](), metadata={"group": group, "has_default": True})


def no_option(group: str, base: type[Component]) -> Any:
    """Return a dataclass field that holds the keys that all options of a group share, unless an option is chosen."""
    return field(default_factory=base, metadata={"group": group})


def list_of_options(group: str, *default: str) -> Any:
    """Return a dataclass field that holds the chosen options of a group by name: those of `default` unless chosen."""
    return field(
        default_factory=lambda: {name: options(group)[name]() for name in default}, metadata={"list_group": group}
    )


def chosen_components(config: Config) -> dict[str, Component]:
    """Return the chosen options of a run, such as `loss=focal`, in the order of the groups."""
    chosen: dict[str, Component] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if group := entry.metadata.get("group"):
            chosen[f"{group}={option_name(dataclasses.asdict(value))}"] = value
        elif group := entry.metadata.get("list_group"):
            chosen |= {f"{group}={name}": option for name, option in value.items()}
    return chosen
