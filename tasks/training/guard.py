"""What watches a training from the driver: lost nodes, restarts, and whether there is room for it still."""

import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

from tasks.capacity import LostNodesError, Watch
from tasks.session import cluster_nodes, tell_lost
from tasks.specs import Demand

logger = logging.getLogger(__name__)

GUARD_SECONDS = 1.0  # between looks


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a training needs for its least number of workers."""

    resources: Mapping[str, float]
    workers: int
    demand: Demand
    what: str


class Guard:
    """A thread that tells of lost nodes and of restarts, and ends a training for which there is no room any more.

    Ray Train waits for room without end.

    Args:
        asked: what there must be room for.
        restarts: gives a few words on each restart so far.
        end: ends the training, whose caller then raises ``error``; tells whether it could.
    """

    def __init__(self, asked: Asked, *, restarts: Callable[[], list[str]], end: Callable[[], bool]) -> None:
        self.error: LostNodesError | None = None  # for which it was ended
        self._asked, self._restarts, self._end = asked, restarts, end
        self._known = 0
        self._watch = Watch(cluster_nodes, told=tell_lost)
        self._stop = threading.Event()
        guard = partial(copy_context().run, self._guard)  # records know their run and step by this context
        self._thread = threading.Thread(target=guard, name="guard-training", daemon=True)

    def __enter__(self) -> "Guard":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _guard(self) -> None:
        while not self._stop.wait(GUARD_SECONDS):
            try:
                self._look()
            except LostNodesError as error:
                self.error = error
                if not self._end():  # so it must be said here
                    logger.error("%s; end this command to give the training up", error)
                return
            except Exception as error:  # a cluster that does not answer now may at the next look
                logger.debug("no look at the cluster: %s", error)

    def _look(self) -> None:
        told = self._restarts()
        for words in told[self._known :]:
            facts = {"event": "restarted", "restarts": len(told)}
            logger.warning("training starts again from its newest checkpoint (%s)", words, extra=facts)
        self._known = len(told)
        asked = self._asked
        self._watch.require_hope(asked.resources, demand=asked.demand, count=asked.workers, what=asked.what)
