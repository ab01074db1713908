"""A consistency map that is distilled from a velocity: a peer, written from the formulas, and no part of charflow.

f(t, x) is to be the end x_T of the characteristic through x at t, so f(T, x) = x, which g(t, T, x) of a generator is by
construction. Consistency distillation (Song et al., arXiv 2303.01469, algorithm 2), in the letters of this project: x_t
is interpolated between noise and data, a Heun step of the teacher leads to x_r at the next time of the grid, and
f(t, x_t) is drawn to f'(r, x_r), where f' has a moving average of f's weights. f begins with the teacher's weights. The
error is the pseudo-Huber norm (Song and Dhariwal, arXiv 2310.14189), every time of the grid counts alike.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from storage.data import DataStore, Standardisation
from storage.models import read_model
from storage.paths import Location
from storage.trajectories import Floats
from tasks.facts import TrainingPlace
from tasks.fit_velocity import build_stored_denoiser
from tasks.networks.build import build_generator, warm_start
from tasks.networks.generator import Generator
from tasks.specs import GeneratorSpec, InterpolantSpec, TrajectoriesSpec
from tasks.train_generator import StoredGenerator
from tasks.training.device import place_training
from tasks.training.failure import Numbering
from tasks.training.fit import fit
from tasks.training.group import Group
from tasks.training.loader import Draw, MatchingBatch, matching_batches, matching_rows
from tasks.training.loop import begin
from tasks.transport.field import VelocityField
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant, expand, interpolate
from tasks.transport.losses import pseudo_huber
from tasks.transport.noise import SAMPLES, standard_normal

DECAY = 0.95  # of the target's weights, as in arXiv 2303.01469 for distillation
_RENOISING = 100  # first stream of the noise that is added between evaluations; the package's own end far below


@dataclass(frozen=True, kw_only=True)
class ConsistencyRequest:
    """Everything that determines a consistency map, and where it goes; published as a generator."""

    generator: GeneratorSpec  # the network and the optimiser's knobs; no micro-batches
    trajectories: TrajectoriesSpec  # the grid
    interpolant: InterpolantSpec
    seed: int
    data: Location
    velocity: Location  # folder of the teacher, a network
    place: TrainingPlace


def train_consistency(request: ConsistencyRequest, group: Group) -> None:
    """Distil the map by the package's own loop."""
    data, spec, kind = DataStore(request.data), request.generator, request.interpolant.kind
    along = request.trajectories
    grid = time_grid(along.grid, steps=along.steps, stop=along.stop, rho=along.rho)
    teacher = build_stored_denoiser(read_model(request.velocity)).requires_grad_(False).to(group.device)
    student = build_generator(spec.network, data.dim, seed=request.seed, interpolant=kind, data_std=data.std)
    warm_start(student, teacher)
    placement = place_training(spec, group.device)
    state = begin(placement.take(student), spec.optimiser(), key=request.place.key)
    target = deepcopy(student).requires_grad_(False)
    draw = Draw(seed=request.seed, batch_size=spec.batch_size, stop=along.stop, label_dropout=None)
    fit(
        state,
        matching_batches(data, draw, step=0, group=group),
        consistency_loss(student, target, teacher, grid=grid.to(group.device)),
        spec.optimiser(),
        stream_place=dict,
        numbering=Numbering(what="data rows", at=lambda behind, _: matching_rows(data, draw, step=behind, group=group)),
        place=request.place,
        model_spec={
            "kind": "generator",
            "form": student.form,
            "network": asdict(spec.network),
            "dim": list(data.dim),
            "interpolant": kind,
            "data_std": data.std,
            "times": grid.tolist(),
        },
        group=group,
        seed=request.seed,
        placement=placement,
    )


def consistency_loss(
    student: Generator, target: Generator, teacher: VelocityField, *, grid: Tensor
) -> Callable[[MatchingBatch], Tensor]:
    """Give the loss of a batch: of each row, ``[batch]``, a coordinate; the target follows the student once a call.

    Args:
        student: the map that is trained.
        target: a copy of it, changed in place.
        teacher: the velocity.
        grid: ascending times ``[times]`` to T, on the batch's device.
    """
    last = len(grid) - 1
    times = grid.to(torch.float32)

    def loss(batch: MatchingBatch) -> Tensor:
        k = (batch.t / times[-1] * last).long().clamp(max=last - 1)  # as evenly drawn as the batch's times are
        t, r = times[k], times[k + 1]
        x_t = interpolate(student.interpolant, t, batch.x0, batch.x1)
        follow(target, student, decay=DECAY)
        with torch.no_grad():
            end = target(r, times[-1], heun_step(teacher, t, r, x_t))
        rows = pseudo_huber(student(t, times[-1], x_t), end)
        return batch.weight * rows / math.sqrt(end[0].numel())

    return loss


def follow(target: nn.Module, student: nn.Module, *, decay: float) -> None:
    """Move the target's weights toward the student's."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.state_dict().values()), list(student.state_dict().values()), 1 - decay)


def heun_step(field: VelocityField, t: Tensor, r: Tensor, x: Tensor) -> Tensor:
    """Give the state at ``r`` from ``x`` at ``t``, ``[batch, *dim]``; each row has its own times, ``[batch]``."""
    span, slope = expand(r - t, x), field.velocity(t, x)
    return x + span / 2 * (slope + field.velocity(r, x + span * slope))


def sample_consistency(
    stored: StoredGenerator, standardisation: Standardisation, *, start: int, stop: int, steps: int, seed: int
) -> Floats:
    """Draw samples ``start <= i < stop``, ``[stop - start, *dim]`` float32 in data units (algorithm 1 there).

    After the first evaluation each end is noised anew to a time between and mapped again; the times are evenly spaced
    ones of the grid, as those of a generator's steps are.
    """
    last, device = len(stored.times) - 1, stored.device
    path = [torch.tensor(stored.times[round(k * last / steps)], device=device) for k in range(steps + 1)]
    x = standard_normal(seed, start, stop, stored.dim, stream=SAMPLES).to(device, torch.float32)
    with torch.no_grad():
        end = stored.generator(path[0], path[-1], x)
        for k, t in enumerate(path[1:-1]):
            noise = standard_normal(seed, start, stop, stored.dim, stream=_RENOISING + k).to(device, torch.float32)
            x = renoise(stored.generator.interpolant, end, noise, t=t, stop=path[-1])
            end = stored.generator(t, path[-1], x)
    return standardisation.to_data(end.cpu().numpy())


def renoise(interpolant: Interpolant, end: Tensor, noise: Tensor, *, t: Tensor, stop: Tensor) -> Tensor:
    """Give states at ``t`` from states at ``stop``, ``[batch, *dim]``: of the law there if these are of theirs."""
    now, then = interpolant.at(t), interpolant.at(stop)
    ratio = now.data / then.data
    return ratio * end + (now.noise**2 - (ratio * then.noise) ** 2).sqrt() * noise
