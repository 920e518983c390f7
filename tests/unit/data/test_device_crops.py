"""Crops made on the device equal those of the loader."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import default_collate

from fcn.config import AugmentationConfig, Config, ConfigError
from fcn.data import shapes
from fcn.data.dataset_options import ShapesConfig, ShapesData
from fcn.data.datasets import Crops, WholeImages, collate
from fcn.data.device_crops import DeviceCrops, DrawnChanges, require_memory
from fcn.data.module import VOCDataModule
from fcn.data.transforms import TrainTransform

CPU = torch.device("cpu")
PLAIN = AugmentationConfig()
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


class Noise(WholeImages):
    """Random images of the given heights and widths, in memory."""

    def __init__(self, sizes):
        rng = np.random.default_rng(sizes)
        self.pixels = [torch.from_numpy(rng.integers(0, 256, (*size, 4), np.uint8)) for size in sizes]

    def __len__(self):
        return len(self.pixels)

    def read(self, index):
        pixels = self.pixels[index]
        return pixels[..., :3].permute(2, 0, 1), pixels[..., 3]

    def sizes(self):
        return [tuple(pixels.shape[:2]) for pixels in self.pixels]


def batches_of_both(
    sizes, crop, augmentation, *, seed=0, device=CPU, **options
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a batch with every image twice, from the loader and from the device."""
    crops = Crops(Noise(sizes), TrainTransform(crop, augmentation, **options), seed=seed, stream=1)
    keys = [(epoch, index) for index in range(len(sizes)) for epoch in range(2)]
    drawn = DrawnChanges(crops)
    made = DeviceCrops(crops.images, crops.transform, device)(default_collate([drawn[key] for key in keys]))
    return collate([crops[key] for key in keys]), {name: values.cpu() for name, values in made.items()}


sides = st.integers(1, 40)
sizes = st.lists(st.tuples(sides, sides), min_size=1, max_size=4)
scales = st.one_of(
    st.just([1.0, 1.0]), st.just([0.5, 2.0]), st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted)
)


EVERY_CHANGE = AugmentationConfig(scale=[0.5, 2.0], flip=0.5, grayscale=0.5, blur=0.5, rotation=40, **JITTER)


@pytest.mark.parametrize(("ratio", "short_side"), [(1.0, None), (0.5, None), (1.0, 45)])
def test_device_crops_equal_loader_crops_with_all_changes(ratio, short_side):
    sizes = [(37, 50), (50, 33), (64, 64)]
    augmentation = replace(EVERY_CHANGE, short_side=short_side)
    expected, actual = batches_of_both(sizes, (32, 48), augmentation, cat_max_ratio=ratio)
    assert all(torch.equal(actual[name], expected[name]) for name in ("image", "mask"))
    assert actual["image"].stride() == expected["image"].stride()


@settings(deadline=None, max_examples=40)
@given(sizes, st.tuples(sides, sides), scales, st.booleans(), st.integers(0, 2**32))
@example([(30, 40)], (8, 1), [0.5, 0.5], False, 0)
def test_device_crops_equal_loader_crops(sizes, crop, scale, jitter, seed):
    augmentation = AugmentationConfig(scale=scale, flip=0.5, **(JITTER if jitter else {}))
    expected, actual = batches_of_both(sizes, crop, augmentation, seed=seed)
    assert torch.equal(actual["mask"], expected["mask"])
    assert actual["image"].stride() == expected["image"].stride()
    # A part of an image that is one pixel wide in the crop is scaled in floating point by the loader, see _resample.
    narrow = 1 in expected["mask"].shape[2:] or ((expected["mask"] != 255).any(1).sum(1) == 1).any()
    if not narrow:
        assert torch.equal(actual["image"], expected["image"])
    elif not jitter:
        assert (actual["image"].int() - expected["image"].int()).abs().max() <= 1


def test_device_crops_equal_loader_crops_at_voc_size():
    for augmentation in (PLAIN, AugmentationConfig(scale=[0.5, 2.0], flip=0.5, contrast=0.4)):
        expected, actual = batches_of_both([(375, 500), (500, 333)], (320, 480), augmentation)
        assert all(torch.equal(actual[name], expected[name]) for name in ("image", "mask"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scale", [[1.0, 1.0], [0.5, 2.0], [0.1, 10.0]])
def test_gpu_crops_equal_loader_crops(scale):
    options = {"sizes": [(375, 500), (500, 333), (90, 70), (1, 7)], "crop": (320, 480), "device": torch.device("cuda")}
    expected, actual = batches_of_both(augmentation=AugmentationConfig(scale=scale, flip=0.5), **options)
    assert torch.equal(actual["mask"], expected["mask"])
    assert torch.equal(actual["image"], expected["image"])
    expected, actual = batches_of_both(augmentation=AugmentationConfig(scale=scale, flip=0.5, **JITTER), **options)
    assert torch.equal(actual["mask"], expected["mask"])
    difference = (actual["image"].int() - expected["image"].int()).abs()
    assert (difference > 2).double().mean() < 1e-3  # one level before a hue shift can become several


def test_images_must_fit_into_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000_000, 80_000_000))
    require_memory(3_000_000, num_images=7, device=torch.device("cuda", 0))
    with pytest.raises(
        ConfigError, match=r"data\.on_device \(=true\) needs 4 MB on cuda:0 for 7 images, and 3 MB are free; use"
    ):
        require_memory(4_000_000, num_images=7, device=torch.device("cuda", 0))


def module_of(root, **changes) -> VOCDataModule:
    size = ShapesConfig(num_train=8, num_val=5)
    data = ShapesData(root=str(root), classes=list(shapes.CLASSES), shapes=size, crop_size=[64, 64], **changes)
    return VOCDataModule(Config(name="x", data=data, batch_size=4))


def trainer_on(device: str) -> SimpleNamespace:
    """Return the attributes of a trainer that the data module reads, at the start of a run."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    epochs = SimpleNamespace(current=SimpleNamespace(processed=0))
    fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress), epoch_progress=epochs)
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(global_rank=0, world_size=1, strategy=strategy, fit_loop=fit_loop)


def test_data_module_gives_identical_batches_with_on_device(shapes_root):
    data = module_of(shapes_root, augmentation=AugmentationConfig(scale=[0.5, 2.0], flip=0.5))
    data.trainer = trainer_on("cpu")
    data.prepare_data()
    data.setup("fit")
    usual = [data.transfer_batch_to_device(batch, CPU, 0) for batch in data.train_dataloader()]
    data.config.data.on_device = True
    made = [data.transfer_batch_to_device(batch, CPU, 0) for batch in data.train_dataloader()]
    assert len(usual) == len(made) == 2
    for one, other in zip(usual, made, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
