"""STEP integrate: the velocity's trajectories, simulated chunk by chunk into the store.

Planned purely, executed by a short function that runs anywhere and may run twice: the bytes of a chunk depend on the
plan alone. The unit of work is one chunk; a worker process loads the velocity once and re-uses one buffer.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from storage.checksum import digest
from storage.chunks import default_chunk_rows
from storage.commits import Commit
from storage.data import DataStore
from storage.errors import DamagedError, InputError
from storage.models import StoredModel, read_model
from storage.paths import Location
from storage.specs import TrajectoryPlan
from storage.trajectories import Floats, TrajectoryStore, row_bytes
from storage.trajectories import Verification as Verification  # what verify_store gives
from tasks.executor import Executor
from tasks.fit_kernel import spread_kernel_field
from tasks.fit_velocity import load_velocity
from tasks.saving import saved_steps, stored_precision
from tasks.specs import ChunkFacts, InterpolantSpec, Progress, TrajectoriesSpec
from tasks.transport.field import ConditionalField, VelocityField
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import LABELS, TRAJECTORIES, class_labels, standard_normal
from tasks.transport.solver import solve

logger = logging.getLogger(__name__)

_PROBE_ROWS = 64
_NAMED = 5  # chunks that were tried again, of any number of them


@dataclass(frozen=True, kw_only=True)
class IntegrateRequest:
    """Everything that determines the trajectories, and where they go."""

    trajectories: TrajectoriesSpec
    interpolant: InterpolantSpec
    seed: int
    dim: tuple[int, ...]  # shape of one state
    data: Location  # the ingested dataset, for the shares of its classes
    velocity: Location  # folder of the published velocity
    store: Location
    is_spread: bool = False  # a kernel's sums are spread over Ray tasks, one a shard, and not the chunks


@dataclass(frozen=True, kw_only=True)
class ChunkTask:
    """One unit of work."""

    velocity: Location  # which must be the one that the store was planned with
    store: Location
    chunk: int


@dataclass(kw_only=True)
class Made:
    """What the receipts so far add up to."""

    rows: int = 0
    bytes: int = 0
    slowest: Commit | None = None
    again: set[int] = field(default_factory=set)  # chunks that were given to a worker more than once


@dataclass(frozen=True, kw_only=True)
class IntegrateSummary:
    """What the store holds."""

    count: int  # trajectories asked for
    chunks: int
    simulated: int  # chunks made now; the others were committed before
    bytes: int  # stored, of the chunks made now
    digest: str  # of the sealed store
    slowest_chunk: int | None  # of those made now
    slowest_seconds: float
    again: tuple[int, ...]  # of those made now: given to a worker more than once


def plan_trajectories(
    request: IntegrateRequest, *, velocity_digest: str, class_shares: tuple[float, ...] = ()
) -> TrajectoryPlan:
    """Give the plan of a store: everything that its bytes depend on, resolved.

    Args:
        request: what is asked for.
        velocity_digest: of the velocity.
        class_shares: probability of each class of a conditional velocity; empty for an unconditional one, for which
            guidance and unlabelled share mean nothing and are left out.
    """
    spec = request.trajectories
    grid = time_grid(spec.grid, steps=spec.steps, stop=spec.stop, rho=spec.rho)
    kept = saved_steps(spec.save, last=spec.steps)
    dtype, mantissa_bits = stored_precision(spec.precision)
    per_row = row_bytes(request.dim, times=len(kept), dtype=dtype)
    return TrajectoryPlan(
        dim=request.dim,
        times=tuple(grid[list(kept)].tolist()),
        chunk_rows=spec.chunk_rows or default_chunk_rows(per_row),
        dtype=dtype,
        codec=spec.codec,
        interpolant=request.interpolant.kind,
        grid=spec.grid,
        solver=spec.solver,
        seed=request.seed,
        sub_batch=spec.sub_batch,
        velocity=velocity_digest,
        class_shares=class_shares,
        unlabelled_share=spec.unlabelled_share if class_shares else 0.0,
        guidance=spec.guidance if class_shares else 1.0,
        grid_times=tuple(grid.tolist()) if len(kept) < len(grid) else (),
        mantissa_bits=mantissa_bits,
    )


def integrate(request: IntegrateRequest, *, executor: Executor, progress: Progress) -> IntegrateSummary:
    """Simulate the chunks that are not committed yet, and seal the store.

    Raises:
        PlanConflictError: a store of another plan lies there.
        FloatingPointError: a trajectory left the finite numbers.
    """
    store = _open_planned(request)
    count = request.trajectories.count
    chunks = store.grid(count).count
    missing = store.ledger.missing(chunks)
    if len(missing) < chunks:
        logger.info("%d of %d chunks are committed already", chunks - len(missing), chunks)
    made = Made()
    if request.is_spread:
        receipts = simulate_spread(store, missing, velocity=request.velocity, executor=executor)
    else:
        receipts = simulate(store, missing, velocity=request.velocity, executor=executor, again=made.again.add)
    first = next((k for k, gap in enumerate(missing) if k != gap), len(missing))  # that is committed already
    known = store.ledger.read(first) if first < chunks else None
    _follow(receipts, made, rows=len(missing) * store.plan.chunk_rows, known=known, progress=progress)
    manifest = store.seal(rows=count)
    return IntegrateSummary(
        count=count,
        chunks=chunks,
        simulated=len(missing),
        bytes=made.bytes,
        digest=manifest.digest,
        slowest_chunk=made.slowest.chunk if made.slowest else None,
        slowest_seconds=made.slowest.seconds if made.slowest else 0.0,
        again=tuple(sorted(made.again)),
    )


def verify_store(store: Location, *, rows: int, is_quick: bool = False) -> Verification:
    """Recompute the digest of every chunk that the first ``rows`` rows need; or look at records and sizes only."""
    return TrajectoryStore.open(store).verify(rows=rows, is_quick=is_quick)


def check_store(request: IntegrateRequest) -> Verification:
    """Lay out anew what a store lost beside its chunks, sweep up after dead writers, and verify the chunks."""
    store = _open_planned(request)
    store.sweep()
    return store.verify(rows=request.trajectories.count)


def repair_store(
    request: IntegrateRequest, found: Verification, *, executor: Executor, progress: Progress
) -> IntegrateSummary:
    """Delete what :func:`check_store` found bad, make it and what is missing anew, and seal."""
    store = TrajectoryStore.open(request.store)
    for chunk in found.bad:
        store.retract(chunk)
    return integrate(request, executor=executor, progress=progress)


def _open_planned(request: IntegrateRequest) -> TrajectoryStore:
    model = read_model(request.velocity)
    shares = _class_shares(request, model)
    plan = plan_trajectories(request, velocity_digest=model.digest, class_shares=shares)
    return TrajectoryStore.create(request.store, plan, rows=request.trajectories.count)


def _class_shares(request: IntegrateRequest, velocity: StoredModel) -> tuple[float, ...]:
    """Give the shares of the classes that a velocity knows; none for an unconditional one."""
    classes = velocity.spec.get("classes", 0)
    if not classes:
        return ()
    shares = DataStore(request.data).class_shares
    if len(shares) != classes:
        raise InputError(
            f"{request.velocity} knows {classes} classes, {request.data} has {len(shares)}; estimate the velocity anew"
        )
    return tuple(shares.tolist())


def simulate(
    store: TrajectoryStore,
    chunks: Sequence[int],
    *,
    velocity: Location,
    executor: Executor,
    again: Callable[[int], None] = lambda _: None,
) -> Iterator[Commit]:
    """Simulate and commit the given chunks; ``again`` hears of those that were given to a second worker.

    Raises:
        DamagedError: the velocity is not the one that the store was planned with.
    """
    # made when asked for: a million of them would be most of the driver's memory
    tasks = (ChunkTask(velocity=velocity, store=store.path, chunk=chunk) for chunk in chunks)
    return executor.map(simulate_chunk, tasks, again=lambda task: again(task.chunk))


def simulate_spread(
    store: TrajectoryStore, chunks: Sequence[int], *, velocity: Location, executor: Executor
) -> Iterator[Commit]:
    """Simulate chunks here, one after another, each velocity summed over all shards by the executor's workers.

    For data that are larger than a worker's memory; the bytes are the same.
    """
    field = spread_kernel_field(velocity, executor=executor)
    torch.set_num_threads(1)
    arithmetic = arithmetic_of(store.plan, field)
    return (_commit(store, chunk, field, began=time.monotonic(), arithmetic=arithmetic) for chunk in chunks)


def _follow(receipts: Iterable[Commit], made: Made, *, rows: int, known: Commit | None, progress: Progress) -> None:
    """Tell how far the work is as its receipts come in, and add them up; ``known`` is of a chunk made before."""
    hosts = {known.arithmetic: known.host} if known and known.arithmetic else {}
    for receipt in receipts:
        made.rows += receipt.rows
        made.bytes += receipt.bytes
        if made.slowest is None or receipt.seconds > made.slowest.seconds:
            made.slowest = receipt
        if hosts and receipt.arithmetic not in hosts:
            logger.warning(
                "chunk %d was computed on %s, whose arithmetic differs in the last bits from that of %s (processor, "
                "device or library versions): values are right, but the same chunk has other bytes on each",
                receipt.chunk,
                receipt.host,
                ", ".join(sorted({*hosts.values()})),
            )
        hosts.setdefault(receipt.arithmetic, receipt.host)
        logger.debug("chunk %d: %d bytes in %.2f s", receipt.chunk, receipt.bytes, receipt.seconds)
        facts = ChunkFacts(
            bytes=made.bytes,
            slowest_chunk=made.slowest.chunk,
            slowest_seconds=made.slowest.seconds,
            again=tuple(sorted(made.again)),
        )
        progress(made.rows, rows, _words(facts), facts)


def _words(facts: ChunkFacts) -> str:
    slowest = f"slowest chunk {facts.slowest_chunk}: {facts.slowest_seconds:.1f} s"
    again = f", tried again: {' '.join(map(str, facts.again[:_NAMED]))}" if facts.again else ""
    more = " ..." if len(facts.again) > _NAMED else ""
    return f"trajectories, {facts.bytes / 1e6:,.0f} MB, {slowest}{again}{more}"


def simulate_chunk(task: ChunkTask) -> Commit:
    """Simulate one chunk and commit it, unless that is done already; safe to run twice."""
    began = time.monotonic()
    torch.set_num_threads(1)
    store = TrajectoryStore.open(task.store)
    if store.ledger.is_committed(task.chunk):  # by an attempt that was lost between its record and its answer
        return store.ledger.read(task.chunk)
    field = planned_velocity(task.velocity, store.plan)
    return _commit(store, task.chunk, field, began=began, arithmetic=_arithmetic(store.plan, task.velocity))


def _commit(store: TrajectoryStore, chunk: int, field: VelocityField, *, began: float, arithmetic: str) -> Commit:
    x = solve_chunk(store.plan, chunk, field=field)
    start = chunk * store.plan.chunk_rows
    label = row_labels(store.plan, start, start + store.plan.chunk_rows)
    labels = None if label is None else label.numpy()
    return store.write_chunk(chunk, x, label=labels, started=began, arithmetic=arithmetic)


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


def solve_chunk(plan: TrajectoryPlan, chunk: int, *, field: VelocityField) -> Floats:
    """Give the trajectories of a chunk, ``[chunk_rows, times, *dim]``, in a buffer that the next call overwrites.

    Args:
        plan: of the store.
        chunk: its index.
        field: the velocity; one that takes labels where the plan has classes.

    Raises:
        FloatingPointError: a state is not finite.
    """
    start = chunk * plan.chunk_rows
    states = torch.from_numpy(_buffer((plan.chunk_rows, len(plan.times), *plan.dim), plan.dtype))
    grid = torch.tensor(plan.solver_times, dtype=torch.float64)
    dtype = getattr(torch, plan.solver_dtype)
    interpolant, kept = Interpolant(plan.interpolant), plan.kept
    for low in range(0, plan.chunk_rows, plan.sub_batch):
        high = min(low + plan.sub_batch, plan.chunk_rows)
        x0 = standard_normal(plan.seed, start + low, start + high, plan.dim, stream=TRAJECTORIES).to(dtype)
        rows_field = given_labels(plan, field, row_labels(plan, start + low, start + high))
        solve(rows_field, x0, grid, solver=plan.solver, interpolant=interpolant, out=states[low:high], kept=kept)
    finite = torch.isfinite(states[:, -1]).flatten(1).all(1)
    if not finite.all():
        row = start + int(torch.nonzero(~finite)[0])
        wider = " or store trajectories.precision = float32" if plan.dtype == "float16" else ""
        raise FloatingPointError(
            f"trajectory {row} of chunk {chunk} is not finite at its end; "
            f"lower trajectories.stop or raise trajectories.steps{wider}"
        )
    return states.numpy()


def arithmetic_of(plan: TrajectoryPlan, field: VelocityField) -> str:
    """Give a digest of the velocity at the first rows' noise, half way through the times.

    Machines that agree on it may be trusted to give equal bytes; processors, devices and versions of the mathematical
    libraries that add up in another order do not.
    """
    rows = min(_PROBE_ROWS, plan.sub_batch)
    x0 = standard_normal(plan.seed, 0, rows, plan.dim, stream=TRAJECTORIES).to(getattr(torch, plan.solver_dtype))
    t = torch.tensor(plan.solver_times[len(plan.solver_times) // 2], dtype=torch.float64)
    with torch.no_grad():
        velocity = given_labels(plan, field, row_labels(plan, 0, rows)).velocity(t, x0)
    return digest(velocity.numpy().tobytes())


@lru_cache(maxsize=1)
def _arithmetic(plan: TrajectoryPlan, velocity: Location) -> str:
    return arithmetic_of(plan, planned_velocity(velocity, plan))


def planned_velocity(folder: Location, plan: TrajectoryPlan) -> VelocityField:
    """Read the velocity that a store was planned with, in the type that is computed in.

    Raises:
        IncompleteError: there is none any more.
        DamagedError: it is another one, or not whole.
    """
    return _velocity(folder, plan.velocity, plan.solver_dtype)


@lru_cache(maxsize=1)
def _velocity(folder: Location, digest: str, dtype: str) -> VelocityField:
    found = read_model(folder).digest
    if found != digest:
        raise DamagedError(
            f"{folder} holds velocity {found}, the store was planned with {digest}; use another run name"
        )
    field = load_velocity(folder)
    return field.to(getattr(torch, dtype)) if isinstance(field, nn.Module) else field


@lru_cache(maxsize=1)
def _buffer(shape: tuple[int, ...], dtype: str) -> Floats:
    return np.empty(shape, dtype)
