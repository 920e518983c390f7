"""Activation checkpointing: the backward pass computes the blocks of the backbone again, instead of storing them.

The names of the weights, and all results, do not change.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcn.config import ConfigError
from fcn.models.network import SegmentationNetwork, evaluation_mode


class Recomputed:
    """Forward pass of a module that stores only its inputs; the backward pass computes the rest again.

    The second forward pass uses the same random numbers, and updates copies of the buffers, so that batch norm updates
    its running statistics once.

    Args:
        module: the module, whose attribute `forward` this object replaces.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward: Callable[..., Any] = module.forward  # a bound method, which `copy.deepcopy` binds to the copy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # The caller may extend a list of feature maps before they are needed again, as a DenseNet does.
        args = tuple(list(each) if isinstance(each, list) else each for each in args)
        return checkpoint(self.forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), copied_buffers(self.module)


@contextlib.contextmanager
def copied_buffers(module: nn.Module) -> Iterator[None]:
    """Replace the buffers of a module by copies. Buffers that are missing, as in torch, would change what is stored."""
    buffers = [(owner, *entry) for owner in module.modules() for entry in owner.named_buffers(recurse=False)]
    try:
        for owner, name, buffer in buffers:
            setattr(owner, name, buffer.clone())
        yield
    finally:
        for owner, name, buffer in buffers:
            setattr(owner, name, buffer)


def checkpoint_activations(network: SegmentationNetwork, images: Tensor) -> None:
    """Compute the blocks of the backbone again in the backward pass; see `blocks`.

    Args:
        network: the network, whose blocks are changed in place.
        images: any images of the size of a training step, for a forward pass that shows which modules are called.

    Raises:
        ConfigError: if the backbone has no blocks.
    """
    candidates: list[nn.Module] = []
    for backbone in network.backbone_modules():
        chain_layers = getattr(backbone, "chain_layers", None)
        candidates += backbone.children() if chain_layers is None else chain_layers()
    chosen = list(blocks(candidates, called=_called_modules(network, candidates, images)))
    if not chosen:
        raise ConfigError(
            f"trainer.activation_checkpointing (=true) must be false with backbone={network.config.backbone.name}, "
            "which has no blocks of several layers; use trainer.accumulate=auto to save memory"
        )
    for block in chosen:
        block.forward = Recomputed(block)


def blocks(modules: Iterable[nn.Module], *, called: set[nn.Module]) -> Iterator[nn.Module]:
    """Yield the largest modules with several layers that contain no sequence of similar modules, such as a BasicBlock.

    Args:
        modules: modules in which blocks are searched.
        called: modules whose forward pass is called. Some networks iterate over the layers of a module instead.
    """
    for module in modules:
        num_layers = sum(not any(each.children()) for each in module.modules())
        if module in called and num_layers > 1 and _num_weights(module) and not _contains_sequence(module):
            yield module
        else:
            yield from blocks(module.children(), called=called)


def _num_weights(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 for parameter in module.parameters())  # of convolutions and linear layers


def _contains_sequence(module: nn.Module) -> bool:
    """Whether two children of a module inside have the same type, and each several layers with weights."""
    for each in module.modules():
        kinds = [type(child) for child in each.children() if any(child.children()) and _num_weights(child) > 1]
        if len(set(kinds)) < len(kinds):
            return True
    return False


def _called_modules(network: SegmentationNetwork, candidates: list[nn.Module], images: Tensor) -> set[nn.Module]:
    """Return the modules inside `candidates` that a forward pass calls; batch norm keeps its statistics."""
    called: set[nn.Module] = set()
    inside = set(itertools.chain.from_iterable(module.modules() for module in candidates))
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in inside]
    with torch.no_grad(), evaluation_mode(network):
        network(images)
    for hook in hooks:
        hook.remove()
    return called
