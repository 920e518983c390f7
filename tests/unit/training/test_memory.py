"""Estimate of the memory of a training step, and the memory of the machine."""

import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import fcn
from fcn.models.network import SegmentationNetwork
from fcn.training import memory
from fcn.training.proposal import RECIPES, Recipe

NETWORKS = [
    pytest.param(name, stride, marks=[] if stride == 8 else pytest.mark.slow)
    for name, recipe in RECIPES.items()
    for stride in recipe.footprints
]
NUM_CLASSES = {8: 21, 16: 60, 32: 2}
"""Numbers of classes, one for each stride."""


def bytes_saved_for_backward(network: SegmentationNetwork, crops: int, size: tuple[int, int]) -> int:
    """Return the bytes of all tensors that torch saves in a forward pass with its loss, without the weights."""
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage  # kept, so that no other storage gets its address
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for logits in network.all_logits(torch.zeros(crops, 3, *size, dtype=torch.uint8)):
            cross_entropy(logits, torch.zeros(crops, *size, dtype=torch.long))
    return sum(storage.nbytes() for address, storage in saved.items() if address not in weights)


def network_without_memory(recipe: Recipe, stride: int, num_classes: int) -> SegmentationNetwork:
    classes = ",".join(f"class{number}" for number in range(num_classes))
    keys = [key.format(data="voc", train="train") for key in recipe.overrides]
    config = fcn.compose("data=voc", f"data.classes=[{classes}]", *keys, recipe.stride_key.format(stride))
    with torch.device("meta"):
        return SegmentationNetwork(config, pretrained=False).train()


@pytest.mark.parametrize(("name", "stride"), NETWORKS)
def test_footprint_is_what_torch_saves(name, stride):
    """Of the four class maps that the estimate contains, torch saves one; the others are temporary."""
    recipe, num_classes = RECIPES[name], NUM_CLASSES[stride]
    crops, size, footprint = 8, (256, 384), recipe.footprints[stride]
    measured = bytes_saved_for_backward(network_without_memory(recipe, stride, num_classes), crops, size)
    maps = 4 * footprint.heads * num_classes * crops * size[0] * size[1]
    estimate = footprint.of_step(crops, size, num_classes=num_classes) - 16 * footprint.parameters - 3 * maps
    assert estimate == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(("name", "stride"), NETWORKS)
def test_parameters_are_those_of_21_classes(name, stride):
    network = network_without_memory(RECIPES[name], stride, num_classes=21)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert RECIPES[name].footprints[stride].parameters == pytest.approx(parameters, rel=0.02)


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Folder of the cgroups of a process without GPU, which is in none."""
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "own").write_text("")
    return tmp_path / "cgroup"


def write_limit(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_memory_is_that_of_the_machine_or_of_the_container(cgroups):
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.this_machine().memory == pages
    write_limit(cgroups / "memory.max", "max\n")  # no limit in version 2 of cgroups
    write_limit(cgroups / "memory/memory.limit_in_bytes", "9223372036854771712\n")  # no limit in version 1
    assert memory.this_machine().memory == pages
    write_limit(cgroups / "memory.max", "1073741824\n")
    machine = memory.this_machine()
    assert (machine.memory, machine.num_gpus) == (2**30, 0)
    assert "CPU" in machine.name


@pytest.mark.parametrize(
    ("line", "limited", "others"),
    [
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max", ["slurm/job_8/memory.max", "memory/slurm/memory.max"]),
        ("0::/../../slurm/job_7", "slurm/job_7/memory.max", ["job_7/memory.max"]),
        ("4:cpu,memory:/job_7", "memory/job_7/memory.limit_in_bytes", ["job_7/memory.max"]),
        ("4:memory:/a:b/step", "memory/a:b/memory.limit_in_bytes", ["memory/step/memory.limit_in_bytes"]),
    ],
)
def test_memory_is_that_of_the_smallest_cgroup_above_the_process(cgroups, line, limited, others):
    (cgroups.parent / "own").write_text(f"5:devices:/\n{line}\n")
    write_limit(cgroups / "memory.max", str(3 * 2**20))
    for file in others:
        write_limit(cgroups / file, str(2**20))
    assert memory.this_machine().memory == 3 * 2**20
    write_limit(cgroups / limited, str(2 * 2**20))
    assert memory.this_machine().memory == 2 * 2**20


def test_memory_without_cgroups_is_that_of_the_machine(cgroups):
    (cgroups.parent / "own").unlink()
    assert memory.this_machine().memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
