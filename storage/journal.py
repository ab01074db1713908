"""The metrics of a training, a JSON object a line, written while it runs and read by progress bars and loss curves."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from storage.atomic import write_atomic


class Journal:
    """Append records to ``path``; records after ``step`` go first, since a resumed training writes them anew."""

    def __init__(self, path: Path, *, step: int) -> None:
        kept = [record for record in read_journal(path) if record["step"] <= step]
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = path.open("a", buffering=1)

    def append(self, record: Mapping[str, float]) -> None:
        """Write one record, which has a ``step``; it is readable at once."""
        self._file.write(json.dumps(dict(record)) + "\n")

    def __enter__(self) -> "Journal":
        """Give the journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> list[dict[str, float]]:
    """Give the whole records written so far; a last line that is still being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines if line.endswith("}")]
