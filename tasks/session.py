"""The Ray cluster that this process is part of: started here or joined, its nodes, and the last words of its workers.

The executor (executor.py, flight.py) and trainings (training/ddp.py) work on it; what they need to know of Ray itself
is here.
"""

import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from storage.errors import HaltedError
from tasks.capacity import Amounts, Node, in_words
from tasks.compute import ComputeSpec
from tasks.reaper import birth_certificates, descendants, kill_all, reaping
from tasks.worker_logs import News, WorkerLog, dead_workers, note_of

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_SETTINGS = 4  # a kind of frame of HTTP/2
_PATIENCE_SECONDS = 2.0  # for Ray's processes to end by themselves, and for its news of one that died
_LATELY_SECONDS = 600.0  # before a failure, in which a worker that caused it wrote
_OBJECT_STORE_BYTES = 128 * 2**20
_STDERR = 2  # the descriptor
_OF_COMPILED_CODE = re.compile(rb"\[[-\d]+ [\d:,]+ [IWE]( \d+)+\] \w+\.cc:\d+: ")  # not F, which ends the process
_DRAINED_IDLE = 4  # Ray's reason for the end of a node that its autoscaler had no more use for


class UnreachableClusterError(ConnectionError):
    """A Ray address was asked for and nothing answers there."""


class LostClusterError(HaltedError):
    """The cluster that this process is part of is gone while it worked."""


@contextmanager
def session(compute: ComputeSpec) -> Iterator[None]:
    """Attach to the cluster that was asked for, or start one here, and leave everything as it was found.

    A cluster started here ends with the session; one attached to goes on. Ray replaces the process's signal handlers
    and does not put them back, so this does. It prints news of lost workers and nodes to standard output, which is for
    results: inside the session they go to standard error.

    Raises:
        UnreachableClusterError: an address was given and no cluster answers; nothing is started instead.
    """
    os.environ.update(_QUIET)
    if compute.address:
        require_reachable(compute.address)
        if compute.address.startswith(("127.", "localhost:")):
            os.environ.setdefault(*_ON_LOOPBACK)  # or Ray asks another address of this host, without end
    else:
        os.environ.update(ALONE)
    import ray  # reads the environment when imported

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with ExitStack() as stack:
        stack.callback(_restore, handlers)
        _ELSEWHERE.clear()
        stack.enter_context(redirect_stdout(News(sys.stderr, _ELSEWHERE)))
        if compute.address:
            stack.callback(_leave, ray)
            _attach(ray, compute.address)
        else:
            stack.enter_context(_started_here(ray, compute))
        _restore(handlers)
        yield


def own_cpus() -> int:
    """Give how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_reachable(address: str) -> None:
    """Raise :class:`UnreachableClusterError` unless ``host:port`` answers as Ray does, or the address is ``auto``."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UnreachableClusterError(f"compute.address must be host:port of a Ray cluster, or auto, got {address!r}")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS) as connection:
            is_rays = bool(os.environ.get("RAY_USE_TLS")) or _speaks_http2(connection)
    except OSError as error:
        raise UnreachableClusterError(
            f"compute.address {address!r} does not answer ({error}); it must be the address of a running Ray cluster"
        ) from error

    if not is_rays:  # which Ray itself would ask for many minutes
        raise UnreachableClusterError(
            f"compute.address {address!r} is no Ray cluster's: something else answers there; it must be the port of "
            "ray start --head, 6379 by default, and not that of the dashboard"
        )


def _speaks_http2(connection: socket.socket) -> bool:
    """Tell whether a server answers the first words of gRPC, which Ray speaks, with its settings."""
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0]))
        head = connection.recv(9)
    except OSError:
        return False
    return len(head) == 9 and head[3] == _SETTINGS


def cluster_nodes() -> list[Node]:
    """Give the nodes of the cluster that this process is part of, those that are gone as well."""
    import ray

    try:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
    except ray.exceptions.RayError as error:
        require_cluster(error)
        raise
    return [
        Node(
            id=found["NodeID"],
            address=found["NodeManagerAddress"],
            resources=found["Resources"],
            is_alive=found["Alive"],
            is_dismissed=found["DeathReason"] == _DRAINED_IDLE,
        )
        for found in nodes
    ]


def require_cluster(error: BaseException) -> None:
    """Say in our words that the cluster is gone, where an error of Ray's comes of that; Ray speaks of raylets and logs.

    Raises:
        LostClusterError: its head does not answer any more, or the node beside this process.
    """
    from ray._private import worker  # Ray tells it nowhere else
    from ray.exceptions import LocalRayletDiedError

    node: Any = worker.global_worker.node
    if node is None:
        return
    if isinstance(error, LocalRayletDiedError) or not _listens(node.raylet_socket_name):
        gone = "the node beside this process ended"
    elif not _listens(node.gcs_address):
        gone = f"its head at {node.gcs_address} does not answer"
    else:
        return
    raise LostClusterError(
        f"the Ray cluster is gone, {gone}; what is committed is kept, and once there is a cluster the same command "
        "goes on from there"
    )


def _listens(place: str) -> bool:
    """Tell whether somebody listens at a host's port, or at a path."""
    try:
        if place.startswith("/"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_CONNECT_SECONDS)
                connection.connect(place)
        else:
            host, _, port = place.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def call_for_nodes(asked: Amounts, count: int) -> None:
    """Ask the cluster's autoscaler, where there is one, for room; a count of 0 takes what was asked for back."""
    from ray.autoscaler.sdk import request_resources

    if count:
        logger.warning("waiting for nodes with room for %d of %s", count, in_words(asked))
    request_resources(bundles=[dict(asked)] * count)


@lru_cache(maxsize=1000)
def tell_lost(node: Node) -> None:
    """Log that the cluster lost a node: once, whoever notices it and however often."""
    logger.warning("node %s was lost", node, extra={"event": "node_lost", "node": node.id})


@contextmanager
def own_log_noted() -> Iterator[None]:
    """In a worker, let an error that is raised inside take the last lines of the worker's log along, as a note."""
    try:
        yield
    except Exception as error:
        from ray._private import worker  # Ray tells it nowhere else

        ours: Any = worker.global_worker
        files = (ours.get_err_file_path(), ours.get_out_file_path())
        log = WorkerLog(pid=os.getpid(), host=os.uname().nodename, files=files)
        if note := note_of(log):
            error.add_note(note)
        raise


def note_lost_workers(error: BaseException) -> None:
    """Let an error that the loss of a worker caused take along, as notes, what is known of those that died lately."""
    import ray
    from ray._private import worker  # Ray tells it nowhere else

    node: Any = worker.global_worker.node
    logs, here = Path(node.get_logs_dir_path()), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (lost := dead_workers(logs, host=here, since=time.time() - _LATELY_SECONDS)):
        if any(log.host != here for log in _ELSEWHERE) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for log in (*lost, *(log for log in _ELSEWHERE if log.host != here)):
        error.add_note(note_of(log, is_here=log.host == here, folder=logs))


_ELSEWHERE: deque[WorkerLog] = deque(maxlen=3)  # workers whose end Ray told of lastly, on any host
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first is raised; Ray would print the others, whole, as they are let go
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # a training ends that much sooner
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
# Without it, Ray listens on every interface of this machine whatever address it is given.
_ON_LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
ALONE = dict([_ON_LOOPBACK, ("RAY_AUTH_MODE", "disabled")])


def _start(ray: Any, compute: ComputeSpec) -> None:
    ray.init(
        address="local",  # else Ray joins whatever cluster was last started on this machine
        num_cpus=compute.cpus or None,
        num_gpus=compute.gpus or None,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
    )


@contextmanager
def _started_here(ray: Any, compute: ComputeSpec) -> Iterator[None]:
    """Start Ray, and end it with all its processes: those of a start cut short, busy actors, agents."""
    before = set(descendants(os.getpid()))
    try:
        _start(ray, compute)
    except BaseException:
        _end(ray, spared=before)
        raise
    with reaping() as watcher:  # outlasts the end, in case that is what kills this process
        try:
            yield
        finally:
            _end(ray, spared=before | {watcher})


def _end(ray: Any, *, spared: set[int]) -> None:
    births = birth_certificates(set(descendants(os.getpid())) - spared)
    _leave(ray)
    kill_all(births, patience=_PATIENCE_SECONDS)


def _leave(ray: Any) -> None:
    """Leave the cluster, and keep from standard error what Ray's compiled code has to say of tasks still in flight.

    It complains there, past Python, that it can no longer report those that fail while it closes; its own log has it.
    """
    sys.stderr.flush()
    with TemporaryFile() as words, os.fdopen(os.dup(_STDERR), "wb") as stderr:
        os.dup2(words.fileno(), _STDERR)
        try:
            ray.shutdown()
        finally:
            os.dup2(stderr.fileno(), _STDERR)
            words.seek(0)
            stderr.writelines(line for line in words if not _OF_COMPILED_CODE.match(line))


def own_code() -> dict[str, list[str]]:
    """Give the part of Ray's runtime environment that brings our code; nothing in a job that brings its own.

    ``ray job submit`` hands its environment to the driver in a variable, and Ray refuses to merge two of one kind.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if "py_modules" in (job.get("runtime_env") or {}):
        return {}
    here = Path(__file__).resolve().parent.parent
    return {"py_modules": [str(here / name) for name in ("tasks", "storage")]}


def _attach(ray: Any, address: str) -> None:
    """Join a cluster and bring our own code, so that its workers run the very version that drives them."""
    try:
        ray.init(
            address=address,
            runtime_env=own_code(),
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnreachableClusterError(
            f"compute.address {address!r} is no running Ray cluster that this version can join: {error}"
        ) from error


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    except ValueError:
        logger.debug("not in the main thread, whose signal handlers stay as they are")
