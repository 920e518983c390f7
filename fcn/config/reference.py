"""Configuration reference, generated from the schema and the files of conf/.

`python -m fcn.config.reference > docs/configuration.md` writes the page.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fcn.config import choices, flatten, to_container
from fcn.config.command_schemas import ExportConfig, InferenceConfig
from fcn.config.components import GROUPS as GROUPS_WITH_ONE_OPTION
from fcn.config.components import LIST_GROUPS, Component, options, run_keys_of
from fcn.config.composition import CONF
from fcn.config.option_bases import VOC_CLASSES
from fcn.config.schema import Config, TrainerConfig
from fcn.config.schema_keys import Fields, schema_fields

INTRODUCTION = """\
# Configuration reference

`python -m fcn.config.reference` generates this page from the schema, the registered options and `conf/`; a test checks
that the page is up to date.

On the command line, `key=value` sets one key, and `group=option` sets several keys together:

    python train.py backbone=resnet50 lr=0.003 'data.crop_size=[224,224]'

Quote arguments that contain brackets, braces or spaces, because some shells expand them. `python train.py --help`
prints the same keys, and `python train.py experiment=d2l --cfg job` prints the composed configuration without training.

Every option of a group has its own keys. A key that only another option has is refused, because it would have no
effect. Presets, and options that are files of `conf/`, replace some of the defaults. The
[tutorial](tutorial.md#8-write-a-preset) explains how to write your own preset.

On this page, "the d2l chapter" is the FCN chapter of [Dive into Deep Learning](https://d2l.ai). "Long et al." and
"Shelhamer et al." are the papers [Long et al. 2015](https://arxiv.org/abs/1411.4038) and
[Shelhamer et al. 2017](https://arxiv.org/abs/1605.06211).
"""

DEFAULTS_NOTE = """\
Without overrides, a training run uses `data=shapes`, `backbone=resnet18`, `model=fcn32s`, `loss=cross_entropy`,
`optim=adamw`, `schedule=cosine` and `trainer=auto`.
"""

GROUPS = (
    "data", "backbone", "model", "model/init", "loss", "optim", "schedule", "transforms", "callbacks", "logger",
    "trainer", "experiment", "study", "debug",
)  # fmt: skip

TYPES = {
    "bool": "true or false", "int": "integer", "IntOrAuto": "`auto` or integer", "float": "number", "str": "text",
    "Any": "text or list of numbers",
}  # fmt: skip
PLURALS = {"int": "integers", "float": "numbers", "str": "text values"}


def reference() -> str:
    """Return the reference page as Markdown."""
    sections = [INTRODUCTION, f"## Groups\n\n{DEFAULTS_NOTE}", *(_group_section(group) for group in GROUPS)]
    sections += ["## Keys of train.py\n", _key_table(_top_level())]
    sections += [f"### {prefix}\n\n{_key_table(fields)}" for prefix, fields in _nested().items()]
    sections += ["## Inference keys of evaluate.py and predict.py\n", _key_table(schema_fields(InferenceConfig))]
    sections += ["## Keys of export.py\n", _key_table(schema_fields(ExportConfig))]
    sections.append("The option `--help` of a command lists its remaining keys.\n")
    return "\n".join(sections)


def _top_level() -> Fields:
    return {key: entry for key, entry in schema_fields(Config).items() if "." not in key}


def _nested() -> dict[str, Fields]:
    """Fields by the heading of their table: the keys that all options of a group share, then those of each option."""
    tables: dict[str, Fields] = {}
    for entry in dataclasses.fields(Config):
        if group := entry.metadata.get("group"):
            fields_of = {name: schema_fields(option, None, f"{group}.") for name, option in options(group).items()}
            first, *others = fields_of.values()
            shared = {key for key in first if all(_same(first[key], other.get(key)) for other in others)}
            if shared:
                tables[f"{group}, all options"] = {key: first[key] for key in first if key in shared}
            tables.update(_by_option(group, fields_of, shared))
        elif group := entry.metadata.get("list_group"):
            of_option = {
                name: schema_fields(option, None, f"{group}.{name}.") for name, option in options(group).items()
            }
            tables |= {f"{group}=[{name}]": fields for name, fields in of_option.items() if fields}
        elif entry.name == "trainer":
            tables["trainer"] = schema_fields(TrainerConfig, None, "trainer.")
    return tables


def _by_option(group: str, fields_of: dict[str, Fields], shared: set[str]) -> dict[str, Fields]:
    """Tables of the options' own keys; options with equal tables, such as torchvision's backbones, share one."""
    headings: dict[str, list[str]] = {}
    tables: dict[str, Fields] = {}
    for name, fields in fields_of.items():
        own = {key: entry for key, entry in fields.items() if key not in shared and key != f"{group}.name"}
        own = {key: entry for key, entry in own.items() if key != f"{group}.library"}
        if name_entry := fields.get(f"{group}.library") and fields[f"{group}.name"]:
            own = {f"{group}.name": name_entry, **own}
        if own:
            table = _key_table(own)
            headings.setdefault(table, []).append(f"{group}={name}")
            tables[table] = own
    return {
        " and ".join(headings[table]) if len(headings[table]) < 3 else ", ".join(headings[table]): own
        for table, own in tables.items()
    }


def _same(entry: dataclasses.Field[Any], other: dataclasses.Field[Any] | None) -> bool:
    return other is not None and _row("", entry) == _row("", other)


def _key_table(fields: Fields) -> str:
    rows = [_row(key, entry) for key, entry in fields.items()]
    return "\n".join(["| key | type and range | default | meaning |", "|---|---|---|---|", *rows, ""])


def _row(key: str, entry: dataclasses.Field[Any]) -> str:
    return f"| `{key}` | {_type(entry)} | {_default(entry)} | {_meaning(entry)} |"


def _type(entry: dataclasses.Field[Any]) -> str:
    """Type, range and alternatives of a key in words."""
    annotation = str(entry.type)
    optional = annotation.endswith(" | None")
    annotation = annotation.removesuffix(" | None")
    inner = annotation.replace("list[", "").rstrip("]")
    if annotation.startswith("dict["):
        key, value = (PLURALS[name] for name in inner.removeprefix("dict[").split(", "))
        return f"map of {key} to {value}"
    words = TYPES.get(inner) or ", ".join(f"`{member.value}`" for member in getattr(choices, inner))
    if depth := annotation.count("list["):
        words = "list of " + "lists of " * (depth - 1) + PLURALS[inner]
    low, high = entry.metadata.get("low"), entry.metadata.get("high")
    if low is not None:
        bounds = f"{low} to {high}" if high is not None else f"at least {low}"
        words += f", each {bounds}" if "list[" in str(entry.type) else f", {bounds}"
    return f"{words}, or null" if optional else words


def _default(entry: dataclasses.Field[Any]) -> str:
    if entry.default is not dataclasses.MISSING:
        return f"`{_text(entry.default)}`"
    assert entry.default_factory is not dataclasses.MISSING
    value = entry.default_factory()
    return "the 21 classes of VOC" if value == list(VOC_CLASSES) else f"`{_text(value)}`"


def _text(value: object) -> str:
    """Return the value as it is written in an override."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value) if isinstance(value, str) else json.dumps(value)


def _meaning(entry: dataclasses.Field[Any]) -> str:
    return str(entry.metadata["meaning"]).replace("|", "\\|")


def _group_section(group: str) -> str:
    """Options of a group with the keys that they set."""
    rows = [f"| `{_choice(group, name)}` | {_about(option)} |" for name, option in _registered(group).items()]
    files = sorted((CONF / group).glob("*.yaml"))
    rows += [f"| `{group}={path.stem}` | {_settings(path)} |" for path in files]
    if group in LIST_GROUPS:
        note = f"`{group}=[A,B]` chooses any number of options; the keys of A are `{group}.A.KEY`."
        if not rows:
            missing = "There is no built-in option; [extending.md](extending.md) shows how to add one."
            return f"### {group}\n\n{note} {missing}\n"
        rows[-1] += f"\n\n{note}"
    return "\n".join([f"### {group}\n", "| option | meaning, or values that it sets |", "|---|---|", *rows, ""])


def _choice(group: str, name: str) -> str:
    return f"{group}=[{name}]" if group in LIST_GROUPS else f"{group}={name}"


def _registered(group: str) -> dict[str, type[Component]]:
    return options(group) if group in (*GROUPS_WITH_ONE_OPTION, *LIST_GROUPS) else {}


def _section_values(option: type[Component]) -> list[tuple[str, Any]]:
    """Keys in nested sections of an option whose values differ from the defaults of the section's class."""
    values = []
    for entry in dataclasses.fields(option):
        section = getattr(option(), entry.name)
        if dataclasses.is_dataclass(section) and not isinstance(section, type):
            own, default = to_container(section), to_container(type(section)())
            values += [(f"{entry.name}.{key}", own[key]) for key in own if own[key] != default[key]]
    return values


def _about(option: type[Component]) -> str:
    """First line of the docstring of an option, and the top-level keys that it sets."""
    first = (option.__doc__ or "").strip().partition("\n\n")[0]
    keys = [f"`{key}={_text(value)}`" for key, value in run_keys_of(option).items() if not isinstance(value, dict)]
    keys += [f"`data.{key}={_text(value)}`" for key, value in _section_values(option)]
    sets = f" Sets {', '.join(keys)}." if keys else ""
    return " ".join(first.split()) + sets


def _settings(path: Path) -> str:
    """Return the groups that a configuration file chooses and the keys that it sets, as overrides."""
    source = path.read_text()
    content: Any = OmegaConf.to_container(OmegaConf.create(source), resolve=False)
    package = re.match(r"# @package (\S+)", source)
    prefix = f"{package[1] if package else path.parent.name}."
    overrides = []
    for entry in content.pop("defaults", []):
        if isinstance(entry, dict):
            overrides += [f"{str(group).removeprefix('override /')}={option}" for group, option in entry.items()]
        elif entry != "_self_":
            overrides.append(f"{path.parent.name}={entry}")
    sweep = content.pop("hydra", {}).get("sweeper", {}).get("params", {})
    overrides += [f"{key}={values}" for key, values in sweep.items()]
    values = flatten(content).items()
    overrides += [f"{prefix.removeprefix('_global_.')}{key}={_text(value)}" for key, value in values]
    return ", ".join(f"`{override}`" for override in overrides if "${" not in override)


if __name__ == "__main__":
    print(reference(), end="")
