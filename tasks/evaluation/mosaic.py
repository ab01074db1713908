"""Images tiled into one picture, as arrays of colours."""

import math

import numpy as np

from tasks.evaluation.distance import Floats

Limits = tuple[float, float]  # the values shown black and white


def channels_last(x: Floats) -> Floats:
    """Give ``[n, h, w, channels]`` float64 for images ``[n, h, w]`` or ``[n, channels, h, w]`` of 1 or 3 channels.

    Raises:
        ValueError: ``x`` has another shape, or holds no image.
    """
    images = x[:, None] if x.ndim == 3 else x
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.size == 0:
        raise ValueError(f"images must be [n, h, w] or [n, 1 or 3, h, w], got {list(x.shape)}")
    return images.transpose(0, 2, 3, 1).astype(np.float64)


def shades(images: Floats, limits: Limits) -> Floats:
    """Give colours ``[n, h, w, 3]`` in [0, 1] of ``images [n, h, w, 1 or 3]``, clipped; NaN is black."""
    low, high = limits
    scaled = np.clip((images - low) / max(high - low, 1e-12), 0, 1)
    return np.broadcast_to(np.nan_to_num(scaled), (*images.shape[:3], 3))


def gap(tile: int) -> int:
    """Give the pixels between tiles of a width."""
    return max(1, tile // 14)


def mosaic(colours: Floats, columns: int) -> Floats:
    """Tile ``colours [n, h, w, 3]`` row by row into one picture ``[height, width, 4]``, clear between the tiles."""
    n, h, w, _ = colours.shape
    rows, between = math.ceil(n / columns), gap(w)
    out = np.zeros((rows * (h + between) - between, columns * (w + between) - between, 4))
    for k, tile in enumerate(colours):
        top, left = (k // columns) * (h + between), (k % columns) * (w + between)
        out[top : top + h, left : left + w, :3] = tile
        out[top : top + h, left : left + w, 3] = 1
    return out
