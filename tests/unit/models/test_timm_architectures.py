"""Sixty architectures of sixty modules of timm: any image size, gradients, overfitting, and their documentation."""

import re

import pytest
import timm
import torch
from torch.nn import functional as F

from fcn.models.timm_architectures import find_architecture
from fcn.models.timm_table import EXAMPLES, HEADER, row
from tests.commands import ROOT
from tests.unit.models.timm_cases import build_fcn

FREQUENTLY_OVERFITTED = ("convnext_atto", "deit_tiny_patch16_224", "resnet18")
"""Architectures that CI trains until two images are learned."""

OVERFITTED = (
    *FREQUENTLY_OVERFITTED, "edgenext_xx_small", "fasternet_t0", "hrnet_w18_small", "mambaout_femto",
    "mobilenetv3_small_050", "pvt_v2_b0", "regnety_002",
)  # fmt: skip

FREQUENT = (
    "convnext_atto", "cspnext_tiny", "deit_tiny_patch16_224", "densenet121", "dla46x_c", "edgenext_xx_small",
    "ese_vovnet19b_slim", "eva02_tiny_patch14_224", "fasternet_t0", "hgnetv2_b0", "hrnet_w18_small",
    "inception_next_atto", "legacy_seresnet18", "mambaout_femto", "mobilenetv3_small_050", "nf_regnet_b0",
    "poolformer_s12", "pvt_v2_b0", "regnety_002", "resnet18", "starnet_s050", "swin_tiny_patch4_window7_224",
    "tf_efficientnet_lite0", "vit_small_patch14_dinov2", "xcit_nano_12_p8_224",
)  # fmt: skip
"""Examples that CI trains: convolutional, hierarchical and plain transformers, dense, multi-branch and hybrid ones."""


def test_examples_are_of_different_modules() -> None:
    assert set(FREQUENT) < set(EXAMPLES)
    modules = {timm.models.model_entrypoint(name).__module__ for name in EXAMPLES}
    assert len(modules) == len(EXAMPLES) >= 60


def test_table_in_documentation_matches_code() -> None:
    """A sample of the rows; the test of all architectures compares all of them."""
    page = (ROOT / "docs" / "networks.md").read_text()
    assert HEADER in page
    rows = re.findall(rf"^\| (?:{'|'.join(EXAMPLES)}) \|.*$", page, re.M)
    assert [text.split(" | ")[0].removeprefix("| ") for text in rows] == list(EXAMPLES)
    for number in (1, 13, 32, 53):
        assert rows[number] == row(EXAMPLES[number])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FREQUENT else pytest.mark.exhaustive) for name in EXAMPLES],
)
def test_architecture_trains_on_images_of_any_size(name: str) -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    assert row(name) in page.splitlines()
    torch.manual_seed(0)
    model = build_fcn(name, "fcn32s" if find_architecture(name).is_single else "fcn8s")
    for score in model.skip_scores:  # zero at the start, which would hide the skips
        torch.nn.init.normal_(score.weight, std=0.1)
    for size in [(1, 1), (33, 47), (96, 128)]:
        model.zero_grad(set_to_none=True)
        logits = model(torch.randn(2, 3, *size))
        assert logits.shape == (2, 3, *size)
        assert logits.isfinite().all()
        logits.square().mean().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FREQUENTLY_OVERFITTED else pytest.mark.exhaustive) for name in OVERFITTED],
)
def test_architecture_overfits_a_batch(name: str) -> None:
    """Two images whose halves belong to different classes, left and right or top and bottom."""
    torch.manual_seed(0)
    model = build_fcn(name, "fcn32s" if find_architecture(name).is_single else "fcn8s").train()
    target = torch.zeros(2, 64, 64, dtype=torch.long)
    target[0, :, 32:], target[1, 32:] = 1, 2
    images = F.one_hot(target, 3).permute(0, 3, 1, 2).float() + 0.5 * torch.randn(2, 3, 64, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), target).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(images).argmax(dim=1) == target).float().mean()
    assert accuracy > 0.95
