"""Keys of a dataclass schema: every leaf key by its dotted name, and the dataclass of a section."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fcn.config.components import option_class, options

Fields = dict[str, dataclasses.Field[Any]]


def schema_fields(schema: type, values: Mapping[str, Any] | None = None, prefix: str = "") -> Fields:
    """Return every leaf key of a dataclass schema, dotted, with its field.

    Args:
        schema: the dataclass.
        values: nested values that choose the options of the groups; None: the keys of all options.
        prefix: dotted name of the section, with a dot at its end.
    """
    leaves: Fields = {}
    for entry in dataclasses.fields(schema):
        key, section = f"{prefix}{entry.name}", None if values is None else values.get(entry.name)
        if group := entry.metadata.get("list_group"):
            known = options(group)
            for name in known if values is None else section or {}:
                leaves |= schema_fields(known[name], section and section[name], f"{key}.{name}.")
            continue
        nested = None if values is None else (section if isinstance(section, Mapping) else {})
        chosen = section_of(entry, nested or {})
        if chosen is None:
            leaves[key] = entry
            continue
        classes = [chosen]
        if values is None and "group" in entry.metadata:
            classes += options(entry.metadata["group"]).values()
        for each in classes:
            for leaf, leaf_entry in schema_fields(each, nested, f"{key}.").items():
                leaves.setdefault(leaf, leaf_entry)
    return leaves


def section_of(entry: dataclasses.Field[Any], section: Mapping[str, Any]) -> type | None:
    """Return the dataclass of a key that is a section: the chosen option of a group; None for a leaf key."""
    if group := entry.metadata.get("group"):
        assert callable(entry.default_factory)
        return option_class(group, section, default=entry.default_factory)
    default = None if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    return type(default) if dataclasses.is_dataclass(default) else None
