"""Where the work on a run stands, for whoever looks from another process: advice, and what the ledger says.

The advice is one small file that the working process replaces now and then. It is whole but not durable, it may be
deleted, and nothing is decided by it.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from storage.atomic import replace_lightly
from storage.chunks import ChunkGrid
from storage.commits import Ledger
from storage.errors import IncompleteError
from storage.paths import Location, ledger_path


@dataclass(frozen=True, kw_only=True)
class News:
    """What a working process told last."""

    step: str
    done: int
    total: int  # 0 where nothing was told yet
    words: str  # of what, and how it goes
    rate: float | None  # of what is done, a second
    seconds_left: float | None
    told: float  # when, UTC, seconds since 1970
    bytes: int | None = None  # stored, of the chunks made so far; chunks are the integrate step's
    slowest_chunk: int | None = None  # of them
    slowest_seconds: float | None = None
    again: tuple[int, ...] = ()  # chunks that were given to a worker more than once


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a store is committed."""

    committed: int  # chunks
    chunks: int  # that the trajectories asked for need


def write_news(path: Location, news: News) -> None:
    """Replace what was told before; a disk that takes nothing more will be told of by those who need it."""
    with suppress(OSError):
        replace_lightly(path, (json.dumps(asdict(news)) + "\n").encode())


def read_news(path: Location) -> News | None:
    """Give what was told last; None where nothing was, or nothing that makes sense."""
    try:
        found = json.loads(path.read_bytes())
        return News(**(found | {"again": tuple(found["again"])}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_news(path: Location) -> None:
    """Remove what was told."""
    with suppress(OSError):
        path.unlink()


def coverage(store: Location, *, rows: int) -> Coverage | None:
    """Tell how many of the chunks of the first ``rows`` trajectories are committed; None where there is no plan."""
    ledger = Ledger(ledger_path(store))
    try:
        chunks = ChunkGrid(rows, int(ledger.plan()["chunk_rows"])).count
    except IncompleteError:
        return None
    return Coverage(committed=chunks - len(ledger.missing(chunks)), chunks=chunks)
