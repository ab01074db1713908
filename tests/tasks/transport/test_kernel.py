"""The kernel's sums against closed forms and against one plain softmax; merging against any split."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.transport import kernel
from tasks.transport.interpolant import Interpolant
from tasks.transport.kernel import (
    Leaf,
    Node,
    Partial,
    Queries,
    gather,
    leaf_count,
    merge,
    product_type,
    sum_leaf,
    total,
)
from tasks.transport.kernel_field import sum_range
from tests.tasks.transport.kernels import MemoryPoints, field_of, velocity_by_definition

KINDS = ("linear", "foellmer", "trigonometric", "vp")
TWO_POINTS = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def queries_at(t: float, x: torch.Tensor, *, bandwidth: float = 0.0, kind: str = "linear") -> Queries:
    c = Interpolant(kind).at(torch.tensor(t, dtype=torch.float64))
    q = c.noise**2 + (c.data * bandwidth) ** 2
    return Queries(x=x, beta=c.data.expand(len(x), 1), q=q.expand(len(x), 1))


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    bandwidth=st.sampled_from((0.0, 0.01, 0.3, 2.0)),
    t=st.one_of(st.floats(0.0, 0.999), st.floats(0.999, 0.9999)),
    x=st.floats(-3, 3).filter(lambda x: x == 0 or abs(x) > 1e-4),
)
def test_two_points_have_the_velocity_of_the_hyperbolic_tangent(
    kind: str, bandwidth: float, t: float, x: float
) -> None:
    """At x its two logits differ by 2 beta x / q, so m = tanh(beta x / q)."""
    time, state = torch.tensor(t, dtype=torch.float64), torch.tensor([[x]], dtype=torch.float64)
    c = Interpolant(kind).at(time)
    q = float(c.noise) ** 2 + (float(c.data) * bandwidth) ** 2
    mean = math.tanh(float(c.data) * x / q)
    slope = float(c.noise_product) + float(c.data * c.data_rate) * bandwidth**2
    expected = (slope * x + float(c.gain) * mean) / q
    found = float(field_of(TWO_POINTS, kind=kind, bandwidth=bandwidth).velocity(time, state))
    # terms of size slope x / q and gain m / q cancel, so this is what 1e-10 can be relative to
    assert abs(found - expected) <= 1e-10 * (1 + (abs(slope * x) + abs(float(c.gain) * mean)) / q)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bandwidth", [0.0, 0.2])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 0.9995])
def test_the_velocity_is_that_of_one_softmax_over_all_points(kind: str, bandwidth: float, t: float) -> None:
    x = normal(700, 3, seed=1)
    time = torch.tensor(t, dtype=torch.float64)
    states = t * x[:50] + (1 - t) * normal(50, 3, seed=2)
    found = field_of(x, kind=kind, bandwidth=bandwidth).velocity(time, states)
    expected = velocity_by_definition(x, kind=kind, bandwidth=bandwidth, t=time, x_t=states)
    scale = 1 + expected.abs() + states.abs() / (1 - t)
    assert ((found - expected).abs() / scale).max() < 1e-10


@pytest.mark.parametrize("kind", ["linear", "foellmer", "trigonometric"])
def test_a_bandwidth_makes_the_velocity_finite_at_the_end(kind: str) -> None:
    x = normal(100, 2, seed=1)
    one = torch.tensor(1.0, dtype=torch.float64)
    found = field_of(x, kind=kind, bandwidth=0.3).velocity(one, x[:10] + 0.1)
    assert torch.isfinite(found).all()
    near = field_of(x, kind=kind, bandwidth=0.3).velocity(one - 1e-9, x[:10] + 0.1)
    # trigonometric coefficients move by the square root of what foellmer's do
    assert torch.allclose(found, near, rtol=1e-3, atol=1e-3)


def test_velocity_and_denoiser_say_the_same() -> None:
    x, t = normal(60, 2, seed=1), torch.tensor(0.6, dtype=torch.float64)
    field = field_of(x, kind="foellmer", bandwidth=0.4)
    states = normal(9, 2, seed=2)
    c = Interpolant("foellmer").at(t)
    from_denoiser = (c.noise_product * states + c.gain * field.denoiser(t, states)) / c.noise**2
    assert torch.allclose(field.velocity(t, states), from_denoiser, rtol=1e-12)


def test_each_row_may_have_its_own_time() -> None:
    x, states = normal(60, 2, seed=1), normal(4, 2, seed=2)
    times = torch.tensor([0.1, 0.5, 0.9, 0.0], dtype=torch.float64)
    field = field_of(x, bandwidth=0.1)
    one_by_one = torch.cat([field.velocity(t, state[None]) for t, state in zip(times, states, strict=True)])
    assert torch.allclose(field.velocity(times, states), one_by_one, rtol=1e-13)


def test_at_the_noise_end_the_denoiser_is_the_mean_of_the_data() -> None:
    x = normal(50, 3, seed=1)
    found = field_of(x).denoiser(torch.tensor(0.0), normal(5, 3, seed=2))
    assert torch.allclose(found, x.mean(0).expand(5, 3), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_into_shards_in_any_order_merges_to_the_same(data: st.DataObject) -> None:
    x = normal(40, 2, seed=1)
    count = data.draw(st.integers(1, 8))
    cuts = sorted(data.draw(st.lists(st.integers(0, 40), min_size=count - 1, max_size=count - 1)))
    parts = [x[a:b] for a, b in zip([0, *cuts], [*cuts, 40], strict=True) if b > a]
    order = data.draw(st.permutations(range(len(parts))))
    t = data.draw(st.floats(0.0, 0.9995))
    queries = queries_at(
        t, t * x[:7] + (1 - t) * normal(7, 2, seed=2), bandwidth=data.draw(st.sampled_from((0.0, 0.3)))
    )
    points = [MemoryPoints(parts[k]).leaf(0) for k in order]
    merged = sum_leaf(points[0], queries)
    for leaf in points[1:]:
        merged = merge(merged, sum_leaf(leaf, queries))
    whole = sum_leaf(MemoryPoints(x).leaf(0), queries)
    assert torch.allclose(merged.moment / merged.mass[:, None], whole.moment / whole.mass[:, None], rtol=0, atol=1e-12)
    assert torch.allclose(merged.peak + merged.mass.log(), whole.peak + whole.mass.log(), rtol=1e-12, atol=0)


def test_nothing_merges_to_what_there_was() -> None:
    nothing = Partial(
        peak=torch.tensor([-torch.inf], dtype=torch.float64),
        mass=torch.zeros(1, dtype=torch.float64),
        moment=torch.zeros(1, 2, dtype=torch.float64),
    )
    some = sum_leaf(MemoryPoints(normal(5, 2, seed=1)).leaf(0), queries_at(0.5, normal(1, 2, seed=2)))
    for merged in (merge(some, nothing), merge(nothing, some)):
        assert torch.equal(merged.moment, some.moment)
        assert torch.equal(merged.peak, some.peak)
    assert torch.equal(merge(nothing, nothing).mass, torch.zeros(1, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_number_of_shards_gives_the_same_bits(data: st.DataObject) -> None:
    """Leaves of three rows stand for leaves of thousands: the tree does not know."""
    rows = data.draw(st.integers(1, 60))
    patch = pytest.MonkeyPatch()
    patch.setattr(kernel, "LEAF_ROWS", 3)
    patch.setattr("tests.tasks.transport.kernels.LEAF_ROWS", 3)
    try:
        points = MemoryPoints(normal(rows, 2, seed=1))
        queries = queries_at(0.7, normal(4, 2, seed=2))
        leaves = leaf_count(rows)
        cuts = sorted(data.draw(st.lists(st.integers(0, leaves), max_size=7)))
        edges = [0, *cuts, leaves]
        nodes = [sum_range(points, range(a, b), queries, None) for a, b in pairwise(edges)]
        split = total(gather(node for part in nodes for node in part))
        whole = total(sum_range(points, range(leaves), queries, None))
    finally:
        patch.undo()
    for name in ("peak", "mass", "moment"):
        assert torch.equal(getattr(split, name), getattr(whole, name))


def test_gathering_leaves_at_most_two_nodes_a_level() -> None:
    nothing = Partial(
        peak=torch.zeros(1, dtype=torch.float64),
        mass=torch.ones(1, dtype=torch.float64),
        moment=torch.zeros(1, 0, dtype=torch.float64),
    )
    nodes = gather(Node(level=0, index=k, sums=nothing) for k in range(5, 100))
    assert sum(2**node.level for node in nodes) == 95
    assert max(sum(node.level == level for node in nodes) for level in range(7)) <= 2
    assert float(total(nodes).mass) == 95


def test_float32_products_serve_only_where_they_are_exact_enough() -> None:
    x = normal(2000, 64, seed=1, dtype=torch.float32)
    leaf = MemoryPoints(x).leaf(0)
    states = normal(40, 64, seed=2, dtype=torch.float32)
    kinds = set()
    for t in (0.2, 0.5, 0.7, 0.9, 0.99, 0.999):
        queries = queries_at(t, t * x[:40] + (1 - t) * states)
        kinds.add(product_type(leaf, queries))
        narrow, wide = (sum_leaf(leaf, q) for q in (queries, queries_at(t, queries.x.to(torch.float64))))
        logs = [s.peak + s.mass.log() for s in (narrow, wide)]
        assert (logs[0] - logs[1]).abs().max() < 2.0**-9
    assert kinds == {torch.float32, torch.float64}


def test_a_float32_bound_covers_the_error_of_every_logit() -> None:
    x, states = normal(3000, 200, seed=1, dtype=torch.float32), normal(100, 200, seed=2, dtype=torch.float32)
    leaf = MemoryPoints(x).leaf(0)
    for t in (0.3, 0.5, 0.6, 0.7):
        queries = queries_at(t, t * x[:100] + (1 - t) * states)
        if product_type(leaf, queries) == torch.float32:
            narrow = kernel._logits(leaf, leaf.x, queries)
            wide = kernel._logits(leaf, leaf.x.to(torch.float64), queries)
            assert (narrow - wide).abs().max() < 2.0**-9


def test_what_is_skipped_is_beneath_rounding() -> None:
    """A far cluster has weight below e^-40 for every query, so its columns never enter a product."""
    near, far = normal(50, 2, seed=1), 1000 + normal(4000, 2, seed=2)
    queries = queries_at(0.5, 0.5 * normal(8, 2, seed=3))
    both = sum_leaf(MemoryPoints(torch.cat([near, far])).leaf(0), queries)
    alone = sum_leaf(MemoryPoints(near).leaf(0), queries)
    assert torch.allclose(both.moment, alone.moment, rtol=1e-13)
    assert torch.allclose(both.mass, alone.mass, rtol=1e-13)


def test_labels_restrict_the_regression_to_their_class() -> None:
    x = normal(90, 2, seed=1)
    label = torch.arange(90) % 3
    t, states = torch.tensor(0.6, dtype=torch.float64), normal(4, 2, seed=2)
    asked = torch.tensor([0, 2, -1, 1])
    found = field_of(x, label=label).velocity(t, states, asked)
    for row, k in enumerate(asked.tolist()):
        only = x if k < 0 else x[label == k]
        assert torch.allclose(found[row], field_of(only).velocity(t, states[row : row + 1])[0], rtol=1e-12)


def test_guidance_combines_the_two_regressions() -> None:
    x, label = normal(90, 2, seed=1), torch.arange(90) % 3
    field, t, states = field_of(x, label=label), torch.tensor(0.6, dtype=torch.float64), normal(4, 2, seed=2)
    asked = torch.tensor([0, 2, 2, 1])
    none, given_label = field.velocity(t, states), field.velocity(t, states, asked)
    assert torch.allclose(field.given(asked, 2.5).velocity(t, states), none + 2.5 * (given_label - none), rtol=1e-12)


def test_a_label_that_no_point_has_is_refused() -> None:
    field = field_of(normal(9, 2, seed=1), label=torch.zeros(9, dtype=torch.int64))
    with pytest.raises(ValueError, match="no points"):
        field.velocity(torch.tensor(0.5), normal(2, 2, seed=2), torch.tensor([0, 1]))


def test_images_keep_their_shape_and_states_their_type() -> None:
    x = normal(30, 1 * 4 * 4, seed=1, dtype=torch.float32)
    states = normal(5, 16, seed=2, dtype=torch.float32).reshape(5, 1, 4, 4)
    found = field_of(x).velocity(torch.tensor(0.4), states)
    assert found.shape == states.shape
    assert found.dtype == torch.float32


def test_a_leaf_may_be_memory_that_cannot_be_written() -> None:
    leaf = MemoryPoints(normal(20, 40, seed=1, dtype=torch.float32)).leaf(0)
    before = leaf.x.clone()
    sum_leaf(Leaf(x=leaf.x, half_square=leaf.half_square, label=None), queries_at(0.5, normal(3, 40, seed=2)))
    assert torch.equal(leaf.x, before)
