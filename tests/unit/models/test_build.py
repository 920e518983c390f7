"""What a user relies on: a finer FCN goes on from a coarser one with all that they share, and says what."""

import pytest
import torch

from fcn.config import BackboneConfig, ModelConfig
from fcn.config.choices import BackboneName, ModelName
from fcn.models.fcn import FCN
from fcn.models.network import build_model
from fcn.models.weights import copy_fitting
from tests.unit.models.backbone_cases import every_head


def build(head: ModelName, *, backbone: BackboneName = BackboneName.squeezenet1_0, num_classes: int = 3) -> FCN:
    """A network in which every weight is random, so that a copy is seen."""
    model = build_model(ModelConfig(name=head), BackboneConfig(name=backbone), num_classes=num_classes)
    assert isinstance(model, FCN)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


STAGES = [
    (
        ModelName.fcn32s,
        ModelName.fcn16s,
        {"score_fr", "upscore.bias"},
        ["skip_scores.0.weight", "skip_scores.0.bias", "skip_upscores.0.weight", "skip_upscores.0.bias"],
    ),
    (
        ModelName.fcn16s,
        ModelName.fcn8s,
        {"score_fr", "skip_scores.0", "skip_upscores.0", "upscore.bias"},
        ["skip_scores.1.weight", "skip_scores.1.bias", "skip_upscores.1.weight", "skip_upscores.1.bias"],
    ),
]


@pytest.mark.parametrize(("coarse", "fine", "copied_layers", "new"), STAGES, ids=["32s to 16s", "16s to 8s"])
def test_a_finer_fcn_takes_over_all_but_its_new_skip_and_the_last_kernel(
    coarse: ModelName, fine: ModelName, copied_layers: set[str], new: list[str]
) -> None:
    torch.manual_seed(0)
    before, after = build(coarse), build(fine)
    untouched = {key: value.clone() for key, value in after.state_dict().items()}
    copied, kept, left = copy_fitting(after, before.state_dict())
    assert {key for key in copied if key.startswith("backbone.")} == {
        key for key in after.state_dict() if key.startswith("backbone.")
    }
    heads = {key for key in copied if not key.startswith("backbone.")}
    assert {key if key == "upscore.bias" else key.rpartition(".")[0] for key in heads} == copied_layers
    assert sorted(kept) == sorted([*new, "upscore.weight"])
    assert left == ["upscore.weight"]
    state = after.state_dict()
    assert all(torch.equal(state[key], before.state_dict()[key]) for key in copied)
    assert all(torch.equal(state[key], untouched[key]) for key in kept)


@every_head
def test_the_same_network_is_taken_over_whole(head: ModelName) -> None:
    first, second = build(head), build(head)
    copied, kept, left = copy_fitting(second, first.state_dict())
    assert (kept, left) == ([], [])
    assert copied == list(second.state_dict())
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_other_classes_keep_the_backbone_only() -> None:
    copied, kept, left = copy_fitting(build(ModelName.fcn32s), build(ModelName.fcn32s, num_classes=4).state_dict())
    assert all(key.startswith("backbone.") for key in copied)
    assert kept == left == ["score_fr.weight", "score_fr.bias", "upscore.weight", "upscore.bias"]


def test_a_head_without_its_backbone_is_worth_nothing() -> None:
    """The score layers of ResNet-18 and SqueezeNet have the same shape, and read other features."""
    model = build(ModelName.fcn32s)
    untouched = {key: value.clone() for key, value in model.state_dict().items()}
    state = build(ModelName.fcn32s, backbone=BackboneName.resnet18).state_dict()
    copied, kept, left = copy_fitting(model, state)
    assert copied == []
    assert (kept, left) == (list(untouched), list(state))
    assert all(torch.equal(value, untouched[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_one_baseline_takes_over_anothers_backbone() -> None:
    resnet = BackboneConfig(name=BackboneName.resnet50)
    with torch.device("meta"):  # names and shapes alone
        plain, atrous = (
            build_model(ModelConfig(name=name), resnet, num_classes=3)
            for name in (ModelName.fcn_resnet50, ModelName.deeplabv3_resnet50)
        )
    copied, kept, _ = copy_fitting(atrous, plain.state_dict())
    backbone = {key for key in atrous.state_dict() if key.startswith("network.backbone.")}
    assert {key for key in copied if key.startswith("network.backbone.")} == backbone
    assert all(key.startswith("network.classifier.") for key in kept)
