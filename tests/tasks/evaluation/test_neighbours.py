"""The nearest distinct points: a full search, ties, copies in other blocks, and fewer points than are asked for."""

import numpy as np
import pytest

from tasks.evaluation import neighbours as module
from tasks.evaluation.neighbours import find_neighbours

LINE = np.array([0.0, 10.0, 20.0])


def test_the_nearest_come_first_by_their_row_in_the_whole_data() -> None:
    found = find_neighbours(np.array([11.0, -1.0]), [LINE[:1], LINE[1:]], k=2)
    assert found.rows.tolist() == [[1, 2], [0, 1]]
    assert found.distances.tolist() == [[1.0, 9.0], [1.0, 11.0]]


def test_it_is_a_full_search() -> None:
    rng = np.random.default_rng(0)
    samples, data = rng.standard_normal((150, 2, 2)), rng.standard_normal((90, 2, 2))
    distances = np.linalg.norm((samples[:, None] - data).reshape(150, 90, 4), axis=2)
    found = find_neighbours(samples, np.array_split(data, 7), k=3)
    assert (found.rows == np.argsort(distances, axis=1)[:, :3]).all()
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :3], rtol=1e-12)


def test_equal_points_count_once_and_are_known_by_the_first_of_them() -> None:
    data = np.array([5.0, 0.0, 5.0, -0.0, 9.0])
    for cut in (1, 2, 5):
        found = find_neighbours(np.array([4.0]), [data[k : k + cut] for k in range(0, 5, cut)], k=3)
        assert found.rows.tolist() == [[0, 1, 4]]
        assert found.distances.tolist() == [[1.0, 4.0, 5.0]]


def test_what_the_data_do_not_have_is_at_infinity() -> None:
    found = find_neighbours(np.array([4.0, 1.0]), [np.array([3.0, 3.0]), np.array([0.0])], k=3)
    assert found.rows.tolist() == [[0, 2, -1], [2, 0, -1]]
    assert found.distances.tolist() == [[1.0, 4.0, np.inf], [1.0, 2.0, np.inf]]


@pytest.mark.parametrize("cut", [1, 7, 60, 100])
def test_neither_the_cut_of_the_data_nor_that_of_the_distances_changes_anything(
    monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((60, 2, 2))
    data = np.concatenate([data, data[::-1], data[5:9]])  # copies that lie in other blocks
    samples = np.concatenate([data[:7] + 0.01, rng.standard_normal((40, 2, 2))])
    whole = find_neighbours(samples, [data[:60]], k=3)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 8 * 60 * 5)
    found = find_neighbours(samples, (data[k : k + cut] for k in range(0, len(data), cut)), k=3)
    assert (found.rows == whole.rows).all()
    assert (found.distances == whole.distances).all()
