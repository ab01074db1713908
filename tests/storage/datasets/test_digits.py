"""The digits that scikit-learn ships."""

import numpy as np

from storage.datasets.digits import Digits


def test_digits_are_channel_first_images_between_minus_one_and_one() -> None:
    data = Digits()
    x, label = data.read(0, data.rows)
    assert x.shape == (data.rows, *data.dim) == (1797, 1, 8, 8)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert label is not None
    assert label.dtype == np.int64
    assert set(label.tolist()) == set(range(10))


def test_a_range_is_that_part_of_the_whole() -> None:
    data = Digits()
    whole, labels = data.read(0, data.rows)
    x, label = data.read(100, 103)
    assert np.array_equal(x, whole[100:103])
    assert labels is not None
    assert label is not None
    assert label.tolist() == labels[100:103].tolist()
