"""Pictures of images, as PNG bytes: grids and rows, enlarged a whole number of times, so that pixels stay sharp.

Images are ``[n, h, w]`` or ``[n, 1 or 3, h, w]``; other shapes, or none, raise ``ValueError``. Limits are the values
shown black and white; values beyond are clipped.
"""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from tasks.evaluation.distance import Floats
from tasks.evaluation.mosaic import Limits, channels_last, gap, mosaic, shades
from tasks.evaluation.paper import DPI, LIGHT, TEXT, WIDTH, Theme, to_png

MAX_IMAGES = 1024  # of a grid
STRIP_TIMES = 9  # of a trajectory, at most

_PAIR_COLUMNS = 8  # a side, of a grid pair
# pixels about images, above them for labels, left of them for words, and of one enlarged image
_MARGIN, _BAND, _WORDS, _MAX_TILE = 20, 50, 230, 120


def image_grid_pair(
    data: Floats,
    samples: Floats,
    *,
    limits: Limits | None = None,
    titles: tuple[str, str] = ("Data", "One-step samples"),
    theme: Theme = LIGHT,
) -> bytes:
    """Draw the first 64 images of ``data`` beside those of ``samples``.

    Args:
        data: images of 1 or 3 channels.
        samples: images of the same shape.
        limits: by default the least and greatest of the data shown.
        titles: of the two sides.
        theme: colours of the page.
    """
    count = _PAIR_COLUMNS**2
    left, right = channels_last(data[:count]), channels_last(samples[:count])
    limits = limits or (float(left.min()), float(left.max()))
    sides = [mosaic(shades(each, limits), _PAIR_COLUMNS) for each in (left, right)]
    height, between = max(len(side) for side in sides), left.shape[2] // 2 + 1
    padded = [np.pad(side, ((0, height - len(side)), (0, between), (0, 0))) for side in sides]
    labels = {0: titles[0], padded[0].shape[1]: titles[1]}
    return _picture(np.concatenate(padded, 1)[:, :-between], tile=left.shape[2], labels=labels, theme=theme)


def image_grid(x: Floats, *, limits: Limits | None = None, theme: Theme = LIGHT) -> bytes:
    """Draw images, the first 1024, in a square grid; ``limits`` are by default the least and greatest there are."""
    x = channels_last(x[:MAX_IMAGES])
    limits = limits or (float(x.min()), float(x.max()))
    tiles = mosaic(shades(x, limits), math.ceil(math.sqrt(len(x))))
    return _picture(tiles, tile=x.shape[2], labels={}, theme=theme)


def image_rows(rows: Mapping[str, Floats], *, limits: Limits, theme: Theme = LIGHT) -> bytes:
    """Draw rows of images, with the words of each at its left; what is short of the longest row stays paper.

    Args:
        rows: images by words, all of one shape.
        limits: values shown black and white.
        theme: colours of the page.
    """
    found = [channels_last(images) for images in rows.values()]
    columns, (height, width) = max(map(len, found)), found[0].shape[1:3]
    between = gap(width)
    strips = [mosaic(shades(images, limits), columns) for images in found]
    tiles = np.concatenate([np.pad(strip, ((0, between), (0, 0), (0, 0))) for strip in strips])[:-between]
    words = {k * (height + between) + height / 2: text for k, text in enumerate(rows)}
    return _picture(tiles, tile=width, labels={}, words=words, theme=theme)


def image_strip(states: Floats, t: Floats, *, limits: Limits | None = None, theme: Theme = LIGHT) -> bytes:
    """Draw images along trajectories, a row each: ``states [rows, times, *dim]`` at up to 9 of the times ``t``.

    ``limits`` are by default the least and greatest of the last states, so that noise is clipped.
    """
    chosen = np.unique(np.linspace(0, len(t) - 1, min(STRIP_TIMES, len(t))).round().astype(int))
    frames = states[:, chosen]
    images = channels_last(frames.reshape(-1, *frames.shape[2:]))
    last = images[len(chosen) - 1 :: len(chosen)]
    limits = limits or (float(last.min()), float(last.max()))
    tiles, tile = mosaic(shades(images, limits), len(chosen)), images.shape[2]
    left = {k * (tile + gap(tile)): f"{t[time]:.3g}" for k, time in enumerate(chosen)}
    return _picture(tiles, tile=tile, labels=left | {0: f"t = {left[0]}"}, theme=theme)


def _picture(
    tiles: Floats,
    *,
    tile: int,
    labels: Mapping[int, str],
    words: Mapping[float, str] | None = None,
    theme: Theme,
) -> bytes:
    """Draw a mosaic enlarged, under labels at its columns, and right of words at the middles of its rows."""
    side, band = _WORDS if words else 0, _BAND if labels else 0
    scale = _scale(tiles.shape[1], tile, side=side)
    pixels = tiles.repeat(scale, 0).repeat(scale, 1)
    width, height = pixels.shape[1] + 2 * _MARGIN + side, pixels.shape[0] + 2 * _MARGIN + band
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=theme.paper)
    figure.figimage(pixels, xo=_MARGIN + side, yo=_MARGIN)
    for left, text in labels.items():
        x, y = (_MARGIN + side + left * scale) / width, (_MARGIN + pixels.shape[0] + 18) / height
        figure.text(x, y, text, color=theme.ink, fontsize=TEXT, ha="left", va="bottom")
    for top, text in (words or {}).items():
        x, y = _MARGIN / width, (_MARGIN + pixels.shape[0] - top * scale) / height
        figure.text(x, y, text, color=theme.ink, fontsize=TEXT, ha="left", va="center_baseline")
    return to_png(figure)


def _scale(width: int, tile: int, *, side: int = 0) -> int:
    return max(1, min(int(WIDTH * DPI - 2 * _MARGIN - side) // width, _MAX_TILE // tile))
