"""The metrics of a training, a JSON object a line, written while it runs and read by progress bars and loss curves."""

import json
import os
import time
from collections.abc import Mapping
from types import TracebackType

from storage.atomic import write_atomic
from storage.paths import Location
from storage.remote import RemotePath

_PUT_SECONDS = 2.0  # between puts of a whole journal, at least
_PUT_SHARE = 0.05  # of a training's time that goes into them, at most


class Journal:
    """Append records to ``path``; records after ``step`` go first, since a resumed training writes them anew.

    A record in a file is readable at once. Objects cannot be appended to: the whole is put every few seconds, when
    flushed, and at the end.
    """

    def __init__(self, path: Location, *, step: int) -> None:
        kept = [record for record in read_journal(path) if record["step"] <= step]
        content = "".join(json.dumps(record) + "\n" for record in kept).encode()
        write_atomic(path, content)
        self._file = _Object(path, content) if isinstance(path, RemotePath) else path.open("a", buffering=1)

    def append(self, record: Mapping[str, float]) -> None:
        """Write one record, which has a ``step``."""
        self._file.write(json.dumps(dict(record)) + "\n")

    def flush(self) -> None:
        """Make every record durable; before a checkpoint, or a training that resumes at its end would have none."""
        self._file.flush()
        if not isinstance(self._file, _Object):
            os.fsync(self._file.fileno())

    def __enter__(self) -> "Journal":
        """Give the journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()


class _Object:
    """An object that grows by being put anew."""

    def __init__(self, path: RemotePath, content: bytes) -> None:
        self._path = path
        self._content = bytearray(content)
        self._is_new = False  # what was added since it was put
        self._due = time.monotonic() + _PUT_SECONDS

    def write(self, text: str) -> None:
        self._content += text.encode()
        self._is_new = True
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        if not self._is_new:
            return
        began = time.monotonic()
        self._path.write(bytes(self._content))
        now = time.monotonic()
        self._due = now + max(_PUT_SECONDS, (now - began) / _PUT_SHARE)
        self._is_new = False

    def close(self) -> None:
        self.flush()


def read_journal(path: Location) -> list[dict[str, float]]:
    """Give the whole records written so far; a last line that is still being written is left out."""
    try:
        lines = path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]
