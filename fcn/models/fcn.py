"""Fully convolutional networks (Long, Shelhamer, Darrell 2015): class scores per pixel, for any size."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from fcn.config import ModelConfig
from fcn.config.choices import Alignment, ModelName, ScoreInit
from fcn.models.backbones import Backbone
from fcn.models.upsampling import PIXELS, Grid, Upsampling

NUM_SKIPS = {ModelName.fcn32s: 0, ModelName.fcn16s: 1, ModelName.fcn8s: 2}


class FCN(nn.Module):
    """FCN-32s, -16s and -8s: scores per cell of the coarsest map, refined by those of finer maps, at every pixel.

    The coarsest map is scored by a 1x1 convolution. For every skip, the scores are brought to the next finer
    map by a 2x transposed convolution and the scores of that map are added; the last transposed convolution
    leads to the pixels. The names are the papers', whose backbone has strides 8, 16 and 32; on SqueezeNet, say,
    the same heads have strides 4, 8 and 16. FCN-32s on ResNet-18 is the chapter's network.

    Args:
        backbone: the backbone.
        config: the group `model`.
        num_classes: classes, the background among them.
    """

    def __init__(self, backbone: Backbone, config: ModelConfig, *, num_classes: int) -> None:
        super().__init__()
        num_skips = NUM_SKIPS[config.name]
        coarse_to_fine = list(zip(backbone.grids, backbone.channels, strict=True))[::-1]
        (grid, channels), *finer = coarse_to_fine[: num_skips + 1]
        grid = _assumed(grid, config.alignment)

        def upsampling(target: Grid) -> Upsampling:
            return Upsampling(num_classes, source=grid, target=target, config=config)

        self.backbone = backbone
        self.score_fr = _score_layer(channels, num_classes, init=config.score_init)
        self.skip_scores = nn.ModuleList()
        self.skip_upscores = nn.ModuleList()
        for skip, skip_channels in finer:
            skip = _assumed(skip, config.alignment)
            upscore = upsampling(skip)
            self.skip_scores.append(_score_layer(skip_channels, num_classes, init=ScoreInit.zero))
            self.skip_upscores.append(upscore)
            grid = Grid(skip.stride, skip.offset + skip.stride * upscore.first)
        self.upscore = upsampling(PIXELS)
        assert self.upscore.first == 0, "the map must reach beyond the image's first pixel"
        self._skip_scale = tuple(config.skip_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel.

        Args:
            images: float [N, 3, H, W], normalised, H and W from 1 up.

        Returns:
            float [N, num_classes, H, W]. What the upsampling gives beyond the image is cut at the bottom and right.
        """
        maps = self.backbone(images)[::-1]
        scores: Tensor = self.score_fr(maps[0])
        skips = zip(maps[1:], self.skip_scores, self.skip_upscores, self._skip_scale, strict=False)
        for features, score, upscore, scale in skips:
            assert isinstance(upscore, Upsampling)
            scores = _fuse(upscore(scores), score(features if scale == 1 else features * scale), first=upscore.first)
        logits: Tensor = self.upscore(scores)
        return logits[..., : images.shape[-2], : images.shape[-1]]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters outside the backbone, frozen ones included; the backbone's are `backbone.parameters()`."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("backbone."))


def _assumed(grid: Grid, alignment: Alignment) -> Grid:
    """The grid that the upsampling is placed by.

    The chapter takes a cell to be centred in a square of pixels, the first one in the corner of the image, which
    is so for VGG. Where padded strided convolutions look, as in a ResNet, is half a cell up and left of there.
    """
    if alignment is Alignment.centered or not grid.offset.is_integer():
        return grid
    return Grid(grid.stride, grid.offset + (grid.stride - 1) / 2)


def _fuse(upsampled: Tensor, skip: Tensor, *, first: int) -> Tensor:
    """Sum of both where they overlap; `upsampled` begins at cell `first` of `skip`."""
    height = min(upsampled.shape[-2], skip.shape[-2] - first)
    width = min(upsampled.shape[-1], skip.shape[-1] - first)
    return upsampled[..., :height, :width] + skip[..., first : first + height, first : first + width]


def _score_layer(channels: int, num_classes: int, *, init: ScoreInit) -> nn.Conv2d:
    """1x1 convolution to the classes with zero bias: Glorot uniform, as the chapter's text has it, or zero."""
    layer = nn.Conv2d(channels, num_classes, kernel_size=1)
    assert layer.bias is not None
    if init is ScoreInit.zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
