"""Completion of keys, groups and values in bash, set up by `python train.py -sc install=bash`.

It replaces Hydra's completion for bash, which runs any Python script whose arguments are completed, offers only the
composed value of a key, and removes "=" from the word breaks of the shell for all commands. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from fcn.cli.help_text import groups_of
from fcn.config import schema_fields
from fcn.config.composition import CONF, group_options
from fcn.config.schema import AUTO

# Bash also breaks COMP_WORDS at "=" and ":", so a reply begins after the last of them. For commands of other projects
# the function returns nothing, and bash completes file names. The fcn-... commands exist if the package is installed.
INSTALL = r"""_fcn_complete() {
    local command=("${COMP_WORDS[0]}") line=${COMP_LINE:0:COMP_POINT} reply
    local word=${line##*[[:space:]]} current=${COMP_WORDS[COMP_CWORD]} script=${COMP_WORDS[1]}
    COMPREPLY=()
    if [[ $1 != fcn-* ]]; then
        [[ $COMP_CWORD -gt 1 && -f $script ]] || return
        grep -q "run_command(\|^from fcn.cli.train import main" "$script" || return
        command+=("$script")
    fi
    [[ $current == [=:] ]] && current=
    while IFS= read -r reply; do
        COMPREPLY+=("${reply:${#word}-${#current}}")
    done < <(COMP_LINE=$line "${command[@]}" -sc query=bash 2> /dev/null)
}
"""
COMPLETED = "python python3 " + " ".join(
    f"fcn-{name}" for name in ("train", "evaluate", "predict", "export", "prepare-voc", "tune", "upsample")
)
INSTALL += f"complete -o nospace -o default -F _fcn_complete {COMPLETED}"
UNINSTALL = f"complete -r {COMPLETED}; unset -f _fcn_complete"


def answer(request: str, *, config_name: str, schema: type) -> str:
    """Return the output of `-sc REQUEST`: shell code for install and uninstall, else one candidate per line."""
    if request == "install=bash":
        return INSTALL
    if request == "uninstall=bash":
        return UNINSTALL
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    folders = [CONF, *map(Path, _config_dirs(words))]
    word = words[-1] if words and not line[-1].isspace() else ""
    return "\n".join(candidates(word, schema_fields(schema), group_options(groups_of(config_name), folders)))


def candidates(word: str, keys: Mapping[str, dataclasses.Field[Any]], groups: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the completions of a word: names up to their next "." or "/", or values after "=".

    In a list, the last element is completed.

    Args:
        word: beginning of the word, possibly with Hydra's "+", "++" or "~".
        keys: every key with its field.
        groups: every group with its options.
    """
    match = re.fullmatch(r"(~|\+{0,2})([^=]*)(?:(=)(.*,)?(.*))?", word)
    if match is None:
        return []
    sign, name, equals, before, last = match.groups(default="")
    if equals:
        values = groups[name] if name in groups else _values(keys.get(name), last)
        return [f"{sign}{name}={before}{value}" for value in values if value.startswith(last)]
    names = [f"{known}=" for known in (*groups, *keys)]
    shortened = {re.match(rf".{{{len(name)}}}[^./=]*[./=]?", known) for known in names if known.startswith(name)}
    return sorted({f"{sign}{match[0]}" for match in shortened if match})


def _values(entry: dataclasses.Field[Any] | None, start: str) -> list[str]:
    """Return the values of a key: names of an enumeration, true and false, or paths if the key is text."""
    if entry is None:
        return []
    if isinstance(entry.default, Enum):
        return [str(member) for member in type(entry.default)]
    if isinstance(entry.default, bool):
        return ["false", "true"]
    if entry.type == "IntOrAuto":
        return [AUTO]
    # The type is text in modules that postpone annotations.
    return _paths(start) if re.search(r"\bstr\b", str(entry.type)) and "list" not in str(entry.type) else []


def _paths(start: str) -> list[str]:
    """Return files and folders that begin with `start`, folders with a slash; hidden ones only after a dot."""
    folder, name = os.path.split(start)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    visible = [entry for entry in entries if name.startswith(".") or not entry.name.startswith(".")]
    return [os.path.join(folder, entry.name) + "/" * entry.is_dir() for entry in visible]


def _config_dirs(words: list[str]) -> list[str]:
    """Return the values of --config-dir and -cd."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    joined = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    return [*joined, *(after for word, after in pairs if word in ("--config-dir", "-cd"))]
