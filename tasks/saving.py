"""What of a trajectory is stored: which of its states, and in which precision. Standard library only."""

from tasks.checks import require

STORED_KINDS = ("float16", "float32", "float64")
MOST_BITS = 22  # of float32's 23; fewer compress better


def stored_precision(precision: str) -> tuple[str, int]:
    """Give the stored type, and how many mantissa bits of its values are kept; 0 for all.

    Raises:
        ValueError: ``trajectories.precision`` is neither a type nor ``round-N``.
    """
    name, _, number = precision.partition("-")
    if name == "round" and number.isdigit() and 1 <= int(number) <= MOST_BITS:
        return "float32", int(number)
    require(
        precision in STORED_KINDS,
        f"trajectories.precision must be one of {', '.join(STORED_KINDS)}, round-N with N from 1 to {MOST_BITS}, "
        f"got {precision!r}",
    )
    return precision, 0


def saved_steps(save: str | tuple[int, ...], *, last: int) -> tuple[int, ...]:
    """Give the solver's steps whose states are stored, of 0 to ``last``, which are both among them.

    Raises:
        ValueError: ``trajectories.save`` names no such steps.
    """
    if not isinstance(save, str):
        require(
            len(save) >= 2 and list(save) == sorted({0, *save, last}),
            f"trajectories.save must list ascending steps from 0 to trajectories.steps = {last}, both among them, "
            f"got {list(save)}",
        )
        return save
    name, _, number = save.partition("-")
    if name == "every" and number.isdigit() and 1 <= int(number) <= last:
        return (*range(0, last, int(number)), last)
    known = {"all": tuple(range(last + 1)), "endpoints": (0, last)}
    require(
        save in known,
        f"trajectories.save must be one of all, every-N with N from 1 to {last}, endpoints, or a list of steps, "
        f"got {save!r}",
    )
    return known[save]


def precision_name(dtype: str, mantissa_bits: int) -> str:
    """Give the ``trajectories.precision`` that :func:`stored_precision` reads as this type and number of bits."""
    return f"round-{mantissa_bits}" if mantissa_bits else dtype


def save_name(steps: tuple[int, ...], *, last: int) -> str | tuple[int, ...]:
    """Give the shortest ``trajectories.save`` that :func:`saved_steps` reads as these steps of 0 to ``last``."""
    names = ["all", "endpoints", *(f"every-{n}" for n in range(2, last))]
    return next((name for name in names if saved_steps(name, last=last) == steps), steps)
