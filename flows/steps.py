"""One Prefect task per step: retries, and artifacts that tell how far it is and what came of it.

Prefect retries what may pass (a connection, a node); a wrong input or a diverged training fails at once.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.tasks import Task

from flows.progress import Stopwatch, pace_words
from flows.runs import Run
from flows.work import WORK, perform
from storage.errors import StorageError
from tasks.executor import Executor
from tasks.specs import Facts

logger = logging.getLogger(__name__)

_ARTIFACT_SECONDS = 1.0  # between updates; one costs about 40 ms


def may_pass(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Tell whether a failure is worth another try: the world's, not ours and not the input's."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, (StorageError, FileNotFoundError, PermissionError))


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_jitter_factor=0.5,
    retry_condition_fn=may_pass,
)
def run_step(step: str, run: Run, executor: Executor) -> None:
    """Do one step, unless the run has it already."""
    if run.serves(step):
        return
    attempt = task_run.run_count
    if attempt and attempt > 1:
        facts = {"event": "again", "step": step, "attempt": attempt}
        logger.info("%s is tried again, attempt %d", step, attempt, extra=facts)
    summary = perform(step, run, executor, progress=_ProgressArtifact(step))
    rows = "\n".join(f"| {key} | {value} |" for key, value in asdict(summary).items() if not isinstance(value, dict))
    create_markdown_artifact(key=step.replace("_", "-"), markdown=f"| {step} | |\n| --- | --- |\n{rows}\n")


TASKS: Mapping[str, Task[..., None]] = {step: run_step.with_options(name=step) for step in WORK}


class _ProgressArtifact:
    """A callback that moves a bar in Prefect's page, at most once a second."""

    def __init__(self, step: str) -> None:
        self._id = UUID(str(create_progress_artifact(progress=0.0, description=step)))
        self._last = time.monotonic()
        self._stopwatch = Stopwatch()

    def __call__(self, done: int, total: int, words: str, _: Facts | None = None, /) -> None:
        now = time.monotonic()
        pace = pace_words(self._stopwatch.moved(done, total, now=now))
        if now - self._last >= _ARTIFACT_SECONDS or done >= total:
            self._last = now
            update_progress_artifact(
                artifact_id=self._id,
                progress=100.0 * done / max(1, total),
                description=f"{words}, {pace}" if pace else words,
            )
