"""Which error of a run to spend on next: its budget in words, the knob that lowers the largest term, what that buys."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.evaluation.budget import TERMS
from tasks.evaluation.distance import Distance

_CLEARLY = 1.2  # times the error on what was trained on, from where the one on fresh noise is clearly larger
_ERRORS = 2.0  # standard errors, that a difference must exceed to count


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """What the run was made with, and what is known of turning its knobs.

    Args:
        solver: ``trajectories.solver``.
        steps: ``trajectories.steps``.
        expected_order: of the solver.
        order: as observed; None where the gaps do not tell.
        stop: ``trajectories.stop``.
        later: a time nearer to 1.
        later_stopping: early stopping at that time.
        trajectories: how many the generator was fitted to.
        trained_fit: the fit on some of these, as the fit is on fresh noise.
        velocity: ``velocity.kind``.
        is_exact: whether the run's velocity is the one that the paths are compared with.
        is_guided: whether it is meant to differ from that one.
        losses: by how much the velocity's loss exceeds the exact one's, on fresh draws and on the rows it was fitted
            to; None where the paths are compared with the velocity of the data themselves.
    """

    solver: str
    steps: int
    expected_order: int
    order: float | None
    stop: float
    later: float
    later_stopping: float
    trajectories: int
    trained_fit: Distance
    velocity: str
    is_exact: bool
    is_guided: bool
    losses: tuple[Distance, Distance] | None


def describe(knobs: Knobs, *, law: str) -> dict[str, str]:
    """Give what each term is in this run, by the names of the terms; ``law`` is what the bound is a distance to."""
    order = "" if knobs.order is None else f"; order {knobs.order:.2f} observed, {knobs.expected_order} expected"
    against = "the exact characteristics" if knobs.is_exact else "their limit, by Richardson's rule"
    return {
        "early_stopping": f"x_T against the data that it is made of, in closed form, T = {knobs.stop:g}",
        "velocity": _velocity_words(knobs),
        "euler": f"end states of {knobs.steps:,} steps of {knobs.solver} against {against}{order}",
        "fit": f"one-step map against these end states; on trajectories that it was trained on "
        f"{knobs.trained_fit.value:.3g} ± {knobs.trained_fit.standard_error:.1g}",
        "bound": f"the sum, at least the W2 of one-step samples to {law}",
    }


def _velocity_words(knobs: Knobs) -> str:
    if knobs.is_exact:
        return "the velocity is the exact one"
    words = "the limit of ever finer steps against the exact characteristics"
    if knobs.losses is None:
        words += ", which end in rows of the data: what a velocity generalises counts as its error"
    return words + ("; guidance counts as well" if knobs.is_guided else "")


def advise(terms: Mapping[str, Distance], knobs: Knobs) -> str:
    """Say which knob lowers the largest term, and how far the bound falls.

    Args:
        terms: of the budget, with ``bound``.
        knobs: of the run.
    """
    first, second, *_ = sorted(TERMS, key=lambda name: terms[name].value, reverse=True)
    if terms[first].value == 0:
        return "Nothing is left to gain: every term of the error budget is 0."
    if first != "velocity" or knobs.losses is not None:
        return _next(first, terms, knobs)
    words = (
        f"The largest term, velocity, {_short(terms['velocity'].value)} of a bound of {_short(terms['bound'].value)}, "
        "compares with the rows of the data themselves: how much of it is a wrong velocity, and how much one that "
        "generalises beyond the rows, cannot be told"
    )
    if terms[second].value == 0:
        return f"{words}."
    rest = _next(second, terms, knobs)
    return f"{words}. Of the others, {rest[0].lower()}{rest[1:]}"


def _next(name: str, terms: Mapping[str, Distance], knobs: Knobs) -> str:
    term, bound = terms[name].value, terms["bound"].value

    def falls(left: float) -> str:
        return f"{name} from {_short(term)} to {_short(left)} and the bound from {_short(bound)} to " + _short(
            bound - term + left
        )

    at_most = f"that can take {falls(0.0)}, at most"
    match name:
        case "euler" if knobs.order is not None and knobs.order > 0:
            return (
                f"Next: trajectories.steps. Twice the {knobs.steps:,} take {falls(term / 2**knobs.order)}, by the "
                f"observed order of {knobs.order:.2f}."
            )
        case "euler":
            return f"Next: trajectories.steps; {at_most}: the gaps of finer and finer steps do not fall yet."
        case "early_stopping":
            later = f"{knobs.later:g} in place of {knobs.stop:g}"
            return f"Next: trajectories.stop. {later} takes {falls(knobs.later_stopping)}."
        case "fit":
            return f"Next: {_fit_words(terms['fit'], knobs)}; {at_most}."
        case _:
            return f"Next: {_estimate_words(knobs)}; {at_most}."


def _fit_words(fit: Distance, knobs: Knobs) -> str:
    trained = knobs.trained_fit
    both = f"{_short(fit.value)} off on fresh noise and {_short(trained.value)} on its own trajectories"
    if _is_clear(fit, trained) and fit.value > _CLEARLY * trained.value:
        return f"trajectories.count, above {knobs.trajectories:,}: the map is {both}, so it wants more of them"
    return f"generator.steps, or a larger generator.network: the map is {both}, so more of them would not help"


def _estimate_words(knobs: Knobs) -> str:
    assert knobs.losses is not None
    fresh, own = knobs.losses
    is_overfitted = _is_clear(fresh, own) and fresh.value > _CLEARLY * own.value
    found = (
        f"the velocity's loss is {_short(fresh.value)} above the exact one's on fresh draws and {_short(own.value)} on "
        "the rows it was fitted to"
    )
    match knobs.velocity, is_overfitted:
        case "kernel", True:
            return f"dataset.count, or a larger velocity.bandwidth: {found}"
        case "kernel", False:
            return f"a smaller velocity.bandwidth: {found}"
        case _, True:
            return f"dataset.count: {found}, so it wants more rows"
    return f"velocity.steps, or a larger velocity.network: {found}, so more rows would not help"


def _is_clear(larger: Distance, smaller: Distance) -> bool:
    error = math.hypot(larger.standard_error, smaller.standard_error)
    return larger.value - smaller.value > _ERRORS * error


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
