"""Origins of the components from outside: package or module with its version."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from fcn.config.components import ENVIRONMENT, chosen_components, options, origins
from fcn.config.schema import Config
from fcn.errors import ConfigError


def check_available(needed: Mapping[str, str], *, needed_by: object) -> None:
    """Check that the options from outside that a run was made with are registered.

    Args:
        needed: as returned by `component_origins` when the run was made.
        needed_by: run directory or checkpoint, for the message.

    Raises:
        ConfigError: naming the first missing option, and its package or module.
    """
    for option, origin in needed.items():
        group, _, name = option.partition("=")
        if name not in options(group):
            raise ConfigError(
                f"{needed_by} needs {option} of {origin}; install that package, or set {ENVIRONMENT} to the module"
            )


def component_origins(config: Config) -> dict[str, str]:
    """Return, for every option of a run that comes from outside, its package or module with the version.

    Returns:
        For example {"loss=my_loss": "my_losses 1.2"}.
    """
    chosen_origins = {}
    for option, chosen in chosen_components(config).items():
        module = type(chosen).__module__
        if names := [name for name in origins if module == name or module.startswith(f"{name}.")]:
            chosen_origins[option] = origins[max(names, key=len)]
    return chosen_origins


def origin_of_file(file: str) -> str | None:
    """Return package or module, with the version, of the components from outside to which a source file belongs."""
    for module, origin in origins.items():
        path = Path(sys.modules[module.partition(".")[0]].__file__ or "")
        if Path(file) == path or (path.name == "__init__.py" and Path(file).is_relative_to(path.parent)):
            return origin
    return None
