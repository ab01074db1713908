"""Which samples are copies: hand-made sets, ties and duplicates."""

import numpy as np
import pytest

from tasks.evaluation.memorisation import memorised_fraction
from tasks.evaluation.neighbours import find_neighbours

LINE = np.array([0.0, 10.0, 20.0])


def fraction(samples: np.ndarray, *blocks: np.ndarray, ratio: float = 1 / 3) -> float:
    return memorised_fraction(find_neighbours(samples, blocks, k=2), ratio=ratio)


def test_a_sample_is_memorised_below_a_third_of_the_second_distance() -> None:
    # Distances to the two nearest: (2.4, 7.6), (2.6, 7.4), (0, 10), (5, 5), (30, 40).
    samples = np.array([2.4, 2.6, 10.0, 15.0, 50.0])
    assert fraction(samples, LINE) == pytest.approx(2 / 5)
    assert fraction(samples, LINE, ratio=0.5) == pytest.approx(3 / 5)
    assert fraction(samples, LINE, ratio=1.0) == pytest.approx(4 / 5)


def test_more_neighbours_than_two_change_nothing() -> None:
    samples = np.array([2.4, 2.6, 10.0, 15.0, 50.0])
    assert memorised_fraction(find_neighbours(samples, [LINE], k=3)) == fraction(samples, LINE)


def test_the_ratio_itself_does_not_count() -> None:
    assert fraction(np.array([2.0]), np.array([0.0, 6.0]), ratio=0.5) == 0.0  # 2 against 4


def test_copies_count_even_far_from_the_origin() -> None:
    data = np.random.default_rng(0).standard_normal((200, 16)) + 1e4
    assert fraction(data[::3], data) == 1.0


def test_fresh_draws_of_a_law_are_rarely_memorised() -> None:
    rng = np.random.default_rng(0)
    data, samples = rng.standard_normal((500, 10)), rng.standard_normal((300, 10))
    assert fraction(samples, data) == 0.0


def test_duplicates_in_the_data_count_as_one_point() -> None:
    doubled = np.concatenate([LINE, LINE, [-0.0]])
    samples = np.array([0.0, 2.4, 2.6])
    assert fraction(samples, doubled) == fraction(samples, LINE) == pytest.approx(2 / 3)


def test_one_distinct_point_has_no_second() -> None:
    with pytest.raises(ValueError, match="2 distinct training points, got 1"):
        fraction(np.array([1.0]), np.array([3.0]), np.array([3.0]))


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be in"):
        fraction(LINE, LINE, ratio=ratio)


def test_it_is_that_of_a_full_search() -> None:
    rng = np.random.default_rng(1)
    samples, data = rng.standard_normal((200, 3)), rng.standard_normal((90, 3))
    two = np.sort(np.linalg.norm(samples[:, None] - data, axis=2), axis=1)[:, :2]
    for ratio in (0.2, 1 / 3, 0.7):
        expected = (two[:, 0] < ratio * two[:, 1]).mean()
        assert fraction(samples, *np.array_split(data, 4), ratio=ratio) == expected
