"""Synthetic targets: draws are functions of (seed, row), each lies where its law lives, oracles match their draws."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from tasks.specs import ORACLE_KINDS, SYNTHETIC_KINDS, DatasetSpec, TargetSpec
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import DATA, EMBEDDING, FRESH_DATA, TRAJECTORIES, standard_normal, uniform
from tasks.transport.synthetic import MIXTURE_RADIUS, MOON_NOISE, RING_NOISE, ROLL_NOISE, draw, embedding, oracle_target

ROWS = 20_000
FAR = 6  # standard deviations, which 40,000 seeded normals do not reach


def spec_of(kind: str) -> TargetSpec:
    if kind == "sphere":
        return DatasetSpec(kind=kind, intrinsic=5, dim=16, std=0.1).target()
    return DatasetSpec(kind=kind, mean=(1.0, -2.0) if kind == "gaussian" else 0.0, std=(0.5, 1.5)).target()


def drawn(kind: str) -> Tensor:
    return draw(spec_of(kind), 0, ROWS, seed=4, stream=DATA)


@given(st.sampled_from(SYNTHETIC_KINDS), st.integers(0, 100), st.integers(0, 100), st.integers(0, 2**63))
def test_a_draw_is_a_function_of_seed_and_row(kind: str, start: int, count: int, seed: int) -> None:
    spec = spec_of(kind)
    whole = draw(spec, 0, 200, seed=seed, stream=DATA)
    assert whole.dtype == torch.float64
    assert torch.equal(draw(spec, start, start + count, seed=seed, stream=DATA), whole[start : start + count])


@pytest.mark.parametrize("kind", SYNTHETIC_KINDS)
def test_other_seeds_and_other_streams_give_other_draws(kind: str) -> None:
    spec = spec_of(kind)
    first = draw(spec, 0, 500, seed=4, stream=DATA)
    for other in (draw(spec, 0, 500, seed=5, stream=DATA), draw(spec, 0, 500, seed=4, stream=FRESH_DATA)):
        assert not (first == other).all(1).any()


@pytest.mark.parametrize("kind", ORACLE_KINDS)
def test_a_draw_reads_the_two_streams_that_are_its_own(kind: str) -> None:
    law = oracle_target(spec_of(kind))
    assert law is not None
    component = uniform(4, 0, 50, 4, stream=2 * DATA)[:, 0]
    z = standard_normal(4, 0, 50, (2,), stream=2 * DATA + 1)
    assert torch.equal(draw(spec_of(kind), 0, 50, seed=4, stream=DATA), law.sample(component, z))


def test_data_are_independent_of_the_noise_of_the_trajectories() -> None:
    z = standard_normal(4, 0, ROWS, (2,), stream=TRAJECTORIES)
    x = drawn("gaussian") - torch.tensor([1.0, -2.0])
    correlation = (z[:, :, None] * (x / torch.tensor([0.5, 1.5]))[:, None, :]).mean(0)
    assert correlation.abs().max().item() < 5 / ROWS**0.5


def test_moons_are_two_half_circles() -> None:
    x = drawn("moons")
    to_upper = (x.norm(dim=1) - 1).abs()
    to_lower = ((x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    near = FAR * MOON_NOISE
    assert (torch.minimum(to_upper, to_lower) < near).all()
    on_upper, on_lower = (to_upper < near) & (x[:, 1] > -near), (to_lower < near) & (x[:, 1] < 0.5 + near)
    assert (on_upper | on_lower).all()
    # mean of the halves: (0, 2/pi) and (1, 1/2 - 2/pi), of equal weight
    assert x.mean(0).tolist() == pytest.approx([0.5, 0.25], abs=5 / ROWS**0.5)


def test_the_swiss_roll_winds_one_and_a_half_times() -> None:
    x = drawn("swiss_roll")
    radius = x.norm(dim=1) * 5  # equals the angle, from 1.5 pi to 4.5 pi, up to noise
    assert radius.min().item() > 1.5 * math.pi - 5 * FAR * ROLL_NOISE
    assert radius.max().item() < 4.5 * math.pi + 5 * FAR * ROLL_NOISE
    curve = torch.stack([radius.cos(), radius.sin()], 1) * radius[:, None] / 5
    # noise moves the radius, hence the angle: radius/5 times 5 noise across, noise along
    assert ((x - curve).norm(dim=1) < FAR * ROLL_NOISE * (1 + radius)).all()
    # uniform in the angle, so its mean is the middle; noise adds half its variance over the radius
    assert radius.mean().item() == pytest.approx(3 * math.pi, abs=0.15)


def test_the_checkerboard_is_uniform_on_the_eight_dark_cells() -> None:
    x = drawn("checkerboard")
    cells = (x + 2).floor().long()
    assert cells.min().item() == 0
    assert cells.max().item() == 3
    assert ((cells.sum(1) % 2) == 0).all()
    counts = torch.bincount(4 * cells[:, 0] + cells[:, 1], minlength=16)
    dark = counts[counts > 0]
    assert len(dark) == 8
    assert (dark - ROWS / 8).abs().max().item() < 5 * (ROWS / 8) ** 0.5
    for column in (x + 2).frac().T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3


def test_the_rings_are_three_circles_of_equal_weight() -> None:
    x = drawn("rings")
    radius = x.norm(dim=1)
    nearest = radius.round()
    assert ((radius - nearest).abs() < FAR * RING_NOISE).all()
    assert set(nearest.tolist()) == {1.0, 2.0, 3.0}
    for ring in (1, 2, 3):
        assert (nearest == ring).double().mean().item() == pytest.approx(1 / 3, abs=5 / ROWS**0.5)
    assert x.mean(0).abs().max().item() < 5 * 2 / ROWS**0.5


def sphere(*, intrinsic: int, dim: int, std: float) -> Tensor:
    spec = DatasetSpec(kind="sphere", intrinsic=intrinsic, dim=dim, std=std).target()
    return draw(spec, 0, ROWS, seed=4, stream=DATA)


@pytest.mark.parametrize(("size", "dim"), [(2, 2), (2, 8), (4, 5)])
def test_the_embedding_is_an_isometry_that_turns_every_axis(size: int, dim: int) -> None:
    found = embedding(size, dim=dim)
    torch.testing.assert_close(found.T @ found, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-14)
    assert found.abs().min().item() > 1e-3


def test_the_embedding_is_that_of_gram_and_schmidt() -> None:
    columns: list[Tensor] = []
    for column in standard_normal(0, 0, 5, (3,), stream=EMBEDDING).T:
        rest = column - sum(((column @ q) * q for q in columns), torch.zeros(5, dtype=torch.float64))
        columns.append(rest / rest.norm())
    torch.testing.assert_close(embedding(3, dim=5), torch.stack(columns, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("intrinsic", "dim"), [(1, 2), (1, 6), (2, 3), (2, 5)])
def test_a_sphere_is_uniform_on_its_manifold_whatever_the_space(intrinsic: int, dim: int) -> None:
    """Without noise to speak of: radius 1, rank k + 1, inner coordinates of the known law, no direction preferred."""
    x = sphere(intrinsic=intrinsic, dim=dim, std=1e-9)
    size = intrinsic + 1
    assert x.shape == (ROWS, dim)
    assert (x.norm(dim=1) - 1).abs().max().item() < 1e-7
    values = torch.linalg.svdvals(x[:1000])
    assert (values > 1).tolist() == [k < size for k in range(dim)]
    inner = x @ embedding(size, dim=dim)
    # a coordinate u of the circle has (arcsin u)/pi uniform, of the two-sphere u/2: Archimedes
    u = inner.asin() / math.pi if intrinsic == 1 else inner / 2
    for coordinate in u.T:
        assert kstest(coordinate.numpy() + 0.5, "uniform").pvalue > 1e-3
    second = inner.T @ inner / ROWS
    assert (second - torch.eye(size, dtype=torch.float64) / size).abs().max().item() < 5 / ROWS**0.5


def test_about_a_sphere_the_noise_is_isotropic_and_independent_of_the_place() -> None:
    x, place = (sphere(intrinsic=1, dim=4, std=std) for std in (0.3, 1e-9))
    noise = (x - place) / 0.3
    for coordinate in noise.T:
        assert kstest(coordinate.numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(torch.cat([noise, place @ embedding(2, dim=4)], 1).T)
    assert (correlation - torch.eye(6, dtype=torch.float64)).abs().max().item() < 5 / ROWS**0.5


def _gaussian_cdf(x: Tensor) -> Tensor:
    return torch.as_tensor(torch.special.ndtr((x - 1.0) / 0.5))


def _mixture_cdf(x: Tensor) -> Tensor:
    centres = [MIXTURE_RADIUS * math.cos(2 * math.pi * k / 8) for k in range(8)]
    return torch.stack([torch.special.ndtr((x - centre) / 0.5) for centre in centres]).mean(0)


@pytest.mark.parametrize(("kind", "cdf"), [("gaussian", _gaussian_cdf), ("mixture", _mixture_cdf)])
def test_the_first_coordinate_has_the_distribution_function_of_its_law(
    kind: str, cdf: Callable[[Tensor], Tensor]
) -> None:
    assert kstest(cdf(drawn(kind)[:, 0]).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("kind", ORACLE_KINDS)
def test_the_oracle_is_the_law_of_the_draws(kind: str) -> None:
    """The score of the law averages to 0 over the draws, and -x . score to the dimension (Stein's identity)."""
    law, x = oracle_target(spec_of(kind)), drawn(kind)
    assert law is not None
    score = law.score(Interpolant("linear").at(torch.tensor(1.0, dtype=torch.float64)), x)
    error = (score.var(0) / ROWS).sqrt()
    assert (score.mean(0).abs() < 5 * error).all()
    stein = -(x * score).sum(1)
    assert stein.mean().item() == pytest.approx(2, abs=5 * (stein.var().item() / ROWS) ** 0.5)


def test_the_mixture_sits_on_a_circle_of_radius_four() -> None:
    law = oracle_target(spec_of("mixture"))
    assert law is not None
    assert len(law.components) == 8
    for k, gaussian in enumerate(law.components):
        angle = 2 * math.pi * k / 8
        assert gaussian.mean.tolist() == pytest.approx([4 * math.cos(angle), 4 * math.sin(angle)])
        assert gaussian.covariance.tolist() == [[0.25, 0.0], [0.0, 2.25]]


def test_a_gaussian_may_have_any_dimension() -> None:
    spec = DatasetSpec(kind="gaussian", dim=5, mean=1.0, std=2.0).target()
    assert draw(spec, 3, 7, seed=0, stream=DATA).shape == (4, 5)


@pytest.mark.parametrize("kind", sorted(set(SYNTHETIC_KINDS) - set(ORACLE_KINDS)))
def test_only_gaussian_and_mixture_have_a_closed_form(kind: str) -> None:
    assert oracle_target(spec_of(kind)) is None


def test_a_kind_that_is_not_synthetic_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"dataset\.kind 'digits' is not a synthetic target"):
        draw(TargetSpec(kind="digits"), 0, 1, seed=0, stream=DATA)
