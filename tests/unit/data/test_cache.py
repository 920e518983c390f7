"""Images are decoded once, into a file that changes nothing but the time."""

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

from fcn.config import AugmentationConfig, DataConfig, DatasetName
from fcn.data import cache, shapes, voc
from fcn.data.datasets import Crops, WholeImages
from fcn.data.transforms import TrainTransform
from fcn.data.voc import DataError
from fcn.evaluation.evaluator import evaluation_images

CLASSES = len(shapes.CLASSES)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return shapes.ensure_shapes(tmp_path_factory.mktemp("drawn"), num_train=6, num_val=3, seed=0)


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    """A set of this test's own, of 6 and 3 images."""
    return Path(shutil.copytree(drawn, tmp_path / "set"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def prepare(root, caplog):
    """Prepares both sets and gives what the log says."""

    def run(*, cache_dir=None, num_classes=CLASSES) -> str:
        caplog.clear()
        sets = {split: voc.read_split(root, split) for split in ("train", "val")}
        with caplog.at_level(logging.INFO, "fcn.data.cache"):
            cache.prepare(sets, num_classes=num_classes, folders=cache.cache_folders(root, cache_dir))
        return "\n".join(record.getMessage() for record in caplog.records)

    return run


def found(root, split="train", *, cache_dir=None):
    pairs = voc.read_split(root, split)
    return cache.find(pairs, split, num_classes=CLASSES, folders=cache.cache_folders(root, cache_dir))


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def both_ways(drawn, tmp_path_factory) -> tuple[WholeImages, WholeImages]:
    """The same images, decoded at every use and out of the cache."""
    pairs = voc.read_split(drawn, "train")
    folders = [tmp_path_factory.mktemp("both_ways")]
    cache.prepare({"train": pairs}, num_classes=CLASSES, folders=folders)
    decoded = cache.find(pairs, "train", num_classes=CLASSES, folders=folders)
    assert decoded
    plain = WholeImages(pairs, num_classes=CLASSES)
    return plain, WholeImages(pairs, num_classes=CLASSES, decoded=decoded)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(0, 50), st.sampled_from([[1.0, 1.0], [0.5, 2.0]]), st.booleans())
def test_samples_are_the_same_bits_with_and_without(both_ways, index, epoch, scale, subset):
    plain, cached = (images.select([5, 0, 3, 1, 2, 4]) if subset else images for images in both_ways)
    assert equal(plain[index].values(), cached[index].values())
    assert plain.sizes()[index] == cached.sizes()[index] == tuple(plain[index]["mask"].shape)
    transform = TrainTransform((64, 80), AugmentationConfig(scale=scale, flip=0.5, contrast=0.3))
    one, other = (Crops(images, transform, seed=3, stream=1)[epoch, index] for images in (plain, cached))
    assert equal(one.values(), other.values())


def test_a_whole_image_may_be_written_to(both_ways):
    _, cached = both_ways
    before = cached[0]
    cached[0]["image"].fill_(1)
    cached[0]["mask"].fill_(1)
    assert equal(cached[0].values(), before.values())


def test_a_process_that_gets_the_images_gets_the_name_of_the_file(both_ways):
    _, cached = both_ways
    sample = cached[2]
    sent = pickle.dumps(cached)
    assert len(sent) < 3000  # less than a single image
    assert equal(pickle.loads(sent)[2].values(), sample.values())


def test_the_file_is_hardly_larger_than_the_pixels_and_is_announced(prepare, root):
    assert re.fullmatch(rf"cache    6 \+ 3 images decoded, 0\.\d MB in {root}/cache \(made in \d+\.\d s\)", prepare())
    times = {path: path.stat().st_mtime_ns for path in (root / "cache").iterdir()}
    assert prepare().endswith(f"in {root}/cache (found)")
    assert {path: path.stat().st_mtime_ns for path in (root / "cache").iterdir()} == times
    pixels = sum(voc.read_pair(pair, CLASSES)[1].numel() for pair in voc.read_split(root, "train"))
    assert 4 * pixels < found(root).path.stat().st_size < 1.01 * 4 * pixels


def test_changed_data_are_decoded_anew_and_the_former_file_goes(prepare, root):
    prepare()
    prepare(num_classes=CLASSES + 1)  # another reading of the same files has a file of its own
    former, val = found(root).path, found(root, "val").path
    (root / "cache" / f".{'0' * 32}.tmp").write_bytes(b"of a process that was killed")
    pair = voc.read_split(root, "train")[0]
    state = pair.mask.stat()
    mask = Image.open(pair.mask)
    mask.putpixel((0, 0), (mask.getpixel((0, 0)) + 1) % CLASSES)
    mask.save(pair.mask)
    os.utime(pair.mask, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert found(root) is None
    assert "(made in" in prepare()
    assert equal(found(root)[0], voc.read_pair(pair, CLASSES))
    assert not former.exists()
    assert found(root, "val").path == val
    assert len(list((root / "cache").iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut off", "longer", "of other files", "no cache"])
def test_a_damaged_file_is_made_anew(prepare, root, damage):
    prepare()
    path = found(root).path
    content = path.read_bytes()
    others = content[:8] + bytes(32) + content[40:]
    path.write_bytes({"cut off": content[:-1], "longer": content + b"x", "of other files": others}.get(damage, b"x"))
    assert found(root) is None
    assert "(made in" in prepare()
    assert path.read_bytes() == content


def test_the_folder_can_be_chosen_and_the_home_stands_in(prepare, root, home, tmp_path):
    prepare(cache_dir=str(tmp_path / "chosen"))
    assert found(root, cache_dir=str(tmp_path / "chosen")).path.parent == tmp_path / "chosen"
    (root / "cache").write_text("in the way")
    assert f"in {home}/.cache/fcn (made" in prepare()
    assert found(root, "val").path.parent == home / ".cache" / "fcn"


def test_without_a_home_there_is_only_the_root(root, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache.cache_folders(root, None) == [root / "cache"]


def test_an_evaluation_reads_a_cache_that_is_there_and_makes_none(prepare, root):
    data = DataConfig(name=DatasetName.voc, root=str(root), classes=list(shapes.CLASSES))
    assert evaluation_images(data, "val", classes=shapes.CLASSES).decoded is None
    assert not (root / "cache").exists()
    prepare()
    assert evaluation_images(data, "val", classes=shapes.CLASSES).decoded.path.parent == root / "cache"
    data.cache = False
    assert evaluation_images(data, "val", classes=shapes.CLASSES).decoded is None


@pytest.mark.parametrize("obstacle", ["folder", "space"])
def test_without_room_for_a_cache_there_is_a_warning_and_no_cache(prepare, root, tmp_path, monkeypatch, obstacle):
    if obstacle == "folder":
        (tmp_path / "chosen").write_text("in the way")
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    said = prepare(cache_dir=str(tmp_path / "chosen")).splitlines()
    problem = "exists" if obstacle == "folder" else r"0 MB are needed and 0 MB are free"
    assert len(said) == 2
    for line, split in zip(said, ("train", "val"), strict=True):
        assert re.match(rf"images of {split} are decoded at every use, as .*{problem}.*; use data\.cache_dir=", line)
    assert found(root, cache_dir=str(tmp_path / "chosen")) is None


def test_a_broken_pair_is_the_same_error_as_ever_and_leaves_no_file(prepare, root):
    broken = voc.read_split(root, "train")[3]
    broken.image.write_bytes(broken.image.read_bytes()[:700])
    with pytest.raises(DataError) as expected:
        voc.read_pair(broken, CLASSES)
    with pytest.raises(DataError, match=rf"{broken.name}\.jpg must be a readable image: .*; restore it") as error:
        prepare()
    assert str(error.value) == str(expected.value)
    assert not list((root / "cache").iterdir())


def test_of_two_commands_at_once_one_decodes(root, monkeypatch):
    pairs = voc.read_split(root, "train")
    reads: list[str] = []
    read_pair = voc.read_pair
    monkeypatch.setattr(voc, "read_pair", lambda pair, classes: reads.append(pair.name) or read_pair(pair, classes))
    meet = threading.Barrier(2)

    def command() -> None:
        meet.wait()
        cache.prepare({"train": pairs}, num_classes=CLASSES, folders=[root / "cache"])

    both = [threading.Thread(target=command) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(reads) == sorted(pair.name for pair in pairs)
    assert len(list((root / "cache").iterdir())) == 1


def test_nothing_is_read_but_what_is_looked_at(both_ways):
    """Image and mask are views of the mapped file: a page comes into memory when a crop copies out of it."""
    _, cached = both_ways
    storages = {tensor.untyped_storage().data_ptr() for index in (0, 5) for tensor in cached.read(index)}
    assert len(storages) == 1
    assert cached.read(3)[0].untyped_storage().nbytes() == cached.decoded.path.stat().st_size
