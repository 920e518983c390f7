"""Activation checkpointing: the same gradients, statistics and random numbers, with fewer stored activations."""

import copy
import warnings

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from fcn.config import ConfigError
from fcn.config.composition import compose
from fcn.models.activation_checkpointing import Recomputed, blocks, checkpoint_activations
from fcn.models.network import SegmentationNetwork

SIDE = 64
IMAGES = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
TIMM = ("backbone=timm",)
SMP = ("model=smp", "backbone=smp")

slow = pytest.mark.slow
NETWORKS = [
    ("backbone=resnet18", "model=fcn8s", "model.auxiliary_weight=0.4"),
    (*TIMM, "backbone.name=tf_efficientnet_lite0"),
    ("backbone=convnext_tiny",),  # with stochastic depth
    pytest.param(("backbone=resnet18", "model.freeze_batchnorm=true"), marks=slow),
    pytest.param(("backbone=mobilenet_v3_large", "backbone.output_stride=8"), marks=slow),
    pytest.param(("backbone=squeezenet1_0", "model=conv_head"), marks=slow),
    pytest.param(("backbone=vgg16_bn",), marks=pytest.mark.exhaustive),  # with dropout
    pytest.param((*TIMM, "backbone.name=densenet121"), marks=slow),  # lists of feature maps grow after a block
    pytest.param((*TIMM, "backbone.name=hrnet_w18_small"), marks=pytest.mark.exhaustive),
    pytest.param((*TIMM, "backbone.name=swin_tiny_patch4_window7_224"), marks=pytest.mark.exhaustive),
    pytest.param((*TIMM, "backbone.name=vit_tiny_patch16_224"), marks=slow),
    pytest.param(("model=torchvision", "model.name=lraspp_mobilenet_v3_large"), marks=slow),
    pytest.param((*SMP, "model.name=fpn", "backbone.name=resnet18"), marks=slow),
]


def build(*overrides: str) -> SegmentationNetwork:
    """Build the network in training mode; stochastic depth, which timm's networks have, drops blocks."""
    torch.manual_seed(0)
    network = SegmentationNetwork(compose(f"data.crop_size=[{SIDE},{SIDE}]", *overrides)).train()
    for module in network.modules():
        if isinstance(getattr(module, "drop_path", None), nn.Identity):
            module.drop_path = DropPath(0.3)
    return network


def step(network: SegmentationNetwork) -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
    """Return gradients and random state after a forward and backward pass, and the bytes stored between them."""
    torch.manual_seed(1)
    network.zero_grad()
    known = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network.all_logits(IMAGES)
    torch.stack([each.square().mean() for each in logits]).sum().backward()
    gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return gradients, torch.get_rng_state(), sum(sizes.values())


@pytest.mark.parametrize("overrides", NETWORKS, ids=str)
def test_no_bit_changes_and_less_is_stored(overrides):
    if "model=smp" in overrides:
        pytest.importorskip("segmentation_models_pytorch")
    plain = build(*overrides)
    network = copy.deepcopy(plain)
    checkpoint_activations(network, IMAGES)
    assert network.training
    assert list(network.state_dict()) == list(plain.state_dict())
    for _ in range(2):  # the second step continues from the statistics of the first
        expected, state, stored = step(plain)
        gradients, own_state, own_stored = step(network)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.equal(gradients[name], gradient), name
        for name, value in plain.state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name
        assert torch.equal(own_state, state)
        assert own_stored < 0.75 * stored  # that of the heads is the same


def test_running_statistics_are_updated_once():
    """torch's checkpoint updates them in the backward pass too; the count of batches is the reference."""
    network = build("backbone=resnet18")
    checkpoint_activations(network, IMAGES)
    step(network)
    counts = [value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert len(counts) == 20
    assert {int(count) for count in counts} == {1}


def test_blocks_of_a_resnet_are_its_basic_blocks_and_its_first_layers():
    network = build("backbone=resnet18")
    chains = network.model.backbone.chain_layers()
    chosen = list(blocks(chains, called=set(nn.ModuleList(chains).modules())))
    assert [type(block).__name__ for block in chosen] == ["Sequential", *["BasicBlock"] * 8]
    assert [type(layer).__name__ for layer in chosen[0]] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]


def test_copy_computes_with_its_own_weights():
    """Averaged weights are a copy of the network."""
    network = build("backbone=resnet18")
    checkpoint_activations(network, IMAGES)
    average = copy.deepcopy(network)
    block = average.get_submodule("model.backbone.layers.layer1.0")
    assert isinstance(block.forward, Recomputed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        features = torch.rand(1, 64, 8, 8)
        assert torch.equal(block(features), features)  # of the shortcut
        assert not torch.equal(network.get_submodule("model.backbone.layers.layer1.0")(features), features)


def test_backbone_without_blocks_is_an_error():
    """timm's VGG calls its layers one by one."""
    network = build(*TIMM, "backbone.name=vgg11_bn")
    with pytest.raises(ConfigError, match=r"activation_checkpointing \(=true\) must be false with backbone=vgg11_bn"):
        checkpoint_activations(network, IMAGES)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_second_forward_pass_has_the_precision_of_the_first(precision):
    """The backward pass of a training step is outside of autocast."""
    gradients = []
    for is_checkpointed in (False, True):
        network = build("backbone=resnet18")
        if is_checkpointed:
            checkpoint_activations(network, IMAGES)
        with warnings.catch_warnings(), torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
            warnings.simplefilter("error")
            loss = network(IMAGES).float().square().mean()
        loss.backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name
