"""Every optimiser takes the steps of its library, decays the weights of some groups only, and resumes bit for bit."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import timm.optim
import torch
from timm.optim.muon import Muon
from torch import nn
from torch.optim import Optimizer

from fcn.config import ConfigError, option, options
from fcn.training.optim import apply_settings, build_optimizer
from fcn.training.schedules import build_schedule

# Options with keys that differ from their defaults, and the optimisers of the libraries with the same settings.
OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[Any], Optimizer]]] = {
    "sgd": (
        {"momentum": 0.8, "nesterov": True},
        lambda groups: torch.optim.SGD(groups, momentum=0.8, nesterov=True, fused=True),
    ),
    "adamw": (
        {"betas": [0.8, 0.95], "eps": 1e-4, "amsgrad": True},
        lambda groups: torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-4, amsgrad=True, fused=True),
    ),
    "adam": (
        {"betas": [0.8, 0.95], "eps": 1e-4, "amsgrad": True},
        lambda groups: torch.optim.Adam(groups, betas=(0.8, 0.95), eps=1e-4, amsgrad=True, fused=True),
    ),
    "nadam": (
        {"betas": [0.8, 0.95], "momentum_decay": 0.01, "decoupled_decay": True},
        lambda groups: torch.optim.NAdam(groups, betas=(0.8, 0.95), momentum_decay=0.01, decoupled_weight_decay=True),
    ),
    "radam": (
        {"betas": [0.8, 0.7], "decoupled_decay": True},
        lambda groups: torch.optim.RAdam(groups, betas=(0.8, 0.7), decoupled_weight_decay=True),
    ),
    "rmsprop": (
        {"alpha": 0.9, "momentum": 0.5, "centered": True, "eps": 1e-4},
        lambda groups: torch.optim.RMSprop(groups, alpha=0.9, momentum=0.5, centered=True, eps=1e-4),
    ),
    "adagrad": (
        {"lr_decay": 0.01, "initial_accumulator": 0.1, "eps": 1e-4},
        lambda groups: torch.optim.Adagrad(groups, lr_decay=0.01, initial_accumulator_value=0.1, eps=1e-4),
    ),
    "lion": ({"betas": [0.8, 0.95]}, lambda groups: timm.optim.Lion(groups, betas=(0.8, 0.95))),
    "lamb": (
        {"betas": [0.8, 0.95], "eps": 1e-4, "trust_clip": True},
        lambda groups: timm.optim.Lamb(groups, betas=(0.8, 0.95), eps=1e-4, trust_clip=True, max_grad_norm=None),
    ),
    "lars": (
        {"momentum": 0.5, "nesterov": True, "trust_coefficient": 0.1},
        lambda groups: timm.optim.Lars(groups, momentum=0.5, nesterov=True, trust_coeff=0.1),
    ),
    "adan": (
        {"betas": [0.9, 0.8, 0.95], "eps": 1e-4},
        lambda groups: timm.optim.Adan(groups, betas=(0.9, 0.8, 0.95), eps=1e-4),
    ),
    "adopt": (
        {"betas": [0.8, 0.95], "eps": 1e-4},
        lambda groups: timm.optim.Adopt(groups, betas=(0.8, 0.95), eps=1e-4, decoupled=True),
    ),
    "muon": (
        {"betas": [0.8, 0.9], "momentum": 0.9, "nesterov": False},
        lambda groups: Muon(groups, betas=(0.8, 0.9), momentum=0.9, nesterov=False, adjust_lr_fn="match_rms_adamw"),
    ),
}


class Net(nn.Module):
    """Convolution and norm, which are the backbone, and a score layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.score = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        return self.score(self.norm(self.conv(images).relu()))


def build(net: Net, name: str, *, lr: float = 0.02, **keys: Any) -> Optimizer:
    config = option("optim", name, head_lr_multiplier=3.0, **keys)
    return build_optimizer(net, head=net.score.parameters(), config=config, lr=lr)


def take_steps(net: Net, optimizer: Optimizer, steps: range, after: Callable[[], object] = lambda: None):
    """Take optimiser steps, each with the images of its number; return the parameters."""
    for step in steps:
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
        after()
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def test_every_option_is_tested():
    assert OPTIMIZERS.keys() == options("optim").keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_library(name):
    keys, reference = OPTIMIZERS[name]
    net, plain = Net(), Net()
    ours = take_steps(net, build(net, name, weight_decay=0.1, **keys), range(6))
    groups = [
        {
            "params": [parameter],
            "lr": 0.06 if each.startswith("score") else 0.02,
            "weight_decay": 0.1 if each in ("conv.weight", "score.weight") else 0.0,
        }
        for each, parameter in plain.named_parameters()
    ]
    theirs = take_steps(plain, reference(groups), range(6))
    for each, parameter in theirs.items():
        assert torch.equal(ours[each], parameter), each
        assert not torch.equal(dict(Net().named_parameters())[each], parameter), each


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_decayed_groups_depend_on_weight_decay(name):
    states, gradients = [], Net()
    gradients(torch.ones(2, 3, 6, 6)).square().mean().backward()
    for decay in (0.0, 2.0):
        net = Net()
        optimizer = build(net, name, weight_decay=decay)
        for parameter, source in zip(net.parameters(), gradients.parameters(), strict=True):
            parameter.grad = source.grad.clone()
        for _ in range(3):
            optimizer.step()
        states.append(net.state_dict())
    changed = {each for each in states[0] if not torch.equal(states[0][each], states[1][each])}
    assert changed == {"conv.weight", "score.weight"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restored_state_continues_bit_for_bit(name):
    """The checkpoint holds settings of another configuration, which must not replace those of the resumed run."""
    schedule_config = option("schedule", "poly")

    def build_all(**keys):
        net = Net()
        optimizer = build(net, name, **keys)
        return net, optimizer, build_schedule(optimizer, schedule_config, total_steps=8)

    net, optimizer, schedule = build_all(weight_decay=0.1)
    take_steps(net, optimizer, range(4), schedule.step)
    file = io.BytesIO()
    saved_groups = [{**group, "lr": 9.0, "weight_decay": 9.0} for group in optimizer.state_dict()["param_groups"]]
    state = {**optimizer.state_dict(), "param_groups": saved_groups}
    torch.save([net.state_dict(), state, schedule.state_dict()], file)
    uninterrupted = take_steps(net, optimizer, range(4, 8), schedule.step)

    file.seek(0)
    weights, state, position = torch.load(file, weights_only=True)
    resumed, restored, schedule = build_all(weight_decay=0.1)
    resumed.load_state_dict(weights)
    restored.load_state_dict(state)
    schedule.load_state_dict(position)
    apply_settings(build(Net(), name, weight_decay=0.1), to=restored, schedule=schedule)
    for each, parameter in take_steps(resumed, restored, range(4, 8), schedule.step).items():
        assert torch.equal(parameter, uninterrupted[each]), each


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("adan", {"betas": [0.9, 0.9]}, r"optim.betas .* must be three numbers: \[0.98,0.92,0.99\]"),
        ("lion", {"betas": [0.9]}, "optim.betas .* must be two numbers"),
        ("lars", {"momentum": 0.0, "nesterov": True}, "optim.nesterov .* must have optim.momentum above 0"),
    ],
)
def test_invalid_keys(name, keys, message):
    with pytest.raises(ConfigError, match=message):
        option("optim", name, **keys).check(None)
