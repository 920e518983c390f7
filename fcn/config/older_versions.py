"""Configurations of runs made before options had their own keys."""

from __future__ import annotations

import dataclasses
from typing import Any

from fcn.config.choices import TorchvisionModel
from fcn.config.components import option_name, options


def upgrade(values: Any) -> Any:
    """Return the configuration of a run in the form of this version.

    Older configurations contain the keys of all options of a group, of which only those of the chosen option had an
    effect, and no name of the loss, which was always cross-entropy.

    Args:
        values: complete configuration of a run, nested plain values.
    """
    loss = values.get("loss")
    if not isinstance(loss, dict) or "name" in loss:
        return values
    upgraded = {**values, "loss": {"name": "cross_entropy", **loss}}
    if upgraded["model"]["name"] in list(TorchvisionModel):
        upgraded["model"] = {"library": "torchvision", **upgraded["model"]}
    if upgraded["model"]["name"] == "fcn16s":  # which used the first of two factors
        upgraded["model"] = {**upgraded["model"], "skip_scale": upgraded["model"]["skip_scale"][:1]}
    for group in ("data", "model", "optim", "schedule"):
        section = upgraded[group]
        if option := options(group).get(option_name(section)):
            every_key = {key for each in options(group).values() for key in _keys(each)}
            foreign = every_key - _keys(option)
            upgraded[group] = {key: value for key, value in section.items() if key not in foreign}
    return upgraded


def _keys(option: type) -> set[str]:
    return {entry.name for entry in dataclasses.fields(option)}
