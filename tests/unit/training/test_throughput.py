"""Operations of a training step, times of steps with a clock set by hand, and what a run reports."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fcn
from fcn.config.choices import Precision
from fcn.models.network import SegmentationNetwork
from fcn.training import throughput
from fcn.training.throughput import Speed, count_training_operations, peak_of

SMALL = ("trainer=cpu", "data.crop_size=[64,96]")


def build(*overrides):
    return SegmentationNetwork(fcn.compose(*SMALL, *overrides), pretrained=False).train()


def macs_of_forward(network):
    """Multiplications of all convolutions of a forward pass, and whether their input and weight need gradients."""
    counted = []

    def note(layer, inputs, output):
        # Each element of the output, or of the input of a transposed convolution, takes this many per group.
        cells = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output).numel()
        weight = layer.weight
        counted.append((cells * weight[0].numel(), inputs[0].requires_grad, weight.requires_grad))

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    network.all_logits(torch.zeros(2, 3, 64, 96))
    for hook in hooks:
        hook.remove()
    return counted


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model=fcn8s", "backbone=mobilenet_v3_large"),
        ("backbone.trainable=false",),
        ("model/init=frozen",),
        ("model.auxiliary_weight=0.4", "backbone=resnet50"),
    ],
    ids=["fcn32s", "grouped convolutions", "frozen backbone", "frozen kernels", "auxiliary head"],
)
def test_operations_equal_a_count_by_hooks(overrides):
    network = build(*overrides)
    # Two operations for a multiplication and its addition, and as many for the gradients of input and weight.
    operations = [2 * macs * (1 + of_input + of_weight) for macs, of_input, of_weight in macs_of_forward(network)]
    assert count_training_operations(network) == sum(operations) / 2  # the hooks see a batch of two images


def test_counting_changes_neither_the_network_nor_the_random_state():
    network, state = build("model=conv_head", "model.dropout=0.5", "backbone=resnet50"), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    modes = [module.training for module in network.modules()]
    count_training_operations(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in network.named_buffers())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, in seconds."""
    times = SimpleNamespace(now=100.0)
    monkeypatch.setattr(throughput.time, "monotonic", lambda: times.now)
    return times


def step(speed, clock, *, waiting, computing, images=8):
    clock.now += waiting
    speed.batch_arrived()
    clock.now += computing
    speed.step_done(images)


def test_speed_counts_waiting_but_not_pauses(clock):
    speed = Speed()
    assert (speed.images_per_second, speed.data_share) == (0, 0)
    clock.now += 50  # until training starts
    speed.start()
    step(speed, clock, waiting=1, computing=3)
    step(speed, clock, waiting=0, computing=4)
    clock.now += 30  # a validation
    speed.start()
    step(speed, clock, waiting=0, computing=2)
    assert speed.images_per_second == 24 / 10
    assert speed.data_share == 1 / 10


def test_resumed_speed_covers_all_executions(clock):
    first, second = Speed(), Speed()
    step(first, clock, waiting=1, computing=3)
    second.load_state_dict(first.state_dict())
    second.start()
    step(second, clock, waiting=3, computing=1)
    assert (second.images_per_second, second.data_share) == (16 / 8, 4 / 8)
    older = {"images": 8, "train_seconds": 4.0}  # state of a version that did not measure the waiting
    second.load_state_dict(older)
    assert (second.images_per_second, second.data_share) == (2, 0)


def trainer_on(device, world_size=1):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), world_size=world_size)


def test_arithmetic_rate_is_operations_of_an_image_times_images_per_second(clock):
    speed, network = Speed(), build()
    speed.prepare(network, trainer_on("cpu"))
    step(speed, clock, waiting=1, computing=1, images=4)
    scalars = speed.scalars()
    assert scalars["tflops"] == pytest.approx(2 * count_training_operations(network) / 1e12)
    assert "mfu" not in scalars  # the peak of a processor is not known
    rate, memory = f"{scalars['tflops']:.3g} TFLOP/s", f"peak memory {scalars['memory_mib']:.0f} MiB"
    assert speed.describe("2 x CPU") == f"2.0 images/s on 2 x CPU, 50 % of the time waiting for data, {rate}, {memory}"


@pytest.mark.parametrize(("precision", "peak"), [("fp32", 494e12), ("bf16", 989e12), ("auto", 989e12)])
def test_utilisation_is_relative_to_the_peak_of_all_gpus(clock, monkeypatch, precision, peak):
    # A stand-in for two H200: only their name, support of bfloat16 and memory are asked for.
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    speed, network = Speed(), build(f"trainer.precision={precision}")
    speed.prepare(network, trainer_on("cuda", world_size=2))
    step(speed, clock, waiting=0, computing=1, images=1_000_000)
    rate = 1_000_000 * count_training_operations(network)
    assert speed.scalars()["mfu"] == pytest.approx(rate / (2 * peak))
    assert f"TFLOP/s ({100 * rate / (2 * peak):.0f} % of the peak), peak memory 3 MiB" in speed.describe("GPU")


def test_network_that_needs_values_has_no_arithmetic_rate(clock, caplog):
    class Sparse(nn.Conv2d):
        def forward(self, images):
            return super().forward(images) if images.sum() > 0 else images

    network = build()
    network.model = Sparse(3, 6, 1)
    speed = Speed()
    with caplog.at_level("INFO", logger="fcn"):
        speed.prepare(network, trainer_on("cpu"))
    assert "TFLOP/s unknown" in caplog.text
    step(speed, clock, waiting=0, computing=1)
    assert set(speed.scalars()) == {"images_per_second", "data_wait", "memory_mib"}
    assert "TFLOP/s" not in speed.describe("GPU")


def test_peak_is_found_by_device_name():
    assert peak_of("NVIDIA H200").bandwidth == 4.8e12
    assert peak_of("NVIDIA H100 80GB HBM3").bandwidth == 3.35e12
    assert peak_of("NVIDIA H100 PCIe").rate(Precision.fp16) == 756e12
    assert peak_of("NVIDIA A100-SXM4-40GB").bandwidth == 1.555e12
    assert peak_of("NVIDIA GeForce GTX 1080") is None
