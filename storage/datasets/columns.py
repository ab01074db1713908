"""Which column, or array, of a file holds the data and which the labels: the one asked for, or one of a usual name."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from storage.errors import InputError

DATA_NAMES = ("x", "image", "img", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "y")


def data_column(names: Sequence[str], asked: str, *, path: object) -> str:
    """Give the name of the column that holds the data.

    Raises:
        InputError: the column that was asked for is not there, or none has a usual name.
    """
    _require_there(names, "column", asked, path)
    found = asked or next((name for name in DATA_NAMES if name in names), "")
    if not found:
        raise InputError(
            f"{path} has no column {', '.join(DATA_NAMES)}; set dataset.column to one of: {', '.join(names) or 'none'}"
        )
    return found


def label_column(names: Sequence[str], asked: str, *, path: object) -> str:
    """Give the name of the column that holds the labels, ``""`` where there is none of a usual name.

    Raises:
        InputError: the column that was asked for is not there.
    """
    _require_there(names, "label_column", asked, path)
    return asked or next((name for name in LABEL_NAMES if name in names), "")


def require_numbers(shape: tuple[int, ...], dtype: np.dtype[np.generic], *, path: object, name: str) -> None:
    """Raise ``InputError`` unless an array can be rows of numbers, at least one."""
    if len(shape) < 2 or 0 in shape[1:] or dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} must be numbers of shape [rows, *dim], got {dtype} {list(shape)}")
    if shape[0] == 0:
        raise InputError(f"{path}: {name} is empty; it needs at least one row")


def require_labels(shape: tuple[int, ...], dtype: np.dtype[np.generic], *, path: object, name: str, rows: int) -> None:
    """Raise ``InputError`` unless an array can be the labels of that many rows."""
    if shape != (rows,) or dtype.kind not in "iu":
        raise InputError(f"{path}: {name} must be {rows} integers, one a row of the data, got {dtype} {list(shape)}")


def to_single(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Give numbers in single precision; those beyond its range become infinite, which ingest refuses."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _require_there(names: Sequence[str], key: str, asked: str, path: object) -> None:
    if asked and asked not in names:
        raise InputError(f"dataset.{key} {asked!r} is not in {path}; it has: {', '.join(names) or 'nothing'}")
