"""What Prefect's pages show of a run: bars of its steps, tables of their facts, a summary with its report.

All of it is advice, and the run has it as well: a server that is away for a while must not end a day's work.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.progress import Stopwatch, pace_words
from flows.runs import Run
from flows.stages import STEPS
from tasks.facts import Facts

logger = logging.getLogger(__name__)

_ARTIFACT_SECONDS = 1.0  # between updates; one costs about 40 ms
_AWAY_SECONDS = 300.0  # until a server is asked again that did not answer, for which Prefect's client waits a minute


class ProgressArtifact:
    """A callback that moves a bar in Prefect's page, at most once a second."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._id: UUID | None = None
        self._next = 0.0  # moment from which on the page is told again
        self._stopwatch = Stopwatch()
        self._tell(0.0, step)

    def __call__(self, done: int, total: int, words: str, _: Facts | None = None, /) -> None:
        """Hear how far the step is."""
        now = time.monotonic()
        pace = pace_words(self._stopwatch.moved(done, total, now=now))
        if now >= self._next or (done >= total and self._id is not None):
            self._tell(100.0 * done / max(1, total), f"{words}, {pace}" if pace else words)

    def _tell(self, progress: float, description: str) -> None:
        try:
            if self._id is None:
                self._id = UUID(str(create_progress_artifact(progress=progress, description=description)))
            else:
                update_progress_artifact(artifact_id=self._id, progress=progress, description=description)
            self._next = time.monotonic() + _ARTIFACT_SECONDS
        except (httpx.HTTPError, OSError) as error:
            _missed(self._step, error)
            self._next = time.monotonic() + _AWAY_SECONDS


def publish(create: Callable[..., Any], *, key: str, **content: Any) -> None:
    """Publish an artifact, unless the server does not take it."""
    try:
        create(key=key, **content)
    except (httpx.HTTPError, OSError) as error:
        _missed(key, error)


def _missed(what: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    logger.warning("Prefect's pages do not show %s (%s); the run has it", what, reason)


def publish_step(run: Run, step: str, summary: Mapping[str, Any]) -> None:
    """Publish what came of a step: its facts as a table, and a summary of the run so far."""
    name = run.record.name
    key = f"{slug(name)}-{slug(step)}"
    facts = [{"fact": fact, "value": value} for fact, value in summary.items() if isinstance(value, (int, float, str))]
    publish(create_table_artifact, table=facts, key=f"{key}-facts", description=f"{step} of run {name}")
    publish(create_markdown_artifact, markdown=summary_of(run), key=key, description=f"run {name} after {step}")
    metrics = summary.get("metrics")
    if metrics:
        rows = _metric_rows(metrics, summary.get("metrics_detail", {}))
        publish(create_table_artifact, table=rows, key=f"{slug(name)}-metrics", description="distances, floors")


def summary_of(run: Run) -> str:
    """Give a run's steps and metrics in Markdown, and where its report lies."""
    record = run.record
    lines = [f"# Run {record.name}", "", f"made from {record.config}, at `{run.paths.folder}`", ""]
    lines += ["| step | seconds | held by | key |", "| --- | --- | --- | --- |"]
    for step in STEPS:
        if stage := record.steps.get(step):
            lines.append(f"| {step} | {stage.seconds:.1f} | {stage.holder} | {stage.key[:12]} |")
    stage = record.steps.get("evaluate")
    if stage and run.serves("evaluate"):
        lines += ["", "| metric | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:.4g} |" for name, value in stage.summary["metrics"].items()]
        lines += ["", f"report: [{_report(run)}]({_report(run)})"]
    return "\n".join(lines) + "\n"


def _report(run: Run) -> str:
    page = str(run.holder("evaluate").report / "index.html")
    return page if "://" in page else f"file://{page}"


def _metric_rows(metrics: Mapping[str, float], detail: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    return [{"metric": name, "value": value, **detail.get(name, {})} for name, value in metrics.items()]


def slug(text: str) -> str:
    """Give a text in the signs that keys of artifacts may have."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
