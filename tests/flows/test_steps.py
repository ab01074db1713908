"""Which failures of a step are worth another try, and how long is waited for it."""

from typing import Any

import pytest
from prefect.task_engine import TaskRunTimeoutError

from flows.steps import TASKS, may_pass
from flows.work import WORK
from storage.errors import DamagedError, InputError


class Ended:
    """Stands for Prefect's state of a step that ended with an error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def result(self, *, raise_on_failure: bool) -> BaseException:
        assert not raise_on_failure
        return self._error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionError(), True),
        (OSError("no route to host"), True),
        (TimeoutError("an object store took too long"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (TaskRunTimeoutError(), False),
        (InputError(), False),
        (DamagedError(), False),
        (FloatingPointError(), False),
        (ValueError(), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: BaseException, passes: bool) -> None:
    ended: Any = Ended(error)
    assert may_pass(TASKS["ingest"], None, ended) is passes  # type: ignore[arg-type]


def test_every_step_waits_longer_before_each_try() -> None:
    assert TASKS.keys() == WORK.keys()
    for step, task in TASKS.items():
        assert (task.name, task.retries, task.retry_delay_seconds) == (step, 3, [2, 4, 8])
        assert task.retry_jitter_factor == 0.5
