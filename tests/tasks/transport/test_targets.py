"""The oracles, proved against quadrature, automatic derivatives and the continuity equation rather than each other."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.transport.interpolant import Interpolant
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")
EXACT_ENDS = ("linear", "foellmer", "trigonometric")
TIMES = (0.0, 0.2, 0.5, 0.9, 1.0)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def points(rows: int, dim: int = 2) -> Tensor:
    return 2 * torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def tilted() -> Gaussian:
    return Gaussian(float64(1.0, -2.0), torch.tensor([[1.5, 0.6], [0.6, 0.4]], dtype=torch.float64))


def plane() -> GaussianMixture:
    other = Gaussian(float64(-1.5, 0.5), torch.tensor([[1.2, -0.4], [-0.4, 0.4]], dtype=torch.float64))
    return GaussianMixture((1.0, 3.0), (tilted(), other))


def line() -> GaussianMixture:
    """A skewed mixture on the line, weights 1/4 and 3/4."""
    parts = [Gaussian(float64(mean), torch.tensor([[std**2]], dtype=torch.float64)) for mean, std in LINE]
    return GaussianMixture((0.25, 0.75), tuple(parts))


LINE = ((-1.0, 0.5), (1.5, 0.3))


def line_cdf(kind: str, t: Tensor, x: Tensor) -> Tensor:
    """P(X_t <= x) of the law of alpha Z + beta X for X of :func:`line`."""
    c = Interpolant(kind).at(t)
    scaled = [(x - c.data * mean) / (c.noise**2 + (c.data * std) ** 2).sqrt() for mean, std in LINE]
    first, second = (torch.special.ndtr(value) for value in scaled)
    return torch.as_tensor(0.25 * first + 0.75 * second)


def plane_log_density(kind: str, t: Tensor, x: Tensor) -> Tensor:
    """log p_t of the law of alpha Z + beta X for X of :func:`plane`, from the inverse and the determinant."""
    return torch.logsumexp(plane_log_joint(kind, t, x), -1)


def plane_log_joint(kind: str, t: Tensor, x: Tensor) -> Tensor:
    """log (w_k N(x; beta m_k, C_k)) of both components, ``[batch, 2]``."""
    c, logs = Interpolant(kind).at(t), []
    for weight, g in zip((0.25, 0.75), plane().components, strict=True):
        spread = c.noise**2 * torch.eye(2, dtype=torch.float64) + c.data**2 * g.covariance
        centred = x - c.data * g.mean
        distance = torch.einsum("bi,ij,bj->b", centred, torch.linalg.inv(spread), centred)
        logs.append(math.log(weight) - distance / 2 - torch.logdet(spread) / 2 - math.log(2 * math.pi))
    return torch.stack(logs, -1)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("kind", KINDS)
def test_the_denoiser_is_the_conditional_mean_of_the_data(kind: str, t: float) -> None:
    """E[X | X_t = x] by the trapezoid rule, which converges exponentially on smooth decaying integrands."""
    c = Interpolant(kind).at(time(t))
    x1 = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    first, second = ((-0.5 * ((x1 - mean) / std) ** 2).exp() / std for mean, std in LINE)
    prior = 0.25 * first + 0.75 * second
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    joint = prior * (-0.5 * ((x[:, None] - c.data * x1) / c.noise) ** 2).exp()  # [points, nodes]
    expected = (joint * x1).sum(1) / joint.sum(1)
    found = OracleField(Interpolant(kind), line()).denoiser(time(t), x[:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_the_gradient_of_the_log_density(kind: str, t: float) -> None:
    x = points(30).requires_grad_()
    (expected,) = torch.autograd.grad(plane_log_density(kind, time(t), x).sum(), x)
    found = OracleField(Interpolant(kind), plane()).score(time(t), x.detach())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_the_velocity_carries_the_mass_of_a_law_on_the_line(kind: str, t: float) -> None:
    """On the line the continuity equation integrates to p v = -dF/dt: the mass left of x leaves through x."""
    x = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
    times = torch.full_like(x, t).requires_grad_()
    at = x.clone().requires_grad_()
    cdf = line_cdf(kind, times, at)
    rate, density = torch.autograd.grad(cdf.sum(), [times, at])
    found = OracleField(Interpolant(kind), line()).velocity(times.detach(), x[:, None])[:, 0]
    torch.testing.assert_close(found * density, -rate, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_velocity_and_density_satisfy_the_continuity_equation_in_the_plane(kind: str, t: float) -> None:
    x = points(20).requires_grad_()
    times = time(t).requires_grad_()
    density = plane_log_density(kind, times, x)
    field = OracleField(Interpolant(kind), plane())
    velocity = field.velocity(times, x)
    rate = torch.stack([torch.autograd.grad(one, times, retain_graph=True)[0] for one in density])
    (score,) = torch.autograd.grad(density.sum(), x, retain_graph=True)
    divergence = sum(torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    # d log p/dt + v . grad log p + div v = 0, each term up to 1e3 in size
    residual = rate + (velocity * score).sum(1) + divergence
    assert residual.detach().abs().max().item() < 1e-9


@pytest.mark.parametrize(
    ("kind", "slope", "mean_weight"),
    [("linear", -1.0, 1.0), ("foellmer", 0.0, 1.0), ("trigonometric", 0.0, math.pi / 2)],
)
def test_at_the_noise_end_the_velocity_knows_only_the_mean(kind: str, slope: float, mean_weight: float) -> None:
    mean = 0.25 * tilted().mean + 0.75 * plane().components[1].mean
    x = points(10)
    found = OracleField(Interpolant(kind), plane()).velocity(time(0), x)
    torch.testing.assert_close(found, slope * x + mean_weight * mean, rtol=1e-12, atol=1e-13)
    denoised = OracleField(Interpolant(kind), plane()).denoiser(time(0), x)
    torch.testing.assert_close(denoised, mean.expand(10, 2), rtol=1e-12, atol=1e-13)


def _linear_end(x: Tensor, score: Tensor) -> Tensor:
    return x  # E[X - Z | X = x], and Z is independent of X


def _foellmer_end(x: Tensor, score: Tensor) -> Tensor:
    return x + score  # v = (x + s)/t


def _trigonometric_end(x: Tensor, score: Tensor) -> Tensor:
    return torch.zeros_like(x)  # E[-(pi/2) Z | X = x]


@pytest.mark.parametrize(
    ("kind", "end"), [("linear", _linear_end), ("foellmer", _foellmer_end), ("trigonometric", _trigonometric_end)]
)
def test_at_the_data_end_the_velocity_is_finite_and_known(kind: str, end: Callable[[Tensor, Tensor], Tensor]) -> None:
    field, x = OracleField(Interpolant(kind), plane()), points(10)
    torch.testing.assert_close(field.denoiser(time(1), x), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(field.velocity(time(1), x), end(x, field.score(time(1), x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_map_moves_with_the_velocity(kind: str) -> None:
    field = OracleField(Interpolant(kind), GaussianMixture((1.0,), (tilted(),)))
    x, h = points(10), 1e-5
    for t, s in ((0.0, 0.5), (0.3, 0.9), (0.8, 0.2)):
        now = field.flow_map(time(t), time(s), x)
        slope = (field.flow_map(time(t), time(s + h), x) - field.flow_map(time(t), time(s - h), x)) / (2 * h)
        torch.testing.assert_close(slope, field.velocity(time(s), now), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_flow_maps_compose_and_undo_each_other(kind: str) -> None:
    field = OracleField(Interpolant(kind), GaussianMixture((1.0,), (tilted(),)))
    x, (t, r, s) = points(10), (time(0.1), time(0.4), time(1.0))
    direct = field.flow_map(t, s, x)
    torch.testing.assert_close(field.flow_map(r, s, field.flow_map(t, r, x)), direct, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(field.flow_map(s, t, direct), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(field.flow_map(r, r, x), x, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", EXACT_ENDS)
def test_the_one_step_map_is_the_same_for_every_interpolant(kind: str) -> None:
    law, z = tilted(), points(10)
    field = OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))
    values, vectors = torch.linalg.eigh(law.covariance)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    torch.testing.assert_close(field.flow_map(time(0), time(1), z), law.mean + z @ root, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(field.flow_map(time(0), time(1), z), law.sample(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_early_stopped_map_ends_in_the_law_at_that_time(kind: str) -> None:
    law, c = tilted(), Interpolant(kind).at(time(0.8))
    field = OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))
    at_zero = Interpolant(kind).at(time(0))
    origin = (at_zero.data * law.mean).reshape(1, 2)
    basis = torch.cat([origin, origin + torch.eye(2, dtype=torch.float64)])
    images = field.flow_map(time(0), time(0.8), basis)
    jacobian = images[1:] - images[0]  # the map is affine, so differences are exact
    spread = at_zero.noise**2 * torch.eye(2, dtype=torch.float64) + at_zero.data**2 * law.covariance
    expected = c.noise**2 * torch.eye(2, dtype=torch.float64) + c.data**2 * law.covariance
    torch.testing.assert_close(images[0], c.data * law.mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(jacobian.T @ spread @ jacobian, expected, rtol=1e-12, atol=1e-13)


def test_gaussian_draws_have_the_covariance_exactly() -> None:
    law = tilted()
    root = law.sample(torch.eye(2, dtype=torch.float64)) - law.mean
    torch.testing.assert_close(root, root.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(root @ root, law.covariance, rtol=1e-12, atol=1e-14)


def test_a_mixture_draws_each_component_in_its_share() -> None:
    law = plane()
    z = points(4)
    drawn = law.sample(float64(0.0, 0.2499, 0.2501, 0.9999), z)
    first, second = law.components
    torch.testing.assert_close(drawn[:2], first.sample(z[:2]))
    torch.testing.assert_close(drawn[2:], second.sample(z[2:]))
    assert torch.equal(law.sample(float64(1.0), z[:1]), second.sample(z[:1]))  # rounding of the last edge


def test_the_second_moments_of_a_mixture_are_those_of_its_draws() -> None:
    law, n = plane(), 100_000
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = law.sample((torch.arange(n, dtype=torch.float64) + 0.5) / n, noise)
    torch.testing.assert_close(law.second_moments(), drawn.square().mean(0), rtol=0.02, atol=0)


@pytest.mark.parametrize("t", TIMES)
def test_responsibilities_are_posterior_probabilities(t: float) -> None:
    law, c, x = plane(), Interpolant("linear").at(time(t)), points(20)
    found = law.responsibilities(c, x)
    torch.testing.assert_close(found.sum(1), torch.ones(20, dtype=torch.float64))
    if t == 0:
        torch.testing.assert_close(found, float64(0.25, 0.75).expand(20, 2))
    joint = plane_log_joint("linear", time(t), x).exp()
    torch.testing.assert_close(found, joint / joint.sum(1, keepdim=True), rtol=1e-10, atol=1e-14)


def test_responsibilities_survive_a_point_far_from_every_component() -> None:
    found = plane().responsibilities(Interpolant("linear").at(time(0.9)), float64(1e6, -1e6).reshape(1, 2))
    assert torch.isfinite(found).all()
    assert found.sum().item() == pytest.approx(1)


def test_scaling_a_law_scales_its_flow() -> None:
    """In standardised units y = (x - shift)/scale the data end of the one-step map is the standardised draw."""
    shift, scale = float64(1.0, -3.0), float64(2.0, 0.5)
    law = plane()
    scaled = law.affine(shift, scale)
    y = points(20)
    end = Interpolant("linear").at(time(1))
    # densities: p_Y(y) = p_X(scale y + shift) |scale|, up to a constant, so the scores differ by the factor scale
    torch.testing.assert_close(scaled.score(end, y), scale * law.score(end, scale * y + shift), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        scaled.responsibilities(end, y), law.responsibilities(end, scale * y + shift), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_keeps_shape_and_type_and_reads_one_time_or_many(kind: str) -> None:
    law = GaussianMixture((1.0,), (Gaussian(torch.arange(6.0).double(), torch.eye(6).double()),))
    field = OracleField(Interpolant(kind), law)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    many = torch.full((5,), 0.25)
    for of in (field.velocity, field.denoiser, field.score):
        assert of(many, x).shape == x.shape
        assert of(many, x).dtype == torch.float32
        assert torch.equal(of(many, x), of(torch.tensor(0.25), x))
    moved = field.flow_map(many, torch.tensor(0.5), x)
    assert moved.shape == x.shape
    assert moved.dtype == torch.float32
    assert torch.equal(moved, field.flow_map(torch.tensor(0.25), torch.full((5,), 0.5), x))


def test_rows_with_their_own_times_get_their_own_velocity() -> None:
    field, x, times = OracleField(Interpolant("foellmer"), plane()), points(4), float64(0.0, 0.3, 0.6, 1.0)
    together = field.velocity(times, x)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], field.velocity(times[i], x[i : i + 1]), rtol=1e-13, atol=1e-14)


def test_a_flow_map_of_several_components_is_refused() -> None:
    with pytest.raises(ValueError, match="needs one component, got 2"):
        OracleField(Interpolant("linear"), plane()).flow_map(time(0), time(1), points(2))


def test_a_law_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"covariance must be \[2, 2\] for a mean of 2, got \[3, 3\]"):
        Gaussian(torch.zeros(2).double(), torch.eye(3).double())
    with pytest.raises(ValueError, match="positive semi-definite, got eigenvalue -1"):
        Gaussian(torch.zeros(2).double(), torch.diag(float64(1.0, -1.0)))
    with pytest.raises(ValueError, match="one weight a component, got 1 for 2"):
        GaussianMixture((1.0,), plane().components)
    with pytest.raises(ValueError, match="one weight a component, got 0 for 0"):
        GaussianMixture((), ())
    with pytest.raises(ValueError, match=r"weights must be positive, got \(1.0, 0.0\)"):
        GaussianMixture((1.0, 0.0), plane().components)
