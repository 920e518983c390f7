"""Encoders, image sizes and parameters of the networks of segmentation_models_pytorch (smp).

They are measured on the network itself, so they also hold for other versions of smp and for every encoder. The
measurements compute shapes only and leave torch's global generator untouched.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import encoders, get_encoder
from timm.models import split_model_name_tag
from torch import nn

from fcn.config import ConfigError, nearest
from fcn.errors import message_line
from fcn.models.timm_architectures import SIZE_OPTIONS, Options, check_name, on_meta

UNIVERSAL = "tu-"
"""Prefix of encoders that are architectures of timm."""


@dataclass(frozen=True, kw_only=True)
class SmpArchitecture:
    """An architecture of smp on an encoder.

    Attributes:
        name: name of the architecture.
        encoder: name of the encoder.
        options: further arguments of `smp.create_model`.
        multiple: images are padded with zeros at the bottom and right to a multiple of this size,
        smallest: and to at least this size.
        unused: names of parameters that do not affect the logits, such as the last stages of PSPNet's encoder.
    """

    name: str
    encoder: str
    options: Options = ()
    multiple: int = 1
    smallest: int = 1
    unused: frozenset[str] = frozenset()

    def create(self, num_classes: int) -> Any:
        """Return smp's network, initialised from torch's global generator."""
        return _create(self.name, self.encoder, self.options, num_classes=num_classes)

    def padding(self, side: int) -> int:
        """Return the number of zeros by which an image of a height or width of `side` is padded."""
        # Not `-side % multiple` and `max`: torch.export cannot reason about them.
        whole: Any = torch.sym_max((side + self.multiple - 1) // self.multiple * self.multiple, self.smallest)
        padding: int = whole - side
        return padding


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names of encoders
        yield


def _create(name: str, encoder: str, options: Options, *, num_classes: int = 2) -> Any:
    with _no_warnings():
        return smp.create_model(name, encoder, encoder_weights=None, classes=num_classes, **dict(options))


def check_encoder(name: str) -> None:
    """Check that smp has an encoder, or timm the architecture after `tu-`.

    Raises:
        ConfigError: naming the closest encoder.
    """
    known = [*encoders, *(UNIVERSAL + each for each in timm.list_models())]
    if split_model_name_tag(name)[0] not in known:
        raise ConfigError(
            f"backbone.name (={name}) must be an encoder of segmentation_models_pytorch {smp.__version__}, or tu- and "
            f"an architecture of timm{nearest(name, known)}"
        )
    if name.startswith(UNIVERSAL):
        check_name(name.removeprefix(UNIVERSAL))


@functools.cache
def fit_encoder(name: str, encoder: str) -> SmpArchitecture:
    """Return the least padding with which an architecture of smp accepts images of any size on an encoder.

    Raises:
        ConfigError: if smp does not support the encoder, or the logits do not have the size of the image.
    """
    networks, problem = {}, "the logits do not have the size of the image"
    for options in SIZE_OPTIONS if encoder.startswith(UNIVERSAL) else ((),):
        try:
            networks[options] = _create_on_meta(name, encoder, options)
        except Exception as error:  # smp and timm do not check all arguments, so any exception is possible
            if not options:
                problem = message_line(str(error)) or f"smp fails with {type(error).__name__}"
    for options, network in networks.items():
        for multiple, smallest in _sizes(network):
            if _accepts(network, multiple, smallest):
                return SmpArchitecture(
                    name=name,
                    encoder=encoder,
                    options=options,
                    multiple=multiple,
                    smallest=smallest,
                    unused=_unused_parameters(network, multiple, smallest),
                )
    raise ConfigError(f"backbone.name (={encoder}) must fit model.name (={name}), but {problem}; use another encoder")


def _create_on_meta(name: str, encoder: str, options: Options) -> Any:
    try:
        with on_meta():
            return _create(name, encoder, options).eval()
    except RuntimeError:  # MiT computes values when it is created
        with torch.random.fork_rng(devices=[]):
            return _create(name, encoder, options).eval().to("meta")


def _sizes(network: Any) -> Iterator[tuple[int, int]]:
    """Yield multiples and smallest sizes, the least padding first.

    The coarsest map has at least two cells on each side, because torch.export treats a single cell as a special case.
    PAN pools this map by 8.
    """
    stride = int(network.encoder.output_stride)
    for multiple in (stride, 2 * stride, 4 * stride, 8 * stride):
        yield multiple, 2 * multiple
        yield multiple, 8 * multiple


@torch.no_grad()
def _accepts(network: nn.Module, multiple: int, smallest: int) -> bool:
    for height, width in ((smallest, smallest + multiple), (smallest + 2 * multiple, smallest)):
        try:
            with on_meta():
                logits = network(torch.empty(1, 3, height, width))
        except Exception:  # as in fit_encoder
            return False
        if logits.shape[2:] != (height, width):
            return False
    return True


def _unused_parameters(network: nn.Module, multiple: int, smallest: int) -> frozenset[str]:
    side = smallest + multiple
    with on_meta():
        network(torch.empty(1, 3, side, side)).sum().backward()
    return frozenset(name for name, parameter in network.named_parameters() if parameter.grad is None)


@functools.cache
def smallest_batch(encoder: str) -> int:
    """Return 2 if an encoder applies batch norm after global pooling, which cannot be trained with a single image."""
    try:
        with on_meta(), torch.no_grad(), _no_warnings():
            network = get_encoder(encoder, weights=None).train()
            network(torch.empty(1, 3, 256, 256))
    except Exception as error:  # as in fit_encoder; that of torch's batch norm begins with "Expected more than 1"
        return 2 if str(error).startswith("Expected more than 1 value per channel") else 1
    return 1
