"""The consistency objective of the benchmark, against a Gaussian's exact characteristics."""

import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from storage.data import Standardisation
from tasks.networks.generator import Generator
from tasks.train_generator import StoredGenerator
from tasks.training.loader import MatchingBatch
from tasks.transport.field import VelocityField
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant, expand
from tasks.transport.noise import SAMPLES, standard_normal
from tasks.transport.solver import solve
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField
from tests.benchmarks._consistency import DECAY, consistency_loss, heun_step, renoise, sample_consistency

KINDS = ("linear", "trigonometric", "vp")
STD, STOP = 0.5, 0.999


def oracle(kind: str) -> OracleField:
    law = Gaussian(torch.zeros(2, dtype=torch.float64), STD**2 * torch.eye(2, dtype=torch.float64))
    return OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))


class ExactMap(nn.Module):
    """x_s of the Gaussian's characteristic through x_t, times 1 + gain (s - t)."""

    def __init__(self, kind: str, *, gain: float = 0.0) -> None:
        super().__init__()
        self.interpolant = Interpolant(kind)
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, t: Tensor, s: Tensor, x: Tensor) -> Tensor:
        ratio = (self._variance(expand(s, x)) / self._variance(expand(t, x))).sqrt()
        return ratio * x * (1 + self.gain * expand(s - t, x))

    def _variance(self, t: Tensor) -> Tensor:
        c = self.interpolant.at(t)
        return c.noise**2 + (STD * c.data) ** 2


def exact(kind: str, *, gain: float = 0.0) -> Generator:
    return cast(Generator, ExactMap(kind, gain=gain))


def gain_of(model: Generator) -> float:
    return float(cast(ExactMap, model).gain.detach())


def batch(rows: int = 512) -> MatchingBatch:
    rng = torch.Generator().manual_seed(0)
    return MatchingBatch(
        t=(torch.arange(rows) + torch.rand(rows, generator=rng)) / rows * STOP,
        x0=torch.randn(rows, 2, generator=rng),
        x1=STD * torch.randn(rows, 2, generator=rng),
        weight=torch.ones(rows),
        label=None,
    )


def loss_of(student: Generator, target: Generator, *, kind: str, steps: int, rows: int = 512) -> Tensor:
    grid = time_grid("uniform", steps=steps, stop=STOP)
    return consistency_loss(student, target, cast(VelocityField, oracle(kind)), grid=grid)(batch(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_takes_the_step_that_the_solver_takes_at_its_times(kind: str) -> None:
    grid, x = time_grid("uniform", steps=4, stop=0.9), torch.randn(4, 2, dtype=torch.float64)
    found = heun_step(oracle(kind), grid[:-1], grid[1:], x)
    for k in range(4):
        (_, end) = solve(
            oracle(kind), x[k : k + 1], grid[k : k + 2], solver="heun", interpolant=Interpolant(kind)
        ).unbind(1)
        torch.testing.assert_close(found[k : k + 1], end)


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_the_exact_map_has_the_loss_of_the_solvers_error_alone(kind: str) -> None:
    """A Heun step is wrong by O(h^3), so twice the steps leave an eighth of it; the error is a norm."""
    coarse, fine = (float(loss_of(exact(kind), exact(kind), kind=kind, steps=n).detach().mean()) for n in (8, 16))
    wrong = float(loss_of(exact(kind, gain=0.5), exact(kind, gain=0.5), kind=kind, steps=16).detach().mean())
    assert coarse < 0.01
    assert coarse / fine > 6  # above 8 where the pseudo-Huber norm begins to be a square
    assert wrong > 0.01


def test_a_wrong_map_has_the_loss_of_its_jump_between_neighbours() -> None:
    """With gain 1 the two ends differ by h x_T, whose root mean square a coordinate is h std, nearly."""
    found = loss_of(exact("linear", gain=1.0), exact("linear", gain=1.0), kind="linear", steps=16, rows=4096)
    scale = STOP / 16 * STD
    assert float(found.detach().square().mean().sqrt()) == pytest.approx(scale, rel=0.05)  # its bend is 2 %


def test_only_the_student_learns_and_the_target_follows_it() -> None:
    student, target = exact("linear", gain=0.5), exact("linear", gain=0.1)
    loss_of(student, target, kind="linear", steps=8).mean().backward()  # type: ignore[no-untyped-call]
    model, copy = cast(ExactMap, student), cast(ExactMap, target)
    assert model.gain.grad is not None
    assert model.gain.grad > 0  # a smaller gain is nearer to the target's
    assert copy.gain.grad is None
    assert gain_of(target) == pytest.approx(DECAY * 0.1 + (1 - DECAY) * 0.5)
    assert gain_of(student) == 0.5


def test_rows_are_weighted() -> None:
    one = batch()
    grid, field = time_grid("uniform", steps=8, stop=STOP), cast(VelocityField, oracle("linear"))
    student, target = exact("linear", gain=0.5), exact("linear", gain=0.5)
    loss = consistency_loss(student, target, field, grid=grid)
    twice = MatchingBatch(t=one.t, x0=one.x0, x1=one.x1, weight=2 * one.weight, label=None)
    torch.testing.assert_close(loss(twice), 2 * loss(one))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_noised_anew_has_the_interpolants_law(kind: str) -> None:
    """x_T = alpha_T x0 + beta_T x1 becomes beta_t x1 and noise of variance alpha_t^2 in all."""
    interpolant, (t, stop) = Interpolant(kind), torch.tensor([0.4, STOP], dtype=torch.float64)
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    share = float(renoise(interpolant, one, none, t=t, stop=stop))
    added = float(renoise(interpolant, none, one, t=t, stop=stop))
    now, then = interpolant.at(t), interpolant.at(stop)
    assert share * float(then.data) == pytest.approx(float(now.data))
    assert (share * float(then.noise)) ** 2 + added**2 == pytest.approx(float(now.noise) ** 2)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_exact_map_keeps_its_law_over_evaluations_and_forgets_its_noise(steps: int) -> None:
    """The end depends on the first noise by the product of the maps' factors and of what noising leaves."""
    rows, model = 20_000, exact("trigonometric").requires_grad_(False)
    times = tuple(time_grid("uniform", steps=8, stop=STOP).tolist())
    stored = StoredGenerator(generator=model, times=times, dim=(2,), digest="")
    identity = Standardisation(mean=np.zeros(2, np.float32), scale=np.ones(2, np.float32))
    x = sample_consistency(stored, identity, start=0, stop=rows, steps=steps, seed=3)
    c = Interpolant("trigonometric").at(torch.tensor([times[8 * k // steps] for k in range(steps)] + [STOP]))
    variance = (c.noise**2 + (STD * c.data) ** 2).numpy()
    assert x.std() == pytest.approx(math.sqrt(variance[-1]), rel=0.02)
    kept = float(np.prod((c.data[1:-1] / c.data[-1]).numpy() * np.sqrt(variance[-1] / variance[1:-1])))
    noise = standard_normal(3, 0, rows, (2,), stream=SAMPLES).numpy()
    assert np.corrcoef(noise.ravel(), x.ravel())[0, 1] == pytest.approx(kept, abs=0.02)
