"""What a step lost on its way and made good: nodes, workers, chunks that had to be given out anew."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.catalog import RunRecord

_NAMED = 5  # of chunks or nodes


def losses_of(record: RunRecord) -> list[str]:
    """Give a line for each of a run's steps that lost something, in order; nothing of steps of other runs."""
    told = {
        step: step_losses(stage.summary)
        for step, stage in record.steps.items()
        if stage.holder == record.name  # what another run lost is told there
    }
    return [f"{step}: {words}" for step, words in told.items() if words]


def step_losses(summary: Mapping[str, Any]) -> str:
    """Give in words what a step lost, by its summary; empty for one that lost nothing."""
    nodes, chunks = (summary.get(name, ()) for name in ("nodes_lost", "again"))
    restarts: int = summary.get("restarts", 0)
    parts = []
    if nodes:
        parts.append(f"lost {_count(nodes, 'node')} {_few(nodes, ', ')}")
    if chunks:
        parts.append(f"gave {_count(chunks, 'chunk')} to one more worker ({_few(chunks, ' ')})")
    if restarts:
        parts.append(f"started its workers again {_times(restarts)}, from the newest checkpoint")
    return "; ".join(parts)


def _count(found: Sequence[Any], what: str) -> str:
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"


def _few(found: Sequence[Any], between: str) -> str:
    return between.join(map(str, found[:_NAMED])) + (f"{between}..." if len(found) > _NAMED else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
