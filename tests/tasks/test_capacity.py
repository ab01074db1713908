"""What nodes can serve: slots by the scarcest resource, room beside a training, words for what is not there, losses."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from storage.errors import InputError
from tasks.capacity import (
    LostNodesError,
    Node,
    Watch,
    lost,
    require_room,
    slots,
    slots_beside,
    usable_gpus,
    worker_amounts,
)
from tasks.compute import ComputeSpec, Demand, ResourcesSpec


def node(name: str, *, is_alive: bool = True, is_dismissed: bool = False, **resources: float) -> Node:
    more = {"node:127.0.0.1": 1.0, "object_store_memory": 8e7, "memory": 2.0**34}
    return Node(id=name, address="127.0.0.1", resources=resources | more, is_alive=is_alive, is_dismissed=is_dismissed)


HEAD = node("head")
SIMULATORS = [node(name, CPU=4.0, simulator=1.0) for name in ("s1", "s2")]
TRAINER = node("t", CPU=8.0, GPU=2.0, trainer=2.0)
CLUSTER = [HEAD, *SIMULATORS, TRAINER]


def demand(step: str = "integrate", *, patience: float = 0.0, **asked: Any) -> Demand:
    return Demand(step=step, asked=ResourcesSpec(**asked), patience=patience)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"CPU": 1.0}, 16),
        ({"CPU": 0.5}, 32),
        ({"CPU": 3.0}, 4),  # one on each simulator, two on the trainer; no task lies on two nodes
        ({"CPU": 1.0, "simulator": 1.0}, 2),
        ({"CPU": 1.0, "simulator": 0.25}, 8),
        ({"CPU": 1.0, "GPU": 1 / 3}, 6),
        ({"CPU": 1.0, "simulator": 1.0, "trainer": 1.0}, 0),
        ({"CPU": 9.0}, 0),
        ({"CPU": 1.0, "memory": 2.0**33}, 6),
    ],
)
def test_as_many_tasks_fit_on_a_node_as_its_scarcest_resource_allows(asked: dict[str, float], expected: int) -> None:
    assert slots(asked, CLUSTER) == expected
    assert slots(asked, [node("gone", is_alive=False, CPU=99.0, GPU=99.0, simulator=99.0)]) == 0


SMALL = [{"CPU": 3.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "trainer": 1.0}]


@pytest.mark.parametrize(
    ("asked", "each"),
    [
        ({"CPU": 1.0}, {"CPU": 1.0}),
        ({"CPU": 1.0}, {"CPU": 2.0}),
        ({"CPU": 0.5}, {"CPU": 1.0}),
        ({"CPU": 2.0}, {"CPU": 1.0}),
        ({"CPU": 1.0, "GPU": 0.25}, {"CPU": 1.0, "GPU": 1.0}),
        ({"CPU": 1.0}, {"CPU": 1.0, "trainer": 1.0}),
    ],
)
def test_wherever_tasks_are_put_the_workers_of_a_training_still_fit(
    asked: dict[str, float], each: dict[str, float]
) -> None:
    """Against every way of putting tasks on small nodes: so many always leave room, and one more might not."""
    nodes = [Node(id=str(k), address="", resources=has) for k, has in enumerate(SMALL)]
    most = [slots(asked, [found]) for found in nodes]

    def room(put: Sequence[int]) -> int:
        left = [{n: a - k * asked.get(n, 0.0) for n, a in has.items()} for k, has in zip(put, SMALL, strict=True)]
        return slots(each, [Node(id="", address="", resources=has) for has in left])

    ways = list(itertools.product(*(range(count + 1) for count in most)))
    for workers in range(1, slots(each, nodes) + 1):
        found = slots_beside(asked, nodes, workers=workers, each=each)
        assert all(room(put) >= workers for put in ways if sum(put) <= found)
        assert found == sum(most) or any(room(put) < workers for put in ways if sum(put) == found + 1)
    assert slots_beside(asked, nodes, workers=slots(each, nodes) + 1, each=each) == 0


def test_tasks_and_workers_on_nodes_of_their_own_are_not_in_each_others_way() -> None:
    beside = {"asked": {"CPU": 1.0, "simulator": 0.5}, "each": {"CPU": 1.0, "trainer": 1.0}}
    assert slots_beside(beside["asked"], CLUSTER, workers=2, each=beside["each"]) == 4


def test_gpus_count_where_a_task_fits_otherwise() -> None:
    assert usable_gpus(demand(), CLUSTER) == 2
    assert usable_gpus(demand(resources={"simulator": 1.0}), CLUSTER) == 0
    assert usable_gpus(demand(gpus=0.5, resources={"simulator": 1.0}), CLUSTER) == 0.5  # asked for: to be refused later


@pytest.mark.parametrize(
    ("device", "patience", "gpus", "taken"),
    [("cuda", 60.0, "auto", 1), ("cuda", 0.0, "auto", 0), ("auto", 60.0, "auto", 0), ("cuda", 60.0, 0.5, 0.5)],
)
def test_a_gpu_that_is_insisted_on_and_waited_for_is_taken_for_granted(
    device: str, patience: float, gpus: float | str, taken: float
) -> None:
    compute = ComputeSpec(address="auto", device=device, patience=patience, integrate=ResourcesSpec(gpus=gpus))
    found = compute.demand("integrate")
    assert usable_gpus(found, [HEAD]) == taken
    if isinstance(gpus, str):
        assert usable_gpus(found, CLUSTER) == 2


def test_a_gpu_that_does_not_come_is_told_of_after_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, compute = Clock(monkeypatch), ComputeSpec(address="auto", device="cuda", patience=60.0)
    found, cpus = compute.demand("train_generator"), [replace(HEAD, resources={"CPU": 8.0})]
    each = worker_amounts(found, cpus, workers=4, device="cuda")
    assert each == {"CPU": 1.0, "GPU": 0.25}  # so that one GPU serves them all
    with pytest.raises(InputError, match=r"compute\.train_generator\.gpus = 0\.25 cannot be served after 60 s: no GPU"):
        require_room(lambda: cpus, each, demand=found, count=4, what="generator.workers")
    assert clock.now >= 60.0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"resources": {"simulatr": 1.0}},
            "compute.integrate.resources.simulatr = 1 cannot be served: no resource simulatr; the cluster has 2 nodes "
            "with CPU 4, simulator 1; 1 node with nothing; 1 node with CPU 8, GPU 2, trainer 2",
        ),
        ({"cpus": 16.0}, "compute.integrate.cpus = 16 cannot be served: at most CPU 8 a node; the cluster has 2 nodes"),
        ({"memory": 64.0}, "compute.integrate.memory = 64 cannot be served: at most memory 16 GiB a node; the cluster"),
        (
            {"cpus": 6.0, "resources": {"simulator": 1.0}},
            "compute.integrate asks for CPU 6, simulator 1 on one node, which none has; the cluster has 2 nodes with",
        ),
    ],
)
def test_what_no_node_has_is_said_by_its_key_with_what_the_nodes_have(asked: dict[str, Any], words: str) -> None:
    found = demand(**asked)
    with pytest.raises(InputError) as caught:
        require_room(lambda: CLUSTER, found.asked.amounts(), demand=found)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_workers_that_do_not_all_fit_are_counted() -> None:
    found = demand("train_generator", resources={"trainer": 1.0})
    asked = found.asked.amounts()
    require_room(lambda: CLUSTER, asked, demand=found, count=2, what="generator.workers")
    words = (
        r"generator\.workers = 3 workers of CPU 1, trainer 1 each \(compute\.train_generator\) .*, 2 fit; the cluster"
    )
    with pytest.raises(InputError, match=words):
        require_room(lambda: CLUSTER, asked, demand=found, count=3, what="generator.workers")


def test_a_cluster_of_no_nodes_is_said() -> None:
    with pytest.raises(InputError, match=r"compute\.integrate\.cpus = 1 cannot be served: no CPU; .* has no nodes"):
        require_room(list, {"CPU": 1.0}, demand=demand())


class Clock:
    """Time that passes while someone sleeps or looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("tasks.capacity.time.monotonic", lambda: self.now)
        monkeypatch.setattr("tasks.capacity.time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def growing(clock: Clock, *, at: float) -> Callable[[], list[Node]]:
    return lambda: CLUSTER if clock.now >= at else [HEAD]


def test_nodes_are_waited_for_and_asked_for_as_long_as_patience_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), list[tuple[dict[str, float], int]]()
    found = demand(patience=30.0)
    asked = found.asked.amounts()

    def call(amounts: object, count: int) -> None:
        calls.append((dict(amounts), count))  # type: ignore[call-overload]

    require_room(growing(clock, at=11.0), asked, demand=found, count=3, call=call)
    assert 11.0 <= clock.now < 14.0
    assert calls == [(asked, 3), (asked, 0)]  # and not asked for any more
    with pytest.raises(InputError, match=r"cpus = 1 cannot be served after 30 s: no CPU"):
        require_room(growing(clock, at=1e9), asked, demand=found, call=call)
    assert calls == [(asked, 3), (asked, 0), (asked, 1), (asked, 0)]


def test_without_patience_nobody_waits_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(InputError):
        require_room(growing(clock, at=1.0), {"CPU": 1.0}, demand=demand(), call=lambda *_: pytest.fail("asked"))
    assert clock.now == 0


def test_a_watch_tells_of_each_lost_node_once_and_of_none_that_was_gone_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    nodes = [node("old", is_alive=False), *SIMULATORS, TRAINER]
    told: list[Node] = []
    watch = Watch(lambda: nodes, told=told.append)
    nodes[1] = node("s1", is_alive=False)
    nodes[3] = node("t", is_alive=False, is_dismissed=True)
    watch.look()
    assert told == []  # looked at a moment ago
    for _ in range(2):
        clock.sleep(3.0)
        assert watch.look() == nodes
    assert [found.id for found in told] == ["s1"]
    assert lost(nodes, but={"old"}) == [nodes[1]]


@pytest.mark.parametrize(("patience", "seconds"), [(0.0, 60.0), (300.0, 300.0)])
def test_hope_ends_when_nodes_do_not_come_back(
    patience: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, found = Clock(monkeypatch), demand(patience=patience, resources={"simulator": 1.0})
    asked = found.asked.amounts()
    gone = [node("s1", is_alive=False), TRAINER]
    nodes = [*SIMULATORS]
    watch = Watch(lambda: nodes, told=lambda _: None)
    for _ in range(3):  # lost and back again, each time in time
        nodes[:] = gone
        clock.sleep(seconds - 5.0)
        watch.require_hope(asked, demand=found)
        nodes[:] = SIMULATORS
        clock.sleep(5.0)
        watch.require_hope(asked, demand=found)
    nodes[:] = gone
    clock.sleep(seconds + 5.0)
    words = (
        r"not replaced for \d+ s: compute\.integrate\.resources\.simulator = 1 cannot be served: no resource simulator"
    )
    with pytest.raises(LostNodesError, match=words + r".* 1 node with CPU 8.*committed is kept.*same command"):
        watch.require_hope(asked, demand=found)
