"""Source noise: the published generator, one row at a time, standard normal, and independent wherever it should be."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from tasks.transport import noise
from tasks.transport.noise import (
    DATA,
    FRESH_DATA,
    LABELS,
    SAMPLE_LABELS,
    SAMPLES,
    TRAINING,
    TRAJECTORIES,
    UNLABELLED,
    class_labels,
    standard_normal,
    uniform,
)

ROWS = 20_000
MASK = 2**64 - 1


def philox(counter: int, key: tuple[int, int]) -> Iterator[int]:
    """Four words of Philox4x64-10, written from the paper (Salmon et al., SC 2011, section 4.3)."""
    k0, k1 = key
    c0, c1, c2, c3 = ((counter >> 64 * j) & MASK for j in range(4))
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & MASK, (p0 >> 64) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    yield from (c0, c1, c2, c3)


def normals(seed: int, *, stream: int = TRAJECTORIES, dim: tuple[int, ...] = (2,)) -> Tensor:
    return standard_normal(seed, 0, ROWS, dim, stream=stream)


def test_the_test_own_philox_passes_the_published_known_answer() -> None:
    assert list(philox(0, (0, 0))) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


@given(st.integers(0, 2**64 - 1), st.integers(0, 10), st.integers(0, 2**40), st.integers(1, 9))
def test_a_row_is_its_own_stretch_of_philox(seed: int, stream: int, row: int, size: int) -> None:
    counters = (size + 3) // 4
    first = row * counters + 1  # numpy counts up before it draws
    words = [word for j in range(counters) for word in philox(first + j, (seed, stream))]
    expected = [((word >> 12) + 0.5) / 2**52 for word in words[:size]]
    assert uniform(seed, row, row + 1, size, stream=stream)[0].tolist() == expected


@given(
    st.sampled_from([(), (1,), (2,), (3,), (8,), (5, 7)]), st.lists(st.integers(0, 300), max_size=6), st.integers(0, 99)
)
def test_noise_does_not_depend_on_how_rows_are_cut(dim: tuple[int, ...], cuts: list[int], seed: int) -> None:
    whole = standard_normal(seed, 0, 300, dim, stream=TRAJECTORIES)
    edges = [0, *sorted(cuts), 300]
    parts = [standard_normal(seed, a, b, dim, stream=TRAJECTORIES) for a, b in pairwise(edges)]
    assert whole.shape == (300, *dim)
    assert torch.equal(torch.cat(parts), whole)


def test_an_empty_range_has_no_rows() -> None:
    assert standard_normal(0, 5, 5, (3, 2), stream=TRAJECTORIES).shape == (0, 3, 2)
    assert uniform(0, 5, 5, 4, stream=TRAJECTORIES).shape == (0, 4)


def test_noise_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), str(np.random.get_state())
    normals(1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]


@pytest.mark.parametrize("dim", [(1,), (2,), (3,)])
def test_every_column_is_standard_normal(dim: tuple[int, ...]) -> None:
    for column in normals(11, dim=dim).T:
        # seeded, so the level only says how unlucky this seed may look
        assert kstest(column.numpy(), "norm").pvalue > 1e-3
        assert abs(float((column**4).mean()) - 3) < 5 * (96 / ROWS) ** 0.5  # Var z^4 = 96


def test_a_pair_of_normals_maps_back_to_its_uniforms() -> None:
    """Box-Muller undone: exp(-r^2/2) and the angle over 2 pi are the two uniforms, so the law is exact."""
    z, u = standard_normal(3, 0, 1000, (4,), stream=DATA), uniform(3, 0, 1000, 4, stream=DATA)
    for pair in (0, 2):
        torch.testing.assert_close((-(z[:, pair] ** 2 + z[:, pair + 1] ** 2) / 2).exp(), u[:, pair])
        turns = torch.atan2(z[:, pair + 1], z[:, pair]) / (2 * torch.pi)
        torch.testing.assert_close(turns.remainder(1), u[:, pair + 1])


def test_uniforms_are_uniform() -> None:
    for column in uniform(11, 0, ROWS, 5, stream=DATA).T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3


def assert_uncorrelated(a: Tensor, b: Tensor) -> None:
    """Also in their squares, which a Box-Muller pair that shares its radius would betray."""
    bound = 5 / a.numel() ** 0.5
    assert abs(float((a * b).mean())) < bound
    assert abs(float(((a**2 - 1) * (b**2 - 1)).mean()) / 2) < bound


def test_neighbours_in_a_row_and_neighbouring_rows_are_not_correlated() -> None:
    z = normals(5, dim=(4,))
    for i, j in combinations(range(4), 2):
        assert_uncorrelated(z[:, i], z[:, j])
    for lag in (1, 2, 3):
        assert_uncorrelated(z[lag:], z[:-lag])
        assert_uncorrelated(z[lag:, 0], z[:-lag, 3])


def test_streams_and_seeds_that_differ_give_uncorrelated_noise() -> None:
    laws = [normals(seed, stream=stream) for seed in (0, 1, 2) for stream in (TRAJECTORIES, SAMPLES, TRAINING)]
    for a, b in combinations(laws, 2):
        assert_uncorrelated(a, b)


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**53, 2**63 - 2, 2**63, 2**64 - 2])
def test_neighbouring_seeds_differ_however_large(seed: int) -> None:
    a, b = (uniform(s, 0, 100, 4, stream=TRAJECTORIES) for s in (seed, seed + 1))
    assert not (a == b).any()


def test_no_two_uses_share_a_stream() -> None:
    drawn = [2 * DATA, 2 * DATA + 1, 2 * FRESH_DATA, 2 * FRESH_DATA + 1]
    used = [TRAJECTORIES, SAMPLES, TRAINING, LABELS, SAMPLE_LABELS, *drawn]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("word", [0, MASK])
def test_the_extreme_words_give_uniforms_inside_and_finite_normals(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(seed: int, start: int, stop: int, size: int, *, stream: int) -> npt.NDArray[Any]:
        return np.full((stop - start, size), word, np.uint64)

    monkeypatch.setattr(noise, "_words", constant)
    u = uniform(0, 0, 1, 4, stream=0)
    assert (u > 0).all()
    assert (u < 1).all()
    z = standard_normal(0, 0, 1, (4,), stream=0)
    assert (z.abs() <= (106 * torch.tensor(2.0, dtype=torch.float64).log()).sqrt()).all()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be in \[0, 2\^64\), got {seed}"):
        uniform(seed, 0, 1, 1, stream=TRAJECTORIES)


def labels_of(shares: Sequence[float], *, hidden: float = 0.0, seed: int = 4, rows: int = ROWS) -> Tensor:
    return class_labels(seed, 0, rows, shares=shares, unlabelled_share=hidden, stream=LABELS)


def assert_binomial(found: Tensor, share: float) -> None:
    """Within 4.5 standard deviations, which a right sampler leaves once in 10^5."""
    assert abs(float(found.double().mean()) - share) <= 4.5 * (share * (1 - share) / len(found)) ** 0.5


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(sum),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.lists(st.integers(0, 300), max_size=6),
    st.integers(0, 2**64 - 1),
)
def test_labels_do_not_depend_on_how_rows_are_cut(shares: list[int], hidden: float, cuts: list[int], seed: int) -> None:
    def cut(start: int, stop: int) -> Tensor:
        return class_labels(seed, start, stop, shares=shares, unlabelled_share=hidden, stream=LABELS)

    edges = [0, *sorted(cuts), 300]
    whole = cut(0, 300)
    assert whole.dtype == torch.int64
    assert torch.equal(torch.cat([cut(a, b) for a, b in pairwise(edges)]), whole)
    assert {int(k) for k in whole} <= {k for k, share in enumerate(shares) if share} | {UNLABELLED}


def test_classes_are_as_frequent_as_their_shares() -> None:
    shares = [0.5, 0.0, 0.2, 0.3]
    found = labels_of(shares, hidden=0.1)
    assert_binomial(found == UNLABELLED, 0.1)
    for k, share in enumerate(shares):
        assert_binomial(found == k, 0.9 * share)


def test_shares_count_relative_to_their_sum() -> None:
    assert torch.equal(labels_of([1, 2, 5]), labels_of([0.125, 0.25, 0.625]))


def test_hiding_more_labels_changes_no_label_that_is_left() -> None:
    few, many = labels_of([0.4, 0.6], hidden=0.1), labels_of([0.4, 0.6], hidden=0.5)
    left = many != UNLABELLED
    assert torch.equal(few[left], many[left])
    assert torch.equal(few[few != UNLABELLED], labels_of([0.4, 0.6])[few != UNLABELLED])


def test_a_label_tells_nothing_of_its_neighbours_nor_of_other_streams_and_seeds() -> None:
    one = labels_of([0.5, 0.5])
    others = [
        one.roll(1),
        labels_of([0.5, 0.5], seed=5),
        class_labels(4, 0, ROWS, shares=[0.5, 0.5], unlabelled_share=0.0, stream=SAMPLE_LABELS),
        (normals(4)[:, 0] > 0).long(),
    ]
    for other in others:
        assert_binomial(one == other, 0.5)


@pytest.mark.parametrize("word", [0, MASK])
def test_the_extreme_words_give_the_first_and_last_class_that_has_a_share(
    word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(seed: int, start: int, stop: int, size: int, *, stream: int) -> npt.NDArray[Any]:
        return np.full((stop - start, size), word, np.uint64)

    monkeypatch.setattr(noise, "_words", constant)
    assert labels_of([0.0, 0.1, 0.2, 0.7, 0.0], rows=1).tolist() == [3 if word else 1]


@pytest.mark.parametrize("shares", [[], [0.0, 0.0], [0.5, -0.1], [float("nan"), 1.0], [1.0, float("nan")]])
def test_shares_that_are_no_probabilities_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="class shares must be numbers of at least 0 with a positive sum, got"):
        labels_of(shares)
