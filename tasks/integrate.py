"""STEP integrate: the velocity's trajectories, simulated chunk by chunk into the store.

Planned purely, executed by a short function that runs anywhere and may run twice (simulation.py). The unit of work is
one chunk.
"""

import logging
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import torch

from storage.chunks import default_chunk_rows
from storage.commits import Commit
from storage.data import DataStore
from storage.errors import InputError, PlanConflictError
from storage.models import StoredModel, read_model
from storage.paths import Location
from storage.specs import TrajectoryPlan
from storage.trajectories import TrajectoryStore, row_bytes
from storage.trajectories import Verification as Verification  # what verify_store gives
from tasks.executor import Executor
from tasks.facts import ChunkFacts, Progress
from tasks.fit_kernel import spread_kernel_field
from tasks.saving import saved_steps, stored_precision
from tasks.simulation import ChunkTask, arithmetic_of, commit_chunk, simulate_chunk
from tasks.specs import InterpolantSpec, TrajectoriesSpec
from tasks.training.device import block_rows, choose_device, warn_on_cpu
from tasks.transport.grid import time_grid

logger = logging.getLogger(__name__)

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
    device: str = "cpu"  # auto, cpu or cuda, for a velocity network; others are computed on the CPU
    asks_for_gpu: bool = False  # by number; of no use for other velocities
    is_spread: bool = False  # a kernel's sums are spread over Ray tasks, one a shard, and not the chunks


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
        sub_batch=spec.sub_batch or block_rows(request.dim),
        velocity=velocity_digest,
        class_shares=class_shares,
        unlabelled_share=spec.unlabelled_share if class_shares else 0.0,
        guidance=spec.guidance if class_shares else 1.0,
        grid_times=tuple(grid.tolist()) if len(kept) < len(grid) else (),
        mantissa_bits=mantissa_bits,
        matmul="" if spec.matmul == "float32" else spec.matmul,
        is_compiled=spec.compile,
    )


def integrate(request: IntegrateRequest, *, executor: Executor, progress: Progress) -> IntegrateSummary:
    """Simulate the chunks that are not committed yet, and seal the store.

    Raises:
        PlanConflictError: a store of another plan lies there.
        FloatingPointError: a trajectory left the finite numbers.
        InputError: a GPU was asked for and there is none.
    """
    store = open_planned(request)
    count = request.trajectories.count
    chunks = store.grid(count).count
    missing = store.ledger.missing(chunks)
    if len(missing) < chunks:
        logger.info("%d of %d chunks are committed already", chunks - len(missing), chunks)
    made = Made()
    if request.is_spread:
        receipts = simulate_spread(store, missing, velocity=request.velocity, executor=executor)
    else:
        device = _device(request, executor)
        again = partial(_tell_again, made)
        receipts = simulate(store, missing, velocity=request.velocity, executor=executor, device=device, again=again)
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
    store = open_planned(request)
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


def open_planned(request: IntegrateRequest) -> TrajectoryStore:
    """Give the store of the plan, made or grown where needed; safe from several processes.

    Raises:
        PlanConflictError: a store of another plan lies there.
    """
    return TrajectoryStore.create(request.store, _plan(request), rows=request.trajectories.count)


def require_planned(request: IntegrateRequest) -> None:
    """Refuse a store that is not of the request's plan, whoever put it there, and change nothing.

    Raises:
        PlanConflictError: it is of another.
        IncompleteError: there is none.
    """
    asked, found = asdict(_plan(request)), asdict(TrajectoryStore.open(request.store).plan)
    for name, value in found.items():
        if value != asked[name]:
            raise PlanConflictError(
                f"{request.store} holds trajectories with {name} = {_cut(value)}, and the run has {_cut(asked[name])}; "
                "restore those of the run, or use another run name"
            )


def _plan(request: IntegrateRequest) -> TrajectoryPlan:
    model = read_model(request.velocity)
    return plan_trajectories(request, velocity_digest=model.digest, class_shares=_class_shares(request, model))


def _cut(value: object) -> str:
    return textwrap.shorten(repr(value), 80, placeholder=" ...")


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


def _device(request: IntegrateRequest, executor: Executor) -> str:
    """Give ``cpu`` or ``cuda``; what is asked of a GPU and there is none is said."""
    if read_model(request.velocity).spec["kind"] != "network":
        if request.asks_for_gpu:
            logger.warning("compute.integrate.gpus: for a network's velocity only; computing on the CPU, none is asked")
        return "cpu"
    device = choose_device(request.device, gpus=executor.gpus)
    asked = {"trajectories.matmul": request.trajectories.matmul, "trajectories.compile": request.trajectories.compile}
    warn_on_cpu(device, asked)
    return device


def simulate(
    store: TrajectoryStore,
    chunks: Sequence[int],
    *,
    velocity: Location,
    executor: Executor,
    device: str = "cpu",
    again: Callable[[int], None] = lambda _: None,
) -> Iterator[Commit]:
    """Simulate and commit the given chunks; ``again`` hears of those that were given to a second worker.

    Raises:
        DamagedError: the velocity is not the one that the store was planned with.
    """
    # made when asked for: a million of them would be most of the driver's memory
    tasks = (ChunkTask(velocity=velocity, store=store.path, chunk=chunk, device=device) for chunk in chunks)
    return executor.map(simulate_chunk, tasks, again=lambda task: again(task.chunk), device=device)


def simulate_spread(
    store: TrajectoryStore, chunks: Sequence[int], *, velocity: Location, executor: Executor
) -> Iterator[Commit]:
    """Simulate chunks here, one after another, each velocity summed over all shards by the executor's workers.

    For data that are larger than a worker's memory; the bytes are the same.
    """
    field = spread_kernel_field(velocity, executor=executor)
    torch.set_num_threads(1)
    arithmetic = arithmetic_of(store.plan, field)
    return (commit_chunk(store, chunk, field, began=time.monotonic(), arithmetic=arithmetic) for chunk in chunks)


def _tell_again(made: Made, chunk: int) -> None:
    made.again.add(chunk)
    logger.info("chunk %d was given to one more worker", chunk, extra={"event": "again", "chunk": chunk})


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
                extra={"chunk": receipt.chunk, "worker_host": receipt.host},
            )
        hosts.setdefault(receipt.arithmetic, receipt.host)
        logger.debug(
            "chunk %d: %d bytes in %.2f s", receipt.chunk, receipt.bytes, receipt.seconds, extra=_committed(receipt)
        )
        facts = ChunkFacts(
            bytes=made.bytes,
            slowest_chunk=made.slowest.chunk,
            slowest_seconds=made.slowest.seconds,
            again=tuple(sorted(made.again)),
            worker_host=receipt.host,
        )
        progress(made.rows, rows, _words(facts), facts)


def _committed(receipt: Commit) -> dict[str, object]:
    return {
        "event": "committed",
        "chunk": receipt.chunk,
        "rows": receipt.rows,
        "bytes": receipt.bytes,
        "seconds": round(receipt.seconds, 3),
        "worker_host": receipt.host,
    }


def _words(facts: ChunkFacts) -> str:
    slowest = f"slowest chunk {facts.slowest_chunk}: {facts.slowest_seconds:.1f} s"
    again = f", tried again: {' '.join(map(str, facts.again[:_NAMED]))}" if facts.again else ""
    more = " ..." if len(facts.again) > _NAMED else ""
    return f"trajectories, {facts.bytes / 1e6:,.0f} MB, {slowest}{again}{more}"
