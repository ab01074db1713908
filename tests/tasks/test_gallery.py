"""What pictures show: as much as fits a page; the evaluations and the solver from one noise."""

import math

import pytest

from tasks.gallery import _SIDE_VALUES, shown_images, shown_paths, shown_points


def test_few_images_are_drawn_and_many_points() -> None:
    assert (shown_points((3, 32, 32)), shown_paths((3, 32, 32))) == (64, 6)
    assert (shown_points((2,)), shown_paths((2,))) == (4000, 200)


@pytest.mark.parametrize("dim", [(1, 8, 8), (3, 64, 64), (3, 128, 128), (256, 256)])
@pytest.mark.parametrize("of", [1, 6, 9])
def test_large_images_are_fewer_so_that_a_side_has_so_many_numbers_at_most(dim: tuple[int, ...], of: int) -> None:
    count = shown_images(dim, most=64, of=of)
    assert 1 <= count <= 64
    assert count == 1 or count * of * math.prod(dim) <= _SIDE_VALUES
    assert count == 64 or (count + 1) * of * math.prod(dim) > _SIDE_VALUES
