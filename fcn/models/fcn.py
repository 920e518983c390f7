"""Fully convolutional networks (Long, Shelhamer, Darrell 2015): class scores of every pixel for any image size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from fcn.config.choices import Alignment, ScoreInit
from fcn.models.backbones import Backbone
from fcn.models.model_options import FcnConfig
from fcn.models.score_layers import score_layer
from fcn.models.upsampling import PIXELS, Grid, Upsampling


class FCN(nn.Module):
    """FCN-32s, FCN-16s and FCN-8s: scores of the coarsest map, refined by scores of finer maps, for every pixel.

    A 1x1 convolution scores the coarsest map, after further layers with `model=conv_head` and `linear_head`. For each
    skip, a 2x transposed convolution upsamples the scores to the next finer map, whose own scores are added. A last
    transposed convolution upsamples to pixels. The names are those of the papers, whose backbone has strides 8, 16 and
    32; they are also used for other backbones, such as SqueezeNet with strides 4, 8 and 16. FCN-32s on ResNet-18 is the
    network of the d2l chapter.

    Args:
        backbone: the backbone. If the offsets of its grids are None, its method `locate_cells` returns grids with
            offsets. Its method `use_maps`, if there is one, receives the number of maps, counted from the coarsest.
        config: the group `model`.
        num_classes: number of classes, including the background.
    """

    def __init__(self, backbone: Backbone, config: FcnConfig, *, num_classes: int) -> None:
        super().__init__()
        if callable(use_maps := getattr(backbone, "use_maps", None)):
            use_maps(config.num_maps)
        grids = _assumed_grids(backbone, config.alignment)
        maps = list(zip(grids, backbone.channels, strict=True))[::-1]
        (grid, channels), *finer = maps[: config.num_skips + 1]
        self.backbone = backbone
        self.score_fr = config.build_score_layers(channels, num_classes)
        self.skip_scores = nn.ModuleList()
        self.skip_upscores = nn.ModuleList()
        for skip, skip_channels in finer:
            upscore = Upsampling(num_classes, source=grid, target=skip, config=config)
            self.skip_scores.append(score_layer(skip_channels, num_classes, init=ScoreInit.zero))
            self.skip_upscores.append(upscore)
            assert skip.offset is not None
            grid = Grid(skip.stride, skip.offset + skip.stride * upscore.first)
        self.upscore = Upsampling(num_classes, source=grid, target=PIXELS, config=config)
        assert self.upscore.first == 0, "the map must cover the first pixel of the image"
        self._skip_scale = tuple(config.skip_factors)
        # Built last, so that the other layers have the same initial weights with and without it.
        self.auxiliary = self._auxiliary_head(maps[1], config, num_classes) if config.auxiliary_weight else None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of every pixel, float [N, num_classes, H, W]; in training also those of the auxiliary head.

        Args:
            images: float [N, 3, H, W], normalised, of any size from 1 x 1.
        """
        maps = self.backbone(images)[::-1]
        scores: Tensor = self.score_fr(maps[0])
        skips = zip(maps[1:], self.skip_scores, self.skip_upscores, self._skip_scale, strict=False)
        for features, score, upscore, scale in skips:
            assert isinstance(upscore, Upsampling)
            scores = _fuse(upscore(scores), score(features if scale == 1 else features * scale), first=upscore.first)
        logits: Tensor = self.upscore(scores, images.shape[-2:])
        if self.auxiliary is None or not self.training:
            return logits
        score, upscore = self.auxiliary
        return logits, upscore(score(maps[1]), images.shape[-2:])

    def _auxiliary_head(self, source: tuple[Grid, int], config: FcnConfig, num_classes: int) -> nn.Sequential:
        """Return the head of an FCN-32s on another feature map, given its grid and its channels."""
        grid, channels = source
        score = config.build_auxiliary_score_layers(channels, num_classes)
        upscore = Upsampling(num_classes, source=grid, target=PIXELS, config=config)
        assert upscore.first == 0, "the map must cover the first pixel of the image"
        return nn.Sequential(OrderedDict(score=score, upscore=upscore))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone, including frozen ones."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("backbone."))


def _assumed_grids(backbone: Any, alignment: Alignment) -> list[Grid]:
    """Return the grids by which the upsampling is placed.

    The d2l chapter assumes that each cell is a square of pixels and that the first square lies in the corner of the
    image. This holds for VGG; the cells of padded strided convolutions, as in a ResNet, are centred half a cell above
    and to the left.

    Raises:
        ConfigError: if the alignment is `centered` and the cells of the backbone have no exact centre.
    """
    if alignment is Alignment.centered:
        is_located = all(grid.offset is not None for grid in backbone.grids)
        return list(backbone.grids if is_located else backbone.locate_cells())
    return [_square_grid(grid) for grid in backbone.grids]


def _square_grid(grid: Grid) -> Grid:
    corner = (grid.stride - 1) / 2
    if grid.offset is None:
        return Grid(grid.stride, corner)
    return Grid(grid.stride, grid.offset + corner) if grid.offset.is_integer() else grid


def _fuse(upsampled: Tensor, skip: Tensor, *, first: int) -> Tensor:
    """Return the sum of both where they overlap; `upsampled` begins at cell `first` of `skip`."""
    height = min(upsampled.shape[-2], skip.shape[-2] - first)
    width = min(upsampled.shape[-1], skip.shape[-1] - first)
    return upsampled[..., :height, :width] + skip[..., first : first + height, first : first + width]
