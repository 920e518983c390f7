"""Trees of links, and configurations of what is measured."""

import mmap

import pytest
import torch

from benchmarks import settings
from benchmarks.data import Watch, torchvision_set
from benchmarks.settings import VOC_SIZE, Settings, Variant, make_tree
from fcn.config import ConfigError
from fcn.data import shapes, voc


@pytest.fixture
def few(tmp_path):
    variants = [Variant("fp32"), Variant("bf16", compile=True)]
    return Settings(False, rounds=2, steps=1, batch_size=2, size=(64, 96), variants=variants, folder=tmp_path)


def test_a_drawn_tree_is_voc_of_its_size_and_longer_than_what_was_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "DRAWN", 2)
    pairs = voc.read_split(make_tree(tmp_path / "tree", num_train=3, num_val=2), "train")
    images = [voc.read_pair(pair, 21) for pair in pairs]
    assert [tuple(mask.shape) for _, mask in images] == [VOC_SIZE] * 3
    assert torch.equal(images[0][0], images[2][0])
    assert not torch.equal(images[0][0], images[1][0])
    assert len(images[0][1].unique()) >= 3  # background, void, an object
    assert [pair.name for pair in voc.read_split(tmp_path / "tree", "val")] == ["000000", "000001"]


def test_images_of_ones_own_are_linked_and_torchvision_reads_the_tree(tmp_path, shapes_root):
    source = shapes.ensure_shapes(shapes_root, num_train=2, num_val=1, seed=0)
    tree = make_tree(tmp_path / "tree", num_train=5, source=source)
    first, *_, last = voc.read_split(tree, "train")
    assert first.image.resolve() == last.image.resolve() == voc.read_split(source, "train")[0].image.resolve()
    for scaled in (False, True):
        image, mask = torchvision_set(tree, (64, 96), scaled=scaled, floats=True)[0]
        assert (image.shape, image.dtype, mask.shape[-2:]) == ((3, 64, 96), torch.float32, (64, 96))
        assert set(mask.unique().tolist()) <= {*range(6), 255}


def test_what_is_typed_comes_last(few):
    config = few.config(few.folder, few.variants[1], "lr=2", "epochs=3")
    assert (config.batch_size, config.data.crop_size, config.epochs) == (2, [64, 96], 3)
    assert (config.trainer.precision.value, config.compile, config.lr) == ("bf16", True, 2)
    assert [str(variant) for variant in few.variants] == ["fp32", "bf16, compiled"]
    with pytest.raises(ConfigError, match="unknown key modl"):
        few.config(few.folder, few.variants[0], "modl=1")


@pytest.mark.skipif(not settings.Path("/proc/self/smaps_rollup").exists(), reason="Linux")
def test_memory_that_is_touched_is_seen_and_stays_the_peak():
    zeros = bytes(2**24)
    size = len(zeros)
    # A mapping of its own: the heap keeps what others have freed.
    with Watch() as watch, mmap.mmap(-1, 2 * size) as block:
        block.write(zeros)
        watch._over.wait(0.1)
    assert watch.peak - watch.before == pytest.approx(size, rel=0.1)
