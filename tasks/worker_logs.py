"""What workers wrote before they failed: the last lines of their logs, as a note for the error that ends a step.

Ray keeps what a worker writes to standard error and output in files of the session's folder on the worker's host. A
worker that raises reads its own. Of one that died the driver reads them where they are on its own host; of one on
another host it knows from Ray's news which files they are.
"""

import io
import os
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LINES = 50  # of each file, at most
_BYTES = 64 * 2**10  # of its end that are read
_MOST = 3  # workers that are told of
_MARKS = (":job_id:", ":task_name:", ":actor_name:")  # Ray's own, by which it tells whose lines follow
_DEATH = re.compile(
    r"Worker ID: (?P<id>\w+).*? Worker IP address: (?P<host>\S+) .*?Worker PID: (?P<pid>\d+)"
    r"(?:.*? Worker exit detail: (?P<end>[^\n]*))?",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class WorkerLog:
    """Where a worker wrote."""

    pid: int
    host: str  # its name or address
    files: tuple[str, ...]  # of standard error and output; patterns of names where these are not known
    end: str = ""  # what Ray says of how it ended


class News(io.TextIOBase):
    """Passes on what Ray prints, and remembers the workers whose end it tells of."""

    def __init__(self, stream: TextIO, heard: deque[WorkerLog]) -> None:
        self._stream = stream
        self._heard = heard

    def writable(self) -> bool:
        """Tell that it is."""
        return True

    def write(self, text: str) -> int:
        """Pass it on."""
        for found in _DEATH.finditer(text):
            files = tuple(f"worker-{found['id']}-*.{suffix}" for suffix in ("err", "out"))
            log = WorkerLog(pid=int(found["pid"]), host=found["host"], files=files, end=found["end"] or "")
            self._heard.append(log)
        return self._stream.write(text)

    def flush(self) -> None:
        """Pass it on."""
        self._stream.flush()


def last_lines(path: Path) -> list[str]:
    """Give the last lines of a log without Ray's marks; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line and not line.startswith(_MARKS)][-LINES:]


def dead_workers(folder: Path, *, host: str, since: float) -> list[WorkerLog]:
    """Give the workers of this host that wrote since then into a session's folder and are no more, the newest first."""
    written = {path: path.stat().st_mtime for path in folder.glob("worker-*-*.[eo][ru]*")}
    last = {path.stem: max(written[other] for other in written if other.stem == path.stem) for path in written}
    dead = [stem for stem, moment in last.items() if moment >= since and not _is_alive(_pid(stem))]
    return [
        WorkerLog(pid=_pid(stem), host=host, files=tuple(str(folder / f"{stem}.{suffix}") for suffix in ("err", "out")))
        for stem in sorted(dead, key=lambda stem: last[stem], reverse=True)
        if any(last_lines(folder / f"{stem}.{suffix}") for suffix in ("err", "out"))
    ][:_MOST]


def note_of(log: WorkerLog, *, is_here: bool = True, folder: Path | None = None) -> str:
    """Tell what a worker wrote last, or where it lies on another host; empty where there is nothing to tell.

    Args:
        log: of the worker.
        is_here: whether its files are on this host.
        folder: of the session's logs, on every host.
    """
    who = f"worker {log.pid} on {log.host}"
    if not is_here:
        places = " ".join(str(folder / name) if folder else name for name in log.files)
        return "\n".join([f"{who} left its last lines there, in {places}", *_indented(log.end)])
    found = {path: lines for path in log.files if (lines := last_lines(Path(path)))}
    return "\n".join(
        line for path, lines in found.items() for line in (f"last lines of {who}, {path}:", *_indented(*lines))
    )


def _pid(stem: str) -> int:
    return int(stem.rpartition("-")[2])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _indented(*lines: str) -> list[str]:
    return [f"    {line}" for line in lines if line]
