"""Ways of storing trajectories beside each other: bytes, speed, what they do to the end states, and advice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.distance import Floats, two_sides

_SHARE_OF_SOLVER = 0.1  # of the solver's own error that storing may add and still be called nothing
_NEGLIGIBLE = 1e-3  # where the solver's error is not known, in standard deviations of the end states


@dataclass(frozen=True, kw_only=True)
class StorageRow:
    """One way of storing, measured.

    Args:
        precision: as ``trajectories.precision`` names it, and so on.
        codec: of the chunks.
        save: which states are kept.
        bytes: a trajectory.
        encode: GB/s of the states as computed, all of them.
        decode: likewise.
        error: :func:`relative_change` of the end states; None where they do not fit into the type, as below.
        w2_change: W2 of stored end states to data minus that of exact ones, in data units.
        w2_bound: of its absolute value, :func:`coupled_distance` of stored and exact end states.
        is_used: whether the run stores so.
    """

    precision: str
    codec: str
    save: str
    bytes: float
    encode: float
    decode: float
    error: float | None
    w2_change: float | None
    w2_bound: float | None
    is_used: bool


@dataclass(frozen=True, kw_only=True)
class StorageTable:
    """The ways of storing a run's trajectories.

    Args:
        rows: the ways.
        trajectories: how many they were measured on.
        timed_rows: of the chunk whose encoding was timed.
        raw_bytes: of one trajectory as computed.
        points: of each side of W2.
        w2: of the exact end states to the data.
        solver_error: of the end states, in the units of a row's error; None where it is not known.
        advice: a sentence.
        left_out: why there are no rows, where there are none.
    """

    rows: Sequence[StorageRow] = ()
    trajectories: int = 0
    timed_rows: int = 0
    raw_bytes: int = 0
    points: int = 0
    w2: float = 0.0
    solver_error: float | None = None
    advice: str = ""
    left_out: str = ""


def spread(ends: Floats) -> float:
    """Give the standard deviation of ``ends [n, *dim]``, root mean square over coordinates."""
    return math.sqrt(float(ends.reshape(len(ends), -1).astype(np.float64).var(0).mean()))


def relative_change(ends: Floats, exact: Floats) -> float:
    """Give the root mean square of ``ends - exact``, ``[n, *dim]``, a coordinate, over the spread of ``exact``."""
    return coupled_distance(ends, exact) / math.sqrt(math.prod(exact.shape[1:])) / spread(exact)


def coupled_distance(x: Floats, y: Floats) -> float:
    """Give sqrt(E ||x - y||^2) of ``x, y [n, *dim]`` row by row: no less than the W2 of their laws.

    By the triangle inequality it also bounds how far their distances to any third law lie apart.
    """
    flat_x, flat_y = two_sides(x, y)
    return math.sqrt(float(((flat_x - flat_y) ** 2).sum(1).mean()))


def advise(rows: Sequence[StorageRow], *, solver_error: float | None) -> str:
    """Say which way takes the fewest bytes among those whose loss is small beside the solver's error.

    Args:
        rows: the ways; one of them keeps all states without loss.
        solver_error: in the units of their errors; None where it is not known.
    """
    most = _NEGLIGIBLE if solver_error is None else _SHARE_OF_SOLVER * solver_error
    harmless = [row for row in rows if row.error is not None and row.error <= most]
    whole = min((row for row in harmless if row.save == "all"), key=lambda row: row.bytes)
    beside = "a thousandth of their spread" if solver_error is None else f"a tenth of the solver's {solver_error:.1e}"
    moved = f"moves end states by {whole.error:.1e}, below {beside}" if whole.error else "loses nothing"
    advice = f"{whole.precision} with codec {whole.codec} keeps all states in {whole.bytes:,.0f} bytes and {moved}"
    ends = min((row for row in harmless if row.save == "endpoints"), key=lambda row: row.bytes, default=None)
    if ends is None:
        return f"{advice}."
    return f"{advice}; where the generator need only jump from 0 to T, endpoints take {ends.bytes:,.0f}."
