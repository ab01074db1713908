"""Shuffled batches of pairs from stored trajectories, beside PyTorch, MosaicML Streaming and WebDataset: GB/s.

65,536 trajectories of 33 states in 64 dimensions, float32, on a local disk and in the page cache. Every contender gives
shuffled batches of 2,048 pairs: two points of a trajectory and their times. Speeds are of the bytes of the trajectories
gone through, whether all of them were read or not; medians of rounds in which the contenders take turns, each with a
fresh iterator whose first batches are not timed.

- ``charflow``: the pair stream, a block shuffle in windows of eight chunks, each read once and checked by CRC32C.
- ``limit``: the same chunk files read one after another into one buffer, and nothing else.
- ``memory_map``: a ``DataLoader(shuffle=True)`` over one uncompressed array in a file, mapped; a uniform permutation,
  no checksum. A row's two points alone are touched, so it is fast only while the whole array stays in memory.
- ``mosaicml_streaming``: MDS shards of whole trajectories, ``StreamingDataset(shuffle=True)``, no checksum.
- ``webdataset``: tar shards of ``.npy`` files, shards shuffled and a buffer of 8,192 trajectories, no checksum.

PyTorch, Streaming and WebDataset count with the better of no and two worker processes, and take the two points out of a
trajectory before they make batches. ``detail`` holds charflow with the lz4 codec, its peak memory over this store and
over one four times as large, and a memory map that is indexed by whole batches, as ``__getitems__`` allows.

    charflow bench stream

The last two are no dependencies of charflow, and left out where they are not installed. Streaming asks for an older
numpy, so give them an environment of their own: ``pip install -e . mosaicml-streaming webdataset``.
"""

import argparse
import importlib.util
import io
import json
import multiprocessing
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from storage.arrays import empty_on_page
from storage.specs import TrajectoryPlan
from storage.stream import PairStream, StreamSpec
from storage.trajectories import Floats, TrajectoryStore
from tests.local import on_disk
from tests.storage.stores import chunk_file, plan_of

ROWS, TIMES, DIM, CHUNK_ROWS = 65_536, 33, 64, 1024
GROWN = 4 * ROWS
BATCH, UNTIMED, TIMED = 2048, 8, 24  # together one epoch, so that no peer starts its workers while it is timed
ROUNDS = 5
ROW_BYTES = TIMES * DIM * 4
WORKERS = (0, 2)

Batches = Callable[[], Iterator[Any]]


def make_store(folder: Path, plan: TrajectoryPlan, x: Floats, *, rows: int) -> TrajectoryStore:
    """Give a sealed store whose chunks all hold ``x``."""
    store = TrajectoryStore.create(folder / "trajectories.zarr", plan, rows=rows)
    for chunk in range(store.grid(rows).count):
        store.write_chunk(chunk, x)
    store.seal(rows=rows)
    return store


def charflow(store: TrajectoryStore, *, rows: int = ROWS) -> Iterator[Any]:
    spec = StreamSpec(rows=rows, batch_size=BATCH, seed=0, visits=1, full_span_share=0.25)
    return iter(PairStream(store, spec, rank=0, world=1))


def raw_read(store: TrajectoryStore) -> Iterator[None]:
    """Read as many bytes as a batch's trajectories have, again and again."""
    buffer = empty_on_page((CHUNK_ROWS * ROW_BYTES,), np.uint8)
    while True:
        for chunk in range(ROWS // CHUNK_ROWS):
            with chunk_file(store, chunk).open("rb", buffering=0) as file:
                file.readinto(buffer.data)
            if (chunk + 1) % (BATCH // CHUNK_ROWS) == 0:
                yield None


def pair() -> tuple[int, int]:
    """Draw two different indices of times, ascending."""
    first = random.randrange(TIMES)
    second = (first + 1 + random.randrange(TIMES - 1)) % TIMES
    return min(first, second), max(first, second)


def points(x: Floats) -> tuple[Floats, Floats, int, int]:
    low, high = pair()
    return x[low].copy(), x[high].copy(), low, high


class MappedRows:
    """A dataset of torch over a map of one array, a row at a time."""

    def __init__(self, path: Path) -> None:
        self.x = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[Floats, Floats, int, int]:
        return points(self.x[row])


class MappedBatches(MappedRows):
    """The same, a batch at a time."""

    def __getitems__(self, rows: list[int]) -> tuple[Floats, Floats, Any, Any]:
        rng = np.random.default_rng()
        first = rng.integers(TIMES, size=len(rows))
        second = (first + 1 + rng.integers(TIMES - 1, size=len(rows))) % TIMES
        low, high = np.minimum(first, second), np.maximum(first, second)
        return self.x[rows, low], self.x[rows, high], low, high


def memory_map(path: Path, *, workers: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader  # not at the top: it must not count as memory of the stream

    data: Any = MappedRows(path)
    return iter(DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers))


def batched_memory_map(path: Path) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    data: Any = MappedBatches(path)
    return iter(DataLoader(data, batch_size=BATCH, shuffle=True, collate_fn=lambda batch: batch))


def mosaicml_streaming(folder: Path, x: Floats, *, workers: int) -> Batches:
    """Write the shards, and give what begins an epoch of them."""
    from streaming import MDSWriter, StreamingDataset  # optional
    from torch.utils.data import DataLoader

    class Rows(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, row: int) -> tuple[Floats, Floats, int, int]:
            return points(super().__getitem__(row)["x"])

    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"x": f"ndarray:float32:{TIMES},{DIM}"}) as out:
            for row in range(ROWS):
                out.write({"x": x[row % len(x)]})
    data = Rows(local=str(folder), shuffle=True, batch_size=BATCH)
    return lambda: iter(DataLoader(data, batch_size=BATCH, num_workers=workers))


def webdataset(folder: Path, x: Floats, *, workers: int) -> Batches:
    """Write the shards, and give what begins an epoch of them."""
    import webdataset as wds  # optional

    if not folder.exists():
        folder.mkdir()
        for shard in range(ROWS // CHUNK_ROWS):
            with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
                for row in range(CHUNK_ROWS):
                    content = io.BytesIO()
                    np.save(content, x[row])
                    member = tarfile.TarInfo(f"{shard * CHUNK_ROWS + row:08d}.npy")
                    member.size = content.tell()
                    content.seek(0)
                    tar.addfile(member, content)
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]

    def begin() -> Iterator[Any]:
        rows = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(8 * CHUNK_ROWS).decode().to_tuple("npy")
        batches = rows.map(lambda row: points(row[0])).batched(BATCH)
        return iter(wds.WebLoader(batches, batch_size=None, num_workers=workers))

    return begin


def peers(folder: Path, x: Floats) -> dict[str, Batches]:
    """Give what begins an epoch of each peer that is installed, by name and number of workers."""
    path = folder / "x.npy"
    np.save(path, np.concatenate([x] * (ROWS // len(x))))
    found: dict[str, Batches] = {f"memory_map {n}": lambda n=n: memory_map(path, workers=n) for n in WORKERS}  # type: ignore[misc]
    found["memory_map in batches"] = lambda: batched_memory_map(path)
    if importlib.util.find_spec("streaming"):
        found |= {f"mosaicml_streaming {n}": mosaicml_streaming(folder / "mds", x, workers=n) for n in WORKERS}
    if importlib.util.find_spec("webdataset"):
        found |= {f"webdataset {n}": webdataset(folder / "tar", x, workers=n) for n in WORKERS}
    return found


def speed(begin: Batches) -> float:
    """Give GB/s of trajectories."""
    batches = begin()
    for _ in islice(batches, UNTIMED):
        pass
    began = time.perf_counter()
    count = sum(1 for _ in islice(batches, TIMED))
    seconds = time.perf_counter() - began
    assert count == TIMED, f"an epoch of {UNTIMED + count} batches"
    if hasattr(batches, "close"):
        batches.close()
    return TIMED * BATCH * ROW_BYTES / seconds / 1e9


def peak(path: Path, rows: int, answer: Connection) -> None:
    """Go through an epoch, and tell the peak of this process's memory, MiB."""
    with closing(charflow(TrajectoryStore.open(path), rows=rows)) as batches:  # type: ignore[type-var]
        for _ in islice(batches, rows // BATCH):
            pass
    lines = Path("/proc/self/status").read_text().splitlines()
    answer.send(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def peak_apart(store: TrajectoryStore, *, rows: int) -> float:
    """Run :func:`peak` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=peak, args=(on_disk(store.path), rows, sender))
    process.start()
    found = float(receiver.recv())
    process.join()
    return found


def measure() -> dict[str, object]:
    from tasks.transport.grid import time_grid  # these import torch, which must not count as memory of the stream
    from tests.benchmarks.store import characteristics

    grid = time_grid("uniform", steps=TIMES - 1, stop=1.0)
    x = characteristics(grid)
    plan = plan_of(dim=(DIM,), times=tuple(grid.tolist()), chunk_rows=CHUNK_ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = make_store(folder / "plain", plan, x, rows=GROWN)
        packed = make_store(folder / "lz4", replace(plan, codec="lz4"), x, rows=ROWS)
        sys.stderr.write("stores are written\n")
        memory = {f"{rows} trajectories": round(peak_apart(store, rows=rows)) for rows in (ROWS, GROWN)}
        contenders: dict[str, Batches] = {
            "charflow": lambda: charflow(store),
            "limit": lambda: raw_read(store),
            "charflow lz4": lambda: charflow(packed),
        } | peers(folder, x)
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(ROUNDS):
            for name, begin in contenders.items():
                found[name].append(speed(begin))
            latest = ", ".join(f"{name} {values[-1]:.3f}" for name, values in found.items())
            sys.stderr.write(f"round {turn + 1} of {ROUNDS}, GB/s: {latest}\n")
    medians = {name: statistics.median(values) for name, values in found.items()}
    results = {name: medians[name] for name in ("charflow", "limit")}
    for name in ("memory_map", "mosaicml_streaming", "webdataset"):
        of_workers = [medians[f"{name} {n}"] for n in WORKERS if f"{name} {n}" in medians]
        results |= {name: max(of_workers)} if of_workers else {}
    detail: dict[str, object] = {
        "share_of_limit": round(results["charflow"] / results["limit"], 2),
        "times_as_fast_as": {
            name: round(results["charflow"] / value, 1)
            for name, value in results.items()
            if name not in ("charflow", "limit")
        },
        "GB/s": {name: [round(value, 3) for value in sorted(values)] for name, values in found.items()},
        "charflow_peak_memory_mib": memory,
    }
    missing = [name for name in ("mosaicml_streaming", "webdataset") if name not in results]
    if missing:
        detail["left out"] = f"{', '.join(missing)}: not installed; pip install mosaicml-streaming webdataset"
    return {
        "bench": "stream",
        "unit": "GB/s",
        "results": {k: round(v, 3) for k, v in results.items()},
        "detail": detail,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
