"""The report of a run or a study: one self-contained HTML page, without scripts or network.

Numbers print with their standard errors and no more digits than those justify. The look lives in report.html.jinja; its
paper colours are those of :mod:`tasks.evaluation.plots`, so that pictures sit in the page without a frame.
"""

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tasks.evaluation.budget import ErrorBudget
from tasks.evaluation.choices import StorageTable
from tasks.evaluation.distance import Distance
from tasks.evaluation.paper import DARK, LIGHT

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PNG = b"\x89PNG\r\n\x1a\n"
_BUDGET_TERMS = {
    "early_stopping": "stopping at T < 1",
    "velocity": "estimating the velocity",
    "euler": "discretising the characteristics",
    "fit": "fitting the generator",
    "bound": "all of them: a bound on the distance",
    "measured": "the distance, above its floor",
}
_MEASURED = "√(w2² − w2_floor²), which the bound covers but for the errors of both"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture of the page.

    Args:
        name: a word, unique in the page; its anchor, and its file's stem beside the page.
        title: shown above it.
        caption: shown below it; may be empty.
        png: the picture, for a light page.
        dark_png: the same picture for a dark page; without it the light one is shown on its own paper.

    Raises:
        ValueError: a picture is no PNG.
    """

    name: str
    title: str
    caption: str = ""
    png: bytes
    dark_png: bytes | None = None

    def __post_init__(self) -> None:
        for picture in (self.png, self.dark_png):
            if picture is not None and not picture.startswith(_PNG):
                raise ValueError(f"figure {self.name!r} must be a PNG, got bytes that begin with {picture[:8]!r}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = struct.unpack(">II", self.png[16:24])  # the IHDR chunk always comes first
        return width, height


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of the page that has no floor.

    Args:
        name: public name, or a short label.
        description: what it is, in a few words.
        value: the number.
        standard_error: None where it is not known.
        n: None where it does not apply.
    """

    name: str
    description: str = ""
    value: float
    standard_error: float | None = None
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class DistanceRow:
    """A distance beside its floor: what two fresh samples of the target score at the same n.

    Args:
        name: public name.
        description: what it is and how it was computed.
        value: the distance.
        standard_error: of it; None where it is not known, as below.
        n: points a side.
        floor: the floor.
        floor_standard_error: of it.
        ratio: value over floor.
    """

    name: str
    description: str = ""
    value: float
    standard_error: float | None = None
    n: int | None = None
    floor: float | None = None
    floor_standard_error: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a title and a remark; each row as long as ``header``."""

    title: str
    remark: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step of the pipeline: its status (``done``, ``reused``), how long it took, and a line of details."""

    name: str
    status: str
    seconds: float
    details: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """All that the page shows; whatever is empty is left out.

    Args:
        subject: what the page is of: ``run`` or ``study``.
        run: its name.
        title: the preset or file it was made from.
        created: when, as it is to be printed.
        headline: the few numbers to read first.
        distances: each with its floor.
        figures: in reading order.
        tables: in reading order, after the figures.
        budget: the error budget.
        metrics: all other measures.
        storage: the ways of storing the trajectories.
        steps: in order.
        overheads: seconds spent outside the steps, by what took them.
        configuration: the resolved configuration, TOML.
        seeds: by configuration key.
        batches: effective global batch of each training step.
        references: what the distances are measured against, by name: a digest of data or statistics.
        lineage: (key, run that holds it) of each step.
        versions: of packages and of Python.
    """

    subject: str = "run"
    run: str
    title: str
    created: str
    headline: Sequence[Metric] = ()
    distances: Sequence[DistanceRow] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    budget: ErrorBudget | None = None
    metrics: Sequence[Metric] = ()
    storage: StorageTable | None = None
    steps: Sequence[StepRow] = ()
    overheads: Mapping[str, float] = field(default_factory=dict)
    configuration: str = ""
    seeds: Mapping[str, int] = field(default_factory=dict)
    batches: Mapping[str, int] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def render(content: ReportContent) -> str:
    """Give the page as HTML: styles and pictures inside, every text escaped; a function of ``content`` alone."""
    return _template().render(
        content=content,
        light=LIGHT,
        dark=DARK,
        axis=_ratio_axis(content.distances),
        budget=_budget_rows(content.budget),
        longest=max((step.seconds for step in content.steps), default=0.0),
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("tasks.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printed": printed, "duration": duration, "data_uri": _data_uri}
    return environment.get_template("report.html.jinja")


def printed(value: float, error: float | None = None) -> tuple[str, str, str]:
    """Give a number, its error and a common power of ten as text, such as ``("0.1234", "0.0021", "")``.

    The error keeps two significant digits and the number as many decimals; without an error the number keeps four
    digits and the second text is empty. Below 1e-3 and from 1e6 a power of ten is split off, as in
    ``("1.23", "0.21", "10⁻⁵")``.
    """
    size = max(abs(value), error or 0.0)
    power = math.floor(math.log10(size)) if size > 0 and not 1e-3 <= size < 1e6 else 0
    value = value / 10.0**power
    scale = f"10{str(power).translate(_SUPERSCRIPTS)}" if power else ""
    if not error:
        digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return _minus(digits), "" if error is None else "0", scale
    error = error / 10.0**power
    decimals = 1 - math.floor(math.log10(float(f"{error:.1e}")))
    texts = (f"{round(x, decimals):,.{max(0, decimals)}f}" for x in (value, error))
    return _minus(next(texts)), next(texts), scale


def _minus(digits: str) -> str:
    return digits.replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Give a duration as people write it: ``0.42 s``, ``12.3 s``, ``2 min 05 s``, ``3 h 07 min``."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """A ratio on the common axis, positions in percent of its width."""

    at: float
    low: float
    high: float
    floor_low: float
    floor_high: float


@dataclass(frozen=True, kw_only=True)
class _RatioAxis:
    """Marks by name of distance, and ticks as (position, label), on a logarithmic axis."""

    one: float
    ticks: tuple[tuple[float, str], ...]
    marks: Mapping[str, _Mark]


def _ratio_axis(rows: Sequence[DistanceRow]) -> _RatioAxis | None:
    """Lay out the ratios that have a floor; None where no row has one."""
    spans: dict[str, tuple[float, float, float, float, float]] = {}
    for row in rows:
        if row.floor and row.ratio and row.floor > 0 and row.ratio > 0:
            spread, floor_spread = (row.standard_error or 0) / row.floor, (row.floor_standard_error or 0) / row.floor
            spans[row.name] = (row.ratio, row.ratio - spread, row.ratio + spread, 1 - floor_spread, 1 + floor_spread)
    if not spans:
        return None
    numbers = [max(x, 0.1) for span in spans.values() for x in span]
    low, high = min(0.8, min(numbers) * 0.95), max(1.5, max(numbers) * 1.1)

    def place(ratio: float) -> float:
        return 100 * min(1.0, max(0.0, math.log(max(ratio, low) / low) / math.log(high / low)))

    decades = tuple(m * 10.0**k for k in range(-1, 7) for m in ((1, 2, 5) if high < 100 else (1,)))
    steps = (0.5, 0.75, 1, 1.25, 1.5, 2, 2.5) if high < 3 else decades
    ticks = tuple((place(x), f"{x:,g}×") for x in steps if low <= x <= high)
    marks = {
        name: _Mark(**dict(zip(("at", "low", "high", "floor_low", "floor_high"), map(place, span), strict=True)))
        for name, span in spans.items()
    }
    return _RatioAxis(one=place(1), ticks=ticks, marks=marks)


@dataclass(frozen=True, kw_only=True)
class _BudgetRow:
    """A bar of the error budget, positions in percent of the longest end.

    Terms are stacked: each begins where the one before it ended, and the bound spans them all.
    """

    kind: str  # term, bound or measured
    label: str
    note: str
    term: Distance
    left: float
    width: float
    low: float  # one standard error on either side of the bar's end
    high: float


def _budget_rows(budget: ErrorBudget | None) -> list[_BudgetRow]:
    if budget is None:
        return []
    longest = max(end.value + end.standard_error for end in (*budget.terms.values(), budget.measured)) or 1.0

    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, value / longest))

    rows, reached = [], 0.0
    for name, term in {**budget.terms, "measured": budget.measured}.items():
        kind = name if name in ("bound", "measured") else "term"
        begin = reached if kind == "term" else 0.0
        end, error = begin + term.value, term.standard_error
        rows.append(
            _BudgetRow(
                kind=kind,
                label=_BUDGET_TERMS[name],
                note=budget.words.get(name, _MEASURED),
                term=term,
                left=place(begin),
                width=place(end) - place(begin),
                low=place(end - error),
                high=place(end + error),
            )
        )
        reached = end if kind == "term" else reached
    return rows
