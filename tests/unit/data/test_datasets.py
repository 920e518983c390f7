"""Transforms of training crops: random numbers, refused results, and their place in a run."""

import numpy as np
import pytest
import torch
from torch import Tensor

import fcn
from fcn.config import AugmentationConfig, ConfigError, TransformConfig, components
from fcn.data.datasets import Crops, WholeImages
from fcn.data.split_lists import read_split
from fcn.data.transforms import TrainTransform
from tests.voc_tree import make_voc_tree, pair_reader


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> WholeImages:
    root = tmp_path_factory.mktemp("set")
    masks = {name: np.eye(20, 30) for name in "abc"}
    make_voc_tree(root, masks, {"train": masks})
    return WholeImages(read_split(root, "train"), reader=pair_reader(2))


def crops(images: WholeImages, **transforms) -> Crops:
    transform = TrainTransform((8, 8), AugmentationConfig(flip=0.5))
    return Crops(images, transform, seed=3, stream=1, transforms=transforms)


def add_noise(image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    noise = torch.from_numpy(rng.integers(0, 9, image.shape, np.uint8))
    return image // 2 + noise, mask


def invert(image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    rng.random(7)
    return 255 - image, 1 - mask.clamp(max=1)


def test_transforms_change_the_augmented_crop_in_their_order(images):
    plain = crops(images)[2, 1]
    both = crops(images, invert=invert, noise=add_noise)[2, 1]
    noise = crops(images, noise=add_noise)[2, 1]["image"] - plain["image"] // 2
    assert torch.equal(both["image"], (255 - plain["image"]) // 2 + noise)  # the noise does not depend on `invert`
    assert torch.equal(both["mask"], 1 - plain["mask"])


def test_random_numbers_of_a_transform_depend_on_seed_epoch_image_and_name(images):
    drawn = {}

    def record(image, mask, rng):
        drawn[key, name] = rng.random()
        return image, mask

    for name in ("one", "other"):
        dataset = crops(images, **{name: record})
        for key in [(0, 0), (0, 1), (1, 0), (0, 0)]:
            again = drawn.get((key, name))
            dataset[key]
            assert again in (None, drawn[key, name])
    assert len(set(drawn.values())) == len(drawn) == 6


@pytest.mark.parametrize(
    "result",
    [lambda i, m, rng: (i.float(), m), lambda i, m, rng: (i, m.long()), lambda i, m, rng: (i[:, 1:], m[1:])],
)
def test_other_types_and_sizes_are_refused(images, result):
    with pytest.raises(ConfigError, match=r"^transforms \(=mine\) must return image and mask in uint8 and of the same"):
        crops(images, mine=result)[0, 0]


def test_mask_with_a_value_that_is_no_class_is_refused(images):
    void = crops(images, mine=lambda image, mask, rng: (image, torch.full_like(mask, 255)))[0, 0]["mask"]
    assert void.unique().tolist() == [255]
    number = images.num_classes
    with pytest.raises(ConfigError, match=rf"^transforms \(=mine\) must return a mask .* but returns \[{number}\]; "):
        crops(images, mine=lambda image, mask, rng: (image, torch.full_like(mask, number)))[0, 0]


def test_transforms_of_a_run_are_built_and_refused_on_the_device(monkeypatch):
    monkeypatch.setitem(components._options, "transforms", {})

    @fcn.component("transforms", "test_invert")
    class InvertConfig(TransformConfig):
        """Inverted colours."""

        share: float = fcn.setting(1.0, "probability", low=0, high=1)

        def build(self):
            return lambda image, mask, rng: (255 - image, mask) if rng.random() < self.share else (image, mask)

    config = fcn.compose("transforms=[test_invert]", "transforms.test_invert.share=0.5")
    assert config.transforms["test_invert"].share == 0.5
    with pytest.raises(ConfigError, match=r"data\.on_device \(=true\) must be false with transforms=\[test_invert\]"):
        fcn.compose("transforms=[test_invert]", "data.on_device=true")
