"""A folder of image files: a folder a class, or a flat one without classes; the format of each is Pillow's business."""

from pathlib import Path

import numpy as np

from storage.data import Labels, Values
from storage.datasets.pixels import decode, require_alike, to_unit
from storage.errors import InputError
from storage.sources import image_tree


class Images:
    """Images as ``[channels, height, width]`` in [-1, 1], decoded when read; rows are sorted by class, then by name.

    Raises:
        InputError: there are no images, or the first one cannot be read.
    """

    def __init__(self, path: Path) -> None:
        tree = image_tree(path)
        self.rows = len(tree.files)
        self.classes = tree.classes
        self.has_labels = bool(tree.classes)
        self._path = path
        self._files = tree.files
        self._labels = np.repeat(np.arange(len(tree.sizes)), tree.sizes).astype(np.int64)
        _, self._form = decode(self._content(0), where=self.where(0))
        self.dim = self._form.dim

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` and their classes.

        Raises:
            InputError: an image cannot be read or is unlike the first one.
        """
        pixels = np.empty((stop - start, *self.dim), np.uint8)
        for row in range(start, stop):
            image, form = decode(self._content(row), where=self.where(row))
            require_alike(form, self._form, where=self.where(row), where_first=self.where(0))
            pixels[row - start] = image
        return to_unit(pixels), self._labels[start:stop] if self.has_labels else None

    def where(self, row: int) -> str:
        """Give the file and the row."""
        return f"{self._path / self._files[row]}: row {row}"

    def _content(self, row: int) -> bytes:
        try:
            return (self._path / self._files[row]).read_bytes()
        except OSError as error:
            raise InputError(f"{self.where(row)} cannot be read: {error.strerror}") from error
