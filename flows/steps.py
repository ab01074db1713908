"""One Prefect task per step: retries, time-outs, and artifacts that tell how far it is and what came of it.

Prefect retries what may pass (a connection, a node); a wrong input or a diverged training fails at once.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect._internal.concurrency.cancellation import CancelledError
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import Task, exponential_backoff

from flows.artifacts import ProgressArtifact, publish_step
from flows.runs import Run
from flows.work import WORK, perform
from storage.errors import StepTimeoutError, StorageError
from tasks.executor import Executor

logger = logging.getLogger(__name__)

_OURS = (StorageError, FileNotFoundError, PermissionError, TaskRunTimeoutError)


def may_pass(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Tell whether a failure is worth another try: the world's, not ours and not the input's."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, _OURS)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=exponential_backoff(2),  # 2, 4, 8 s, and up to half as much again
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
    summary = perform(step, run, executor, progress=ProgressArtifact(step))
    publish_step(run, step, asdict(summary))


TASKS: Mapping[str, Task[..., None]] = {step: run_step.with_options(name=step) for step in WORK}


def take_step(step: str, run: Run, executor: Executor) -> None:
    """Do one step as a Prefect task, within the time that it may take.

    Raises:
        StepTimeoutError: it took longer; what it committed is kept.
    """
    seconds = run.config.compute.timeout
    chosen = TASKS[step].with_options(timeout_seconds=seconds) if seconds else TASKS[step]
    try:
        chosen(step, run, executor)
    except (TaskRunTimeoutError, SystemError) as error:
        # Ray's compiled code, struck by the time-out while it waits, makes a SystemError of it
        if isinstance(error, SystemError) and not isinstance(error.__cause__ or error.__context__, CancelledError):
            raise
        raise StepTimeoutError(
            f"{step} took longer than compute.timeout = {seconds:g} s; what it committed is kept, and the same command "
            "goes on from there"
        ) from None
