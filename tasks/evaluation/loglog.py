"""A picture of quantities that fall as a power: points, fitted lines with their bands, and the theory's lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from tasks.evaluation.convergence import PowerLaw
from tasks.evaluation.distance import Floats
from tasks.evaluation.paper import LIGHT, SMALL, TEXT, WIDTH, Theme, blank_figure, set_titles, strip_frame, to_png

_MARKERS = "os^Dv"
_MOST_TICKS = 12
_LEGEND_COLUMNS = 2
_BELOW = 0.55  # of the points, where a theory's line is drawn
_ROOM = 2.0  # above and below all points, as a factor; bands may reach farther


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind.

    Args:
        label: what they have in common.
        x: ``[n]``, positive and ascending.
        y: ``[n]``, positive.
        error: standard errors of y, ``[n]``.
        law: the line fitted to the last of them; None for none.
        theory: the slope that theory gives; None for none.
    """

    label: str
    x: Floats
    y: Floats
    error: Floats
    law: PowerLaw | None
    theory: float | None


def loglog(series: Sequence[Series], *, title: str, x_label: str, theme: Theme = LIGHT) -> bytes:
    """Draw series on doubly logarithmic axes: whiskers of one standard error, 95 % bands, dotted lines of the theory.

    Raises:
        ValueError: there is no series to draw.
    """
    if not series:
        raise ValueError("there must be a series to draw, got none")
    figure = blank_figure(WIDTH, 4.2 + 0.18 * -(-len(series) // _LEGEND_COLUMNS), theme)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for k, each in enumerate(series):
        _draw(axes, each, k, theme)
    for slope in sorted({each.theory for each in series if each.theory is not None}):
        _draw_theory(axes, [each for each in series if each.theory == slope], slope, theme)
    _scales(axes, series, theme)
    axes.set_xlabel(x_label, color=theme.muted, fontsize=SMALL)
    set_titles(axes, title, "bands: 95 % of the fitted line", theme)
    figure.legend(loc="outside lower left", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=SMALL, labelcolor=theme.ink)
    return to_png(figure)


def _draw(axes: Axes, series: Series, k: int, theme: Theme) -> None:
    colours = (theme.samples, theme.data, theme.ink)
    colour, marker = colours[k % len(colours)], _MARKERS[k // len(colours) % len(_MARKERS)]
    axes.errorbar(
        series.x,
        series.y,
        yerr=np.minimum(series.error, 0.95 * series.y),  # a whisker below zero has no place on a logarithmic axis
        fmt=marker,
        color=colour,
        markersize=5,
        markerfacecolor=colour if k < len(colours) else theme.paper,
        elinewidth=0.8,
        label=series.label,
    )
    if series.law is None:
        return
    x = np.geomspace(series.x[-series.law.points], series.x[-1], 60)
    axes.plot(x, series.law.at(x), color=colour, linewidth=1.1)
    band = series.law.band(x)
    if band is not None:
        axes.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)


def _draw_theory(axes: Axes, series: Sequence[Series], slope: float, theme: Theme) -> None:
    """Draw the theory's slope a little below the lowest of the series that it is about."""
    lowest = min(series, key=lambda each: float(each.y[-1]))
    x = np.array([lowest.x[0], lowest.x[-1]], dtype=float)
    y = _BELOW * lowest.y[-1] * (x / x[-1]) ** slope
    axes.plot(x, y, color=theme.muted, linewidth=1.0, linestyle=(0, (1, 2)))
    axes.annotate(
        f"slope {slope:.3g}".replace("-", "\u2212"),
        (x[0], y[0]),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=theme.muted,
        fontsize=TEXT - 2,
    )


def _scales(axes: Axes, series: Sequence[Series], theme: Theme) -> None:
    values = sorted({float(x) for each in series for x in each.x})
    step = -(-len(values) // _MOST_TICKS)
    axes.xaxis.set_major_locator(FixedLocator(values[::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}"))
    low = min(float(each.y.min()) for each in series) / _ROOM
    high = max(float(each.y.max()) for each in series) * _ROOM
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_xlim(values[0] / 1.45, values[-1] * 1.1)
    axes.grid(axis="y", color=theme.rule, linewidth=0.6)
    strip_frame(axes, theme)
