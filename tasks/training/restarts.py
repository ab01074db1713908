"""Whether Ray Train starts workers anew after one failed, and what it tells of that.

Ray Train's controller, a process of its own, imports this file: nothing slow may be imported here, and no torch.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from storage.errors import StorageError
from tasks.facts import TrainingPlace

logger = logging.getLogger(__name__)

HOPELESS = (FloatingPointError, StorageError)  # a worker that begins again from the last checkpoint meets them again


def failure_policy(config: Any, restarts: "Restarts") -> Any:
    """Give Ray Train's own policy but for errors that would come again, which tells of each new start.

    Args:
        config: Ray Train's ``FailureConfig``.
        restarts: told which workers were lost.
    """
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

    class Policy(DefaultFailurePolicy):
        def make_decision(self, training_failed_error: Any) -> Any:
            failures = getattr(training_failed_error, "worker_failures", {})
            if any(isinstance(cause_of(failure), HOPELESS) for failure in failures.values()):
                return FailureDecision.RAISE
            decision = super().make_decision(training_failed_error)
            if failures and decision is FailureDecision.RETRY:
                restarts.tell(_lost_ranks(failures))
            return decision

    return Policy(config)


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
