import io
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.models import resnet18
from torchvision.models.convnext import CNBlock

from fcn.config import option
from fcn.training.optim import build_optimizer
from fcn.training.optimizer_options import AdamWConfig, SgdConfig
from fcn.training.schedules import build_schedule


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Net(nn.Module):
    """Small FCN: convolution, norm, score layer and transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.score = nn.Conv2d(4, 2, 1)
        self.up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)

    def forward(self, images):
        return self.up(self.score(self.norm(self.conv(images)).relu()))

    def head(self) -> list[nn.Parameter]:
        return [*self.score.parameters(), *self.up.parameters()]


def names_by_group(optimizer: Optimizer, model: nn.Module) -> dict[str, set[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {group["name"]: {names[parameter] for parameter in group["params"]} for group in optimizer.param_groups}


def options(optimizer: Optimizer, option: str) -> dict[str, float]:
    return {group["name"]: group[option] for group in optimizer.param_groups}


def test_only_convolution_weights_are_decayed():
    net = Net()
    config = AdamWConfig(weight_decay=0.01, head_lr_multiplier=10.0)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.5)
    assert names_by_group(optimizer, net) == {
        "backbone": {"conv.weight"},
        "backbone/no_decay": {"conv.bias", "norm.weight", "norm.bias"},
        "head": {"score.weight", "up.weight"},
        "head/no_decay": {"score.bias", "up.bias"},
    }
    assert options(optimizer, "weight_decay") == {
        "backbone": 0.01,
        "backbone/no_decay": 0.0,
        "head": 0.01,
        "head/no_decay": 0.0,
    }
    assert options(optimizer, "lr") == {
        "backbone": 0.5,
        "backbone/no_decay": 0.5,
        "head": 5.0,
        "head/no_decay": 5.0,
    }


def test_decay_all_decays_all_trainable_parameters():
    net = Net()
    config = AdamWConfig(weight_decay=0.01, decay_all=True)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.5)
    assert list(names_by_group(optimizer, net)) == ["backbone", "head"]
    assert options(optimizer, "weight_decay") == {"backbone": 0.01, "head": 0.01}


@pytest.mark.parametrize("decay_all", [False, True])
def test_frozen_parameters_and_empty_groups_are_left_out(decay_all):
    net = Net()
    net.up.requires_grad_(False)
    net.score.bias.requires_grad_(False)
    config = AdamWConfig(decay_all=decay_all)
    groups = names_by_group(build_optimizer(net, head=iter(net.head()), config=config, lr=0.1), net)
    assert "head/no_decay" not in groups
    assert groups["head"] == {"score.weight"}


def test_norms_are_not_decayed_for_any_shape():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.LayerNorm([4, 5, 5]), nn.GroupNorm(2, 4))
    groups = names_by_group(build_optimizer(net, head=[], config=AdamWConfig(), lr=0.1), net)
    assert groups == {"backbone": {"0.weight"}, "backbone/no_decay": {"1.weight", "1.bias", "2.weight", "2.bias"}}


def test_layer_scales_are_not_decayed():
    net = CNBlock(4, layer_scale=1e-6, stochastic_depth_prob=0.0)
    assert net.layer_scale.shape == (4, 1, 1)
    groups = names_by_group(build_optimizer(net, head=[], config=AdamWConfig(), lr=0.1), net)
    assert groups["backbone"] == {"block.0.weight", "block.3.weight", "block.5.weight"}
    assert "layer_scale" in groups["backbone/no_decay"]


@pytest.mark.parametrize("decay_all", [False, True])
def test_bias_lr_multiplier_makes_own_groups(decay_all):
    """Biases of norms stay with their scales."""
    net = Net()
    config = AdamWConfig(weight_decay=0.01, head_lr_multiplier=10.0, bias_lr_multiplier=2.0, decay_all=decay_all)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.5)
    groups = names_by_group(optimizer, net)
    assert groups["backbone/bias"] == {"conv.bias"}
    assert groups["head/bias"] == {"score.bias", "up.bias"}
    assert groups["head"] == {"score.weight", "up.weight"}
    norm = {"norm.weight", "norm.bias"}
    assert groups["backbone"] == ({"conv.weight"} | norm if decay_all else {"conv.weight"})
    assert groups.get("backbone/no_decay", set()) == (set() if decay_all else norm)
    bias_decay = 0.01 if decay_all else 0.0
    assert options(optimizer, "weight_decay") == {
        name: {"/no_decay": 0.0, "/bias": bias_decay}.get(name[name.find("/") :], 0.01) for name in groups
    }
    assert {name: lr for name, lr in options(optimizer, "lr").items() if name.endswith("bias")} == {
        "backbone/bias": 1.0,
        "head/bias": 10.0,
    }
    assert options(optimizer, "lr")["backbone"] == 0.5
    assert options(optimizer, "lr")["head"] == 5.0


def test_frozen_biases_are_left_out():
    net = Net()
    net.up.requires_grad_(False)
    optimizer = build_optimizer(net, head=net.head(), config=AdamWConfig(bias_lr_multiplier=2.0), lr=0.1)
    assert names_by_group(optimizer, net)["head/bias"] == {"score.bias"}


def test_backbone_lr_multiplier():
    net = Net()
    config = AdamWConfig(head_lr_multiplier=10.0, bias_lr_multiplier=2.0)
    backbone = option("backbone", "resnet18", lr_multiplier=0.1)
    rates = options(build_optimizer(net, head=net.head(), config=config, lr=0.5, backbone=backbone), "lr")
    assert rates == {
        "backbone": 0.05,
        "backbone/no_decay": 0.05,
        "backbone/bias": 0.1,
        "head": 5.0,
        "head/bias": 10.0,
    }


class Layered(nn.Module):
    """Backbone of two layers, the second with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.backbone.layer_ids = lambda: {f"{n}.{kind}": min(n, 1) for n in range(3) for kind in ("weight", "bias")}
        self.score = nn.Conv2d(4, 2, 1)


def test_layer_decay_makes_groups_of_every_layer():
    """The head follows the last layer, which therefore has the factor layer_decay."""
    net = Layered()
    backbone = SimpleNamespace(lr_multiplier=0.5, layer_decay=0.8)
    optimizer = build_optimizer(net, head=net.score.parameters(), config=AdamWConfig(), lr=1.0, backbone=backbone)
    assert names_by_group(optimizer, net) == {
        "head": {"score.weight"},
        "head/no_decay": {"score.bias"},
        "backbone.0": {"backbone.0.weight"},
        "backbone.0/no_decay": {"backbone.0.bias"},
        "backbone.1": {"backbone.1.weight"},
        "backbone.1/no_decay": {"backbone.1.bias", "backbone.2.weight", "backbone.2.bias"},
    }
    first, second = pytest.approx(0.5 * 0.64), pytest.approx(0.5 * 0.8)
    assert list(options(optimizer, "lr").values()) == [1.0, 1.0, first, first, second, second]


def test_doubled_bias_lr_equals_caffe_update():
    """lr_mult: 2, decay_mult: 0 of biases and lr_mult: 1, decay_mult: 1 of weights, as in the papers' networks."""
    net, plain = Net(), Net()
    config = SgdConfig(momentum=0.9, weight_decay=0.01, bias_lr_multiplier=2.0)
    ours = train(net, build_optimizer(net, head=net.head(), config=config, lr=0.05))
    kinds = {False: {"lr": 0.05, "weight_decay": 0.01}, True: {"lr": 0.1, "weight_decay": 0.0}}
    groups = [
        {"params": [parameter], **kinds[name.endswith("bias")]}
        for name, parameter in plain.named_parameters()
        if not name.startswith("norm")
    ]
    norms = {"params": list(plain.norm.parameters()), "lr": 0.05, "weight_decay": 0.0}
    theirs = train(plain, SGD([*groups, norms], lr=0.05, momentum=0.9))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_parameter_groups_of_resnet18():
    net = resnet18()
    optimizer = build_optimizer(net, head=net.fc.parameters(), config=AdamWConfig(), lr=0.1)
    groups = names_by_group(optimizer, net)
    # 1 stem + 16 in the blocks + 3 shortcuts: 20 convolutions, each with a batch norm of weight and bias.
    assert len(groups["backbone"]) == 20
    assert len(groups["backbone/no_decay"]) == 40
    assert all("conv" in name or "downsample.0" in name for name in groups["backbone"])
    assert groups["head"] == {"fc.weight"}
    assert groups["head/no_decay"] == {"fc.bias"}


def train(net: nn.Module, optimizer: Optimizer, steps: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(2, 3, 6, 6, generator=generator)
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


def test_decay_all_is_bit_identical_to_torch_sgd():
    net, plain = Net(), Net()
    config = SgdConfig(momentum=0.0, weight_decay=1e-3, decay_all=True)
    ours = train(net, build_optimizer(net, head=net.head(), config=config, lr=0.1))
    theirs = train(plain, SGD(plain.parameters(), lr=0.1, weight_decay=1e-3))
    start = list(Net().parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(ours, start, strict=True))


def test_momentum_and_nesterov_are_passed_to_sgd():
    net, plain = Net(), Net()
    config = SgdConfig(momentum=0.8, nesterov=True, weight_decay=0.01, decay_all=True)
    ours = train(net, build_optimizer(net, head=net.head(), config=config, lr=0.1))
    theirs = train(plain, SGD(plain.parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01))
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))  # ours is fused


def test_betas_are_passed_to_adamw():
    net, plain = Net(), Net()
    config = AdamWConfig(betas=[0.8, 0.95], weight_decay=0.01, decay_all=True)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.01)
    assert isinstance(optimizer, AdamW)
    theirs = train(plain, AdamW(plain.parameters(), lr=0.01, betas=(0.8, 0.95), weight_decay=0.01, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(train(net, optimizer), theirs, strict=True))


def test_schedule_scales_peak_lr_of_each_group():
    net = Net()
    optimizer = build_optimizer(net, head=net.head(), config=AdamWConfig(head_lr_multiplier=10.0), lr=0.1)
    config = option("schedule", "constant", warmup_steps=2)
    schedule = build_schedule(optimizer, config, total_steps=4)
    assert options(optimizer, "lr")["backbone"] == pytest.approx(0.05)
    assert options(optimizer, "lr")["head"] == pytest.approx(0.5)
    optimizer.step()
    schedule.step()
    assert options(optimizer, "lr")["backbone"] == pytest.approx(0.1)
    assert options(optimizer, "lr")["head"] == pytest.approx(1.0)


def rates(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_saved_state_is_plain_data_and_restores_learning_rates():
    config = option("schedule", "poly", warmup_steps=3)

    def built() -> tuple[Optimizer, LRScheduler]:
        net = Net()
        optimizer = build_optimizer(net, head=net.head(), config=AdamWConfig(head_lr_multiplier=2.0), lr=0.1)
        return optimizer, build_schedule(optimizer, config, total_steps=20)

    optimizer, schedule = built()
    rates(optimizer, schedule, 8)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, resumed_schedule = built()
    resumed.load_state_dict(saved["optimizer"])
    resumed_schedule.load_state_dict(saved["schedule"])
    assert [group["name"] for group in resumed.param_groups] == list(options(optimizer, "lr"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates(resumed, resumed_schedule, 12) == rates(optimizer, schedule, 12)
