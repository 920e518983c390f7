"""Logits are aligned with the features from which they are computed, for every backbone and head."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn.config import ModelConfig, option
from fcn.config.choices import Alignment, Border
from fcn.models.fcn import FCN
from fcn.models.upsampling import Grid
from tests.unit.models.backbone_cases import (
    DILATED,
    HEADS,
    Maps,
    build_on_meta,
    every_alignment,
    every_head,
    map_sizes,
    windows,
)

RESNET = tuple(Grid(stride, 0.0) for stride in (8, 16, 32))
BACKBONE_GRIDS = [
    ("resnet18", None), ("squeezenet1_0", None), ("convnext_tiny", None),
    ("vgg16", None), *DILATED,
]  # fmt: skip
"""One backbone for each kind of grid; test_backbones.py verifies the grids of all backbones."""
every_grid = pytest.mark.parametrize(("name", "output_stride"), BACKBONE_GRIDS)


def head_on(maps: list[Tensor], grids: tuple[Grid, ...], config: ModelConfig) -> FCN:
    """Build a float64 head for one class, with score layers that pass the single channel of each map through."""
    model = FCN(Maps(maps, grids), config, num_classes=1).double()
    for layer in (model.score_fr, *model.skip_scores):
        nn.init.ones_(layer.weight)
    return model.eval()


def assumed_grid(grid: Grid, alignment: Alignment) -> Grid:
    """Return the grid that d2l assumes for padded backbones: squares that begin in the corner of the image."""
    corner = (grid.stride - 1) / 2
    return Grid(grid.stride, corner) if alignment is Alignment.chapter and grid.offset == 0 else grid


def ramp(rows: Tensor, columns: Tensor, number: int) -> Tensor:
    """Return a plane over the image, a different one for each map."""
    slopes = [(0.5, -0.25, 3.0), (-0.125, 1.0, 7.0), (0.75, 0.375, -2.0)][number]
    return slopes[0] * rows[:, None] + slopes[1] * columns[None, :] + slopes[2]


def centres(grid: Grid, count: int) -> Tensor:
    return grid.stride * torch.arange(count, dtype=torch.float64) + grid.offset


@every_head
@every_alignment
@every_grid
def test_linear_functions_are_reproduced_at_every_pixel(
    name: str, output_stride: int | None, alignment: Alignment, head: str
) -> None:
    """Bilinear interpolation reproduces linear functions, so any misplaced cell changes the result."""
    height, width = 193, 230
    grids = build_on_meta(name, output_stride).grids
    maps = []
    for number, (grid, (rows, columns)) in enumerate(
        zip(grids, map_sizes(name, output_stride, height, width), strict=True)
    ):
        place = assumed_grid(grid, alignment)
        maps.append(ramp(centres(place, rows), centres(place, columns), number)[None, None])
    images = torch.empty(1, 3, height, width, dtype=torch.float64)
    pixels = centres(Grid(1, 0.0), height), centres(Grid(1, 0.0), width)
    expected = sum(ramp(*pixels, number) for number in range(3)[-1 - HEADS.index(head) :])
    for border in Border:
        logits = head_on(maps, grids, option("model", head, alignment=alignment, border=border))(images)[0, 0]
        inside = slice(64, -64)
        torch.testing.assert_close(logits[inside, inside], expected[inside, inside], rtol=0, atol=1e-9)


@every_head
@every_alignment
@every_grid
@pytest.mark.parametrize("size", [(1, 1), (70, 97)])
def test_replicated_borders_keep_constant_maps_constant(
    name: str, output_stride: int | None, alignment: Alignment, head: str, size: tuple[int, int]
) -> None:
    grids = build_on_meta(name, output_stride).grids
    maps = [torch.ones(1, 1, *cells, dtype=torch.float64) for cells in map_sizes(name, output_stride, *size)]
    config = option("model", head, alignment=alignment, border=Border.replicate)
    logits = head_on(maps, grids, config)(torch.empty(1, 3, *size))
    assert logits.shape[-2:] == size
    num_maps = HEADS.index(head) + 1
    torch.testing.assert_close(logits, torch.full_like(logits, num_maps))


@every_head
def test_centered_alignment_is_equivariant_to_mirroring(head: str) -> None:
    """With sides of 32 m + 1, cells lie on both borders. The backbone is the geometry of a ResNet."""
    config = option("model", head, alignment=Alignment.centered, border=Border.replicate)
    backbone = windows("resnet18")
    backbone.channels = (1, 1, 1)
    model = FCN(backbone, config, num_classes=1).double()
    for layer in (model.score_fr, *model.skip_scores):
        nn.init.ones_(layer.weight)
    torch.manual_seed(0)
    images = torch.rand(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images)
        assert logits.std() > 0
        for axis in (-1, -2):
            torch.testing.assert_close(model(images.flip(axis)).flip(axis), logits)


def centre_of_mass(logits: Tensor) -> tuple[float, float]:
    """Return row and column."""
    mass = logits[0, 0].detach()
    rows, columns = (torch.arange(side, dtype=mass.dtype) for side in mass.shape)
    return float((mass.sum(1) * rows).sum() / mass.sum()), float((mass.sum(0) * columns).sum() / mass.sum())


@pytest.mark.parametrize(("alignment", "shift"), [(Alignment.chapter, 15.5), (Alignment.centered, 0.0)])
def test_d2l_alignment_shifts_resnet_scores_by_15_5_pixels(alignment: Alignment, shift: float) -> None:
    maps = [torch.zeros(1, 1, 320 // grid.stride, 320 // grid.stride, dtype=torch.float64) for grid in RESNET]
    maps[-1][..., 4, 6] = 1
    logits = head_on(maps, RESNET, option("model", "fcn32s", alignment=alignment))(torch.empty(1, 3, 320, 320))
    assert centre_of_mass(logits) == pytest.approx((32 * 4 + shift, 32 * 6 + shift))


@every_head
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "convnext_tiny"], ids=str)
def test_alignments_agree_for_square_cells(name: str, head: str) -> None:
    with torch.device("meta"):
        d2l, centered = (
            FCN(build_on_meta(name), option("model", head, alignment=alignment), num_classes=2)
            for alignment in Alignment
        )
    # The representation of a layer includes its kernel, stride, padding and output padding.
    assert str(d2l) == str(centered)
    assert [layer.first for layer in d2l.skip_upscores] == [layer.first for layer in centered.skip_upscores]


def test_convnext_upsampling_equals_interpolate() -> None:
    grids = build_on_meta("convnext_tiny").grids
    maps = [torch.randn(1, 1, rows, columns, dtype=torch.float64) for rows, columns in ((8, 12), (4, 6), (2, 3))]
    model = head_on(maps, grids, option("model", "fcn32s", border=Border.replicate))
    expected = F.interpolate(maps[-1], (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(torch.empty(1, 3, 64, 96)), expected)
