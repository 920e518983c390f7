"""Tiled inference: overlapping tiles that cover an image, and the average of their logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def tiled_logits(
    network: Callable[[Tensor], Tensor], images: Tensor, tile_size: Sequence[int], *, num_classes: int
) -> Tensor:
    """Apply a network to tiles and average the logits where tiles overlap.

    This is how the d2l chapter predicts an image whose sides are not multiples of the stride.

    Args:
        network: returns logits [N, C, h, w] for images [N, 3, h, w].
        images: uint8 or float [N, 3, H, W].
        tile_size: height and width of a tile.
        num_classes: number of classes C.

    Returns:
        Logits, float32 [N, C, H, W].
    """
    size = images.shape[-2:]
    total = torch.zeros(len(images), num_classes, *size, device=images.device)
    count = torch.zeros(size, device=images.device)
    for rows, columns in tiles(size, tile_size):
        total[..., rows, columns] += network(images[..., rows, columns]).float()
        count[rows, columns] += 1
    return total.div_(count)


def tiles(size: Sequence[int], tile_size: Sequence[int]) -> list[tuple[slice, slice]]:
    """Return rows and columns of the fewest tiles that cover an image, evenly spread, so that neighbours overlap.

    An axis shorter than the tile is covered by one shorter tile.

    Args:
        size: height and width of the image.
        tile_size: height and width of a tile.
    """
    rows, columns = (_tiles_along_axis(side, tile) for side, tile in zip(size, tile_size, strict=True))
    return [(row, column) for row in rows for column in columns]


def _tiles_along_axis(side: int, tile: int) -> list[slice]:
    count = math.ceil(side / tile)
    spare = max(0, side - tile)
    starts = [round(number * spare / max(1, count - 1)) for number in range(count)]
    return [slice(start, min(start + tile, side)) for start in starts]
