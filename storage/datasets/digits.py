"""The 1,797 handwritten 8x8 digits that scikit-learn ships, as images in [-1, 1] with their class."""

import numpy as np

from storage.data import Labels, Values

LEVELS = 16  # grey values run from 0 to 16


class Digits:
    """The digits as ``[1, 8, 8]`` images, held in memory."""

    rows = 1797
    dim = (1, 8, 8)
    has_labels = True
    classes = tuple("0123456789")

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # takes seconds, which other kinds of dataset need not wait

        images, self._labels = load_digits(return_X_y=True)
        self._images = (images / (LEVELS / 2) - 1).reshape(-1, *self.dim).astype(np.float32)

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` and their digits."""
        return self._images[start:stop], self._labels[start:stop].astype(np.int64)

    def where(self, row: int) -> str:
        """Give the row."""
        return f"digits: row {row}"
