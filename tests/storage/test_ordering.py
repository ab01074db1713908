"""The order of an epoch: every row as often as asked, no position needs those before it, pairs of the right law."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice, pairwise, takewhile

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from storage.chunks import ChunkGrid
from storage.ordering import Indices, Order, Stretch, Window, admit, pair_indices, part, permutation

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


def rows_of(order: Order, window: Window) -> Indices:
    """Give the store's rows in a window, in the window's order."""
    shards = [order.grid.chunk(int(chunk)) for chunk in window.chunks]
    return np.concatenate([np.arange(shard.start, shard.stop) for shard in shards])


def windows_of(order: Order, epoch: int) -> list[Window]:
    return list(takewhile(lambda window: window.epoch == epoch, order.windows(epoch, 0)))


def visited(order: Order, stretches: Iterable[Stretch]) -> list[tuple[int, int, int]]:
    """Give the epoch, position and row of each pair."""
    return [
        (stretch.window.epoch, position, int(rows_of(order, stretch.window)[row]))
        for stretch in stretches
        for position, row in enumerate(stretch.rows, stretch.start)
    ]


def batches_of(order: Order, epoch: int, position: int, *, size: int, count: int) -> list[list[Stretch]]:
    return list(islice(order.batches(epoch, position, size=size), count))


def epoch_of(order: Order, epoch: int) -> list[int]:
    size = sum(window.rows for window in windows_of(order, epoch)) * order.visits
    (batch,) = batches_of(order, epoch, 0, size=size, count=1)
    found = visited(order, batch)
    assert [(e, position) for e, position, _ in found] == [(epoch, p) for p in range(size)]
    return [row for _, _, row in found]


@given(ORDERS, st.integers(0, 5))
def test_every_epoch_visits_every_row_as_often_as_asked(order: Order, epoch: int) -> None:
    found = epoch_of(order, epoch)
    assert len(found) == order.grid.rows * order.visits
    assert np.bincount(found, minlength=order.grid.rows).tolist() == [order.visits] * order.grid.rows


@given(ORDERS, st.integers(0, 5))
def test_each_visit_to_a_window_is_a_permutation_of_its_rows(order: Order, epoch: int) -> None:
    found = epoch_of(order, epoch)
    for window in windows_of(order, epoch):
        for visit in range(order.visits):
            start = window.start + visit * window.rows
            assert sorted(found[start : start + window.rows]) == rows_of(order, window).tolist()


@given(ORDERS, st.integers(0, 5))
def test_the_windows_of_an_epoch_partition_the_chunks(order: Order, epoch: int) -> None:
    windows = windows_of(order, epoch)
    assert sorted(np.concatenate([window.chunks for window in windows]).tolist()) == list(range(order.grid.count))
    assert all(len(window.chunks) == order.window for window in windows[:-1])
    assert 1 <= len(windows[-1].chunks) <= order.window
    assert all((np.diff(window.chunks) > 0).all() for window in windows)
    assert [window.rows for window in windows] == [len(rows_of(order, window)) for window in windows]
    assert [window.index for window in windows] == list(range(len(windows)))


@pytest.mark.parametrize("visits", [1, 2])
def test_batches_from_any_position_in_parts_of_any_world_are_the_one_order(visits: int) -> None:
    """Ends of batches, windows, visits and epochs fall everywhere: 23 rows in windows of 8, batches of 12."""
    order = Order(grid=ChunkGrid(23, 4), seed=5, window=2, visits=visits)
    size, total = 12, 23 * visits
    whole = [(epoch, position, row) for epoch in range(4) for (position, row) in enumerate(epoch_of(order, epoch))]
    for start in range(2 * total + 1):
        epoch, position = (start // total, start % total) if start < 2 * total else (1, total)  # an epoch's end, too
        batches = batches_of(order, epoch, position, size=size, count=2)
        expected = [whole[start + k * size : start + (k + 1) * size] for k in range(2)]
        assert [visited(order, batch) for batch in batches] == expected
        for world in (1, 2, 3, 4, 6):
            parts = [[visited(order, part(batch, rank=k, world=world)) for k in range(world)] for batch in batches]
            assert all(len(mine) == size // world for of_ranks in parts for mine in of_ranks)
            assert [[pair for mine in of_ranks for pair in mine] for of_ranks in parts] == expected


ADMITTED = ([1], [0, 2, 5], [0, 1, 2, 5], [0, 1, 2, 3, 4, 5])  # of four epochs and those after


def admitted(epoch: int) -> Indices:
    return np.array(ADMITTED[min(epoch, 3)])


@pytest.mark.parametrize("visits", [1, 2])
def test_batches_over_admitted_chunks_are_one_order_from_any_position_in_parts_of_any_world(visits: int) -> None:
    order = Order(grid=ChunkGrid(23, 4), seed=5, window=2, visits=visits, admitted=admitted)
    size = 6
    whole = [(epoch, position, row) for epoch in range(6) for (position, row) in enumerate(epoch_of(order, epoch))]
    for start, (epoch, position, _) in enumerate(whole[: -2 * size]):
        batches = batches_of(order, epoch, position, size=size, count=2)
        expected = [whole[start + k * size : start + (k + 1) * size] for k in range(2)]
        assert [visited(order, batch) for batch in batches] == expected
        for world in (1, 2, 3):
            parts = [[visited(order, part(batch, rank=k, world=world)) for k in range(world)] for batch in batches]
            assert [[pair for mine in of_ranks for pair in mine] for of_ranks in parts] == expected


@given(ORDERS, st.integers(0, 5), st.integers(0, 2**32))
def test_an_epoch_visits_the_rows_of_its_admitted_chunks_and_no_others(order: Order, epoch: int, draw: int) -> None:
    is_in = np.random.default_rng(draw).random(order.grid.count) < 0.5
    is_in[draw % order.grid.count] = True
    found = epoch_of(replace(order, admitted=lambda _: np.flatnonzero(is_in)), epoch)
    rows = order.visits * np.repeat(is_in, order.grid.chunk_rows)[: order.grid.rows]
    assert np.bincount(found, minlength=order.grid.rows).tolist() == rows.tolist()


@given(ORDERS, st.integers(0, 5))
def test_with_all_chunks_admitted_it_is_the_order_of_the_whole_store(order: Order, epoch: int) -> None:
    assert epoch_of(replace(order, admitted=lambda _: np.arange(order.grid.count)), epoch) == epoch_of(order, epoch)


@given(
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(0, 600),
    st.lists(st.integers(0, 3), max_size=40),
)
def test_epochs_over_a_growing_store_keep_pace_with_it_and_end_before_the_position_from_which_all_is_needed(
    rows: int, chunk_rows: int, visits: int, until: int, coming: list[int]
) -> None:
    grid, start = ChunkGrid(rows, chunk_rows), 0
    committed = 0
    for more in [*coming, rows]:
        committed = min(grid.count, committed + more)
        found = admit(np.arange(committed), grid=grid, visits=visits, start=start, until=until)
        if found is None:
            room = (until - start) // (chunk_rows * visits)
            assert committed < grid.count
            assert committed == 0 or room < 1 or committed * until < grid.count * start  # it waits for nothing else
            continue
        assert found.tolist() == list(range(committed - len(found), committed))
        if committed < grid.count:
            assert committed * until >= grid.count * start
        start += visits * sum(grid.chunk(chunk).rows for chunk in found.tolist())
        if committed < grid.count:
            assert start <= until
    assert found is not None  # all are committed at last
    assert len(found) == grid.count


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
    visits = {tuple(batch[0].rows) for batch in batches_of(order, 0, 0, size=100, count=6)}
    assert len(visits) == 6


CHUNKS, CHUNK_ROWS, WINDOW, BATCH, EPOCHS = 64, 32, 8, 64, 60
ROWS, WINDOW_ROWS = CHUNKS * CHUNK_ROWS, WINDOW * CHUNK_ROWS


@pytest.fixture(scope="module")
def epochs() -> Indices:
    """Give the store's rows in the order of some epochs, ``[EPOCHS, ROWS]``."""
    order = Order(grid=ChunkGrid(ROWS, CHUNK_ROWS), seed=1, window=WINDOW, visits=1)
    windows = [batches_of(order, epoch, 0, size=WINDOW_ROWS, count=CHUNKS // WINDOW) for epoch in range(EPOCHS)]
    return np.stack([np.concatenate([rows_of(order, w.window)[w.rows] for (w,) in batches]) for batches in windows])


def uniform_epochs() -> Indices:
    rng = np.random.default_rng(2)
    return np.stack([rng.permutation(ROWS) for _ in range(EPOCHS)])


def serial_correlation(epochs: Indices) -> npt.NDArray[np.float64]:
    """Give the correlation between the indices of rows that follow one another, of each epoch: 1 for a store read in
    order, about 0 for a uniform permutation."""
    return np.array([np.corrcoef(rows[:-1], rows[1:])[0, 1] for rows in epochs])


def meeting_share(epochs: Indices) -> npt.NDArray[np.float64]:
    """Give the share of neighbours in a chunk that come in one batch, of each epoch."""
    batch = np.argsort(epochs, axis=1) // BATCH  # of each row of the store
    met = batch[:, :-1] == batch[:, 1:]
    is_inside = np.arange(1, ROWS) % CHUNK_ROWS != 0
    return np.asarray(met[:, is_inside].mean(1))


def is_near(found: npt.NDArray[np.float64], expected: float) -> bool:
    """Tell whether a mean over epochs is within five of its standard errors; all draws are fixed."""
    return bool(abs(found.mean() - expected) < 5 * found.std(ddof=1) / np.sqrt(len(found)))


def test_rows_that_follow_one_another_are_nearly_as_unlike_as_in_a_uniform_permutation(epochs: Indices) -> None:
    """The serial correlation is that of two rows of one random window of w out of C chunks of c rows each.

    They lie in one chunk with probability p = (c - 1) / (w c - 1). The chunks' centres have the variance
    B = c^2 (C^2 - 1) / 12, rows about them V = (c^2 - 1) / 12. The covariance is B - V / (c - 1) in one chunk and
    -B / (C - 1) in two; B + V is the whole variance, so the correlation is hardly above p, which is below 1 / w.
    """
    centres, inside = CHUNK_ROWS**2 * (CHUNKS**2 - 1) / 12, (CHUNK_ROWS**2 - 1) / 12
    p = (CHUNK_ROWS - 1) / (WINDOW_ROWS - 1)
    covariance = p * (centres - inside / (CHUNK_ROWS - 1)) - (1 - p) * centres / (CHUNKS - 1)
    at_a_window_s_end = (CHUNKS // WINDOW - 1) / (ROWS - 1)  # this share of the steps leads to another window's rows
    expected = (1 - at_a_window_s_end) * covariance / (centres + inside)
    found = serial_correlation(epochs)
    assert found.mean() < 1 / WINDOW
    assert abs(found.mean() - expected) < 0.003 + 5 * found.std(ddof=1) / np.sqrt(EPOCHS)  # steps between windows
    assert abs(serial_correlation(uniform_epochs()).mean()) < 5 / np.sqrt(ROWS * EPOCHS)


def test_neighbours_meet_in_a_batch_more_often_than_by_chance_by_the_number_of_windows_alone(epochs: Indices) -> None:
    """Two rows of one window of W rows share a batch of b with probability (b - 1) / (W - 1), instead of
    (b - 1) / (n - 1) for a uniform permutation of n rows; batches here divide windows."""
    assert is_near(meeting_share(epochs), (BATCH - 1) / (WINDOW_ROWS - 1))
    assert is_near(meeting_share(uniform_epochs()), (BATCH - 1) / (ROWS - 1))


def test_a_row_s_place_in_the_store_says_nothing_of_its_place_in_the_order(epochs: Indices) -> None:
    """The correlation of the two is that of the C chunks with their windows: no more than 1 / sqrt(C - 1) at random."""
    position = np.argsort(epochs, axis=1)
    found = np.array([np.corrcoef(np.arange(ROWS), of_rows)[0, 1] for of_rows in position])
    assert is_near(found, 0.0)
    assert np.sqrt((found**2).mean()) < 1.3 / np.sqrt(CHUNKS - 1)  # three standard errors of that over 60 epochs


def test_each_chunk_is_as_often_first_as_any_other() -> None:
    order = Order(grid=ChunkGrid(8, 1), seed=0, window=2, visits=1)
    first = np.bincount(
        [visited(order, next(order.batches(epoch, 0, size=1)))[0][2] for epoch in range(1600)], minlength=8
    )
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
