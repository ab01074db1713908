"""Executors: order, first errors, lost workers, what a step asks for."""

import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from storage.errors import HaltedError, InputError
from tasks.executor import Executor, RayExecutor, SerialExecutor
from tasks.flight import NODE_VARIABLE, Flight
from tasks.specs import Demand, ResourcesSpec

TRAINING = Demand(step="train_generator")


def double(item: int) -> int:
    return 2 * item


def tell_gpu(item: int) -> tuple[str | None, int]:
    time.sleep(0.05)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


def fail_at_three(item: int) -> int:
    if item == 3:
        raise ValueError(f"item {item} is bad")
    return item


def die_once(marker: Path) -> int:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def span_of(_: int) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(0.1)
    return began, time.monotonic()


def mark_slowly(marker: Path) -> None:
    time.sleep(0.2)
    marker.touch()


def hang_once(marker: Path) -> str:
    if marker.name == "hangs" and not marker.exists():
        marker.touch()
        time.sleep(60)
    return marker.name


def check_maps(executor: Executor) -> None:
    assert sorted(executor.map(double, range(50))) == [2 * k for k in range(50)]
    assert list(executor.map(double, [])) == []


def check_fails(executor: Executor) -> None:
    with pytest.raises(ValueError, match="item 3 is bad"):
        list(executor.map(fail_at_three, range(8)))


def test_a_serial_executor_gives_every_result_and_the_first_error() -> None:
    check_maps(SerialExecutor())
    check_fails(SerialExecutor())


@pytest.mark.slow
def test_a_ray_executor_gives_every_result_and_the_first_error_as_it_was_raised(cluster: RayExecutor) -> None:
    check_maps(cluster)
    check_fails(cluster)


@pytest.mark.slow
def test_work_that_shares_a_gpu_sees_it_and_its_processes_stay(cluster: RayExecutor) -> None:
    assert cluster.gpus == 1
    halves = cluster.given(Demand(step="integrate", asked=ResourcesSpec(gpus=0.5)))
    told = list(halves.map(tell_gpu, range(12), device="cuda"))
    assert {gpu for gpu, _ in told} == {"0"}
    assert len({process for _, process in told}) <= 3  # two at once, and perhaps one that was starting beside them


@pytest.mark.slow
def test_work_beside_a_training_leaves_it_a_cpu_a_worker_and_ends_when_it_is_told_to(cluster: RayExecutor) -> None:
    halted = threading.Event()
    beside = cluster.beside(1, training=TRAINING, device="cpu", training_device="cpu", halted=halted)
    assert sorted(beside.map(double, range(5))) == [0, 2, 4, 6, 8]
    results = beside.map(span_of, range(6))
    spans = sorted(next(results) for _ in range(4))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))  # one of two CPUs
    halted.set()
    with pytest.raises(HaltedError, match="asked to end"):
        list(results)
    assert list(cluster.map(double, [1])) == [2]  # others go on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "device", "words"),
    [
        (
            2,
            "cpu",
            r"room for a task of the simulation \(CPU 1\) beside generator\.workers = 2 \(CPU 1 each\); the cluster "
            r"has 1 node with CPU 2, GPU 1: lower generator\.workers",
        ),
        (1, "auto", r"simulation \(CPU 1, GPU 0\.25\) beside generator\.workers = 1 \(CPU 1, GPU 1 each\)"),
    ],
)
def test_a_training_that_would_leave_nothing_is_bad_input(
    workers: int, device: str, words: str, cluster: RayExecutor
) -> None:
    with pytest.raises(InputError, match=words):
        cluster.beside(workers, training=TRAINING, device=device, training_device=device, halted=threading.Event())


@pytest.mark.slow
def test_what_has_not_begun_is_never_begun_once_nobody_asks(cluster: RayExecutor, tmp_path: Path) -> None:
    markers = [tmp_path / str(k) for k in range(40)]
    results = cluster.map(mark_slowly, markers)
    next(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(1.0)
    assert sum(marker.exists() for marker in markers) < 15


@pytest.mark.slow
def test_a_task_whose_worker_was_killed_runs_again(cluster: RayExecutor, tmp_path: Path) -> None:
    told: list[Path] = []
    (tmp_path / "there").touch()
    items = [tmp_path / "there", tmp_path / "marker"]
    assert len(list(cluster.map(die_once, items, again=told.append))) == 2
    assert told == items[1:]


@pytest.mark.slow
def test_an_item_that_hangs_is_given_to_a_second_worker_and_counts_once(
    cluster: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.flight.STRAGGLER_SECONDS", 1.0)
    names = ["a", "hangs", *"bcdefgh"]
    began = time.monotonic()
    told: list[Path] = []
    assert sorted(cluster.map(hang_once, [tmp_path / name for name in names], again=told.append)) == sorted(names)
    assert told == [tmp_path / "hangs"]
    assert time.monotonic() - began < 30
    assert [record.getMessage().split(":")[1] for record in caplog.records] == [" trying it anew"]


def test_of_two_attempts_at_an_item_the_first_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of more nodes than ours: both attempts end while other items are still on their way."""
    import ray

    class Remote:
        def remote(self, item: str) -> str:
            sent.append(f"{item} {sent.count(f'{item} 0')}")
            return sent[-1]

    sent: list[str] = []
    ends: list[str] = []
    monkeypatch.setattr(ray, "wait", lambda references, **_: ([ends.pop(0)], []))
    monkeypatch.setattr("tasks.flight._get", lambda reference: (int(reference == "b 0"), reference))
    monkeypatch.setattr("tasks.flight.STRAGGLER_SECONDS", 0.0)
    monkeypatch.setattr("tasks.flight._FAR_LONGER", 0.0)
    told: list[str] = []
    flight = Flight[str](Remote(), again=told.append)
    for item in ("a", "late", "b"):
        flight.ask(item)
    ends += ["a 0", "late 1", "late 0", "b 0"]
    assert list(flight.landed()) == ["a 0"]
    flight.ask_stragglers()
    flight.ask_stragglers()
    assert sent == ["a 0", "late 0", "b 0", "late 1", "b 1"]  # once each
    assert [list(flight.landed()) for _ in range(3)] == [["late 1"], [], ["b 0"]]
    assert (flight.items, flight.attempts) == (0, 1)
    assert told == ["late", "b", "b"]  # too slow, too slow, and a worker lost as well


def tell_task(_: int) -> tuple[dict[str, float], str]:
    import ray

    time.sleep(0.02)
    context = ray.get_runtime_context()
    assert os.environ[NODE_VARIABLE] == context.get_node_id()
    return context.get_assigned_resources(), context.get_node_id()  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["pack", "spread"])
def test_tasks_ask_for_what_their_step_asks_and_know_their_node(placement: str, cluster: RayExecutor) -> None:
    demand = Demand(step="integrate", placement=placement, asked=ResourcesSpec(cpus=0.5, memory=0.125))
    told = list(cluster.given(demand).map(tell_task, range(8)))
    assert all(resources == {"CPU": 0.5, "memory": 2.0**27} for resources, _ in told)
    assert {node for _, node in told} == {node.id for node in cluster.nodes}
    assert cluster.given(demand).cpus == cluster.cpus == 2


@pytest.mark.slow
def test_what_a_cluster_does_not_have_is_refused_at_once_and_waited_for_where_it_may_come(
    cluster: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ResourcesSpec(resources={"simulator": 1})
    words = (
        r"compute\.integrate\.resources\.simulator = 1 cannot be served: no resource simulator; the cluster has 1 node"
    )
    with pytest.raises(InputError, match=words + r" with CPU 2, GPU 1$"):
        list(cluster.given(Demand(step="integrate", asked=asked)).map(double, [1]))
    began, called = time.monotonic(), list[int]()
    monkeypatch.setattr("tasks.executor.call_for_nodes", lambda _, count: called.append(count))
    with pytest.raises(InputError, match=r"cannot be served after 1 s"):
        cluster.given(Demand(step="integrate", asked=asked, patience=1.0)).require_room(device="cpu")
    assert 1.0 <= time.monotonic() - began < 10
    assert called == [1, 0]
