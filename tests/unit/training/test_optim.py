import io
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, PolynomialLR
from torchvision.models import resnet18
from torchvision.models.convnext import CNBlock

from fcn.config import ConfigError, OptimConfig, OptimName, ScheduleConfig, ScheduleName
from fcn.training.optim import build_optimizer, build_schedule, schedule_factor


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Net(nn.Module):
    """Convolution, norm, score layer and transposed convolution: an FCN in small."""

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
    config = OptimConfig(weight_decay=0.01, head_lr_multiplier=10.0)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.5)
    assert names_by_group(optimizer, net) == {
        "trunk": {"conv.weight"},
        "trunk/no_decay": {"conv.bias", "norm.weight", "norm.bias"},
        "head": {"score.weight", "up.weight"},
        "head/no_decay": {"score.bias", "up.bias"},
    }
    assert options(optimizer, "weight_decay") == {
        "trunk": 0.01,
        "trunk/no_decay": 0.0,
        "head": 0.01,
        "head/no_decay": 0.0,
    }
    assert options(optimizer, "lr") == {
        "trunk": 0.5,
        "trunk/no_decay": 0.5,
        "head": 5.0,
        "head/no_decay": 5.0,
    }


def test_decay_all_decays_everything_that_trains():
    net = Net()
    config = OptimConfig(weight_decay=0.01, decay_all=True)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.5)
    assert list(names_by_group(optimizer, net)) == ["trunk", "head"]
    assert options(optimizer, "weight_decay") == {"trunk": 0.01, "head": 0.01}


@pytest.mark.parametrize("decay_all", [False, True])
def test_frozen_parameters_are_left_out_and_so_are_empty_groups(decay_all):
    net = Net()
    net.up.requires_grad_(False)
    net.score.bias.requires_grad_(False)
    config = OptimConfig(decay_all=decay_all)
    groups = names_by_group(build_optimizer(net, head=iter(net.head()), config=config, lr=0.1), net)
    assert "head/no_decay" not in groups
    assert groups["head"] == {"score.weight"}


def test_a_norm_is_not_decayed_whatever_the_shape_of_its_scale():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.LayerNorm([4, 5, 5]), nn.GroupNorm(2, 4))
    groups = names_by_group(build_optimizer(net, head=[], config=OptimConfig(), lr=0.1), net)
    assert groups == {"trunk": {"0.weight"}, "trunk/no_decay": {"1.weight", "1.bias", "2.weight", "2.bias"}}


def test_a_layer_scale_is_not_decayed_though_it_has_three_axes():
    net = CNBlock(4, layer_scale=1e-6, stochastic_depth_prob=0.0)
    assert net.layer_scale.shape == (4, 1, 1)
    groups = names_by_group(build_optimizer(net, head=[], config=OptimConfig(), lr=0.1), net)
    assert groups["trunk"] == {"block.0.weight", "block.3.weight", "block.5.weight"}
    assert "layer_scale" in groups["trunk/no_decay"]


@pytest.mark.parametrize("decay_all", [False, True])
def test_biases_learn_twice_as_fast_as_in_the_papers(decay_all):
    """Those of norms are no biases: they belong to scales."""
    net = Net()
    config = OptimConfig(weight_decay=0.01, head_lr_multiplier=10.0, bias_lr_multiplier=2.0, decay_all=decay_all)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.5)
    groups = names_by_group(optimizer, net)
    assert groups["trunk/bias"] == {"conv.bias"}
    assert groups["head/bias"] == {"score.bias", "up.bias"}
    assert groups["head"] == {"score.weight", "up.weight"}
    norm = {"norm.weight", "norm.bias"}
    assert groups["trunk"] == ({"conv.weight"} | norm if decay_all else {"conv.weight"})
    assert groups.get("trunk/no_decay", set()) == (set() if decay_all else norm)
    bias_decay = 0.01 if decay_all else 0.0
    assert options(optimizer, "weight_decay") == {
        name: {"/no_decay": 0.0, "/bias": bias_decay}.get(name[name.find("/") :], 0.01) for name in groups
    }
    assert {name: lr for name, lr in options(optimizer, "lr").items() if name.endswith("bias")} == {
        "trunk/bias": 1.0,
        "head/bias": 10.0,
    }
    assert options(optimizer, "lr")["trunk"] == 0.5
    assert options(optimizer, "lr")["head"] == 5.0


def test_frozen_biases_are_in_no_group():
    net = Net()
    net.up.requires_grad_(False)
    optimizer = build_optimizer(net, head=net.head(), config=OptimConfig(bias_lr_multiplier=2.0), lr=0.1)
    assert names_by_group(optimizer, net)["head/bias"] == {"score.bias"}


def test_doubled_biases_are_caffes_update():
    """lr_mult: 2, decay_mult: 0 of biases and lr_mult: 1, decay_mult: 1 of weights, as in the papers' networks."""
    net, plain = Net(), Net()
    config = OptimConfig(name=OptimName.sgd, momentum=0.9, weight_decay=0.01, bias_lr_multiplier=2.0)
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


def test_groups_of_resnet18():
    net = resnet18()
    optimizer = build_optimizer(net, head=net.fc.parameters(), config=OptimConfig(), lr=0.1)
    groups = names_by_group(optimizer, net)
    # 1 stem + 16 in the blocks + 3 shortcuts: 20 convolutions, each with a batch norm of weight and bias.
    assert len(groups["trunk"]) == 20
    assert len(groups["trunk/no_decay"]) == 40
    assert all("conv" in name or "downsample.0" in name for name in groups["trunk"])
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


def test_decay_all_is_plain_sgd_bit_for_bit():
    net, plain = Net(), Net()
    config = OptimConfig(name=OptimName.sgd, momentum=0.0, weight_decay=1e-3, decay_all=True)
    ours = train(net, build_optimizer(net, head=net.head(), config=config, lr=0.1))
    theirs = train(plain, SGD(plain.parameters(), lr=0.1, weight_decay=1e-3))
    start = list(Net().parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(ours, start, strict=True))


def test_momentum_and_nesterov_reach_sgd():
    net, plain = Net(), Net()
    config = OptimConfig(name=OptimName.sgd, momentum=0.8, nesterov=True, weight_decay=0.01, decay_all=True)
    ours = train(net, build_optimizer(net, head=net.head(), config=config, lr=0.1))
    theirs = train(plain, SGD(plain.parameters(), lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01))
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))  # ours is fused


def test_betas_reach_adamw():
    net, plain = Net(), Net()
    config = OptimConfig(name=OptimName.adamw, betas=[0.8, 0.95], weight_decay=0.01, decay_all=True)
    optimizer = build_optimizer(net, head=net.head(), config=config, lr=0.01)
    assert isinstance(optimizer, AdamW)
    theirs = train(plain, AdamW(plain.parameters(), lr=0.01, betas=(0.8, 0.95), weight_decay=0.01, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(train(net, optimizer), theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        # warm-up of 4 steps in 12, then t = (step - 4) / 8; asked at steps 0, 1, 3, 4, 6, 8, 12 and beyond
        (ScheduleName.constant, [1 / 4, 2 / 4, 1, 1, 1, 1, 1, 1]),
        (ScheduleName.poly, [1 / 4, 2 / 4, 1, 1, 0.75**2, 0.5**2, 0, 0]),
        (ScheduleName.cosine, [1 / 4, 2 / 4, 1, 1, 0.5 * (1 + math.sqrt(0.5)), 0.5, 0, 0]),
    ],
)
def test_factors_by_hand(name, factors):
    config = ScheduleConfig(name=name, power=2.0, warmup_steps=4)
    steps = [0, 1, 3, 4, 6, 8, 12, 13]
    assert [schedule_factor(config, step, 12) for step in steps] == pytest.approx(factors, abs=1e-15)


def test_by_default_the_warm_up_is_a_tenth_of_the_run():
    config = ScheduleConfig(name=ScheduleName.cosine)
    assert schedule_factor(config, 0, 175) == pytest.approx(1 / 17)
    assert schedule_factor(config, 16, 175) == schedule_factor(config, 17, 175) == 1
    assert schedule_factor(config, 0, 4) == 1  # none in a run of a few steps


@given(
    name=st.sampled_from(ScheduleName),
    power=st.floats(0, 10),
    total_steps=st.integers(1, 500),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_factors_rise_to_one_and_never_leave_0_to_1(name, power, total_steps, data):
    warmup_steps = data.draw(st.integers(0, total_steps - 1))
    config = ScheduleConfig(name=name, power=power, warmup_steps=warmup_steps)
    factors = [schedule_factor(config, step, total_steps) for step in range(total_steps + 3)]
    rise, fall = factors[:warmup_steps], factors[warmup_steps:]
    assert fall[0] == 1
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)
    assert min(factors[:total_steps]) > 0  # every step of the run moves the weights


def rates(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (
            ScheduleConfig(name=ScheduleName.poly, power=0.9, warmup_steps=0),
            lambda optimizer: PolynomialLR(optimizer, total_iters=50, power=0.9),
        ),
        (
            ScheduleConfig(name=ScheduleName.cosine, warmup_steps=0),
            lambda optimizer: CosineAnnealingLR(optimizer, T_max=50),
        ),
    ],
)
def test_schedules_are_those_of_torch(config, reference):
    ours, theirs = (SGD([nn.Parameter(torch.zeros(1))], lr=0.3) for _ in range(2))
    expected = rates(theirs, reference(theirs), 51)
    assert rates(ours, build_schedule(ours, config, total_steps=50), 51) == pytest.approx(expected, abs=1e-12)


def test_every_group_keeps_its_own_peak():
    net = Net()
    optimizer = build_optimizer(net, head=net.head(), config=OptimConfig(head_lr_multiplier=10.0), lr=0.1)
    config = ScheduleConfig(name=ScheduleName.constant, warmup_steps=2)
    schedule = build_schedule(optimizer, config, total_steps=4)
    assert options(optimizer, "lr")["trunk"] == pytest.approx(0.05)
    assert options(optimizer, "lr")["head"] == pytest.approx(0.5)
    optimizer.step()
    schedule.step()
    assert options(optimizer, "lr")["trunk"] == pytest.approx(0.1)
    assert options(optimizer, "lr")["head"] == pytest.approx(1.0)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(80, 80), (100, 80), (1, 1)])
def test_a_warm_up_longer_than_the_run_is_refused(warmup_steps, total_steps):
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    message = (
        rf"schedule.warmup_steps \(={warmup_steps}\) must be below the number of steps of the run "
        rf"\(={total_steps}\); use schedule.warmup_steps={total_steps // 10} or more epochs"
    )
    with pytest.raises(ConfigError, match=message):
        build_schedule(optimizer, ScheduleConfig(warmup_steps=warmup_steps), total_steps=total_steps)


def test_a_checkpoint_is_plain_data_and_goes_on_with_the_same_rates():
    config = ScheduleConfig(name=ScheduleName.poly, warmup_steps=3)

    def built() -> tuple[Optimizer, LRScheduler]:
        net = Net()
        optimizer = build_optimizer(net, head=net.head(), config=OptimConfig(head_lr_multiplier=2.0), lr=0.1)
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
