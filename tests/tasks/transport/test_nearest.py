"""The search near the data end: it rules out only what does not count, and gives what the dense sums give."""

import pytest
import torch
from torch import Tensor

from tasks.transport.kernel import NEGLIGIBLE, Queries, sum_leaf
from tasks.transport.kernel_field import HeldPoints
from tasks.transport.nearest import Nearest, Reduction, find_nearest, fit_reduction, is_near, nearer, sum_near
from tests.tasks.transport.kernels import MemoryPoints, field_of, velocity_by_definition

SIZE = 200


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def data(rows: int = 5000) -> Tensor:
    """Points near a 20-dimensional subspace of a 200-dimensional space, as images are, with some close neighbours."""
    x = normal(rows, 20, seed=1) @ normal(20, SIZE, seed=2) / 4 + 0.2 * normal(rows, SIZE, seed=3)
    x[1::7] = x[::7][: len(x[1::7])] + 0.02 * normal(len(x[1::7]), SIZE, seed=4)
    return x


def queries_at(t: float, x: Tensor, *, bandwidth: float = 0.0, label: Tensor | None = None) -> Queries:
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    return Queries(x=x, beta=t * ones, q=((1 - t) ** 2 + (t * bandwidth) ** 2) * ones, label=label)


def states_at(t: float, x: Tensor, *, rows: int = 64) -> Tensor:
    return t * x[:rows] + (1 - t) * normal(rows, SIZE, seed=5)


def test_reduced_distances_never_exceed_the_true_ones() -> None:
    x = data(600).to(torch.float64)
    reduced = fit_reduction(x.to(torch.float32), seed=0).reduce(x).to(torch.float64)
    assert (torch.cdist(reduced, reduced) <= torch.cdist(x, x) + 1e-4).all()


def test_reduced_norms_are_the_true_ones() -> None:
    x = data(600)
    reduced = fit_reduction(x, seed=0).reduce(x)
    assert torch.allclose(reduced.norm(dim=1), x.norm(dim=1), rtol=1e-5)


def test_the_reach_does_not_depend_on_the_order_of_the_rows() -> None:
    x = torch.cat([spread * normal(4096, SIZE, seed=3) for spread in (2, 1)])  # two classes, one after the other
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    mixed, by_class = (fit_reduction(rows, seed=0).reach for rows in (shuffled, x))
    assert by_class == pytest.approx(mixed, rel=0.05)
    alone = fit_reduction(x[:4096], seed=0).reach
    assert alone > 2 * mixed  # so the order could matter


def test_few_dimensions_are_not_reduced() -> None:
    reduction = fit_reduction(normal(1000, 3, seed=1), seed=0)
    assert reduction.reach == 0
    assert not is_near(Queries(x=normal(2, 3, seed=2), beta=torch.ones(2, 1), q=torch.full((2, 1), 1e-9)), reduction)


def test_the_fit_depends_on_its_arguments_alone() -> None:
    torch.manual_seed(1)
    first = fit_reduction(data(), seed=3)
    torch.manual_seed(2)
    second = fit_reduction(data(), seed=3)
    assert torch.equal(first.directions, second.directions)
    assert first.reach == second.reach > 0


@pytest.mark.parametrize("t", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("bandwidth", [0.0, 0.01])
def test_the_search_gives_the_velocity_by_definition(t: float, bandwidth: float) -> None:
    x = data()
    field, time = field_of(x, searches=True, bandwidth=bandwidth), torch.tensor(t, dtype=torch.float64)
    states = states_at(t, x).to(torch.float64)
    assert is_near(queries_at(t, states, bandwidth=bandwidth), field.reduction) == (t >= 0.9)
    expected = velocity_by_definition(x, kind="linear", bandwidth=bandwidth, t=time, x_t=states)
    found = field.velocity(time, states)
    assert ((found - expected).abs() / (1 + states.abs() / (1 - t))).max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_of_both_types_are_searched(dtype: torch.dtype) -> None:
    x, t = data(), torch.tensor(0.98)
    states = states_at(0.98, x).to(dtype)
    field = field_of(x, searches=True)
    assert field.velocity(t, states).dtype == dtype
    expected = velocity_by_definition(x, kind="linear", bandwidth=0, t=t, x_t=states)
    assert torch.allclose(field.velocity(t, states).to(torch.float64), expected, rtol=1e-4, atol=1e-3)


def test_only_points_that_count_are_left_out() -> None:
    """Against sums over all points: what is missing weighs less than e^-40 of the peak each."""
    x = data()
    reduction = fit_reduction(x, seed=0)
    points = MemoryPoints(x, reduction=reduction)
    for t in (0.9, 0.95, 0.99):
        queries = queries_at(t, states_at(t, x).to(torch.float64))
        reduced = reduction.reduce(queries.x / t)
        floor = HeldPoints(points=points).nearest(queries, reduced).logit
        near = sum_near(points.leaf(0), Queries(x=queries.x, beta=queries.beta, q=queries.q, floor=floor), reduced)
        dense = sum_leaf(points.leaf(0), queries)
        alone = dense.peak >= floor - NEGLIGIBLE  # queries whose points lie in this leaf
        assert alone.any()
        assert torch.allclose(near.peak[alone], dense.peak[alone], rtol=1e-12)
        assert torch.allclose(near.mass[alone], dense.mass[alone], rtol=1e-9)
        assert (near.mass[~alone] == 0).all()


def test_the_floor_is_a_logit_that_a_point_reaches() -> None:
    x = data()
    reduction = fit_reduction(x, seed=0)
    points = MemoryPoints(x, reduction=reduction)
    queries = queries_at(0.95, states_at(0.95, x).to(torch.float64))
    found = HeldPoints(points=points).nearest(queries, reduction.reduce(queries.x / 0.95))
    wide = x.to(torch.float64)
    logits = (0.95 * queries.x @ wide.T - 0.95**2 * wide.square().sum(1) / 2) / queries.q
    assert torch.allclose(found.logit, logits.gather(1, found.row[:, None])[:, 0], rtol=1e-12)
    assert (found.logit <= logits.amax(1) + 1e-6).all()


def test_the_nearest_of_two_sets_is_the_nearest_of_their_union_with_ties_to_the_lower_row() -> None:
    left = Nearest(
        closeness=torch.tensor([1.0, 2.0, 3.0]),
        row=torch.tensor([0, 1, 2]),
        logit=torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
    )
    right = Nearest(
        closeness=torch.tensor([2.0, 2.0, 1.0]),
        row=torch.tensor([7, 8, 9]),
        logit=torch.tensor([0.7, 0.8, 0.9], dtype=torch.float64),
    )
    found = nearer(left, right)
    assert found.row.tolist() == [7, 1, 2]
    assert found.logit.tolist() == [0.7, 0.2, 0.3]


def test_a_labelled_query_finds_its_own_class_only() -> None:
    x = data()
    label = torch.arange(len(x)) % 4
    reduction = fit_reduction(x, seed=0)
    leaf = MemoryPoints(x, label=label, reduction=reduction).leaf(0)
    asked = torch.arange(64) % 5 - 1
    queries = queries_at(0.98, states_at(0.98, x), label=asked)
    found = find_nearest(leaf, queries, reduction.reduce(queries.x / 0.98), start=0)
    mine = asked >= 0
    assert torch.equal(label[found.row][mine], asked[mine])
    assert torch.equal(found.row[~mine], torch.arange(64)[~mine])  # each query was made from the point of its row


def test_labels_and_the_search_agree_with_the_dense_sums() -> None:
    x, t = data(), torch.tensor(0.985, dtype=torch.float64)
    label, asked = torch.arange(5000) % 4, torch.arange(64) % 5 - 1
    states = states_at(0.985, x).to(torch.float64)
    searched = field_of(x, label=label, searches=True).velocity(t, states, asked)
    dense = field_of(x, label=label).velocity(t, states, asked)
    assert torch.allclose(searched, dense, rtol=1e-10, atol=1e-8)


def test_a_leaf_with_very_many_points_in_reach_is_summed_densely() -> None:
    """All points are close together, so a search rules out none of them."""
    x = 1e-3 * data(400)
    reduction = Reduction(directions=fit_reduction(x, seed=0).directions, reach=torch.inf)
    points = MemoryPoints(x, reduction=reduction)
    queries = queries_at(0.5, 0.5 * x[:9].to(torch.float64))
    floor = HeldPoints(points=points).nearest(queries, reduction.reduce(queries.x / 0.5)).logit
    known = Queries(x=queries.x, beta=queries.beta, q=queries.q, floor=floor)
    near = sum_near(points.leaf(0), known, reduction.reduce(queries.x / 0.5))
    assert torch.allclose(near.moment, sum_leaf(points.leaf(0), queries).moment, rtol=1e-12)
