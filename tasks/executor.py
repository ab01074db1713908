"""Where work runs: in this process, or on a Ray cluster.

A unit of work is a plain function of one picklable item that may run twice with the same outcome. Results come back as
they complete; they are small receipts, never arrays.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from storage.errors import HaltedError, InputError
from tasks.capacity import (
    Amounts,
    Node,
    Watch,
    in_words,
    nodes_in_words,
    require_room,
    slots,
    slots_beside,
    usable_gpus,
    worker_amounts,
)
from tasks.compute import TASKS_PER_GPU, ComputeSpec, Demand
from tasks.flight import Flight, remote_task
from tasks.session import call_for_nodes, cluster_nodes, own_cpus, session, tell_lost

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_SLOT = 3
_PLAIN = Demand(step="integrate")
_END: Any = object()  # of the items


def _unheard(_: object) -> None:
    """Tell nobody."""


class Executor(Protocol):
    """Runs a function over items."""

    @property
    def cpus(self) -> int:
        """Number of CPUs that work can be given."""
        ...

    @property
    def gpus(self) -> float:
        """Number of GPUs that work can be given."""
        ...

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of the cluster, those that are gone as well; none where there is no cluster."""
        ...

    def given(self, demand: Demand) -> "Executor":
        """Give an executor whose tasks ask for what a step asks for."""
        ...

    def require_room(self, *, device: str, count: int = 1, what: str = "") -> None:
        """Refuse, before any work, what the cluster cannot serve.

        Args:
            device: ``cuda`` for tasks or workers that ask for a GPU.
            count: of them that must have room at once.
            what: the key that says how many.

        Raises:
            InputError: no nodes have what is asked for, and none come.
        """
        ...

    def beside(
        self, workers: int, *, training: Demand, device: str, training_device: str, halted: threading.Event
    ) -> "Executor":
        """Give an executor whose tasks always leave room for the workers of a training.

        Args:
            workers: of the training.
            training: what each of them asks for.
            device: that the tasks compute on: ``cpu``, or ``auto`` and ``cuda`` for a GPU where there is one.
            training_device: that the workers compute on, likewise.
            halted: ends its maps by a ``HaltedError`` once it is set.

        Raises:
            InputError: nothing would be left.
        """
        ...

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        again: Callable[[Item], None] = _unheard,
        device: str = "cpu",
    ) -> Iterator[Result]:
        """Give each item's result as it completes; the first real error stops what has not begun and is raised.

        Args:
            function: the work.
            items: its arguments.
            again: told of an item that was given to a second worker, perhaps more than once.
            device: ``cuda`` gives each item's work a GPU, or a share of one, which is all that the worker sees then.
        """
        ...


class SerialExecutor:
    """Runs everything here, one item after another, on the CPU."""

    @property
    def cpus(self) -> int:
        """Those that this process may use."""
        return own_cpus()

    @property
    def gpus(self) -> float:
        """None."""
        return 0

    @property
    def nodes(self) -> Sequence[Node]:
        """None."""
        return ()

    def given(self, demand: Demand) -> "SerialExecutor":
        """Give itself: this process has what it has."""
        return self

    def require_room(self, *, device: str, count: int = 1, what: str = "") -> None:
        """Refuse nothing."""

    def beside(
        self, workers: int, *, training: Demand, device: str, training_device: str, halted: threading.Event
    ) -> "SerialExecutor":
        """Give itself: work in this process reserves nothing, and goes on to its end."""
        return self

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        again: Callable[[Item], None] = _unheard,
        device: str = "cpu",
    ) -> Iterator[Result]:
        """Give the results in the order of the items; nothing is given out again."""
        yield from map(function, items)


class RayExecutor:
    """Runs each item as one Ray task that asks for what its step asks for, a bounded number of them in flight.

    Ray retries tasks whose worker or node was lost; an exception of the function is never retried. At the end, when
    there is room and an item takes far longer than the others did, it is given to a second worker; the first result
    counts, and the slower attempt can do no harm, for a unit of work may run twice. After an error
    nothing more is submitted, and the few tasks in flight end by themselves or with the session: ``ray.cancel`` can
    meet a task's own reply and abort the whole process (``task_manager.cc: Check failed``, ray 2.60).

    Beside a ``training`` no task waits in a queue, which Ray would serve before it; ``halted`` ends the maps.
    """

    def __init__(
        self,
        demand: Demand = _PLAIN,
        *,
        training: "_Training | None" = None,
        halted: threading.Event | None = None,
    ) -> None:
        self._demand = demand
        self._training = training
        self._halted = halted or threading.Event()

    @property
    def cpus(self) -> int:
        """Number of CPUs that tasks can hold at once, without those of a training beside them."""
        return math.ceil(self._slots(self._asked("cpu"), self.nodes) * self._demand.asked.cpus)

    @property
    def gpus(self) -> float:
        """Number of GPUs of the nodes that can serve a task."""
        return usable_gpus(self._demand, self.nodes)

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of the cluster, those that are gone as well."""
        return cluster_nodes()

    def given(self, demand: Demand) -> "RayExecutor":
        """Give an executor for the tasks of a step, on the same cluster, beside nothing."""
        return RayExecutor(demand)

    def require_room(self, *, device: str, count: int = 1, what: str = "") -> None:
        """Wait as long as the demand's patience lasts for nodes that can serve so many."""
        asked = self._asked(device)
        require_room(cluster_nodes, asked, demand=self._demand, count=count, what=what, call=call_for_nodes)

    def beside(
        self, workers: int, *, training: Demand, device: str, training_device: str, halted: threading.Event
    ) -> "RayExecutor":
        """Give an executor for as many tasks as leave room for the workers, wherever Ray puts them."""
        nodes = self.nodes
        on_gpu = "cpu" if training_device == "cpu" or not usable_gpus(training, nodes) else "cuda"
        each = worker_amounts(training, nodes, workers=workers, device=on_gpu)
        found = RayExecutor(self._demand, training=_Training(workers=workers, each=each), halted=halted)
        asked = self._asked("cuda" if device != "cpu" and self.gpus else "cpu")
        if not found._slots(asked, nodes):
            raise InputError(
                f"generator.overlap = true needs room for a task of the simulation ({in_words(asked)}) beside "
                f"generator.workers = {workers} ({in_words(each)} each); the cluster has {nodes_in_words(nodes)}: "
                "lower generator.workers, or raise compute.cpus or compute.gpus of a cluster started here"
            )
        return found

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        again: Callable[[Item], None] = _unheard,
        device: str = "cpu",
    ) -> Iterator[Result]:
        """Give the results as they complete.

        A second worker that takes too long an item is told of at once, one that Ray found for a lost one when it ends.

        Raises:
            InputError: no node can serve a task, and none came for as long as the demand's patience lasts.
            LostNodesError: those that could are gone, and did not come back.
            Exception: what the function raised, as it raised it.
        """
        self.require_room(device=device)
        asked = self._asked(device)
        flight = Flight[Any](remote_task(function, asked, placement=self._demand.placement), again=again)
        watch = Watch(cluster_nodes, told=tell_lost)
        waiting, seen, room = iter(items), None, 0
        while True:
            if self._halted.is_set():
                raise HaltedError("the work was asked to end")
            if (nodes := watch.look()) is not seen:  # counted at each look, for on many nodes that takes milliseconds
                watch.require_hope(asked, demand=self._demand)
                seen, room = nodes, self._slots(asked, nodes)
            at_once = max(1, room) if self._training else max(2, _IN_FLIGHT_PER_SLOT * room)
            while flight.items < at_once and (item := next(waiting, _END)) is not _END:
                flight.ask(item)
            if not flight.items:
                return
            yield from flight.landed()
            if flight.attempts < room:
                flight.ask_stragglers()

    def _asked(self, device: str) -> Amounts:
        share = self._demand.gpu_share(1 / TASKS_PER_GPU) if device == "cuda" else 0.0
        return self._demand.asked.amounts(gpu_share=share)

    def _slots(self, asked: Amounts, nodes: Sequence[Node]) -> int:
        if self._training is None:
            return slots(asked, nodes)
        return slots_beside(asked, nodes, workers=self._training.workers, each=self._training.each)


@dataclass(frozen=True, kw_only=True)
class _Training:
    """Workers for which tasks leave room."""

    workers: int
    each: Amounts  # asked for


@contextmanager
def ray_session(compute: ComputeSpec) -> Iterator[RayExecutor]:
    """Give an executor on the cluster that was asked for, joined or started here as long as the block lasts.

    Raises:
        UnreachableClusterError: an address was given and no cluster answers; nothing is started instead.
    """
    with session(compute):
        yield RayExecutor()
