"""What every picture is drawn on: the colours of a theme, a figure without global state, its frame and titles."""

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 200
WIDTH = 8.0  # of every figure but the images', in inches
TEXT, SMALL = 9.5, 8.0  # points


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a picture, each ``#rrggbb``."""

    paper: str
    ink: str
    muted: str  # labels of axes
    rule: str  # hairlines
    data: str
    samples: str
    noise: str  # the colour of t = 0


LIGHT = Theme(
    paper="#fdfcfa",
    ink="#23282e",
    muted="#6d747c",
    rule="#dcd9d2",
    data="#7f8fa4",
    samples="#b4472e",
    noise="#dcc9a0",
)
DARK = Theme(
    paper="#16191d",
    ink="#e8e5df",
    muted="#959ca5",
    rule="#343a41",
    data="#7e90a8",
    samples="#f0886a",
    noise="#5d5440",
)


def blank_figure(width: float, height: float, theme: Theme) -> Figure:
    """Give an empty figure of so many inches, whose parts are laid out when it is drawn."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.05, hspace=0.06)
    return Figure(figsize=(width, height), dpi=DPI, facecolor=theme.paper, layout=layout)


def to_png(figure: Figure) -> bytes:
    """Draw a figure; equal figures give equal bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return out.getvalue()


def strip_frame(axes: Axes, theme: Theme) -> None:
    """Leave of the frame a hairline below."""
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.rule)
    axes.tick_params(length=0, colors=theme.muted, labelsize=SMALL, pad=4)


def set_titles(axes: Axes, title: str, remark: str, theme: Theme) -> None:
    """Set what a plot shows on its left and how much of it on its right."""
    axes.set_title(title, loc="left", color=theme.ink, fontsize=TEXT, pad=8)
    axes.set_title(remark, loc="right", color=theme.muted, fontsize=SMALL, pad=8)
