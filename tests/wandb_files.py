"""Reader of the files that W&B writes offline: a log of LevelDB with a protocol buffer per record."""

import json
import struct
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32_768
HEADER = 7
LAST_PARTS = (1, 4)  # a record in one part, or the last of several


def offline_runs(folder: Path) -> list[Path]:
    """Return the files of all executions in a run directory, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)


def read_records(path: Path) -> list[Record]:
    """Return the records of a file."""
    content, position, parts, records = path.read_bytes(), HEADER, b"", []
    while position + HEADER <= len(content):
        left_in_block = BLOCK - position % BLOCK
        if left_in_block < HEADER:  # filled with zeros
            position += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        position += HEADER + length
        parts += content[position - length : position]
        if kind in LAST_PARTS:
            records.append(Record.FromString(parts))
            parts = b""
    return records


def values_of(items) -> dict:
    """Return the values of a configuration, a summary or a row of the history; nested names are joined by a slash."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(path: Path) -> dict[int, dict]:
    """Return the rows of the history by step."""
    return {
        record.history.step.num: values_of(record.history.item)
        for record in read_records(path)
        if record.WhichOneof("record_type") == "history"
    }


def records_of(path: Path, kind: str) -> list:
    """Return the records of a kind, such as run, config, summary or exit."""
    return [getattr(record, kind) for record in read_records(path) if record.WhichOneof("record_type") == kind]
