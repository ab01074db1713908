"""The end of a study: its points are measured, its curves fitted, and both become one object and one page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from storage.export import write_report
from storage.paths import Location
from tasks.evaluation.convergence import LEAST_POINTS, TOLERANCE
from tasks.evaluation.loglog import Series, loglog
from tasks.evaluation.paper import DARK, LIGHT
from tasks.evaluation.report import Figure, ReportContent, Table, printed, render
from tasks.facts import Progress
from tasks.orders import (
    ERROR,
    EVALUATIONS,
    Curve,
    MeasuredPoint,
    PointRequest,
    curves_of,
    measure_points,
    reference_error,
)

_BUDGET = tuple(f"budget.{term}" for term in ("early_stopping", "velocity", "euler", "fit", "bound"))
_SHOWN = ("w2", "w2_ratio", "w2_excess", "velocity_error", *_BUDGET)  # metrics with a column in the table of points

_ABOUT_POINTS = "Each is a run of its own under this root, called after the study and the values."
_ABOUT_MANIFOLDS = (
    " Where d stands beside it, it is the rate with the manifold's dimension in place of the space's: expected, and "
    "not verified in the paper's text."
)
_ABOUT_ERRORS = (
    " Errors of end states are root mean squares a coordinate, in the units of the trajectories, with one "
    "standard error."
)


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What is measured, and what the page says of it."""

    study: str
    title: str  # the preset or file
    created: str
    points: Sequence[PointRequest]
    shorts: Mapping[str, str]  # what a swept key is called in tables
    reference: str  # what end states are compared with; empty: with nothing
    configuration: str  # TOML, of the first point
    versions: Mapping[str, str]
    seeds: Mapping[str, int]
    report: Location


def measure_study(request: StudyRequest, *, progress: Progress) -> dict[str, Any]:
    """Measure a study, write its page, and give the object that the command prints.

    Keys: ``study``; ``points``, each with ``run, values, evaluations, error, error_se, metrics, seconds``; ``orders``,
    each with ``quantity, against, series, observed, se, last, theory, fitted``; ``reference``; ``reference_error``.
    Orders are the p of x^-p; what was not measured is None.
    """
    points = measure_points(request.points, progress=progress)
    curves = curves_of(points)
    own_error = reference_error(points)
    found: dict[str, Any] = {
        "study": request.study,
        "points": [_point_json(point) for point in points],
        "orders": [_order_json(curve) for curve in curves],
        "reference": request.reference or None,
        "reference_error": own_error,
    }
    compared = _compared_words(request.reference, own_error)
    figures = _figures(curves, request.shorts, compared)
    write_report(
        request.report,
        page=render(_content(request, points, curves, figures, compared)),
        pictures={figure.name: figure.png for figure in figures},
        metrics=found,
    )
    return found


def _point_json(point: MeasuredPoint) -> dict[str, Any]:
    return {
        "run": point.request.run,
        "values": dict(point.request.values),
        "evaluations": point.evaluations,
        "error": point.error.value if point.error else None,
        "error_se": point.error.standard_error if point.error else None,
        "metrics": dict(point.request.metrics),
        "seconds": point.request.seconds,
    }


def _order_json(curve: Curve) -> dict[str, Any]:
    return {
        "quantity": curve.quantity,
        "against": curve.against,
        "series": dict(curve.series),
        "observed": -curve.law.slope,
        "se": curve.law.standard_error,
        "last": -curve.law.last,
        "theory": curve.theory,
        "fitted": curve.law.points,
    }


def _compared_words(reference: str, error: float | None) -> str:
    own = "" if error is None else f", whose own error is about {_number(float(f'{error:.1e}'))} by Richardson's rule"
    return f"{reference}{own}"


def _figures(curves: Sequence[Curve], shorts: Mapping[str, str], compared: str) -> list[Figure]:
    """Draw a picture for each pair of a quantity and what it is plotted against."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.quantity, curve.against), []).append(curve)
    return [_figure(group, shorts, compared) for group in groups.values()]


def _figure(curves: Sequence[Curve], shorts: Mapping[str, str], compared: str) -> Figure:
    quantity, against = curves[0].quantity, curves[0].against
    title = f"{_words(quantity)} against {_words(against)}"
    series = [
        Series(
            label=f"{_series_words(curve, shorts) or quantity}: order {_order_words(curve)}",
            x=curve.x,
            y=curve.y,
            error=curve.error,
            law=curve.law,
            theory=None if curve.theory is None else -curve.theory,
        )
        for curve in curves
    ]
    draw = partial(loglog, series, title=_words(quantity), x_label=_words(against))
    return Figure(
        name=f"{quantity}-{against}".replace(".", "-"),
        title=title[0].upper() + title[1:] if quantity == ERROR else title,  # other quantities have public names
        caption=f"Compared with {compared}." if quantity == ERROR else "",
        png=draw(theme=LIGHT),
        dark_png=draw(theme=DARK),
    )


def _words(name: str) -> str:
    return {ERROR: "error of end states", EVALUATIONS: "velocity evaluations a trajectory"}.get(name, name)


def _series_words(curve: Curve, shorts: Mapping[str, str]) -> str:
    """Give what is fixed along a curve: words as they are, numbers with their key."""
    return ", ".join(v if isinstance(v, str) else f"{shorts[k]} {v}" for k, v in curve.series.items())


def _order_words(curve: Curve) -> str:
    return _number(-curve.law.slope, curve.law.standard_error)


def _number(value: float, error: float | None = None) -> str:
    """Give a number as text, with its error and power of ten where it has them."""
    text, spread, scale = printed(value, error)
    inner = f"{text} ± {spread}" if spread else text
    return f"({inner}) × {scale}" if scale and spread else f"{inner} × {scale}" if scale else inner


def _content(
    request: StudyRequest,
    points: Sequence[MeasuredPoint],
    curves: Sequence[Curve],
    figures: Sequence[Figure],
    compared: str,
) -> ReportContent:
    return ReportContent(
        subject="study",
        run=request.study,
        title=request.title,
        created=request.created,
        figures=figures,
        tables=[*([_orders_table(curves, request.shorts)] if curves else []), _points_table(request, points)],
        configuration=request.configuration,
        seeds=request.seeds,
        references={"end states": compared} if compared else {},
        versions=request.versions,
    )


def _orders_table(curves: Sequence[Curve], shorts: Mapping[str, str]) -> Table:
    return Table(
        title="Orders",
        remark="The order is the p of x^−p, by least squares on logarithms; its error is one standard error, from "
        "the scatter about the line. Of end-state errors, coarse points are left out until every slope between "
        f"neighbours is within {TOLERANCE:g} of the slope of the last two, and {LEAST_POINTS} points stay in any case; "
        "other quantities are fitted whole, but for points at 0, which have no logarithm. Theory is a solver's own "
        "order, or an upper bound on a rate." + (_ABOUT_MANIFOLDS if any(c.intrinsic for c in curves) else ""),
        header=("quantity", "against", "series", "order", "95 %", "last two", "theory", "points"),
        rows=[
            (
                curve.quantity,
                curve.against,
                _series_words(curve, shorts),
                _order_words(curve),
                _interval_words(curve),
                f"{-curve.law.last:.3g}".replace("-", "−"),
                _theory_words(curve),
                f"{curve.law.points} of {len(curve.x) + curve.left_out}",
            )
            for curve in curves
        ],
    )


def _theory_words(curve: Curve) -> str:
    if curve.theory is None:
        return ""
    return f"{curve.theory:.3g}" + (f", d = {curve.intrinsic}" if curve.intrinsic else "")


def _interval_words(curve: Curve) -> str:
    interval = curve.law.interval()
    return "" if interval is None else f"{-interval[1]:.3g} to {-interval[0]:.3g}".replace("-", "−")


def _points_table(request: StudyRequest, points: Sequence[MeasuredPoint]) -> Table:
    shown = [name for name in _SHOWN if any(name in point.request.metrics for point in points)]
    errors = ["error"] if any(point.error for point in points) else []
    return Table(
        title="Points",
        remark=_ABOUT_POINTS + (_ABOUT_ERRORS if errors else ""),
        header=(*request.shorts.values(), "evaluations", *errors, *shown, "seconds"),
        rows=[
            (
                *(str(value) for value in point.request.values.values()),
                f"{point.evaluations:,}",
                *(_measured(point, name) for name in (*errors, *shown)),
                f"{point.request.seconds:.1f}",
            )
            for point in points
        ],
    )


def _measured(point: MeasuredPoint, name: str) -> str:
    value, error = point.quantity(name)
    return "" if math.isnan(value) else _number(value, error or None)
