"""The order of an epoch: every row as often as asked, no position needs those before it, pairs of the right law."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from storage.chunks import ChunkGrid
from storage.ordering import Indices, Order, pair_indices, permutation

ORDERS = st.builds(
    lambda rows, chunk_rows, seed, window, visits: Order(
        grid=ChunkGrid(rows, chunk_rows), seed=seed, window=window, visits=visits
    ),
    rows=st.integers(1, 60),
    chunk_rows=st.integers(1, 20),
    seed=st.integers(0, 2**63),
    window=st.integers(1, 5),
    visits=st.integers(1, 3),
)


def rows_of(order: Order, chunks: Indices) -> Indices:
    """Give the store's rows in a window, in the window's order."""
    shards = [order.grid.chunk(int(chunk)) for chunk in chunks]
    return np.concatenate([np.arange(shard.start, shard.stop) for shard in shards])


def epoch_of(order: Order, epoch: int) -> list[int]:
    visited = []
    for index, chunks in enumerate(order.windows(epoch)):
        rows = rows_of(order, chunks)
        for visit in range(order.visits):
            visited += rows[order.visit(epoch, index, visit, rows=len(rows))].tolist()
    return visited


@given(ORDERS, st.integers(0, 5))
def test_every_epoch_visits_every_row_as_often_as_asked(order: Order, epoch: int) -> None:
    visited = epoch_of(order, epoch)
    assert len(visited) == order.epoch_size
    assert np.bincount(visited, minlength=order.grid.rows).tolist() == [order.visits] * order.grid.rows


@given(ORDERS, st.integers(0, 5))
def test_the_windows_of_an_epoch_partition_the_chunks(order: Order, epoch: int) -> None:
    windows = order.windows(epoch)
    assert sorted(np.concatenate(windows).tolist()) == list(range(order.grid.count))
    assert all(len(chunks) == order.window for chunks in windows[:-1])
    assert 1 <= len(windows[-1]) <= order.window
    assert [order.window_rows(chunks) for chunks in windows] == [len(rows_of(order, chunks)) for chunks in windows]


@given(ORDERS, st.integers(0, 5))
def test_the_order_is_a_function_of_its_arguments_alone(order: Order, epoch: int) -> None:
    assert epoch_of(order, epoch) == epoch_of(order, epoch)


@pytest.mark.parametrize("what", ["epoch", "seed"])
def test_other_epochs_and_seeds_come_in_another_order(what: str) -> None:
    def order(seed: int) -> Order:
        return Order(grid=ChunkGrid(200, 10), seed=seed, window=3, visits=2)

    orders = {tuple(epoch_of(order(0 if what == "epoch" else k), k if what == "epoch" else 0)) for k in range(20)}
    assert len(orders) == 20  # two of 200!^2 orders agree by chance: never


def test_the_visits_and_the_windows_of_an_epoch_come_in_different_orders() -> None:
    order = Order(grid=ChunkGrid(200, 50), seed=3, window=2, visits=3)
    visits = {tuple(order.visit(0, window, visit, rows=100)) for window in range(2) for visit in range(3)}
    assert len(visits) == 6


def test_each_chunk_is_as_often_first_as_any_other() -> None:
    order = Order(grid=ChunkGrid(8, 1), seed=0, window=2, visits=1)
    first = np.bincount([int(order.windows(epoch)[0][0]) for epoch in range(1600)], minlength=8)
    assert stats.chisquare(first).pvalue > 1e-4  # a fixed draw: it cannot fail by chance later


@pytest.mark.parametrize("change", [{"window": 0}, {"visits": 0}, {"grid": ChunkGrid(0, 4)}])
def test_an_order_of_nothing_is_refused(change: dict[str, object]) -> None:
    arguments: dict[str, object] = {"grid": ChunkGrid(4, 4), "seed": 0, "window": 1, "visits": 1}
    with pytest.raises(ValueError, match="at least 1"):
        Order(**(arguments | change))  # type: ignore[arg-type]


@given(st.integers(0, 2**63), st.integers(0, 9), st.integers(0, 3), st.integers(1, 50))
def test_a_rank_goes_through_all_of_its_rows_once_an_epoch(seed: int, epoch: int, rank: int, rows: int) -> None:
    assert sorted(permutation(seed, epoch, rank, rows=rows).tolist()) == list(range(rows))


def test_other_ranks_epochs_and_seeds_go_through_their_rows_in_another_order() -> None:
    keys = [(seed, epoch, rank) for seed in range(3) for epoch in range(3) for rank in range(3)]
    assert len({tuple(permutation(*key, rows=50)) for key in keys}) == 27


@given(
    st.integers(0, 2**63),
    st.integers(0, 9),
    st.integers(0, 10**12),
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.integers(2, 40),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_pairs_do_not_depend_on_how_a_range_is_split(
    seed: int, epoch: int, start: int, parts: list[int], times: int, share: float
) -> None:
    def pairs(first: int, last: int) -> list[tuple[int, int]]:
        low, high = pair_indices(seed, epoch, first, last, times=times, full_span_share=share)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    bounds = np.cumsum([start, *parts]).tolist()
    whole = pairs(start, bounds[-1])
    assert whole == [pair for first, last in pairwise(bounds) for pair in pairs(first, last)]
    assert all(0 <= low < high < times for low, high in whole)


@pytest.mark.parametrize("times", [2, 3, 7])
def test_pairs_are_uniform_over_all_pairs_of_distinct_times(times: int) -> None:
    low, high = pair_indices(11, 0, 0, 40_000, times=times, full_span_share=0.0)
    counts = np.bincount(low * times + high, minlength=times * times).reshape(times, times)
    above = counts[np.triu_indices(times, 1)]
    assert above.sum() == 40_000
    assert times == 2 or stats.chisquare(above).pvalue > 1e-4


def test_the_share_of_full_spans_comes_on_top() -> None:
    times, share, n = 5, 0.25, 40_000
    low, high = pair_indices(5, 2, 0, n, times=times, full_span_share=share)
    is_full = (low == 0) & (high == times - 1)
    expected = share + (1 - share) / 10  # one in ten of the others is the full span too
    assert abs(is_full.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
    rest = np.bincount(low[~is_full] * times + high[~is_full], minlength=25).reshape(5, 5)[np.triu_indices(5, 1)]
    assert stats.chisquare(np.delete(rest, 3)).pvalue > 1e-4  # number 3 is (0, 4)
    assert rest[3] == 0


def test_the_extreme_shares_are_exact() -> None:
    low, high = pair_indices(5, 0, 0, 1000, times=4, full_span_share=1.0)
    assert set(low.tolist()) == {0}
    assert set(high.tolist()) == {3}


def test_the_pairs_of_neighbouring_positions_epochs_and_seeds_are_independent() -> None:
    base, _ = pair_indices(0, 0, 0, 20_000, times=64, full_span_share=0.0)
    for other in (
        pair_indices(0, 0, 1, 20_001, times=64, full_span_share=0.0)[0],
        pair_indices(0, 1, 0, 20_000, times=64, full_span_share=0.0)[0],
        pair_indices(1, 0, 0, 20_000, times=64, full_span_share=0.0)[0],
    ):
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(20_000)
