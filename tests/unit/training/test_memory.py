"""Estimate of the memory of a training step, and the memory of the machine."""

import os

import pytest
import torch
from torch.nn.functional import cross_entropy

import fcn
from fcn.models.network import SegmentationNetwork
from fcn.training import memory
from fcn.training.proposal import RECIPES

NETWORKS = [(name, stride) for name, recipe in RECIPES.items() for stride in recipe.footprints]
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


@pytest.mark.parametrize(("name", "stride"), NETWORKS)
def test_footprint_is_what_torch_saves(name, stride):
    """Of the four class maps that the estimate contains, torch saves one; the others are temporary."""
    recipe, num_classes = RECIPES[name], NUM_CLASSES[stride]
    classes = ",".join(f"class{number}" for number in range(num_classes))
    keys = [key.format(data="voc", train="train") for key in recipe.overrides]
    config = fcn.compose("data=voc", f"data.classes=[{classes}]", *keys, recipe.stride_key.format(stride))
    with torch.device("meta"):
        network = SegmentationNetwork(config, pretrained=False).train()
    crops, size, footprint = 8, (256, 384), recipe.footprints[stride]
    measured = bytes_saved_for_backward(network, crops, size)
    maps = 4 * footprint.heads * num_classes * crops * size[0] * size[1]
    estimate = footprint.of_step(crops, size, num_classes=num_classes) - 16 * footprint.parameters - 3 * maps
    assert estimate == pytest.approx(measured, rel=0.02)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert footprint.parameters == pytest.approx(parameters, rel=0.6)


def test_memory_is_that_of_the_machine_or_of_the_container(tmp_path, monkeypatch):
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    monkeypatch.setattr(memory, "CGROUP_LIMITS", limits)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert memory.this_machine().memory == pages
    limits[0].write_text("max\n")  # no limit in version 2 of cgroups
    limits[1].write_text("9223372036854771712\n")  # no limit in version 1
    assert memory.this_machine().memory == pages
    limits[0].write_text("1073741824\n")
    machine = memory.this_machine()
    assert (machine.memory, machine.num_gpus) == (2**30, 0)
    assert "CPU" in machine.name
