"""Tiles, their order, their gaps and their shades."""

import numpy as np
import pytest

from tasks.evaluation.mosaic import channels_last, gap, mosaic, shades


def test_tiles_run_row_by_row_with_clear_gaps() -> None:
    colours = np.arange(1, 4)[:, None, None, None] / 4 * np.ones((3, 2, 2, 3))
    picture = mosaic(colours, 2)
    assert picture.shape == (5, 5, 4)
    assert picture[::3, ::3, 0].tolist() == [[0.25, 0.5], [0.75, 0.0]]
    assert picture[2].tolist() == picture[:, 2].tolist() == np.zeros((5, 4)).tolist()
    assert picture[..., 3].sum() == 3 * 4  # the tiles alone are opaque


def test_gaps_grow_with_tiles_from_one_pixel_on() -> None:
    assert [gap(tile) for tile in (1, 8, 28, 64)] == [1, 1, 2, 4]


def test_channels_come_last_and_one_channel_may_be_left_out() -> None:
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(np.float32)
    assert channels_last(x)[1, 2, 3].tolist() == x[1, :, 2, 3].tolist()
    assert channels_last(x[:, 0]).tolist() == channels_last(x[:, :1]).tolist()


def test_shades_are_clipped_to_the_limits_and_nan_is_black() -> None:
    values = np.array([-9.0, -1.0, 0.0, 1.0, 9.0, np.nan]).reshape(1, 1, 6, 1)
    assert shades(values, (-1.0, 1.0))[0, 0, :, 2].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 0.0]
    assert shades(np.full((1, 1, 1, 3), 2.0), (2.0, 2.0)).tolist() == [[[[0.0] * 3]]]


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 8), (0, 8, 8)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images must be"):
        channels_last(np.zeros(shape))
