"""Fingerprint of a set of images."""

import hashlib
from pathlib import Path

import pytest

from fcn.data.fingerprint import fingerprint
from fcn.data.mask_formats import MaskReader
from fcn.data.pair_reader import PairReader
from fcn.data.split_lists import Pair


def pairs_below(root: Path, sizes: dict[str, tuple[int, int]]) -> list[Pair]:
    """Write pairs whose image and mask have these sizes in bytes."""
    root.mkdir()
    pairs = [Pair(name, root / f"{name}.jpg", root / f"{name}.png") for name in sizes]
    for pair in pairs:
        pair.image.write_bytes(bytes(sizes[pair.name][0]))
        pair.mask.write_bytes(bytes(sizes[pair.name][1]))
    return pairs


SIZES = {"2007_000032": (11, 7), "2007_000039": (5, 3)}


def test_fingerprint_is_a_hash_of_names_and_sizes(tmp_path):
    text = b"2007_000032 11 7\n2007_000039 5 3\n"
    expected = {"images": 2, "sha256": hashlib.sha256(text).hexdigest()}
    assert fingerprint(pairs_below(tmp_path / "here", SIZES)) == expected
    assert fingerprint(pairs_below(tmp_path / "there", SIZES)) == expected


def test_fingerprint_depends_on_how_the_files_are_read(tmp_path):
    pairs = pairs_below(tmp_path / "here", SIZES)
    masks = (MaskReader(3), MaskReader(3, label_map=((255, 1),)))
    readers = [*map(PairReader, masks), PairReader(MaskReader(3), upright=True)]
    hashes = [fingerprint(pairs, reader.identity)["sha256"] for reader in readers]
    assert len(set(hashes)) == 3
    assert hashes[0] == fingerprint(pairs)["sha256"]


@pytest.mark.parametrize(
    "other",
    [
        {"2007_000032": (11, 7)},
        dict(reversed(SIZES.items())),
        {**SIZES, "2007_000039": (6, 3)},
        {**SIZES, "2007_000039": (5, 2)},
        {"2007_000032": (11, 7), "2007_000033": (5, 3)},
    ],
    ids=["one less", "another order", "another image", "another mask", "another name"],
)
def test_fingerprint_differs_for_other_data(tmp_path, other):
    whole = fingerprint(pairs_below(tmp_path / "a", SIZES))
    assert fingerprint(pairs_below(tmp_path / "b", other))["sha256"] != whole["sha256"]
