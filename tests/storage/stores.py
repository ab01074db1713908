"""Small trajectory stores whose values tell which row and time they belong to."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from storage.commits import Commit
from storage.specs import TrajectoryPlan
from storage.trajectories import Floats, Labels, TrajectoryStore
from tests.local import on_disk

PLAN = TrajectoryPlan(
    dim=(2,),
    times=(0.0, 0.3, 0.55, 0.9),
    chunk_rows=4,
    dtype="float32",
    codec="none",
    interpolant="linear",
    grid="uniform",
    solver="euler",
    seed=7,
    sub_batch=2,
    velocity="0" * 32,
)
CONDITIONAL = replace(PLAN, class_shares=(0.3, 0.7), unlabelled_share=0.25, guidance=2.0)


def plan_of(**changes: object) -> TrajectoryPlan:
    return replace(PLAN, **changes)  # type: ignore[arg-type]


def values(plan: TrajectoryPlan, chunk: int) -> Floats:
    """Give the trajectories of a chunk; the first coordinate is the row, the others are the time's index."""
    x = np.empty((plan.chunk_rows, len(plan.times), *plan.dim), plan.dtype)
    x[...] = np.arange(len(plan.times)).reshape(1, -1, *[1] * len(plan.dim))
    x.reshape(*x.shape[:2], -1)[:, :, 0] = np.arange(chunk * plan.chunk_rows, (chunk + 1) * plan.chunk_rows)[:, None]
    return x


def labels(plan: TrajectoryPlan, chunk: int) -> Labels:
    """Give the labels of a chunk: -1, 0, 1, -1, ... along the rows of the store."""
    return np.arange(chunk * plan.chunk_rows, (chunk + 1) * plan.chunk_rows) % 3 - 1


def write(store: TrajectoryStore, chunk: int) -> Commit:
    """Write the values of a chunk, and its labels where the plan has classes."""
    label = labels(store.plan, chunk) if store.plan.is_conditional else None
    return store.write_chunk(chunk, values(store.plan, chunk), label=label)


def filled(
    folder: Path, *, rows: int, plan: TrajectoryPlan = PLAN, chunks: Iterable[int] | None = None
) -> TrajectoryStore:
    """Give a store with some chunks committed, all of them unless told otherwise, in which case it is not sealed."""
    store = TrajectoryStore.create(folder / "trajectories.zarr", plan, rows=rows)
    for chunk in range(store.grid(rows).count) if chunks is None else chunks:
        write(store, chunk)
    if chunks is None:
        store.seal(rows=rows)
    return store


def chunk_file(store: TrajectoryStore, chunk: int) -> Path:
    return on_disk(store.path) / "x" / "c" / str(chunk) / "/".join("0" * (1 + len(store.plan.dim)))


def label_file(store: TrajectoryStore, chunk: int) -> Path:
    return on_disk(store.path) / "label" / "c" / str(chunk)


def chunk_files(store: TrajectoryStore, chunk: int) -> list[Path]:
    """Give every file of a chunk."""
    return [chunk_file(store, chunk), *([label_file(store, chunk)] if store.plan.is_conditional else [])]


def record_file(store: TrajectoryStore, chunk: int) -> Path:
    return on_disk(store.ledger.folder) / "commits" / f"{chunk:08d}.json"


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Give every file's time of change and content, by its path inside a folder, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
