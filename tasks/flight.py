"""Items on their way through Ray tasks: submitted, waited for, given to a second worker, counted."""

import logging
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, Generic, TypeVar

from tasks.capacity import Amounts
from tasks.session import note_lost_workers, own_log_noted, require_cluster
from tasks.worker_metrics import UnitMeter

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

NODE_VARIABLE = "CHARFLOW_NODE"  # of the environment of a task, which tells it its node's id
_LOOK_SECONDS = 1.0  # between looks for items that take too long
STRAGGLER_SECONDS = 10.0  # that an item may take at least
_REMEMBERED = 1000  # items, for the median
_FAR_LONGER = 3.0  # and times the median of those before it


def remote_task(function: Callable[[Item], Result], asked: Amounts, *, placement: str) -> Any:
    """Give a Ray task that asks for so much."""
    import ray  # slow to import, and absent from runs that re-use everything

    own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    options: dict[str, Any] = {own[name]: amount for name, amount in asked.items() if name in own}
    options["resources"] = {name: amount for name, amount in asked.items() if name not in own}
    if "memory" in options:
        options["memory"] = int(options["memory"])
    if placement == "spread":
        options["scheduling_strategy"] = "SPREAD"
    # without max_calls a worker of GPU tasks would end after each, and with it the loaded network
    return ray.remote(max_calls=0, max_retries=3, **options)(_counting(function))


class Flight(Generic[Item]):
    """Items on their way, each by one attempt or, where that one straggles, by two."""

    def __init__(self, remote: Any, *, again: Callable[[Item], None]) -> None:
        self._remote = remote
        self._again = again
        self._attempts: dict[Any, _Asked[Item]] = {}
        self._took: deque[float] = deque(maxlen=_REMEMBERED)  # seconds of those that landed
        self.items = 0

    @property
    def attempts(self) -> int:
        """Number of tasks without an end; one of an item that landed otherwise counts as well."""
        return len(self._attempts)

    def ask(self, item: Item) -> None:
        """Submit an item."""
        self.items += 1
        self._send(_Asked(item))

    def landed(self) -> Iterator[Any]:
        """Wait a little, and give the result that came, if one did.

        Raises:
            Exception: what the function raised.
        """
        import ray

        ready, _ = ray.wait(list(self._attempts), num_returns=1, timeout=_LOOK_SECONDS)
        for reference in ready:
            asked = self._attempts.pop(reference)
            if asked.is_done:
                continue
            retries, result = _get(reference)
            if retries:
                self._again(asked.item)
            asked.is_done = True
            self._took.append(asked.seconds)
            self.items -= 1
            yield result

    def ask_stragglers(self) -> None:
        """Submit once more what takes far longer than the others took."""
        usual = statistics.median(self._took) if self._took else math.inf
        for asked in list(self._attempts.values()):
            if asked.sent == 1 and not asked.is_done and asked.seconds > max(STRAGGLER_SECONDS, _FAR_LONGER * usual):
                logger.warning("an item takes %.0f s where others took %.1f: trying it anew", asked.seconds, usual)
                self._again(asked.item)
                self._send(asked)

    def _send(self, asked: "_Asked[Item]") -> None:
        asked.sent += 1
        self._attempts[self._remote.remote(asked.item)] = asked


def _counting(function: Callable[[Item], Result]) -> Callable[[Item], tuple[int, Result]]:
    """Give a Ray task that also tells how many workers were lost over its item, and measures itself."""

    @wraps(function)
    def attempt(item: Item) -> tuple[int, Result]:
        from ray._private import worker  # Ray tells it nowhere else

        core: Any = worker.global_worker
        os.environ[NODE_VARIABLE] = core.current_node_id.hex()
        began, meter = time.monotonic(), _unit_meter()
        try:
            with own_log_noted():
                result = function(item)
        except Exception:
            meter.failed(function.__name__)
            raise
        meter.done(function.__name__, result, seconds=time.monotonic() - began)
        return core.core_worker.get_current_task_attempt_number(), result

    return attempt


@lru_cache(maxsize=1)
def _unit_meter() -> UnitMeter:
    from ray.util.metrics import Counter

    return UnitMeter(Counter)


@dataclass(eq=False)
class _Asked(Generic[Item]):
    """An item on its way."""

    item: Item
    sent: int = 0
    is_done: bool = False
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


def _get(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if cause is None:
            raise
        cause.add_note(str(error))  # the worker's traceback, for whoever looks deeper
        raise cause from None
    except ray.exceptions.RayError as error:
        require_cluster(error)
        note_lost_workers(error)
        raise
