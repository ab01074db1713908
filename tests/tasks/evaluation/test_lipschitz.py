"""Lipschitz constants from values of a field: exact for what is linear, a lower bound for everything."""

import pytest
import torch
from torch import Tensor, nn

from tasks.evaluation.lipschitz import adjoint_of, local_lipschitz
from tasks.networks.build import build_denoiser
from tasks.specs import NetworkSpec
from tasks.transport.interpolant import Interpolant
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [(1.0, -3.0, 0.5), (2.0, 2.0, 2.0), (-0.01, 0.0, 0.001)])
def test_a_symmetric_linear_field_has_its_largest_absolute_eigenvalue(
    values: tuple[float, ...], dtype: torch.dtype
) -> None:
    vectors = torch.linalg.qr(noise(3, 3)).Q
    matrix = (vectors @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ vectors.T).to(dtype)
    found = local_lipschitz(lambda x: x @ matrix, noise(50, 3, seed=1).to(dtype), seed=2, iterations=20)
    torch.testing.assert_close(
        found, torch.full((50,), max(map(abs, values)), dtype=torch.float64), rtol=1e-3, atol=1e-5
    )


def test_it_never_exceeds_the_norm_of_the_jacobian() -> None:
    matrix = noise(5, 5)  # not symmetric
    norm = torch.linalg.matrix_norm(matrix, ord=2)
    x = noise(100, 5, seed=1)
    found = local_lipschitz(lambda x: x @ matrix, x, seed=2)
    assert (found <= norm * (1 + 1e-6)).all()
    assert found.max() > 0.7 * norm
    with_adjoint = local_lipschitz(
        lambda x: x @ matrix, x, seed=2, adjoint=adjoint_of(lambda x: x @ matrix), iterations=20
    )
    torch.testing.assert_close(with_adjoint, norm.expand(100), rtol=1e-4, atol=0)


def test_each_point_has_its_own() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, -3.0]], dtype=torch.float64)
    found = local_lipschitz(lambda x: x**2 / 2, x, seed=0, iterations=30)
    assert found.tolist() == pytest.approx([0, 2, 3], abs=1e-4)


def test_the_velocity_of_a_mixture_has_the_norm_of_its_jacobian() -> None:
    parts = tuple(Gaussian(torch.tensor([m, 0.0], dtype=torch.float64), 0.1 * torch.eye(2).double()) for m in (-1, 1))
    field = OracleField(Interpolant("linear"), GaussianMixture((0.3, 0.7), parts))
    t, x = torch.tensor(0.8, dtype=torch.float64), noise(40, 2)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: field.velocity(t, y[None])[0]))(x)
    expected = torch.linalg.matrix_norm(jacobian, ord=2)
    found = local_lipschitz(lambda y: field.velocity(t, y), x, seed=1, iterations=20)
    # where two eigenvalues differ in little but their sign the method is slow
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_a_network_on_images_has_the_norm_of_its_jacobian_in_float32() -> None:
    spec = NetworkSpec(kind="unet", channels=4, multipliers=(1, 2), blocks=1)
    network = build_denoiser(spec, (1, 4, 4), seed=0, interpolant="trigonometric", data_std=1.0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    t, x = torch.tensor(0.5), noise(6, 1, 4, 4).float()
    jacobian = torch.stack([torch.func.jacrev(lambda y: network.velocity(t, y[None])[0].flatten())(row) for row in x])
    norms = torch.linalg.matrix_norm(jacobian.reshape(6, 16, 16), ord=2).double()
    network.requires_grad_(False)

    def field(y: Tensor) -> Tensor:
        return network.velocity(t, y)

    found = local_lipschitz(field, x, seed=1, adjoint=adjoint_of(field), iterations=10)
    torch.testing.assert_close(found, norms.detach(), rtol=0.01, atol=0)
    # untrained, its Jacobian is not symmetric
    assert (local_lipschitz(field, x, seed=1, iterations=10) < 0.95 * norms).all()


def test_a_constant_field_has_none() -> None:
    assert local_lipschitz(torch.zeros_like, noise(3, 2), seed=0).tolist() == [0, 0, 0]


def test_it_is_a_function_of_its_arguments() -> None:
    first, again, other = (local_lipschitz(torch.sin, noise(9, 4), seed=seed, iterations=1) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
