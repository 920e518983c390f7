"""The cache of decoded images changes no pixel, and is rewritten whenever it is not valid."""

import logging
import os
import pickle
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcn.config import AugmentationConfig
from fcn.data import cache, shapes
from fcn.data.dataset_options import VocData
from fcn.data.datasets import Crops, WholeImages
from fcn.data.pair_reader import PairReader
from fcn.data.split_lists import Pair, read_split
from fcn.data.transforms import TrainTransform
from fcn.errors import DataError
from fcn.evaluation.evaluator import evaluation_images
from tests.voc_tree import pair_reader, palette_mask

CLASSES = len(shapes.CLASSES)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return shapes.ensure_shapes(tmp_path_factory.mktemp("dataset"), num_train=6, num_val=3, seed=0)


@pytest.fixture
def root(dataset, tmp_path) -> Path:
    """Root of a copy of the dataset, with 6 and 3 images."""
    return Path(shutil.copytree(dataset, tmp_path / "set"))


@pytest.fixture
def write_caches(root, caplog):
    """Write the caches of both splits and return the log."""

    def run(*, cache_dir=None, num_classes=CLASSES) -> str:
        caplog.clear()
        sets = {split: read_split(root, split) for split in ("train", "val")}
        folder = cache.cache_folder(root, cache_dir)
        with caplog.at_level(logging.INFO, "fcn.data.cache"):
            cache.write_missing_caches(sets, reader=pair_reader(num_classes), folder=folder)
        return "\n".join(record.getMessage() for record in caplog.records)

    return run


def open_cache(root, split="train", *, cache_dir=None):
    folder = cache.cache_folder(root, cache_dir)
    return cache.open_cache(read_split(root, split), split, reader=pair_reader(CLASSES), folder=folder)


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def plain_and_cached(dataset, tmp_path_factory) -> tuple[WholeImages, WholeImages]:
    """The same images, decoded at every use and from the cache."""
    pairs, folder = read_split(dataset, "train"), tmp_path_factory.mktemp("cache")
    cache.write_missing_caches({"train": pairs}, reader=pair_reader(CLASSES), folder=folder)
    decoded = cache.open_cache(pairs, "train", reader=pair_reader(CLASSES), folder=folder)
    assert decoded
    plain = WholeImages(pairs, reader=pair_reader(CLASSES))
    return plain, WholeImages(pairs, reader=pair_reader(CLASSES), decoded=decoded)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(0, 50), st.sampled_from([[1.0, 1.0], [0.5, 2.0]]), st.booleans())
def test_cached_samples_are_bit_identical(plain_and_cached, index, epoch, scale, subset):
    plain, cached = (images.select([5, 0, 3, 1, 2, 4]) if subset else images for images in plain_and_cached)
    assert equal(plain[index].values(), cached[index].values())
    assert plain.sizes()[index] == cached.sizes()[index] == tuple(plain[index]["mask"].shape)
    transform = TrainTransform((64, 80), AugmentationConfig(scale=scale, flip=0.5, contrast=0.3))
    one, other = (Crops(images, transform, seed=3, stream=1)[epoch, index] for images in (plain, cached))
    assert equal(one.values(), other.values())


def test_whole_images_are_writable_copies(plain_and_cached):
    _, cached = plain_and_cached
    before = cached[0]
    cached[0]["image"].fill_(1)
    cached[0]["mask"].fill_(1)
    assert equal(cached[0].values(), before.values())


def test_pickled_images_contain_no_pixels(plain_and_cached):
    _, cached = plain_and_cached
    sample = cached[2]
    pickled = pickle.dumps(cached)
    assert len(pickled) < 3000  # less than one image
    assert equal(pickle.loads(pickled)[2].values(), sample.values())


def test_read_returns_views_of_one_mapped_file(plain_and_cached):
    _, cached = plain_and_cached
    storages = {tensor.untyped_storage().data_ptr() for index in (0, 5) for tensor in cached.read(index)}
    assert len(storages) == 1
    assert cached.read(3)[0].untyped_storage().nbytes() == cached.decoded.path.stat().st_size


def test_cache_is_logged_reused_and_hardly_larger_than_the_pixels(write_caches, root):
    line = rf"cache    6 \+ 3 images decoded, 0\.\d MB in {root}/cache \(written in \d+\.\d s\)"
    assert re.fullmatch(line, write_caches())
    times = {path: path.stat().st_mtime_ns for path in (root / "cache").iterdir()}
    assert write_caches().endswith(f"in {root}/cache (reused)")
    assert {path: path.stat().st_mtime_ns for path in (root / "cache").iterdir()} == times
    pixels = sum(pair_reader(CLASSES).read(pair)[1].numel() for pair in read_split(root, "train"))
    assert 4 * pixels < open_cache(root).path.stat().st_size < 1.01 * 4 * pixels


def test_changed_files_replace_the_cache(write_caches, root):
    write_caches()
    write_caches(num_classes=CLASSES + 1)  # this cache has a separate file
    former, val = open_cache(root).path, open_cache(root, "val").path
    (root / "cache" / f".{'0' * 32}.tmp").write_bytes(b"left by a killed process")
    pair = read_split(root, "train")[0]
    state = pair.mask.stat()
    mask = Image.open(pair.mask)
    mask.putpixel((0, 0), (mask.getpixel((0, 0)) + 1) % CLASSES)
    mask.save(pair.mask)
    os.utime(pair.mask, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert open_cache(root) is None
    assert "(written in" in write_caches()
    assert equal(open_cache(root)[0], pair_reader(CLASSES).read(pair))
    assert not former.exists()
    assert open_cache(root, "val").path == val
    assert len(list((root / "cache").iterdir())) == 4


@pytest.mark.parametrize("damage", ["truncated", "longer", "other key", "not a cache"])
def test_damaged_cache_is_rewritten(write_caches, root, damage):
    write_caches()
    path = open_cache(root).path
    content = path.read_bytes()
    other_key = content[:8] + bytes(32) + content[40:]
    path.write_bytes({"truncated": content[:-1], "longer": content + b"x", "other key": other_key}.get(damage, b"x"))
    assert open_cache(root) is None
    assert "(written in" in write_caches()
    assert path.read_bytes() == content


def test_cache_dir_replaces_the_default_folder(write_caches, root, tmp_path):
    write_caches(cache_dir=str(tmp_path / "chosen"))
    assert open_cache(root, cache_dir=str(tmp_path / "chosen")).path.parent == tmp_path / "chosen"
    assert not (root / "cache").exists()


def test_evaluation_reads_an_existing_cache_and_writes_none(write_caches, root):
    data = VocData(root=str(root), classes=list(shapes.CLASSES))
    assert evaluation_images(data, "val", classes=shapes.CLASSES).decoded is None
    assert not (root / "cache").exists()
    write_caches()
    assert evaluation_images(data, "val", classes=shapes.CLASSES).decoded.path.parent == root / "cache"
    data.cache = False
    assert evaluation_images(data, "val", classes=shapes.CLASSES).decoded is None


@pytest.mark.parametrize("obstacle", ["folder", "space"])
def test_cache_that_cannot_be_written_is_a_warning(write_caches, root, monkeypatch, obstacle):
    if obstacle == "folder":
        (root / "cache").write_text("a file")
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    lines = write_caches().splitlines()
    problem = "exists" if obstacle == "folder" else r"0 MB are needed and 0 MB are free"
    assert len(lines) == 2
    for line, split in zip(lines, ("train", "val"), strict=True):
        assert re.match(rf"cannot cache the images of {split}: .*{problem}.*; use data\.cache_dir=", line)
    assert open_cache(root) is None


def test_unreadable_pair_raises_the_usual_error_and_leaves_no_file(write_caches, root):
    broken = read_split(root, "train")[3]
    broken.image.write_bytes(broken.image.read_bytes()[:700])
    with pytest.raises(DataError) as expected:
        pair_reader(CLASSES).read(broken)
    with pytest.raises(DataError, match=rf"{broken.name}\.jpg must be a readable image") as error:
        write_caches()
    assert str(error.value) == str(expected.value)
    assert not list((root / "cache").iterdir())


def test_simultaneous_commands_decode_once(root, monkeypatch):
    pairs = read_split(root, "train")
    reads: list[str] = []
    inspect = PairReader.inspect
    monkeypatch.setattr(PairReader, "inspect", lambda self, pair: reads.append(pair.name) or inspect(self, pair))
    barrier = threading.Barrier(2)

    def write() -> None:
        barrier.wait()
        cache.write_missing_caches({"train": pairs}, reader=pair_reader(CLASSES), folder=root / "cache")

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads) == sorted(pair.name for pair in pairs)
    assert len(list((root / "cache").iterdir())) == 1


def test_sets_of_other_folders_with_equal_files_have_their_own_cache(tmp_path):
    """Uncompressed images of one size can differ in nothing but their folder and their pixels."""
    (tmp_path / "masks").mkdir()
    palette_mask([[0, 1]]).save(tmp_path / "masks/a.png")
    for folder, colour in (("rgb", (9, 9, 9)), ("ir", (7, 7, 7))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (2, 1), colour).save(tmp_path / folder / "a.bmp")
        os.utime(tmp_path / folder / "a.bmp", ns=(10**18, 10**18))
    for _ in range(2):
        for folder, colour in (("rgb", 9), ("ir", 7)):
            pairs = [Pair("a", tmp_path / folder / "a.bmp", tmp_path / "masks/a.png")]
            cache.write_missing_caches({"train": pairs}, reader=pair_reader(2), folder=tmp_path / "cache")
            decoded = cache.open_cache(pairs, "train", reader=pair_reader(2), folder=tmp_path / "cache")
            assert decoded is not None
            assert decoded[0][0].unique().tolist() == [colour]
    assert len(list((tmp_path / "cache").iterdir())) == 2
