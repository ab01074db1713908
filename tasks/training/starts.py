"""How workers of a training begin, and whether Ray Train lets them begin anew after one failed.

Ray Train's controller, a process of its own, imports this file: nothing slow may be imported here, and no torch.
"""

import json
import logging
import os
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from typing import Any

from storage.errors import StorageError
from tasks.facts import TrainingPlace
from tasks.session import own_log_noted

logger = logging.getLogger(__name__)

HOPELESS = (FloatingPointError, StorageError)  # a worker that begins again from the last checkpoint meets them again


def enter(work: Any) -> None:
    """Begin, as a worker.

    What is to be done is fetched and imported here, in a thread beside the one that Ray Train asks for signs of life.

    Args:
        work: Ray's reference to a function of nothing.
    """
    import ray

    with own_log_noted():
        ray.get(work)()


def failure_policy(config: Any, restarts: "Restarts") -> Any:
    """Give Ray Train's own policy but for two kinds of errors, which tells of each new start.

    Those of ``HOPELESS`` are raised at once. A worker that is lost while the workers begin is one that is lost: Ray
    Train would give the training up for it, or for some of its moments begin anew without end.

    Args:
        config: Ray Train's ``FailureConfig``, whose ``max_failures`` also bounds the losses at the beginning.
        restarts: told which workers were lost.
    """
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

    lost_as_they_began = (RayActorError, WorkerGroupStartupFailedError)

    class Policy(DefaultFailurePolicy):
        lost_at_start = 0

        def make_decision(self, training_failed_error: Any) -> Any:
            failures = getattr(training_failed_error, "worker_failures", {})
            if any(isinstance(cause_of(failure), HOPELESS) for failure in failures.values()):
                return FailureDecision.RAISE
            if isinstance(getattr(training_failed_error, "controller_failure", None), lost_as_they_began):
                self.lost_at_start += 1
                is_hopeless = self.lost_at_start > self.failure_config.max_failures
                decision = FailureDecision.RAISE if is_hopeless else FailureDecision.RETRY
                words = "one was lost as it began"
                _clear_away(training_failed_error)
            else:
                decision = super().make_decision(training_failed_error)
                words = _lost_ranks(failures) if failures else ""
            if words and decision is FailureDecision.RETRY:
                restarts.tell(words)
            return decision

    return Policy(config)


def _clear_away(error: Any) -> None:
    """End the workers whose function could not be started, and free their place: Ray Train has lost sight of them."""
    from ray.train.v2._internal.execution.worker_group import WorkerGroup

    for frame, _ in traceback.walk_tb(error.__traceback__):
        group = frame.f_locals.get("self") if frame.f_code.co_name == "_start" else None
        if isinstance(group, WorkerGroup) and group.has_started():
            group.shutdown()  # type: ignore[no-untyped-call]


def cause_of(failure: Any) -> Any:
    """Give what a worker raised, out of what Ray made of it."""
    return getattr(failure, "cause", None) or failure


def _lost_ranks(failures: Mapping[int, Any]) -> str:
    """Say which workers ended and of what, in a few words."""
    kinds = Counter(type(cause_of(failure)).__name__ for failure in failures.values())
    ranks = ", ".join(map(str, sorted(failures)))
    return f"worker {ranks}: {', '.join(kinds)}"


class Restarts:
    """What Ray Train's controller, a process of its own, tells the driver of restarts, through Ray's key-value store.

    Ray Train tells nobody of them. Inside a ``with`` the store has an entry, which goes on leaving.
    """

    def __init__(self, place: TrainingPlace) -> None:
        self._key = f"charflow-restarts-{place.key}-{os.getpid()}-{time.monotonic_ns()}"

    def tell(self, words: str) -> None:
        """Add one, from the controller."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key, json.dumps([*self.told(), words]))

    def told(self) -> list[str]:
        """Give all so far."""
        from ray.experimental.internal_kv import _internal_kv_get

        return list(json.loads(_internal_kv_get(self._key) or "[]"))

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        try:
            _internal_kv_del(self._key)
        except Exception as error:  # a cluster that is gone has forgotten it
            logger.debug("the account of restarts stays: %s", error)
