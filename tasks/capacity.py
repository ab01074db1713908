"""What the nodes of a cluster can serve, as arithmetic on their resources, and the words for what they cannot.

All tasks of a step ask for the same, and so do all workers of a training: as many fit on a node as its scarcest
resource allows, and packing them is a sum over nodes. What counts is what a node has in all, busy or not.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from storage.errors import HaltedError, InputError
from tasks.compute import Demand

Amounts = Mapping[str, float]

_GIB = 2**30
_ROUNDING = 1e-6  # of sums of shares such as a third
_TOLD = 6  # kinds of nodes
POLL_SECONDS = 2.0  # between looks for nodes that are waited for
GRACE_SECONDS = 60.0  # at least, for nodes that come back


class LostNodesError(HaltedError):
    """A cluster lost the nodes that could serve a step, and they did not come back."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of a Ray cluster."""

    id: str
    address: str
    resources: Amounts = field(default_factory=dict, hash=False)  # by Ray's names, in all; memory in bytes
    is_alive: bool = True
    is_dismissed: bool = False  # gone because it had nothing to do

    def __str__(self) -> str:
        return f"{self.address} ({self.id[:8]})"


def slots(asked: Amounts, nodes: Sequence[Node]) -> int:
    """Give how many tasks or workers that ask for so much fit on the nodes at once."""
    return sum(_fit(asked, node.resources) for node in nodes if node.is_alive)


def slots_beside(asked: Amounts, nodes: Sequence[Node], *, workers: int, each: Amounts) -> int:
    """Give how many tasks leave room for ``workers`` that ask for ``each``, whichever nodes the tasks are on."""
    spare = slots(each, nodes) - workers
    if spare < 0:
        return 0
    steps = [step for node in nodes if node.is_alive for step in _steps(asked, node.resources, each)]
    tasks = 0
    for more, taken in sorted(steps, key=lambda step: step[0] / step[1]):  # those that take most room a task
        if taken > spare:
            return tasks + more - 1
        tasks, spare = tasks + more, spare - taken
    return slots(asked, nodes)


def usable_gpus(demand: Demand, nodes: Sequence[Node]) -> float:
    """Give the GPUs of the nodes that could serve a task otherwise; where some are asked for by number, that many.

    Of a cluster that has none, and is waited for with ``compute.device = cuda``, one: it comes or is told of later.
    """
    if not isinstance(demand.asked.gpus, str):
        return demand.asked.gpus
    asked = demand.asked.amounts()
    found = sum(node.resources.get("GPU", 0.0) for node in nodes if node.is_alive and _fit(asked, node.resources))
    return found or float(demand.waits_for_gpu)


def worker_amounts(demand: Demand, nodes: Sequence[Node], *, workers: int, device: str) -> dict[str, float]:
    """Give what each of so many training workers asks for; on a GPU one, or such a share that all workers fit."""
    if device == "cpu":
        return demand.asked.amounts()
    shares = [demand.gpu_share(1 / k) for k in range(1, workers + 1)]
    each = [demand.asked.amounts(gpu_share=share) for share in shares]
    return next((amounts for amounts in each if slots(amounts, nodes) >= workers), each[-1])


def require_room(
    look: Callable[[], Sequence[Node]],
    asked: Amounts,
    *,
    demand: Demand,
    count: int = 1,
    what: str = "",
    call: Callable[[Amounts, int], None] = lambda *_: None,
) -> None:
    """Wait, as long as the demand's patience lasts, until the nodes have room for all that is asked.

    Args:
        look: gives the nodes.
        asked: by each task or worker.
        demand: that it comes from.
        count: of them that must fit at once.
        what: the key that says how many.
        call: tells an autoscaler what is waited for, and with a count of 0 that nothing is any more.

    Raises:
        InputError: there is no such room; it says what there is.
    """
    nodes = look()
    if slots(asked, nodes) >= count:
        return
    end = time.monotonic() + demand.patience
    if demand.patience:
        call(asked, count)
    try:
        while time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
            nodes = look()
            if slots(asked, nodes) >= count:
                return
    finally:
        if demand.patience:
            call(asked, 0)
    raise InputError(no_room(asked, nodes, demand=demand, count=count, what=what))


def no_room(asked: Amounts, nodes: Sequence[Node], *, demand: Demand, count: int = 1, what: str = "") -> str:
    """Say in one line what is asked for, under which key, and what the nodes have."""
    alive = [node for node in nodes if node.is_alive]
    has = f"the cluster has {nodes_in_words(alive, asked)}"
    waited = f" after {demand.patience:g} s" if demand.patience else ""
    for name, amount in asked.items():
        if all(node.resources.get(name, 0.0) + _ROUNDING < amount for node in alive):
            most = max((node.resources.get(name, 0.0) for node in alive), default=0.0)
            found = f"at most {in_words({name: most})} a node" if most else f"no {_name(name)}"
            return f"{_key(demand, name)} = {_number(name, amount)} cannot be served{waited}: {found}; {has}"
    if not slots(asked, alive):
        return f"{demand.section} asks for {in_words(asked)} on one node, which none has{waited}; {has}"
    return (
        f"{what} = {count} workers of {in_words(asked)} each ({demand.section}) need more room than there is{waited}, "
        f"{slots(asked, alive)} fit; {has}"
    )


class Watch:
    """Follows the nodes of a cluster while a step is worked on: which are lost, and whether any can serve it still."""

    def __init__(self, look: Callable[[], Sequence[Node]], *, told: Callable[[Node], None]) -> None:
        self._look, self._told = look, told
        self.nodes = look()
        self._gone = {node.id for node in self.nodes if not node.is_alive}
        self._looked = self._served = time.monotonic()

    def look(self) -> Sequence[Node]:
        """Give the nodes as they were at most some seconds ago, after telling of those that were lost."""
        now = time.monotonic()
        if now - self._looked >= POLL_SECONDS:
            self._looked = now
            self.nodes = self._look()
            for node in lost(self.nodes, but=self._gone):
                self._told(node)
            self._gone |= {node.id for node in self.nodes if not node.is_alive}
        return self.nodes

    def require_hope(self, asked: Amounts, *, demand: Demand, count: int = 1, what: str = "") -> None:
        """Raise :class:`LostNodesError` once there has been no room for longer than nodes take to come back."""
        nodes, now = self.look(), time.monotonic()
        if slots(asked, nodes) >= count:
            self._served = now
        elif now - self._served > max(GRACE_SECONDS, demand.patience):
            why = no_room(asked, nodes, demand=Demand(step=demand.step, asked=demand.asked), count=count, what=what)
            raise LostNodesError(
                f"nodes were lost and not replaced for {now - self._served:.0f} s: {why}; what is committed is kept, "
                "and the same command goes on from there"
            )


def lost(nodes: Sequence[Node], *, but: set[str]) -> list[Node]:
    """Give the nodes that are gone without having been sent away, other than those that were gone before."""
    return [node for node in nodes if not (node.is_alive or node.is_dismissed or node.id in but)]


def in_words(amounts: Amounts) -> str:
    """Give amounts as a person would write them."""
    unit = {"memory": " GiB"}
    return ", ".join(f"{name} {_number(name, amount)}{unit.get(name, '')}" for name, amount in amounts.items())


def nodes_in_words(nodes: Sequence[Node], asked: Amounts | None = None) -> str:
    """Give what nodes have, those that are alike told once; what Ray adds to every node is left out."""
    kinds = Counter(in_words(_of_interest(asked or {}, node.resources)) or "nothing" for node in nodes if node.is_alive)
    told = [f"{count} {'node' if count == 1 else 'nodes'} with {kind}" for kind, count in kinds.most_common(_TOLD)]
    return "; ".join([*told, *(["..."] if len(kinds) > _TOLD else [])]) or "no nodes"


def _fit(asked: Amounts, has: Amounts) -> int:
    return min(math.floor(has.get(name, 0.0) / amount + _ROUNDING) for name, amount in asked.items())


def _steps(asked: Amounts, has: Amounts, each: Amounts) -> list[tuple[int, int]]:
    """Give after how many more tasks on a node how much of the room for workers is gone, from its first task on."""
    steps: list[tuple[int, int]] = []
    since, room = 0, _fit(each, has)
    for tasks in range(1, _fit(asked, has) + 1):
        left = {name: amount - tasks * asked.get(name, 0.0) for name, amount in has.items()}
        now = max(0, _fit(each, left))
        if now < room:
            steps.append((tasks - since, room - now))
            since, room = tasks, now
    return steps


def _key(demand: Demand, name: str) -> str:
    own = {"CPU": "cpus", "GPU": "gpus", "memory": "memory"}
    return f"{demand.section}.{own.get(name, f'resources.{name}')}"


def _name(resource: str) -> str:
    return f"resource {resource}" if resource not in ("CPU", "GPU", "memory") else resource


def _number(name: str, amount: float) -> str:
    return f"{amount / _GIB:.3g}" if name == "memory" else f"{amount:g}"


def _of_interest(asked: Amounts, has: Amounts) -> dict[str, float]:
    silent = {"object_store_memory"} | ({"memory"} - asked.keys())
    names = [name for name in ("CPU", "GPU") if name in has] + sorted(has.keys() - {"CPU", "GPU"})
    return {
        name: has[name] for name in names if name not in silent and not name.startswith(("node:", "accelerator_type:"))
    }
