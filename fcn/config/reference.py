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

from fcn.config import choices, flatten
from fcn.config.composition import CONF
from fcn.config.schema import VOC_CLASSES, Config, ExportConfig, InferenceConfig, schema_fields

INTRODUCTION = """\
# Configuration reference

`python -m fcn.config.reference` generates this page from `fcn/config/schema.py` and `conf/`; a test checks that the
page is up to date.

On the command line, `key=value` sets one key, and `group=option` sets several keys together:

    python train.py backbone=resnet50 lr=0.003 'data.crop_size=[224,224]'

Quote arguments that contain brackets, braces or spaces, because some shells expand them. `python train.py --help`
prints the same keys, and `python train.py experiment=d2l --cfg job` prints the composed configuration without training.

The tables of keys list the defaults of the schema. The options of the groups replace some of these defaults; the
tables under "Groups" list them. The [tutorial](tutorial.md#8-write-a-preset) explains how to write your own preset.

On this page, "the d2l chapter" is the FCN chapter of [Dive into Deep Learning](https://d2l.ai). "Long et al." and
"Shelhamer et al." are the papers [Long et al. 2015](https://arxiv.org/abs/1411.4038) and
[Shelhamer et al. 2017](https://arxiv.org/abs/1605.06211).
"""

DEFAULTS_NOTE = """\
Without overrides, a training run uses `data=shapes`, `backbone=resnet18`, `model=fcn32s`, `model/init=bilinear`,
`loss=pixel_mean`, `optim=adamw`, `schedule=cosine` and `trainer=auto`.
"""

GROUPS = ("data", "backbone", "model", "model/init", "loss", "optim", "schedule", "trainer", "experiment", "study")

TYPES = {"bool": "true or false", "int": "integer", "float": "number", "str": "text"}
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


def _top_level() -> dict[str, dataclasses.Field[Any]]:
    return {key: entry for key, entry in schema_fields(Config).items() if "." not in key}


def _nested() -> dict[str, dict[str, dataclasses.Field[Any]]]:
    """Fields of the nested dataclasses by their prefix, such as `data.augmentation`."""
    tables: dict[str, dict[str, dataclasses.Field[Any]]] = {}
    for key, entry in schema_fields(Config).items():
        if prefix := key.rpartition(".")[0]:
            tables.setdefault(prefix, {})[key] = entry
    return tables


def _key_table(fields: dict[str, dataclasses.Field[Any]]) -> str:
    rows = [f"| `{key}` | {_type(entry)} | {_default(entry)} | {_meaning(entry)} |" for key, entry in fields.items()]
    return "\n".join(["| key | type and range | default | meaning |", "|---|---|---|---|", *rows, ""])


def _type(entry: dataclasses.Field[Any]) -> str:
    """Type, range and alternatives of a key in words."""
    annotation = str(entry.type)
    optional = annotation.endswith(" | None")
    annotation = annotation.removesuffix(" | None")
    inner = annotation.replace("list[", "").rstrip("]")
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
    files = sorted((CONF / group).glob("*.yaml"))
    rows = [f"| `{group}={path.stem}` | {_settings(path)} |" for path in files]
    return "\n".join([f"### {group}\n", "| option | values that it sets |", "|---|---|", *rows, ""])


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
