"""Arrays of one's own: a NumPy archive with ``x [rows, *dim]`` and, optionally, ``label [rows]``, or other names.

Values are numbers as they are, unsigned bytes too: nothing here is taken for an image and scaled.
"""

import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from storage.data import Labels, Values
from storage.datasets.columns import data_column, label_column, require_labels, require_numbers, to_single
from storage.datasets.forward import ForwardStream
from storage.errors import InputError
from storage.sources import npz_file

# what NumPy and zipfile raise for other formats and for truncated, damaged or encrypted archives
_UNREADABLE = (ValueError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Npz:
    """The arrays of an archive: the data read forward range by range, compressed or not, the labels held.

    An array in Fortran's order has its rows all over the file, so it is held as a whole.

    Raises:
        InputError: the file is missing or no archive, or its arrays have a wrong name, shape or type.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, column: str = "", label_column: str = "") -> None:
        self._path = npz_file(path)
        name, label = _chosen(path, column, label_column)
        self._x = _Member(path, name)
        require_numbers(self._x.shape, self._x.dtype, path=path, name=name)
        self.rows, self.dim = self._x.shape[0], self._x.shape[1:]
        self._label: npt.NDArray[Any] | None = None
        if label:
            member = _Member(path, label)
            require_labels(member.shape, member.dtype, path=path, name=label, rows=self.rows)
            self._label = member.read(0, self.rows)

    @property
    def has_labels(self) -> bool:
        """Whether the archive has an array of labels."""
        return self._label is not None

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` and their labels."""
        label = None if self._label is None else self._label[start:stop].astype(np.int64)
        return to_single(self._x.read(start, stop)), label

    def where(self, row: int) -> str:
        """Give the file and the row in it."""
        return f"{self._path}: row {row}"


class _Member:
    """One array of an archive, by rows."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._stream = ForwardStream(partial(_open, path, f"{name}.npy"))
        self._whole: npt.NDArray[Any] | None = None
        try:
            with _open(path, f"{name}.npy") as file:
                self.shape, is_fortran, self.dtype = _read_header(file)
                self._offset = file.tell()
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        if is_fortran and not self.dtype.hasobject:
            self._whole = self._load()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Give rows ``start <= row < stop``."""
        if self._whole is not None:
            return self._whole[start:stop]
        row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        try:
            content = self._stream.read(self._offset + start * row, self._offset + stop * row)
            is_whole = stop < self.shape[0] or self._stream.is_at_end()
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        if not is_whole:
            raise InputError(f"{self._path}: {self._name} is longer than its shape {list(self.shape)} tells")
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])

    def _load(self) -> npt.NDArray[Any]:
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                return np.asarray(archive[self._name])
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> InputError:
        return InputError(f"dataset.path {str(self._path)!r} cannot be read as an .npz archive: {error}")


def _chosen(path: Path, column: str, label: str) -> tuple[str, str]:
    """Give the names of the arrays of data and labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except _UNREADABLE as error:
        raise InputError(f"dataset.path {str(path)!r} cannot be read as an .npz archive: {error}") from error
    return data_column(names, column, path=path), label_column(names, label, path=path)


def _open(path: Path, member: str) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:
        return archive.open(member)  # keeps the file open, and checks its sum at the end


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Give shape, whether the order is Fortran's, and type, as NumPy wrote them; the values follow."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"unknown version {version} of an array")
