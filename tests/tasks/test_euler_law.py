"""A generator inherits the law of its trajectories: Euler's, whose factor for a Gaussian is a closed form."""

import math
from pathlib import Path

import pytest
import torch

from tasks.executor import SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, fit_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.specs import DatasetSpec, GeneratorSpec, InterpolantSpec, NetworkSpec, TrajectoriesSpec, VelocitySpec
from tasks.train_generator import GeneratorRequest, load_generator, train_characteristics
from tasks.training.group import alone

pytestmark = pytest.mark.slow  # trainings of a second

STD = 2.0


def silent(*_: object) -> None:
    pass


def euler_factor(steps: int) -> float:
    """prod(1 + c(t_k)/K) with c = (alpha alpha' + std^2 beta beta')/(alpha^2 + std^2 beta^2), linear interpolant."""
    times = [k / steps for k in range(steps)]
    return math.prod(1 + (STD**2 * t - (1 - t)) / ((1 - t) ** 2 + STD**2 * t**2) / steps for t in times)


def trained(folder: Path, *, steps: int, spec: GeneratorSpec) -> GeneratorRequest:
    """Fit to trajectories of the exact velocity of N(0, 2^2), in its own units."""
    dataset, interpolant = DatasetSpec(kind="gaussian", dim=1, std=STD, standardise=False, count=100), InterpolantSpec()
    ingest(dataset, seed=0, path=folder / "data.zarr")
    velocity = VelocityRequest(
        velocity=VelocitySpec(kind="oracle"),
        interpolant=interpolant,
        dataset=dataset,
        stop=1.0,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="v"),
    )
    fit_velocity(velocity, progress=silent)
    integrate(
        IntegrateRequest(
            trajectories=TrajectoriesSpec(count=2000, steps=steps, stop=1.0),
            interpolant=interpolant,
            seed=0,
            dim=(1,),
            data=folder / "data.zarr",
            velocity=folder / "velocity",
            store=folder / "trajectories.zarr",
        ),
        executor=SerialExecutor(),
        progress=silent,
    )
    request = GeneratorRequest(
        generator=spec,
        count=2000,
        seed=0,
        data=folder / "data.zarr",
        velocity=folder / "velocity",
        store=folder / "trajectories.zarr",
        place=TrainingPlace(folder=folder / "generator", key="g"),
    )
    train_characteristics(request, alone())
    return request


@pytest.mark.parametrize(
    ("steps", "factor", "form", "loss"),
    [(16, 1.8227, "exponential", "squared"), (16, 1.8227, "euler", "huber"), (128, 1.977, "exponential", "squared")],
)
def test_the_one_step_map_has_the_standard_deviation_of_the_euler_law(
    tmp_path: Path, steps: int, factor: float, form: str, loss: str
) -> None:
    assert euler_factor(steps) == pytest.approx(factor, abs=5e-4)
    spec = GeneratorSpec(
        form=form,
        loss=loss,
        network=NetworkSpec(width=32, depth=1),
        steps=250,
        batch_size=256,
        workers=1,
        warmup=10,
        learning_rate=1e-2,
        ema=0.95,
    )
    generator = load_generator(trained(tmp_path, steps=steps, spec=spec).place.folder).generator
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    # over that of the noise itself, so that what is left is the fit's own error
    assert float(generator(torch.tensor(0.0), torch.tensor(1.0), x).std() / x.std()) == pytest.approx(factor, rel=0.01)
