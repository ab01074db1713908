"""The account of a failure that is left beside the run: what happened, what is kept, how to go on."""

import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from storage.catalog import RunRecord
from storage.progress import Coverage


def account(
    record: RunRecord, *, left: Sequence[str], words: str, coverage: Coverage | None, error: BaseException | None = None
) -> str:
    """Tell in Markdown why a run is not at its end, for whoever finds it in the morning.

    Args:
        record: of the run, as it is now.
        left: the steps that are not done; the first was worked on.
        words: the one line that is told of the end.
        coverage: of the run's store, if it has one.
        error: what ended the work; None where it was asked to end, or the process had no time to say.
    """
    return "\n".join(_lines(record, left, words, coverage, error)) + "\n"


def _lines(
    record: RunRecord, left: Sequence[str], words: str, coverage: Coverage | None, error: BaseException | None
) -> Iterator[str]:
    yield f"# Run {record.name}: {record.status}"
    yield ""
    yield words
    yield ""
    yield f"- when: {datetime.now(UTC).isoformat(timespec='seconds')}"
    yield f"- where: process {record.pid} on {record.host}"
    yield f"- made from: {record.config}"
    yield f"- steps that are not done: {', '.join(left) or 'none'}"
    if coverage:
        yield f"- trajectories: {coverage.committed:,} of {coverage.chunks:,} chunks are committed, and kept"
    if record.versions:
        yield f"- versions: {', '.join(f'{name} {version}' for name, version in record.versions.items())}"
    yield ""
    yield (
        "The same command, or the same deployment run once more, goes on from what is kept. "
        f"`charflow show {record.name}` tells where it stands; deploy/README.md says what to do when a run is red."
    )
    if error is not None:
        yield from _section("What the workers said", "\n".join(getattr(error, "__notes__", ())))
        told = traceback.TracebackException.from_exception(error)
        told.__notes__ = None  # which are those words
        yield from _section("Where it came from", "".join(told.format()))


def _section(title: str, text: str) -> Iterator[str]:
    if text.strip():
        yield f"\n## {title}\n"
        yield from (f"    {line}" for line in text.rstrip().splitlines())
