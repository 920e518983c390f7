"""Short labels for configuration keys and values, as shown in tables and figures."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fcn.comparison.run_records import RunRecord

DASH, MINUS, _ELLIPSIS = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{HORIZONTAL ELLIPSIS}"

_MAX_LENGTH = 44


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ between configurations."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({identity_text(config.get(key, ...)) for config in configs}) > 1]


def short_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return every key of the runs with its shortest unambiguous end: `init` for model.init, but `model.name`."""
    parts = {key: tuple(key.split(".")) for record in records for key in record.config}
    ends = {key: [own[-length:] for length in range(1, len(own) + 1)] for key, own in parts.items()}
    counts = Counter(end for own in ends.values() for end in own)
    return {key: ".".join(next((end for end in own if counts[end] == 1), own[-1])) for key, own in ends.items()}


def identity_text(value: Any) -> str:
    """Return a text that is equal for equal settings: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, list):
        return f"[{', '.join(map(identity_text, value))}]"
    return json.dumps(value, default=lambda other: f"\0{other!r}", ensure_ascii=False)


def format_setting(value: Any) -> str:
    """Return a value as written in an override; a dash for a missing key."""
    if value is ...:
        return DASH
    return value if isinstance(value, str) else identity_text(value).replace('"', "").replace(", ", ",")


def distinct_texts(values: Sequence[Any]) -> dict[str, str]:
    """Return short, distinct texts by the full text of each value.

    Common beginnings and ends of long values are left out; paths and lists are cut between their parts.
    """
    full = list(dict.fromkeys(map(format_setting, values)))
    long = [text for text in full if len(text) > _MAX_LENGTH]
    if not long:
        return dict(zip(full, full, strict=True))
    parts = [re.split(r"(?<=[/,])", text) for text in long]
    before = _num_common(parts)
    after = _num_common([one[before:][::-1] for one in parts])
    short = {}
    for text, one in zip(long, parts, strict=True):
        middle = "".join(one[before : len(one) - after]).rstrip("/")
        short[text] = _shorten_middle(f"{_ELLIPSIS * bool(before)}{middle}{_ELLIPSIS * bool(after)}")
    if len(set(short.values())) < len(short):  # they differ in the middle of a long part
        short = {text: f"{_shorten_middle(text)} ({number})" for number, text in enumerate(long, start=1)}
    return {text: short.get(text, text) for text in full}


def _num_common(parts: Sequence[Sequence[str]]) -> int:
    """Return the number of equal parts with which all of several lists begin; 0 for one list."""
    equal = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return len(list(equal)) if len(parts) > 1 else 0


def _shorten_middle(text: str) -> str:
    if len(text) <= _MAX_LENGTH:
        return text
    return f"{text[: _MAX_LENGTH // 2]}{_ELLIPSIS}{text[len(text) - _MAX_LENGTH // 2 :]}"
