"""The ledger of 100,000 committed chunks: what opening, resuming, growing and sealing a store of that size takes.

The limit is the same files listed, read and parsed without any other thought. Chunks are of one row, whose bytes do
not exist: the ledger never looks at them. Seconds are medians; a first round warms the file system and is left out.
Last the same store is grown to a plan of a million chunks, opened and listed.

    charflow bench ledger
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from storage.commits import Commit, Ledger
from storage.trajectories import TrajectoryStore
from tests.local import on_disk
from tests.storage.stores import plan_of

CHUNKS = 100_000
MILLION = 1_000_000
ROUNDS = 3
PLAN = plan_of(dim=(2,), times=(0.0, 1.0), chunk_rows=1)


def fill(store: TrajectoryStore) -> None:
    """Leave a record of every chunk, as a finished simulation would, without waiting for the disk."""
    folder = store.ledger.folder / "commits"
    on_disk(folder).mkdir(parents=True, exist_ok=True)
    for chunk in range(CHUNKS):
        commit = Commit(
            chunk=chunk,
            start=chunk,
            stop=chunk + 1,
            files={f"x/c/{chunk}/0/0": f"{chunk:040x}"},
            bytes=20,
            plan="0" * 40,
            attempt=f"{chunk:012x}",
            seconds=1.0,
            host="localhost",
        )
        on_disk(folder / f"{chunk:08d}.json").write_text(json.dumps(commit.__dict__, indent=1) + "\n")


def plain(folder: Path) -> int:
    """List, read and parse all records."""
    return sum(len(json.loads(path.read_bytes())) for path in folder.iterdir())


def seal_anew(store: TrajectoryStore) -> None:
    """Seal without what an earlier seal knew."""
    (store.ledger.folder / "digests.json").unlink(missing_ok=True)
    store.seal(rows=CHUNKS)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "trajectories.zarr"
        store = TrajectoryStore.create(path, PLAN, rows=CHUNKS)
        fill(store)
        ledger = Ledger(store.ledger.folder)
        contenders: dict[str, Callable[[], object]] = {
            "limit": lambda: plain(on_disk(ledger.folder) / "commits"),
            "open": lambda: TrajectoryStore.open(path),
            "resume": lambda: TrajectoryStore.create(path, PLAN, rows=CHUNKS).ledger.missing(CHUNKS),
            "seal": lambda: seal_anew(store),
            "seal_again": lambda: store.seal(rows=CHUNKS),
        }
        took: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(ROUNDS + 1):
            for name, work in contenders.items():
                spent = seconds(work)
                if turn:
                    took[name].append(spent)
        grow = lambda: TrajectoryStore.create(path, PLAN, rows=MILLION).ledger.missing(MILLION)  # noqa: E731
        took["million"] = [seconds(grow) for _ in range(ROUNDS)]
    results = {name: round(statistics.median(values), 3) for name, values in took.items()}
    return {"bench": "ledger", "unit": "s", "results": results, "detail": {"chunks": CHUNKS, "rounds": ROUNDS}}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
