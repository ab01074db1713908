"""Leave-one-out likelihood against its definition, and the bandwidth against the best of a fine list."""

import math

import pytest
import torch
from torch import Tensor

from tasks.transport.bandwidth import choose_bandwidth, leave_one_out_sums
from tasks.transport.kernel import Partial, leaf_count, total
from tests.tasks.transport.kernels import MemoryPoints


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_densities(x: Tensor, rows: Tensor, bandwidth: float) -> Tensor:
    """Give log sum_{j != i} exp(-|x_i - x_j|^2 / 2 h^2) by definition."""
    logits = -torch.cdist(x[rows], x).square() / (2 * bandwidth**2)
    logits[torch.arange(len(rows)), rows] = -torch.inf
    return torch.logsumexp(logits, 1)


def sums_of(x: Tensor, rows: Tensor, bandwidths: list[float]) -> Partial:
    points = MemoryPoints(x)
    return total(leave_one_out_sums(points, range(leaf_count(len(x))), x[rows], rows, bandwidths))


def test_the_sums_are_those_of_the_definition_over_several_leaves() -> None:
    x, rows = normal(9000, 2, seed=1), torch.tensor([0, 17, 4095, 4096, 8999])
    bandwidths = [0.01, 0.2, 3.0]
    found = sums_of(x, rows, bandwidths)
    logs = (found.peak + found.mass.log()).reshape(5, 3)
    for k, bandwidth in enumerate(bandwidths):
        assert torch.allclose(logs[:, k], log_densities(x, rows, bandwidth), rtol=1e-9)


def test_a_leaf_that_holds_only_the_query_counts_nothing() -> None:
    x = normal(4097, 2, seed=1)
    found = sums_of(x, torch.tensor([4096]), [0.3])
    assert torch.allclose(found.peak + found.mass.log(), log_densities(x, torch.tensor([4096]), 0.3), rtol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_chosen_bandwidth_is_the_most_likely_one(dim: int) -> None:
    x = normal(600, dim, seed=dim)
    rows = torch.arange(600)
    found = choose_bandwidth(lambda bandwidths: sums_of(x, rows, list(bandwidths)), size=dim, std=float(x.std()))
    likelihood = {
        h: float(log_densities(x, rows, h).mean()) - dim * math.log(h)
        for h in [found * 1.01**k for k in range(-30, 31)]
    }
    assert max(likelihood, key=likelihood.__getitem__) == pytest.approx(found, rel=0.011)


def test_the_bandwidth_scales_with_the_data() -> None:
    x, rows = normal(300, 2, seed=4), torch.arange(300)
    one, ten = (
        choose_bandwidth(lambda h, y=y: sums_of(y, rows, list(h)), size=2, std=float(y.std()))  # type: ignore[misc]
        for y in (x, 10 * x)
    )
    assert ten == pytest.approx(10 * one, rel=1e-6)


def test_data_that_all_have_a_twin_have_no_bandwidth() -> None:
    x = normal(100, 2, seed=1).repeat(2, 1)
    with pytest.raises(ValueError, match=r"velocity.bandwidth = loo .* twin .* give a number"):
        choose_bandwidth(lambda h: sums_of(x, torch.arange(200), list(h)), size=2, std=1.0)
