"""What a worker does with one chunk of trajectories: noise, velocity, solver, commit.

The bytes of a chunk depend on the plan alone, and on the last bits of the arithmetic of the device that computes them,
of which its record tells. A worker process loads the velocity once and re-uses its buffers. On a CPU as many rows are
solved at once as keep activations in cache; on a GPU the whole chunk lies on the device and goes out in one copy.
"""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from storage.checksum import digest
from storage.commits import Commit
from storage.errors import DamagedError
from storage.models import read_model
from storage.paths import Location
from storage.specs import TrajectoryPlan
from storage.trajectories import Floats, TrajectoryStore
from tasks.fit_velocity import load_velocity
from tasks.flight import NODE_VARIABLE
from tasks.networks.denoiser import Denoiser
from tasks.training.device import ON_CPU, Placement, given_device, place
from tasks.transport.field import ConditionalField, VelocityField
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import LABELS, TRAJECTORIES, class_labels, standard_normal
from tasks.transport.solver import solve

_PROBE_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class ChunkTask:
    """One unit of work."""

    velocity: Location  # which must be the one that the store was planned with
    store: Location
    chunk: int
    device: str = "cpu"  # or cuda


def simulate_chunk(task: ChunkTask) -> Commit:
    """Simulate one chunk and commit it, unless that is done already; safe to run twice.

    Raises:
        DamagedError: the velocity is not the one that the store was planned with.
        FloatingPointError: a trajectory left the finite numbers.
        InputError: a GPU is to be used, and torch cannot.
    """
    began = time.monotonic()
    torch.set_num_threads(1)
    store = TrajectoryStore.open(task.store)
    if store.ledger.is_committed(task.chunk):  # by an attempt that was lost between its record and its answer
        return store.ledger.read(task.chunk)
    placement = placement_of(store.plan, given_device(task.device))
    field = planned_velocity(task.velocity, store.plan, placement=placement)
    arithmetic = _arithmetic(store.plan, task.velocity, placement)
    return commit_chunk(store, task.chunk, field, began=began, arithmetic=arithmetic, placement=placement)


def commit_chunk(
    store: TrajectoryStore,
    chunk: int,
    field: VelocityField,
    *,
    began: float,
    arithmetic: str,
    placement: Placement = ON_CPU,
) -> Commit:
    """Solve a chunk and commit it; ``began`` is when its work did, by ``time.monotonic()``."""
    x = solve_chunk(store.plan, chunk, field=field, placement=placement)
    start = chunk * store.plan.chunk_rows
    label = row_labels(store.plan, start, start + store.plan.chunk_rows)
    labels = None if label is None else label.numpy()
    node = os.environ.get(NODE_VARIABLE, "")
    return store.write_chunk(chunk, x, label=labels, started=began, arithmetic=arithmetic, node=node)


def placement_of(plan: TrajectoryPlan, device: torch.device) -> Placement:
    """Give how a plan's velocity network is computed on a device."""
    return place(device, precision=plan.matmul or "float32", is_compiled=plan.is_compiled)


def row_labels(plan: TrajectoryPlan, start: int, stop: int) -> Tensor | None:
    """Give the labels of rows ``start <= i < stop``, int64 ``[stop - start]``; None for an unconditional plan.

    Label i is a function of (seed, i) and the shares: a class's index, or -1 for the unconditional velocity.
    """
    if not plan.is_conditional:
        return None
    return class_labels(
        plan.seed,
        start,
        stop,
        shares=plan.class_shares,
        unlabelled_share=plan.unlabelled_share,
        stream=LABELS,
    )


def given_labels(plan: TrajectoryPlan, field: VelocityField, label: Tensor | None) -> VelocityField:
    """Give the field of a batch with these labels ``[batch]``, guided as planned; the field itself without labels."""
    return field if label is None else cast(ConditionalField, field).given(label, plan.guidance)


def solve_chunk(plan: TrajectoryPlan, chunk: int, *, field: VelocityField, placement: Placement = ON_CPU) -> Floats:
    """Give the trajectories of a chunk, ``[chunk_rows, times, *dim]``, in a buffer that the next call overwrites.

    Args:
        plan: of the store.
        chunk: its index.
        field: the velocity, on the device; one that takes labels where the plan has classes.
        placement: the device, and how the velocity is computed there.

    Raises:
        FloatingPointError: a state is not finite.
        MemoryError: the device is too small for a chunk.
    """
    start, device = chunk * plan.chunk_rows, placement.device
    here, there = _buffers((plan.chunk_rows, len(plan.times), *plan.dim), plan.dtype, device)
    grid = torch.tensor(plan.solver_times, dtype=torch.float64, device=device)
    interpolant, kept = Interpolant(plan.interpolant), plan.kept
    at_once = plan.sub_batch if device.type == "cpu" else plan.chunk_rows
    try:
        for low in range(0, plan.chunk_rows, at_once):
            high = min(low + at_once, plan.chunk_rows)
            x0, given = _begin(plan, start + low, start + high, field=field, device=device)
            with placement.autocast():
                solve(given, x0, grid, solver=plan.solver, interpolant=interpolant, out=there[low:high], kept=kept)
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"chunk {chunk} of {plan.chunk_rows} rows needs more memory than {device} has; "
            "lower trajectories.chunk_rows"
        ) from error
    if there is not here:
        here.copy_(there, non_blocking=True)
    finite = torch.isfinite(there[:, -1]).flatten(1).all(1).cpu()  # waits for the device, and so for the copy
    if not finite.all():
        row = start + int(torch.nonzero(~finite)[0])
        wider = " or store trajectories.precision = float32" if plan.dtype == "float16" else ""
        raise FloatingPointError(
            f"trajectory {row} of chunk {chunk} is not finite at its end; "
            f"lower trajectories.stop or raise trajectories.steps{wider}"
        )
    return here.numpy()


def arithmetic_of(plan: TrajectoryPlan, field: VelocityField, *, placement: Placement = ON_CPU) -> str:
    """Give a digest of the velocity at the first rows' noise, half way through the times.

    Machines that agree on it may be trusted to give equal bytes; processors, devices and versions of the mathematical
    libraries that add up in another order do not.
    """
    x0, given = _begin(plan, 0, min(_PROBE_ROWS, plan.sub_batch), field=field, device=placement.device)
    middle = plan.solver_times[len(plan.solver_times) // 2]
    with torch.no_grad(), placement.autocast():
        velocity = given.velocity(torch.tensor(middle, dtype=torch.float64, device=placement.device), x0)
    return digest(velocity.cpu().numpy().tobytes())


def planned_velocity(folder: Location, plan: TrajectoryPlan, *, placement: Placement = ON_CPU) -> VelocityField:
    """Read the velocity that a store was planned with, in the type that is computed in; a network on the device.

    Raises:
        IncompleteError: there is none any more.
        DamagedError: it is another one, or not whole.
    """
    return _velocity(folder, plan.velocity, plan.solver_dtype, placement)


def _begin(
    plan: TrajectoryPlan, start: int, stop: int, *, field: VelocityField, device: torch.device
) -> tuple[Tensor, VelocityField]:
    """Give the noise of rows, drawn on the CPU whatever the device, and the field that their labels ask for."""
    x0 = standard_normal(plan.seed, start, stop, plan.dim, stream=TRAJECTORIES)
    label = row_labels(plan, start, stop)
    given = given_labels(plan, field, None if label is None else label.to(device))
    return x0.to(device, getattr(torch, plan.solver_dtype)), given


@lru_cache(maxsize=1)
def _arithmetic(plan: TrajectoryPlan, velocity: Location, placement: Placement) -> str:
    return arithmetic_of(plan, planned_velocity(velocity, plan, placement=placement), placement=placement)


@lru_cache(maxsize=1)
def _velocity(folder: Location, digest: str, dtype: str, placement: Placement) -> VelocityField:
    found = read_model(folder).digest
    if found != digest:
        raise DamagedError(
            f"{folder} holds velocity {found}, the store was planned with {digest}; use another run name"
        )
    field = load_velocity(folder)
    if isinstance(field, Denoiser):
        placement.take(field.to(getattr(torch, dtype)).backbone)  # which its velocity calls, and has all weights
    return field


@lru_cache(maxsize=1)
def _buffers(shape: tuple[int, ...], dtype: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give a buffer here and one on the device; on a CPU they are the same."""
    is_gpu = device.type == "cuda"
    here = torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=is_gpu)  # a copy need not wait for pinned memory
    return here, (torch.empty_like(here, device=device) if is_gpu else here)
