"""Order, augmentation and sharing of the images of a run."""

from collections import Counter
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fcn import config as configuration
from fcn.config import AugmentationConfig, Config, ConfigError
from fcn.config.choices import Exif, Protocol
from fcn.data import shapes
from fcn.data.cache import DecodedImages
from fcn.data.dataset_options import ShapesConfig, ShapesData, VocData
from fcn.data.datasets import AUGMENTATION, Crops, WholeImages, build_crops
from fcn.data.module import VOCDataModule
from fcn.data.sampling import EpochBatches
from fcn.data.split_lists import Pair
from fcn.data.transforms import TrainTransform
from fcn.errors import DataError
from tests.voc_tree import VOC, make_voc_tree, pair_reader


def shapes_config(root, **changes) -> Config:
    data = ShapesData(
        root=str(root), classes=list(shapes.CLASSES), shapes=ShapesConfig(num_train=8, num_val=5), crop_size=[64, 64]
    )
    for key, value in changes.items():
        if hasattr(data, key):
            setattr(data, key, value)
    return Config(name="x", data=data, batch_size=changes.get("batch_size", 4))


sizes = st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))  # images, images per rank, ranks


@given(sizes, st.integers(0, 3), st.integers(0, 5))
def test_ranks_share_every_global_batch(size, seed, epoch):
    num_images, share, world = size
    batch_size = share * world
    if num_images < batch_size:
        return
    alone = EpochBatches(num_images, batch_size=batch_size, position=lambda: 0, seed=seed)
    steps = len(alone)
    alone.position = lambda: epoch * steps
    ranks = [
        EpochBatches(num_images, batch_size=batch_size, position=alone.position, seed=seed, rank=r, world_size=world)
        for r in range(world)
    ]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert Counter(key for part in parts for key in part) == Counter(whole)
        assert {len(part) for part in parts} == {share}
        assert {key[0] for key in whole} == {epoch}
    seen = [index for batch in alone for _, index in batch]
    assert len(set(seen)) == len(seen) == steps * batch_size


@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 60))
def test_resumed_order_is_the_rest_of_the_uninterrupted_order(num_images, batch_size, done):
    if num_images < batch_size:
        return
    batches = EpochBatches(num_images, batch_size=batch_size, position=lambda: 0, seed=7)
    steps = len(batches)
    uninterrupted = []
    for epoch in range(done // steps + 1):
        batches.position = lambda epoch=epoch: epoch * steps
        uninterrupted += list(batches)
    batches.position = lambda: done
    assert list(batches) == uninterrupted[done:]


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return EpochBatches(50, batch_size=5, position=lambda: 0, seed=seed).order(epoch)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(3, 9)) == list(range(50))


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=30), st.integers(1, 9))
def test_validation_batches_contain_every_image_once_and_one_size_each(sizes, batch_size):
    starts = list(accumulate((4 * height * width for height, width in sizes), initial=0))
    decoded = DecodedImages(Path("absent"), sizes, starts[:-1])
    batches = WholeImages(
        [Pair("x", Path("x"), Path("x"))] * len(sizes), reader=pair_reader(2), decoded=decoded
    ).batches(batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert all(len(batch) <= batch_size and len({sizes[index] for index in batch}) == 1 for batch in batches)
    assert len(batches) == sum(-(-count // batch_size) for count in Counter(sizes).values())
    if batch_size == 1:
        assert batches == [[index] for index in range(len(sizes))]


@pytest.mark.parametrize("val_batch_size", [None, 3])
def test_ranks_share_the_validation_batches(module, val_batch_size):
    """The composition of a batch does not depend on the number of ranks; a rank without images has an empty batch."""

    def shares(world):
        batches = []
        for rank in range(world):
            config = replace(module.config, trainer=replace(module.config.trainer, val_batch_size=val_batch_size))
            data = VOCDataModule(config)
            root_device = torch.device("cpu")
            data.trainer = SimpleNamespace(
                global_rank=rank, world_size=world, strategy=SimpleNamespace(root_device=root_device)
            )
            data.setup("fit")
            (loader,) = data.val_dataloader()
            batches.append(list(loader.batch_sampler))
            assert [len(batch["image"]) for batch in loader] == [len(indices) for indices in batches[-1]]
        return batches

    (alone,) = shares(1)
    for world in (2, 7):
        assert sorted(batch for share in shares(world) for batch in share if batch) == sorted(alone)
        assert all(shares(world))  # otherwise Lightning would skip the validation of a rank
    assert alone == module.val_images.batches(val_batch_size or 1)


@pytest.fixture(scope="module")
def module(shapes_root):
    data = VOCDataModule(shapes_config(shapes_root))
    data.prepare_data()
    data.setup("fit")
    return data


def crops(module, seed=0):
    augmentation = AugmentationConfig(scale=[0.5, 2.0], flip=0.5, brightness=0.4, hue=0.1)
    return Crops(module.train_images, TrainTransform((64, 64), augmentation), seed=seed, stream=AUGMENTATION)


def test_sample_is_a_function_of_seed_epoch_and_index(module):
    first = crops(module)[1, 3]
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    again = crops(module)[1, 3]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])
    for other in (crops(module)[2, 3], crops(module, seed=1)[1, 3], crops(module)[1, 4]):
        assert not torch.equal(first["image"], other["image"])


def test_crops_of_a_configuration_are_those_of_its_loader(module):
    """With cat_max_ratio, which the synthetic images reach, and augmentation; in whole batches of the first epoch."""
    augmentation = AugmentationConfig(scale=[0.5, 2.0], flip=0.5, brightness=0.4)
    changed = replace(module.config.data, augmentation=augmentation, cat_max_ratio=0.75)
    data = VOCDataModule(replace(module.config, data=changed))
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(
        epoch_loop=SimpleNamespace(batch_progress=progress),
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)),
    )
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy, fit_loop=loop)
    data.setup("fit")
    loader = data.train_dataloader()
    crops = build_crops(data.train_images, data.config)
    for keys, batch in zip(list(loader.batch_sampler), loader, strict=True):
        assert torch.equal(torch.stack([crops[key]["image"] for key in keys]), batch["image"])
        assert torch.equal(torch.stack([crops[key]["mask"] for key in keys]), batch["mask"])


@pytest.mark.parametrize("enabled", [True, False])
def test_cache_can_be_disabled(shapes_root, tmp_path, enabled):
    data = VOCDataModule(shapes_config(shapes_root, cache=enabled, cache_dir=str(tmp_path)))
    data.prepare_data()
    data.setup("fit")
    assert len(list(tmp_path.iterdir())) == (2 if enabled else 0)
    assert (data.train_images.decoded is not None) == (data.val_images.decoded is not None) == enabled


def test_d2l_protocol_drops_images_smaller_than_the_crop(shapes_root):
    config = shapes_config(shapes_root, protocol=Protocol.d2l, crop_size=[110, 110], batch_size=1)
    data = VOCDataModule(config)
    data.prepare_data()
    data.setup("fit")
    everything = VOCDataModule(shapes_config(shapes_root))
    everything.setup("fit")
    fitting = [min(everything.train_images[i]["mask"].shape) >= 110 for i in range(len(everything.train_images))]
    assert len(data.train_images) == sum(fitting)
    assert data.dropped == len(fitting) - sum(fitting)
    assert 0 < data.dropped < 8
    assert len(data.val_images) == 5  # validation keeps all images


def test_d2l_protocol_needs_an_image_as_large_as_the_crop(shapes_root):
    config = shapes_config(shapes_root, protocol=Protocol.d2l, crop_size=[400, 400])
    with pytest.raises(DataError, match=r"data.crop_size \(=400x400\) must fit into an image"):
        VOCDataModule(config).setup("fit")


def test_batch_size_must_not_exceed_the_dataset(shapes_root):
    config = shapes_config(shapes_root, batch_size=16)
    data = VOCDataModule(config)
    data.prepare_data()
    with pytest.raises(ConfigError, match=r"batch_size \(=16\) must not exceed the 8 images .* use batch_size=8"):
        data.setup("fit")


def test_synthetic_dataset_has_its_own_classes(shapes_root):
    config = shapes_config(shapes_root, classes=list(configuration.VOC_CLASSES))
    with pytest.raises(ConfigError, match=r"data\.classes must be those of the synthetic dataset"):
        configuration.validate_run(configuration.to_container(config))


@pytest.mark.parametrize(
    ("saved", "step", "total_steps", "expected"),
    [
        (None, 0, 10, (0, 4)),
        (None, 6, 10, (4, 8)),  # a checkpoint of earlier versions, whose rounds were epochs
        ([8, 10], 9, 20, (8, 10)),  # the shorter last round of a run that is extended
        ([8, 10], 10, 20, (10, 14)),
        ([4, 8], 5, 7, (4, 7)),
        ([4, 8], 8, 8, (8, 12)),  # after the last round: nothing is left
        ([4, 8], 5, 5, None),
        ([4, 8], 8, 7, None),
    ],
)
def test_round_of_a_resumed_run(module, saved, step, total_steps, expected):
    trainer = replace(module.config.trainer, val_every_steps=4)
    data = VOCDataModule(replace(module.config, epochs=None, steps=total_steps, trainer=trainer))
    data.setup("fit")
    data.load_state_dict({**module.state_dict(), "round": saved})
    if expected is None:
        with pytest.raises(ConfigError, match=rf"steps \(={total_steps}\) must give more steps than the {step}"):
            data._rounds_from(step)
    else:
        assert data._rounds_from(step).at(step) == expected


def test_resume_with_other_images_needs_permission(module):
    state = module.state_dict()
    module.load_state_dict(state)
    other = {"images": len(module.val_images), "sha256": "0" * 64}
    changed = {**state, "fingerprint": {**state["fingerprint"], "val": other}}
    with pytest.raises(ConfigError, match=r"data.root \(=.*\) contains other images .*; .* add 'allow=\[data\]'"):
        module.load_state_dict(changed)
    allowing = VOCDataModule(replace(module.config, allow=["data"]))
    allowing.setup("fit")
    allowing.trainer = module.trainer
    allowing.load_state_dict(changed)
    with pytest.raises(ConfigError, match=r"contains other images .* start a new run with model.init_from"):
        allowing.load_state_dict({**changed, "steps_per_epoch": module.steps_per_epoch + 1})


@pytest.mark.parametrize("upright", [False, True])
def test_orientation_is_known_without_a_cache(tmp_path, upright):
    make_voc_tree(tmp_path, {"a": [[0, 1]], "b": [[0, 1]]}, {"train": "a", "val": "b"})
    path = tmp_path / VOC / "JPEGImages/b.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    keys = {"classes": ["background", "cat"], "exif": Exif.apply if upright else None}
    data = VOCDataModule(Config(name="x", data=VocData(root=str(tmp_path), cache=False, **keys), batch_size=1))
    data.setup("fit")
    assert data.state_dict()["ignores_exif"] is not upright


def test_crops_of_the_d2l_metrics_have_no_augmentation_that_the_chapter_lacks(shapes_root):
    augmentation = AugmentationConfig(flip=0.5, grayscale=1, blur=1, rotation=90)
    config = shapes_config(shapes_root, protocol=Protocol.d2l, augmentation=augmentation, batch_size=1)
    data = VOCDataModule(config)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, current_epoch=0, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    data.setup("fit")
    _, loader = data.val_dataloader()
    assert loader.dataset.transform == TrainTransform((64, 64), AugmentationConfig(flip=0.5))
    with pytest.raises(
        ConfigError, match=r"data\.augmentation\.rotation \(=90\.?0?\) must be 0 with data\.protocol=d2l"
    ):
        configuration.validate_run(configuration.to_container(config))


def test_message_on_other_images_names_the_extra_folders(tmp_path):
    for name in ("one", "two"):
        make_voc_tree(tmp_path / name, {"a": [[0, 1]], "b": [[0, 1]]}, {"train": "a", "val": "b"})
    keys = {"root": str(tmp_path / "one"), "extra_roots": [str(tmp_path / "two")], "cache": False}
    config = Config(name="x", data=VocData(classes=["background", "cat"], **keys), batch_size=1)
    data = VOCDataModule(config)
    data.setup("fit")
    state = data.state_dict()
    (tmp_path / "two").rename(tmp_path / "three")
    config.data.extra_roots = [str(tmp_path / "three")]
    moved = VOCDataModule(config)
    moved.setup("fit")
    with pytest.raises(
        ConfigError, match=r"data\.root \(=.*\) with data\.extra_roots .* whose folder names .* contains other images"
    ):
        moved.load_state_dict(state)
