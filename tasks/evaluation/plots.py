"""Pictures of points, samples, characteristics and losses, as PNG bytes; those of images are drawn in images.py.

One palette throughout: grey-blue is the target, the accent is the generator, and time runs from sand (noise) to accent.
Each function draws on the paper of a theme; a page that follows its reader's scheme shows one picture of each theme.
Figures are objects of their own: no pyplot, no global state, any thread. Equal arguments give equal bytes.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tasks.evaluation.distance import Floats, two_sides
from tasks.evaluation.paper import LIGHT, SMALL, TEXT, WIDTH, Theme, blank_figure, set_titles, strip_frame, to_png

Curve = tuple[Sequence[float], Sequence[float]]  # steps and losses

_PANEL_COLUMNS = 3
_MARGINALS = 6
_MAX_PATHS = 400
_BINS = 48


def scatter_pair(data: Floats, samples: Floats, *, theme: Theme = LIGHT) -> bytes:
    """Draw points in the plane ``data [n, 2]`` beside one-step ``samples [m, 2]``, on the same axes.

    Raises:
        ValueError: points are not in the plane, or not finite.
    """
    left, right = _planar(data, samples)
    box = _box(left, right)
    figure = blank_figure(WIDTH, _height(box, WIDTH / 2), theme)
    for axes, x, title, colour in zip(
        figure.subplots(1, 2), (left, right), ("Data", "One-step samples"), (theme.data, theme.samples), strict=True
    ):
        _dots(axes, x, colour)
        _plane(axes, box, theme)
        set_titles(axes, title, f"{len(x):,} points", theme)
    return to_png(figure)


def scatter(x: Floats, *, theme: Theme = LIGHT) -> bytes:
    """Draw points in the plane, ``x [n, 2]``; raises ``ValueError`` where they are not in the plane, or not finite."""
    x, _ = _planar(x, x)
    box = _box(x)
    figure = blank_figure(WIDTH / 2, _height(box, WIDTH / 2), theme)
    axes = figure.subplots()
    _dots(axes, x, theme.samples)
    _plane(axes, box, theme)
    set_titles(axes, "One-step samples", f"{len(x):,} points", theme)
    return to_png(figure)


def scatter_panels(clouds: Mapping[str, Floats], *, theme: Theme = LIGHT) -> bytes:
    """Draw clouds of points in the plane, ``[n, 2]`` each, beside one another on the same axes, three in a row.

    The first is the data; each has its words for a title.

    Raises:
        ValueError: points are not in the plane, or not finite.
    """
    found = {words: _planar(x, x)[0] for words, x in clouds.items()}
    box = _box(*found.values())
    rows = math.ceil(len(found) / _PANEL_COLUMNS)
    figure = blank_figure(WIDTH, rows * _height(box, WIDTH / _PANEL_COLUMNS), theme)
    panels = figure.subplots(rows, _PANEL_COLUMNS, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for k, (axes, (words, x)) in enumerate(zip(panels, found.items(), strict=False)):
        _dots(axes, x, theme.samples if k else theme.data)
        _plane(axes, box, theme)
        set_titles(axes, words, "", theme)
    return to_png(figure)


def trajectories_2d(states: Floats, data: Floats, *, theme: Theme = LIGHT) -> bytes:
    """Draw trajectories ``states [rows, times, 2]`` over the density of ``data [n, 2]``, coloured by time step.

    Shows the first 400 rows, open dots where they start and full ones where they end.

    Raises:
        ValueError: points are not in the plane, or not finite.
    """
    flat, data = _planar(states.reshape(-1, states.shape[-1]), data)
    paths = flat.reshape(*states.shape)[:_MAX_PATHS]
    box = _box(paths.reshape(-1, 2), data)
    figure = blank_figure(WIDTH, _height(box, 0.8 * WIDTH), theme)
    axes = figure.subplots()
    _density(axes, data, box, theme)
    colours = _time_colours(theme)
    pieces = np.stack([paths[:, :-1], paths[:, 1:]], 2).reshape(-1, 2, 2)  # [rows * steps, end, 2]
    share = np.tile((np.arange(paths.shape[1] - 1) + 0.5) / (paths.shape[1] - 1), len(paths))
    axes.add_collection(LineCollection(list(pieces), colors=colours(share), linewidths=0.7, alpha=0.75))
    start, end = paths[:, 0], paths[:, -1]
    axes.scatter(
        start[:, 0], start[:, 1], s=7, facecolors=theme.paper, edgecolors=theme.muted, linewidths=0.6, zorder=3
    )
    axes.scatter(end[:, 0], end[:, 1], s=8, color=theme.samples, linewidths=0, zorder=4)
    _plane(axes, box, theme)
    _time_key(axes, colours, theme)
    return to_png(figure)


def marginals(data: Floats, samples: Floats, *, theme: Theme = LIGHT) -> bytes:
    """Draw histograms of the first coordinates (at most 6) of ``data [n, *dim]`` and ``samples [m, *dim]``.

    Heights are densities of the whole sample; the range holds the middle 99.8 % of both sides together.

    Raises:
        ValueError: the dimensions differ, or a side is not finite.
    """
    left, right = two_sides(data, samples)
    return _histograms({"Data": left, "One-step samples": right}, theme)


def histograms(x: Floats, *, theme: Theme = LIGHT) -> bytes:
    """Draw histograms of the first coordinates (at most 6) of ``x [n, *dim]`` as :func:`marginals` does."""
    return _histograms({"One-step samples": two_sides(x, x)[0]}, theme)


def loss_curves(curves: Mapping[str, Curve], *, theme: Theme = LIGHT) -> bytes:
    """Draw training losses by name, a panel each: every value pale, their running mean strong.

    An axis is logarithmic where its running mean is positive and spans more than a factor 5.

    Raises:
        ValueError: there is no curve, or one holds no point or unequally many steps and losses.
    """
    if not curves:
        raise ValueError("there must be a loss curve to draw, got none")
    figure = blank_figure(WIDTH, 2.6 if len(curves) > 1 else 3.0, theme)
    for axes, (name, (steps, loss)) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        _curve(axes, name, np.asarray(steps, float), np.asarray(loss, float), theme)
    return to_png(figure)


def _curve(axes: Axes, name: str, steps: Floats, loss: Floats, theme: Theme) -> None:
    if not steps.size or steps.shape != loss.shape:
        raise ValueError(f"curve {name!r} needs as many losses as steps, got {loss.size} and {steps.size}")
    smooth = _running_mean(loss, max(1, len(loss) // 40))
    axes.plot(steps, loss, color=theme.data, linewidth=0.6, alpha=0.5)
    axes.plot(steps, smooth, color=theme.samples, linewidth=1.4, marker="o" if len(steps) == 1 else "")
    if smooth.min() > 0 and loss.min() > 0 and smooth.max() > 5 * smooth.min():
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if loss.max() < 50 * loss.min() else (1.0,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.grid(axis="y", color=theme.rule, linewidth=0.6)
    strip_frame(axes, theme)
    axes.set_xlabel("optimiser step", color=theme.muted, fontsize=SMALL)
    set_titles(axes, name, f"last {smooth[-1]:.3g}", theme)


def _histograms(sides: Mapping[str, Floats], theme: Theme) -> bytes:
    d = next(iter(sides.values())).shape[1]
    shown = min(d, _MARGINALS)
    columns = 2 if shown == 4 else min(shown, 3)
    rows = math.ceil(shown / columns)
    figure = blank_figure(WIDTH, 1.0 + 2.1 * rows if shown > 1 else 3.6, theme)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for k, axes in enumerate(panels):
        if k >= shown:
            axes.set_axis_off()
            continue
        _overlay(axes, {name: x[:, k] for name, x in sides.items()}, theme)
        set_titles(axes, f"Coordinate {k + 1} of {d}" if d > 1 else "Density", "", theme)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=TEXT, labelcolor=theme.ink
    )
    return to_png(figure)


def _overlay(axes: Axes, sides: Mapping[str, Floats], theme: Theme) -> None:
    low, high = np.percentile(np.concatenate(list(sides.values())), [0.1, 99.9])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    for name, x in sides.items():
        height = np.histogram(x, edges)[0] / (len(x) * (edges[1] - edges[0]))
        if name == "Data":
            axes.stairs(height, edges, fill=True, color=theme.data, alpha=0.45, linewidth=0, label=name)
        else:
            axes.stairs(height, edges, color=theme.samples, linewidth=1.3, label=name)
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(4))
    strip_frame(axes, theme)


def _planar(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    x, y = two_sides(x, y)
    if x.shape[1] != 2:
        raise ValueError(f"a scatter needs points in the plane, got dimension {x.shape[1]}")
    return x, y


def _box(*clouds: Floats) -> Floats:
    """Give the corners ``[2 (low, high), 2]`` of a box that holds all but the outermost points of the clouds.

    It is from half to once as high as it is wide, so that equal units on both axes leave little paper empty.
    """
    low, high = np.percentile(np.concatenate(clouds), [0.05, 99.95], axis=0)
    half = np.maximum((high - low) / 2 * 1.06, 1e-9)
    half = np.array([max(half), np.clip(half[1], max(half) / 2, max(half))])
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half])


def _height(box: Floats, width: float) -> float:
    """Give the inches that a plane of this box needs, with its title and labels, where it is ``width`` wide."""
    span = box[1] - box[0]
    return float(round((width - 0.5) * span[1] / span[0] + 0.7, 2))


def _dots(axes: Axes, x: Floats, colour: str) -> None:
    size = min(14.0, max(1.5, 9000 / len(x)))
    axes.scatter(x[:, 0], x[:, 1], s=size, color=colour, alpha=0.55 if len(x) > 500 else 0.8, linewidths=0)


def _density(axes: Axes, data: Floats, box: Floats, theme: Theme) -> None:
    cells = 160
    counts, _, _ = np.histogram2d(data[:, 0], data[:, 1], bins=cells, range=box.T.tolist())
    smooth: Floats = counts
    for _ in range(2):  # two passes of 5 cells blur like a Gaussian of deviation 2
        smooth = _running_mean(_running_mean(smooth, 5).T, 5).T
    top = smooth.max()
    if top == 0:
        return
    shades = LinearSegmentedColormap.from_list("density", [theme.paper, theme.data])
    (left, bottom), (right, upper) = box
    # The root keeps thin parts of the density visible.
    axes.imshow(
        np.sqrt(smooth / top).T * 0.75,
        extent=(left, right, bottom, upper),
        origin="lower",
        cmap=shades,
        vmin=0,
        vmax=1,
        interpolation="bicubic",
        zorder=0,
    )


def _running_mean(x: Floats, width: int) -> Floats:
    """Give the mean of ``width`` values about each along the first axis, the end values repeated beyond the ends."""
    sides = [(width // 2, (width - 1) // 2), *[(0, 0)] * (x.ndim - 1)]
    return np.asarray(np.lib.stride_tricks.sliding_window_view(np.pad(x, sides, mode="edge"), width, axis=0).mean(-1))


def _time_colours(theme: Theme) -> Colormap:
    return LinearSegmentedColormap.from_list("time", [theme.noise, theme.samples])


def _time_key(axes: Axes, colours: Colormap, theme: Theme) -> None:
    key = axes.inset_axes((0.0, 1.03, 0.28, 0.014))
    key.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto")
    key.set_axis_off()
    for x, text, align in ((0.0, "noise", "left"), (0.28, "sample", "right")):
        axes.text(x, 1.055, text, transform=axes.transAxes, ha=align, va="bottom", color=theme.muted, fontsize=SMALL)


def _plane(axes: Axes, box: Floats, theme: Theme) -> None:
    (left, bottom), (right, top) = box
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    strip_frame(axes, theme)
