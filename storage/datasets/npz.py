"""Arrays of one's own: a NumPy archive with ``x [rows, *dim]`` and, optionally, ``label [rows]``."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from storage.data import Labels, Values
from storage.errors import InputError

# what NumPy and zipfile raise for other formats, a lone .npy (TypeError), and truncated, damaged or encrypted archives
_UNREADABLE = (ValueError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Npz:
    """The arrays of an archive, held in memory.

    Raises:
        InputError: the file is missing or no archive, or its arrays have a wrong name, shape or type.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"dataset.path {str(path)!r} is no file; it must be an .npz archive with an array x")
        try:
            # opened here, since NumPy leaves the file open where the archive is damaged
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: np.asarray(archive[name]) for name in archive.files if name in ("x", "label")}
        except _UNREADABLE as error:
            raise InputError(f"dataset.path {str(path)!r} cannot be read as an .npz archive: {error}") from error
        if "x" not in arrays:
            raise InputError(f"dataset.path {str(path)!r} has no array x; it must hold x [rows, *dim]")
        x, label = arrays["x"], arrays.get("label")
        if x.ndim < 2 or 0 in x.shape[1:] or x.dtype.kind not in "fiu":
            raise InputError(f"{path}: x must be numbers of shape [rows, *dim], got {x.dtype} {list(x.shape)}")
        if label is not None and (label.shape != x.shape[:1] or label.dtype.kind not in "iu"):
            raise InputError(
                f"{path}: label must be {len(x)} integers, one a row of x, got {label.dtype} {list(label.shape)}"
            )
        self._x, self._label = x, label

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._x)

    @property
    def dim(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._x.shape[1:])

    @property
    def has_labels(self) -> bool:
        """Whether the archive has an array ``label``."""
        return self._label is not None

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` and their labels."""
        label = None if self._label is None else self._label[start:stop].astype(np.int64)
        return self._x[start:stop].astype(np.float32), label
