"""Command line of a first training run that prepare_voc.py proposes for the dataset it has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from fcn.config import DataConfig
from fcn.config.choices import Protocol
from fcn.config.overrides import format_value, shell_quoted, split_override, values_by_key
from fcn.data.crop_statistics import NEARLY_ALL, crop_statistics
from fcn.data.statistics import SplitReading
from fcn.training.memory import this_machine
from fcn.training.proposal import GIB, propose


def proposed_run(
    readings: Mapping[str, SplitReading], content: Mapping[str, Any], data: DataConfig, overrides: Sequence[str]
) -> dict[str, Any]:
    """Return the proposed command and its reasons, as they are written to the JSON file.

    Args:
        readings: splits that have been read.
        content: their statistics and problems, as they are written to the JSON file.
        data: dataset, with the splits of a run.
        overrides: overrides of the command line of prepare_voc.py.

    Returns:
        `command`, `reasons` by override, and `machine`, `memory_bytes`, `train_split`, `val_split` and `crops`, which
        the rules use. If no run is proposed, `command` is None and `reason` says why.
    """
    if reason := _obstacle(readings, content, data):
        return {"command": None, "reason": reason}
    reading, machine = readings[data.train_split], this_machine()
    dataset = _data_overrides(overrides, data)
    proposal = propose(
        data,
        content["splits"][data.train_split],
        num_val=content["splits"][data.val_split]["images"],
        machine=machine,
        given=frozenset(split_override(override)[0] for override in dataset),
        measure_crops=partial(crop_statistics, reading.sizes, reading.thin_masks),
    )
    chosen = [each.text for each in proposal.suggestions if each.is_override]
    return {
        "command": " ".join(["python train.py", *map(shell_quoted, [*dataset, *chosen])]),
        "reasons": {each.text: each.reason for each in proposal.suggestions},
        "machine": machine.name,
        "memory_bytes": machine.memory,
        "train_split": data.train_split,
        "val_split": data.val_split,
        "crops": proposal.crops,
    }


def _obstacle(readings: Mapping[str, SplitReading], content: Mapping[str, Any], data: DataConfig) -> str | None:
    """Return why no run can be proposed."""
    if number := len(content["problems"]):
        return f"the dataset has {number} problem{'s' if number > 1 else ''}"
    if data.protocol is Protocol.d2l:
        return "data.protocol=d2l belongs to experiment=d2l, which sets all keys"
    if not {data.train_split, data.val_split} <= readings.keys():
        return (
            f"splits (={list(readings)}) must name a training and a validation split; set data.train_split "
            f"(={data.train_split}) and data.val_split (={data.val_split}) to two of them"
        )
    if data.train_split == data.val_split:
        return f"data.train_split and data.val_split (={data.val_split}) must differ"
    num_shared = len(content["in_both"][data.train_split])
    if num_shared >= min(content["splits"][name]["images"] for name in (data.train_split, data.val_split)):
        return f"one of {data.train_split} and {data.val_split} contains the other: {num_shared} images are in both"
    if content["splits"][data.train_split]["region_side"] is None:
        return f"all pixels of {data.train_split} are background or void"
    return None


def _data_overrides(overrides: Sequence[str], data: DataConfig) -> list[str]:
    """Return the overrides of the dataset, as `train.py` takes them."""
    chosen = []
    for override in overrides:
        key, value = split_override(override)
        if key in ("root", "classes"):  # names of prepare_voc.py for data.root and data.classes
            chosen.append(f"data.{key}={value}")
        elif key == "data" or key.startswith("data."):
            chosen.append(override)
    given, defaults = values_by_key(chosen), type(data)()
    if "data" not in given:
        chosen.insert(0, f"data={data.name}")
    for key in ("train_split", "val_split"):
        if (split := getattr(data, key)) != getattr(defaults, key) and f"data.{key}" not in given:
            chosen.append(f"data.{key}={format_value(split)}")
    return chosen


def print_proposal(console: Console, content: Mapping[str, Any]) -> None:
    """Print the statistics on which the rules depend, the proposed keys with their reasons, and the command.

    Args:
        console: where to print.
        content: statistics and proposal, as they are written to the JSON file.
    """
    proposal = content["proposal"]
    write = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    if proposal["command"] is None:
        write(f"no run is proposed: {proposal['reason']}")
        return
    for name, text in _facts(content).items():
        write(f"{name:8} {text}")
    write(f"\nproposed for {proposal['machine']} with {proposal['memory_bytes'] / GIB:.1f} GiB of memory:")
    width = max(map(len, proposal["reasons"]))
    for key, reason in proposal["reasons"].items():
        write(f"  {key:{width}}  {reason}")
    write(f"\n{proposal['command']}")


def _facts(content: Mapping[str, Any]) -> dict[str, str]:
    proposal = content["proposal"]
    names = (proposal["train_split"], proposal["val_split"])
    statistics, num_val = content["splits"][names[0]], content["splits"][names[1]]["images"]
    height, width, side = statistics["height"], statistics["width"], statistics["region_side"]
    crops, num_shared = proposal["crops"], len(content["in_both"][names[0]])
    return {
        "images": f"{statistics['images']:,} of {names[0]}, {num_val:,} of {names[1]}, {num_shared:,} in both",
        "sizes": f"{height['median']:.0f}x{width['median']:.0f} pixels in the median, heights {height['minimum']} to "
        f"{height['maximum']}, widths {width['minimum']} to {width['maximum']}",
        "regions": f"{side['median']:.0f}x{side['median']:.0f} pixels in the median, a quarter below "
        f"{side['lower_quartile']:.0f}x{side['lower_quartile']:.0f} (all pixels of one class in one image)",
        "crops": f"{crops['foreground_share']:.0%} of the pixels are foreground; {crops['single_class_share']:.0%} of "
        f"the crops are at least {NEARLY_ALL:.0%} one class (without void)",
    }
