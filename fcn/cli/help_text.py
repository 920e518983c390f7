"""Text of `--help`: the command's template of conf/hydra/help with its groups and its keys.

Hydra's own `--help` lists every folder of the search path anew for each group, which takes half a second.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import hydra
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from fcn.config import flatten, schema_fields
from fcn.config.composition import CONF, group_options


def help_text(config_name: str, schema: type, arguments: argparse.Namespace) -> str:
    """Return the help of a command, with the values of its keys as composed with the overrides."""
    composed, config_dir = compose_job(config_name, arguments, with_hydra=True), arguments.config_dir
    template = Template(composed.hydra.help.template)
    groups = group_options(groups_of(config_name), [CONF, *([Path(config_dir)] if config_dir else [])])
    visible = {group: options for group, options in sorted(groups.items()) if not group.startswith("hydra/")}
    listed = "\n".join(f"{group}: {', '.join(options)}" for group, options in visible.items())
    return template.substitute(GROUPS=listed, KEYS=_key_table(schema, composed))


def compose_job(config_name: str, arguments: argparse.Namespace, *, with_hydra: bool = False) -> DictConfig:
    """Compose a configuration without running Hydra's job.

    Args:
        config_name: name of a file in conf/.
        arguments: command line, as returned by `hydra_hooks.parse_arguments`.
        with_hydra: whether the section `hydra` is included.
    """
    folder = arguments.config_dir
    search_path = [f"hydra.searchpath=[file://{Path(folder).absolute()}]"] if folder else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, [*arguments.overrides, *search_path], return_hydra_config=with_hydra)


def groups_of(config_name: str) -> list[str]:
    """Return the groups in the defaults list of a configuration, including those it inherits."""
    groups: list[str] = []
    for entry in OmegaConf.load(CONF / f"{config_name}.yaml").defaults:
        if isinstance(entry, Mapping):
            names = [str(name).removeprefix("override ") for name in entry]
            groups += [name for name in names if not name.startswith("hydra/help") and "_logging" not in name]
        elif (CONF / f"{entry}.yaml").is_file():
            groups += groups_of(entry)
    return list(dict.fromkeys(groups))


def _key_table(schema: type, composed: DictConfig) -> str:
    """Format every key with its composed value and its meaning, wrapped to the width of a terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    indent = " " * (47 if width >= 100 else 31)
    composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    plain: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    values = flatten(plain)
    lines = []
    for key, entry in schema_fields(schema, plain).items():
        value = values.get(key, "...")  # the entries of a dict have separate keys
        text = json.dumps(value) if isinstance(value, (bool, list)) or value is None else str(value)
        head = f"{key:<29} {text if len(text) <= 14 else '...':<14}  "
        lines += textwrap.wrap(entry.metadata["meaning"], width, initial_indent=head, subsequent_indent=indent)
    return "\n".join(lines)
