"""Rules of the proposed run."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fcn
from fcn.config import option
from fcn.training.memory import Machine
from fcn.training.proposal import RECIPES, Proposal, propose

CPU = Machine("CPU", 0, 16 * 2**30)
GPU = Machine("GPU", 1, 80 * 2**30)
DATA = option("data", "voc", classes=["background", "cat", "dog"])


def statistics(
    images: int = 1000, size: tuple[float, float] = (375, 500), side: float = 100, weights: tuple = (0.5, 1.0, 2.0)
) -> dict:
    rows = {name: {"weight": weight} for name, weight in zip(DATA.classes, weights, strict=True)}
    axes = {axis: {"median": value} for axis, value in zip(("height", "width"), size, strict=True)}
    return {"images": images, "classes": rows, "region_side": {"lower_quartile": side, "median": 2 * side}, **axes}


def proposal(
    train: dict | None = None, machine: Machine = CPU, *, data=DATA, num_val=100, given=(), single=0.1
) -> Proposal:
    return propose(
        data,
        train or statistics(),
        num_val=num_val,
        machine=machine,
        given=frozenset(given),
        measure_crops=lambda size, augmentation: {"size": size, "foreground_share": 0.3, "single_class_share": single},
    )


def overrides(*arguments, **options) -> dict[str, str]:
    """Return the proposed overrides by key."""
    suggestions = proposal(*arguments, **options).suggestions
    return dict(each.text.split("=", 1) for each in suggestions if each.is_override)


@pytest.mark.parametrize(
    ("size", "machine", "crop"),
    [
        ((375, 500), CPU, "[256,256]"),
        ((375, 500), GPU, "[352,480]"),
        ((130, 127), CPU, "[128,96]"),
        ((3000, 4000), GPU, "[512,512]"),
        ((20, 500), CPU, "[32,256]"),
    ],
)
def test_crop_is_the_median_image_in_multiples_of_32(size, machine, crop):
    assert overrides(statistics(size=size), machine)["data.crop_size"] == crop


@pytest.mark.parametrize(
    ("side", "scale", "stride"),
    [(224, 1, "32"), (223, 1, "16"), (112, 1, "16"), (111, 1, "8"), (10, 1, "8"), (224, 0.5, "16"), (447, 0.5, "16")],
)
def test_small_regions_cover_seven_cells(side, scale, stride):
    data = option("data", "voc", classes=DATA.classes)
    data = replace(data, augmentation=replace(data.augmentation, scale=[scale, 2.0]))
    scaled = overrides(statistics(side=side), data=data, given={"data.augmentation.scale"})
    assert scaled["model"] == f"fcn{stride}s"
    assert overrides(statistics(side=side), GPU, data=data)["backbone.output_stride"] == stride


@pytest.mark.parametrize(
    ("images", "batch"), [(1, "1"), (2, "2"), (3, "2"), (39, "2"), (40, "4"), (79, "4"), (80, "8"), (5000, "8")]
)
def test_small_sets_have_small_batches(images, batch):
    assert overrides(statistics(images=images))["batch_size"] == batch


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (1, "at most 8, and at least 1; 1 images are too few for 10 steps per epoch; "),
        (12, "at most 8, and at least 2; 12 images are too few for 10 steps per epoch; "),
        (19, "at most 8, and at least 2; 19 images are too few for 10 steps per epoch; "),
        (20, "at most 8, and at least 10 steps per epoch; "),
    ],
)
def test_reason_of_the_batch_names_the_smallest_one(images, reason):
    (line,) = [each.reason for each in proposal(statistics(images)).suggestions if "batch_size" in each.text]
    assert line.startswith(reason)


@given(images=st.integers(1, 300), num_gpus=st.integers(0, 3))
def test_epoch_has_as_many_steps_as_the_reason_says(images, num_gpus):
    suggestions = proposal(statistics(images), replace(GPU, num_gpus=num_gpus)).suggestions
    ((text, reason),) = [(each.text, each.reason) for each in suggestions if "batch_size" in each.text]
    assert ("at least 10 steps" in reason) == (images // int(text.partition("=")[2]) >= 10)


def test_batch_and_then_crop_shrink_until_they_fit():
    """8 crops of 256x256 take 8 * 256 * 256 * (1672 + 16 * 3) bytes, and 3.1 M weights 16 bytes each."""
    crop = 256 * 256 * (1672 + 48)
    weights = 16 * 3_100_000

    def keys(memory: float) -> tuple[str, str]:
        chosen = overrides(machine=replace(CPU, memory=2 * int(memory)))  # half of which may be used
        return chosen["batch_size"], chosen["data.crop_size"]

    assert keys(8 * crop + weights) == ("8", "[256,256]")
    assert keys(8 * crop + weights - 1) == ("4", "[256,256]")
    assert keys(2 * crop + weights) == ("2", "[256,256]")
    assert keys(2 * crop + weights - 1) == ("2", "[224,256]")
    assert keys(weights) == ("2", "[32,32]")


@pytest.mark.parametrize(
    ("images", "num_gpus", "batch", "trainer", "lr"),
    [(1000, 4, "16", None, "0.01"), (1000, 3, "15", None, "0.009375"), (30, 2, "2", "gpu", "0.00125")],
)
def test_batch_is_shared_equally_by_the_gpus(images, num_gpus, batch, trainer, lr):
    chosen = overrides(statistics(images=images), replace(GPU, num_gpus=num_gpus))
    assert (chosen["batch_size"], chosen.get("trainer"), chosen["lr"]) == (batch, trainer, lr)


@pytest.mark.parametrize(
    ("images", "num_val", "epochs", "every"),
    [
        (700, 200, "30", "2"),
        (1464, 1449, "14", "7"),
        (50_000, 100, "1", "1"),
        (20, 5, "200", "10"),
        (700, 50_000, "30", "30"),
    ],
)
def test_length_is_a_number_of_crops(images, num_val, epochs, every):
    """30 epochs of 700 images are 21,000 crops; 20 validations of 200 images are a fifth of 20,000."""
    chosen = overrides(statistics(images=images), num_val=num_val)
    assert (chosen["epochs"], chosen["trainer.val_every"]) == (epochs, every)


@pytest.mark.parametrize(("weight", "proposed"), [(10.1, "median_frequency"), (10.0, None)])
def test_class_weights_are_for_rare_classes(weight, proposed):
    assert overrides(statistics(weights=(0.1, None, weight))).get("loss.class_weights") == proposed
    lines = {
        each.text.partition("=")[0]: each.reason for each in proposal(statistics(weights=(1, weight, 1))).suggestions
    }
    assert f"cat is {weight:.1f} times rarer" in lines["loss.class_weights"]


@pytest.mark.parametrize(("share", "ratio"), [(0.34, "0.95"), (0.33, None)])
def test_crops_of_one_class_are_drawn_again_if_there_are_many(share, ratio):
    assert overrides(single=share).get("data.cat_max_ratio") == ratio


def test_keys_that_are_given_are_not_proposed():
    data = option("data", "voc", classes=DATA.classes, crop_size=[64, 500])
    result = proposal(data=data, given={"data.crop_size", "data.root"})
    assert result.crops["size"] == (64, 500)
    assert "data.crop_size" not in {each.text.partition("=")[0] for each in result.suggestions}


def test_objects_larger_than_the_crop_are_mentioned():
    (reason,) = [each.reason for each in proposal(statistics(side=129)).suggestions if "crop_size" in each.text]
    assert "half of the regions (258x258 or more) are larger: scale the images down first" in reason
    (reason,) = [each.reason for each in proposal(statistics(side=128)).suggestions if "crop_size" in each.text]
    assert "larger" not in reason


@given(
    images=st.integers(1, 20_000),
    size=st.tuples(st.integers(1, 6000), st.integers(1, 6000)),
    side=st.floats(1, 3000),
    num_gpus=st.integers(0, 9),
    gib=st.floats(0.1, 200),
)
def test_batches_can_be_drawn_and_shared(images, size, side, num_gpus, gib):
    chosen = overrides(statistics(images, size, side), Machine("x", num_gpus, int(gib * 2**30)))
    batch_size, devices = int(chosen["batch_size"]), 1 if "trainer" in chosen else max(1, num_gpus)
    assert 1 <= batch_size <= images
    assert batch_size % devices == 0
    assert all(int(side) % 32 == 0 for side in chosen["data.crop_size"].strip("[]").split(","))


@pytest.mark.parametrize(
    ("name", "dataset", "machine"), [("cpu", "folders", CPU), ("gpu", "voc", GPU), ("shapes", "shapes", CPU)]
)
def test_every_recipe_composes(name, dataset, machine):
    recipe, classes = RECIPES[name], option("data", dataset).classes or DATA.classes
    train = {**statistics(side=1000), "classes": {each: {"weight": 11} for each in classes}}
    suggestions = proposal(train, machine, data=option("data", dataset), single=1).suggestions
    words = [f"data={dataset}", *(each.text for each in suggestions)]
    config = fcn.compose(*words, *([f"data.classes=[{','.join(classes)}]"] if dataset == "folders" else []))
    assert config.data.name == config.name == dataset
    assert config.model.name == "fcn32s" or config.backbone.output_stride == 32
    assert config.loss.class_weights == "median_frequency"
    assert config.data.cat_max_ratio == min(recipe.cat_max_ratio, 0.95)
    assert config.data.train_split == "train"
    assert config.data.augmentation.short_side is None
    assert (config.epochs, config.steps) == (round(recipe.num_crops / 1000) if name != "gpu" else 200, None)
    assert tuple(config.data.augmentation.scale) == recipe.scale or recipe.scale is None
    assert config.batch_size == recipe.batch_size
