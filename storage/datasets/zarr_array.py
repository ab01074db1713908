"""Any Zarr array, or an array of a group, on disk or on an object store; values are numbers as they are."""

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from obstore.exceptions import BaseError
from zarr.storage import ObjectStore

from storage.data import Labels, Values
from storage.datasets.columns import data_column, label_column, require_labels, require_numbers, to_single
from storage.errors import InputError
from storage.sources import first_line, is_address, open_address

# what codecs and stores raise for what is missing, damaged or out of reach
_UNREADABLE = (ValueError, TypeError, LookupError, RuntimeError, OSError, BaseError)


class ZarrArray:
    """Rows along the first axis, read range by range; what is held meanwhile are the chunks that a range touches.

    Raises:
        InputError: there is no array or group, it has no fitting arrays, or the store cannot be reached.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, path: str, *, column: str = "", label_column: str = "") -> None:
        self._path = path
        x, label = _chosen(path, _open(path), column, label_column)
        require_numbers(x.shape, x.dtype, path=path, name=x.basename or "x")
        self.rows = int(x.shape[0])
        self.dim = tuple(x.shape[1:])
        self._x, self._label = WholeChunks(x), None
        if label is not None:
            require_labels(label.shape, label.dtype, path=path, name=label.basename, rows=self.rows)
            self._label = WholeChunks(label)

    @property
    def has_labels(self) -> bool:
        """Whether the group has an array of labels."""
        return self._label is not None

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` and their labels.

        Raises:
            InputError: a chunk cannot be read.
        """
        label = None if self._label is None else self._rows(self._label, start, stop).astype(np.int64)
        return to_single(self._rows(self._x, start, stop)), label

    def where(self, row: int) -> str:
        """Give the array and the row in it."""
        return f"{self._path}: row {row}"

    def _rows(self, array: "WholeChunks", start: int, stop: int) -> npt.NDArray[Any]:
        try:
            return array.read(start, stop)
        except _UNREADABLE as error:
            raise InputError(f"{self._path}: rows {start} to {stop} cannot be read: {first_line(error)}") from (
                None if is_address(self._path) else error
            )


class WholeChunks:
    """Rows of an array by range, its chunks decoded once or twice however small the ranges are, if they come in order.

    The chunks that the last range touched are held.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self._first = 0
        self._held = np.empty((0, *array.shape[1:]), array.dtype)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Give rows ``start <= row < stop``."""
        if not self._first <= start <= stop <= self._first + len(self._held):
            size = self._array.chunks[0]
            self._first = start // size * size
            self._held = np.asarray(self._array[self._first : -(-stop // size) * size])
        return self._held[start - self._first : stop - self._first]


def _open(path: str) -> Any:
    """Give the array or group."""
    store = ObjectStore(open_address(path), read_only=True) if is_address(path) else path
    try:
        return zarr.open(store, mode="r")
    except _UNREADABLE as error:
        raise InputError(f"dataset.path {path!r} cannot be opened as a Zarr array or group: {first_line(error)}") from (
            None if is_address(path) else error
        )


def _chosen(path: str, found: Any, column: str, label: str) -> tuple[Any, Any]:
    """Give the arrays of data and labels."""
    if isinstance(found, zarr.Array):
        if column or label:
            raise InputError(f"dataset.column and label_column choose from a group, but {path} is a single array")
        return found, None
    names = sorted(found.array_keys())
    x = found[data_column(names, column, path=path)]
    label = label_column(names, label, path=path)
    return x, found[label] if label else None
