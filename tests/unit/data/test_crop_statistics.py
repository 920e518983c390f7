"""Sizes of images and regions, and the classes in random crops."""

import numpy as np
import pytest
import torch

from fcn.config import AugmentationConfig
from fcn.data.crop_statistics import CROPS_PER_IMAGE, crop_statistics, size_statistics
from fcn.data.split_lists import split_entries
from fcn.data.statistics import read_split_files
from fcn.data.transforms import TrainTransform
from tests.voc_tree import make_voc_tree, pair_reader


def test_sizes_are_those_worked_out_by_hand():
    sizes = [(4, 10), (8, 2), (6, 6)]
    # Regions without the background: 9 and 25 pixels in the first image, 16 in the second.
    counts = np.array([[6, 9, 25, 0], [0, 16, 0, 0], [30, 0, 0, 6]])
    assert size_statistics(sizes, counts) == {
        "height": {"minimum": 4, "median": 6, "maximum": 8},
        "width": {"minimum": 2, "median": 6, "maximum": 10},
        "region_side": {"lower_quartile": 3.5, "median": 4},
    }


def test_images_of_background_have_no_region():
    assert size_statistics([(2, 3)], np.array([[5, 0, 1]]))["region_side"] is None


@pytest.mark.parametrize("crop_size", [(20, 30), (48, 40)])
def test_crops_are_those_of_training(crop_size):
    """The masks are small enough to be kept whole; crops without scaling then have the same pixels as in training."""
    rng = np.random.default_rng(0)
    blocks = [rng.choice([0, 0, 1, 2, 255], (5, 6)) for _ in range(6)] + [np.full((5, 6), 255), np.zeros((5, 6))]
    masks = [np.kron(block, np.ones((9, 8))).astype(np.uint8) for block in blocks]
    transform = TrainTransform(crop_size, AugmentationConfig())
    foreground, single = [], []
    for index, mask in enumerate(masks):
        draws = np.random.default_rng(index)
        for _ in range(CROPS_PER_IMAGE):
            _, crop = transform(torch.zeros(3, *mask.shape, dtype=torch.uint8), torch.from_numpy(mask), draws)
            labels = crop.numpy()[crop.numpy() != 255]
            if labels.size:
                foreground.append((labels > 0).mean())
                single.append(np.unique(labels, return_counts=True)[1].max() >= 0.95 * labels.size)
    sizes = [mask.shape for mask in masks]
    measured = crop_statistics(sizes, masks, crop_size=crop_size, augmentation=AugmentationConfig())
    assert measured["foreground_share"] == pytest.approx(np.mean(foreground))
    assert measured["single_class_share"] == pytest.approx(np.mean(single))
    assert 0 < measured["single_class_share"] < 1


def test_large_masks_are_thinned_to_the_same_shares(tmp_path):
    """A mask whose left quarter is class 1, of 300 x 200 pixels: all crops of the image's size have 25 % of it."""
    mask = np.zeros((300, 200), np.uint8)
    mask[:, :50] = 1
    make_voc_tree(tmp_path, {"a": mask}, {"train": "a"})
    reading = read_split_files(split_entries(tmp_path, "train"), pair_reader(2))
    (thin,) = reading.thin_masks
    assert thin.shape == (60, 50)
    assert reading.sizes == [(300, 200)]
    measured = crop_statistics(
        reading.sizes, reading.thin_masks, crop_size=(300, 200), augmentation=AugmentationConfig()
    )
    assert measured == {
        "size": [300, 200],
        "foreground_share": pytest.approx(0.25, abs=0.02),
        "single_class_share": 0.0,
    }


def test_crops_that_are_all_void_do_not_count():
    void = np.full((8, 8), 255, np.uint8)
    measured = crop_statistics([(8, 8)], [void], crop_size=(8, 8), augmentation=AugmentationConfig())
    assert measured == {"size": [8, 8], "foreground_share": 0.0, "single_class_share": 0.0}
