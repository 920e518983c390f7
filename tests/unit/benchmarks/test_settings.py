"""Configurations of measured runs, the images that they read, and their memory."""

import mmap
import sys

import pytest
import torch

from benchmarks import settings
from benchmarks.data_pipeline import memory_bytes, torchvision_dataset
from benchmarks.settings import VOC_SIZE, Settings, Variant, make_tree
from fcn.config import ConfigError
from fcn.data import shapes
from fcn.data.split_lists import read_split
from tests.voc_tree import pair_reader


@pytest.fixture
def few(tmp_path):
    variants = [Variant("fp32"), Variant("bf16", compile=True)]
    return Settings(False, rounds=2, steps=1, batch_size=2, size=(64, 96), variants=variants, folder=tmp_path)


def test_drawn_tree_repeats_images_of_voc_size(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MAX_DRAWN", 2)
    pairs = read_split(make_tree(tmp_path / "tree", num_train=3, num_val=2), "train")
    images = [pair_reader(21).read(pair) for pair in pairs]
    assert [tuple(mask.shape) for _, mask in images] == [VOC_SIZE] * 3
    assert torch.equal(images[0][0], images[2][0])
    assert not torch.equal(images[0][0], images[1][0])
    assert len(images[0][1].unique()) >= 3  # background, void, an object
    assert [pair.name for pair in read_split(tmp_path / "tree", "val")] == ["000000", "000001"]


def test_tree_links_images_and_is_readable_by_torchvision(tmp_path, shapes_root):
    source = shapes.ensure_shapes(shapes_root, num_train=2, num_val=1, seed=0)
    tree = make_tree(tmp_path / "tree", num_train=5, source=source)
    first, *_, last = read_split(tree, "train")
    assert first.image.resolve() == last.image.resolve() == read_split(source, "train")[0].image.resolve()
    for scaled in (False, True):
        image, mask = torchvision_dataset(tree, (64, 96), scaled=scaled, floats=True)[0]
        assert (image.shape, image.dtype, mask.shape[-2:]) == ((3, 64, 96), torch.float32, (64, 96))
        assert set(mask.unique().tolist()) <= {*range(6), 255}


def test_overrides_are_applied_last(few):
    config = few.config(few.folder, few.variants[1], "lr=2", "epochs=3")
    assert (config.batch_size, config.data.crop_size, config.epochs) == (2, [64, 96], 3)
    assert (config.trainer.precision.value, config.compile, config.lr) == ("bf16", True, 2)
    assert [str(variant) for variant in few.variants] == ["fp32", "bf16, compiled"]
    with pytest.raises(ConfigError, match="unknown key modl"):
        few.config(few.folder, few.variants[0], "modl=1")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
def test_peak_memory_includes_freed_mappings():
    size = 2**26
    before = memory_bytes("VmRSS")
    with mmap.mmap(-1, size) as block:  # a mapping of its own, because the heap may reuse freed memory
        block.write(bytes(size))
    assert memory_bytes("VmHWM") - before > 0.9 * size
