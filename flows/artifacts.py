"""What Prefect's pages show of a run: bars of its steps, tables of their facts, a summary with its report."""

import re
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.progress import Stopwatch, pace_words
from flows.runs import Run
from flows.stages import STEPS
from tasks.specs import Facts

_ARTIFACT_SECONDS = 1.0  # between updates; one costs about 40 ms


class ProgressArtifact:
    """A callback that moves a bar in Prefect's page, at most once a second."""

    def __init__(self, step: str) -> None:
        self._id = UUID(str(create_progress_artifact(progress=0.0, description=step)))
        self._last = time.monotonic()
        self._stopwatch = Stopwatch()

    def __call__(self, done: int, total: int, words: str, _: Facts | None = None, /) -> None:
        """Hear how far the step is."""
        now = time.monotonic()
        pace = pace_words(self._stopwatch.moved(done, total, now=now))
        if now - self._last >= _ARTIFACT_SECONDS or done >= total:
            self._last = now
            update_progress_artifact(
                artifact_id=self._id,
                progress=100.0 * done / max(1, total),
                description=f"{words}, {pace}" if pace else words,
            )


def publish_step(run: Run, step: str, summary: Mapping[str, Any]) -> None:
    """Publish what came of a step: its facts as a table, and a summary of the run so far."""
    key = f"{slug(run.record.name)}-{slug(step)}"
    facts = [{"fact": name, "value": fact} for name, fact in summary.items() if isinstance(fact, (int, float, str))]
    create_table_artifact(table=facts, key=f"{key}-facts", description=f"{step} of run {run.record.name}")
    create_markdown_artifact(markdown=summary_of(run), key=key, description=f"run {run.record.name} after {step}")
    metrics = summary.get("metrics")
    if metrics:
        rows = _metric_rows(metrics, summary.get("metrics_detail", {}))
        create_table_artifact(table=rows, key=f"{slug(run.record.name)}-metrics", description="distances, floors")


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
