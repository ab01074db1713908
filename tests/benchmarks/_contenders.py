"""The contenders of the benchmark of alternatives: trained one after another in this process, ready to be drawn from.

All have the preset's backbone and take velocity.steps + generator.steps optimiser steps of the preset's batch in all,
by the package's own loop, schedule and averaged weights. Those with a teacher share it, and each is charged with it.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from flows.config import PipelineConfig
from storage.data import DataStore, Standardisation
from storage.models import read_model
from storage.trajectories import Floats
from tasks.executor import SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, build_stored_denoiser, train_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.sample import sample_rows
from tasks.specs import GeneratorSpec
from tasks.train_generator import GeneratorRequest, StoredGenerator, load_generator, train_characteristics
from tasks.training.device import local_device
from tasks.training.group import Group, alone
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import SAMPLES, standard_normal
from tasks.transport.solver import solve
from tests.benchmarks._consistency import ConsistencyRequest, sample_consistency, train_consistency
from tests.benchmarks._training import WORKERS

FLOW_STEPS = (1, 2, 4, 8, 32)
MAP_STEPS = (1, 2, 4)
_ROWS = 1024  # that a network takes at once


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to draw samples, and what it took to get there."""

    name: str
    evaluations: int  # of the network, a sample
    seconds: float  # of all trainings and simulations that it needs
    draw: Callable[[int, int], Floats]  # gives samples start <= i < stop in data units, ``[stop - start, *dim]``


class LocalExecutor(SerialExecutor):
    """Simulates in this process, on its GPU where there is one."""

    @property
    def gpus(self) -> int:
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where the contenders of one dataset are made; most methods train or simulate, and give the seconds."""

    config: PipelineConfig
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data.zarr"

    @property
    def group(self) -> Group:
        return alone(local_device(self.config.compute.device))

    def place(self, name: str) -> TrainingPlace:
        return TrainingPlace(folder=self.folder / name, key="bench")

    def velocity(self, name: str, *, steps: int) -> float:
        config = self.config
        request = VelocityRequest(
            velocity=replace(config.velocity, steps=steps),
            interpolant=config.interpolant,
            dataset=config.dataset,
            stop=config.trajectories.stop,
            seed=config.seed,
            data=self.data,
            place=self.place(name),
        )
        return timed(name, lambda: train_velocity(request, self.group))

    def trajectories(self, *, velocity: str) -> float:
        config = self.config
        request = IntegrateRequest(
            trajectories=config.trajectories,
            interpolant=config.interpolant,
            seed=config.seed,
            dim=DataStore(self.data).dim,
            data=self.data,
            velocity=self.folder / velocity,
            store=self.folder / "trajectories.zarr",
            device=config.compute.device,
        )
        return timed("trajectories", lambda: integrate(request, executor=LocalExecutor(), progress=lambda *_: None))

    def generator(self, name: str, spec: GeneratorSpec, *, velocity: str) -> float:
        request = GeneratorRequest(
            generator=spec,
            count=self.config.trajectories.count,
            seed=self.config.seed,
            data=self.data,
            velocity=self.folder / velocity,
            store=self.folder / "trajectories.zarr",
            place=self.place(name),
        )
        return timed(name, lambda: train_characteristics(request, self.group))

    def consistency(self, name: str, *, velocity: str) -> float:
        request = ConsistencyRequest(
            generator=self.config.generator,
            trajectories=self.config.trajectories,
            interpolant=self.config.interpolant,
            seed=self.config.seed,
            data=self.data,
            velocity=self.folder / velocity,
            place=self.place(name),
        )
        return timed(name, lambda: train_consistency(request, self.group))

    def stored(self, name: str) -> tuple[StoredGenerator, Standardisation]:
        """Give a trained map, where it was trained, and what takes its samples to data units."""
        return load_generator(self.folder / name, device=self.group.device), DataStore(self.data).standardisation


def make_contenders(config: PipelineConfig, folder: Path, *, semigroup: tuple[float, ...]) -> list[Contender]:
    """Train all contenders.

    Args:
        config: a preset's, whose velocity is an unconditional network.
        folder: for data, models and trajectories.
        semigroup: weights of the penalty that charflow is trained with as well.
    """
    shop, spec = Workshop(config=config, folder=folder), config.generator
    ingest(config.dataset, seed=config.seed, path=shop.data)
    whole = shop.velocity("flow_matching", steps=config.velocity.steps + spec.steps)
    teacher = shop.velocity("teacher", steps=config.velocity.steps)
    simulated = teacher + shop.trajectories(velocity="teacher")
    maps = {
        "endpoint_distillation": replace(spec, full_span_share=1.0),
        "charflow": spec,
        **{f"charflow_semigroup_{weight:g}": replace(spec, semigroup=weight) for weight in semigroup},
    }
    took = {name: simulated + shop.generator(name, each, velocity="teacher") for name, each in maps.items()}
    took["consistency"] = teacher + shop.consistency("consistency", velocity="teacher")
    found = [
        Contender(name="flow_matching", evaluations=n, seconds=whole, draw=partial(draw_flow, shop, steps=n))
        for n in FLOW_STEPS
    ]
    for name, seconds in took.items():
        draw = draw_consistency if name == "consistency" else draw_map
        for n in (1,) if name == "endpoint_distillation" else MAP_STEPS:
            each = partial(draw, shop, name=name, steps=n)
            found.append(Contender(name=name, evaluations=n, seconds=seconds, draw=each))
    return found


def draw_flow(shop: Workshop, start: int, stop: int, *, steps: int) -> Floats:
    """Draw from the velocity that was trained for all steps, by so many of Euler's."""
    config, data, device = shop.config, DataStore(shop.data), shop.group.device
    field = build_stored_denoiser(read_model(shop.folder / "flow_matching")).to(device)
    along = config.trajectories
    grid = time_grid(along.grid, steps=steps, stop=along.stop, rho=along.rho).to(device)
    noise = standard_normal(config.evaluation.seed, start, stop, data.dim, stream=SAMPLES).to(torch.float32)
    ends = [
        solve(
            field,
            x0.to(device),
            grid,
            solver="euler",
            interpolant=Interpolant(config.interpolant.kind),
            kept=[steps],
        )[:, 0].cpu()
        for x0 in torch.split(noise, _ROWS)
    ]
    return np.asarray(data.standardisation.to_data(torch.cat(ends).numpy()))


def draw_map(shop: Workshop, start: int, stop: int, *, name: str, steps: int) -> Floats:
    """Draw from a generator."""
    stored, standardisation = shop.stored(name)
    return sample_rows(stored, standardisation, start=start, stop=stop, steps=steps, seed=shop.config.evaluation.seed)


def draw_consistency(shop: Workshop, start: int, stop: int, *, name: str, steps: int) -> Floats:
    """Draw from the consistency map."""
    stored, standardisation = shop.stored(name)
    seed = shop.config.evaluation.seed
    return sample_consistency(stored, standardisation, start=start, stop=stop, steps=steps, seed=seed)


def timed(name: str, work: Callable[[], object]) -> float:
    """Do work with the benchmark's threads, tell whoever watches, and give its seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(WORKERS)
    began = time.perf_counter()
    try:
        work()
    finally:
        torch.set_num_threads(before)
    seconds = time.perf_counter() - began
    sys.stderr.write(f"{name}: {seconds:.1f} s\n")
    return seconds
