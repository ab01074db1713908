"""Training on Ray Train, which this file and starts.py know. Data-parallel workers, restarted by Ray when one is lost.

Workers write their own metrics and checkpoints to the shared root, so nothing passes through Ray but the request.
"""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from storage.journal import read_journal
from tasks.capacity import require_room, usable_gpus, worker_amounts
from tasks.facts import Progress, TrainingPlace
from tasks.session import call_for_nodes, cluster_nodes, note_lost_workers, require_cluster
from tasks.specs import Demand, GeneratorSpec, VelocitySpec, Workers, worker_range
from tasks.training.device import choose_device, given_device, warn_of_fallback
from tasks.training.failure import GradientError, LossError
from tasks.training.follow import Follower
from tasks.training.group import Group, alone
from tasks.training.guard import Asked, Guard
from tasks.training.meeting import backend, hosted, talk_on
from tasks.training.starts import HOPELESS, Restarts, cause_of, enter, failure_policy
from tasks.worker_metrics import TrainingMeter

logger = logging.getLogger(__name__)

Request = TypeVar("Request")

UNUSED_CALLBACKS = ("PlacementGroupCleanerCallback", "DatasetsCallback")

RESTARTS = 3
_ELASTIC_RESTARTS = 30  # of a group of as many workers as there is room for: nodes come and go
RESIZE_SECONDS = 30.0  # between looks for room for more workers
# Ray learns every 20 s what room there is; so long a group that no longer fits is waited for, and then made smaller
_SOONER = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
_PLAIN = Demand(step="train_generator")
_LATER_SECONDS = 1.0  # than a worker that knows which rows are at fault, which is heard within a tenth


def train_on_cluster(
    worker: Callable[[Request, Group], None],
    request: Request,
    *,
    section: str,
    spec: VelocitySpec | GeneratorSpec,
    parts: int,
    place: TrainingPlace,
    device: str,
    demand: Demand,
    progress: Progress,
) -> "Outcome":
    """Train a section's network with its workers, after saying what is not done for want of a GPU.

    Args:
        worker: as for :func:`run_distributed`.
        request: picklable.
        section: of the configuration, for the words.
        spec: its knobs.
        parts: as for :func:`run_distributed`.
        place: where the files go.
        device: ``compute.device``.
        demand: what a worker asks for.
        progress: told of the steps.

    Raises:
        InputError: the cluster has no GPU and one was asked for, or no room for the workers.
    """
    found = cluster_device(device, demand)
    warn_of_fallback(section, spec, found)
    return run_distributed(
        worker,
        request,
        workers=spec.workers,
        parts=parts,
        place=place,
        steps=spec.steps,
        progress=progress,
        device=found,
        demand=demand,
        what=f"{section}.workers",
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known of a training that is done, beside what its workers published."""

    startup_seconds: float = 0.0  # that were not training: starting and stopping workers, and attempts that were lost
    restarts: int = 0  # of the workers, from the newest checkpoint, after one was lost


def run_distributed(
    worker: Callable[[Request, Group], None],
    request: Request,
    *,
    workers: Workers,
    place: TrainingPlace,
    steps: int,
    progress: Progress,
    parts: int = 0,
    device: str = "cpu",
    demand: Demand = _PLAIN,
    what: str = "workers",
) -> Outcome:
    """Run ``worker(request, group)`` on each of ``workers`` Ray Train workers of one thread, until all are done.

    With least and most workers there are as many as the cluster has room for: a lost one shrinks the group, and where
    there is room again it grows, each time from the newest checkpoint.

    Args:
        worker: a module-level function; on a restart it finds its newest checkpoint by itself.
        request: picklable.
        workers: size of the group; or the least and the greatest.
        place: whose journal tells how far the training is.
        steps: optimiser steps in all.
        progress: told about twice a second.
        parts: equal parts that every global batch can be cut into; workers beyond the most that divide them sit out.
            0: any number.
        device: ``cpu``, or ``cuda`` for a GPU a worker, or a share of one where there are fewer.
        demand: what each worker asks for.
        what: the key that says how many workers.

    Raises:
        InputError: the cluster has no room for the least number of workers.
        LostNodesError: it had, and no more, for longer than nodes take to come back.
        Exception: what the worker raised, after Ray gave up.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # slow to import

    began = time.monotonic()
    least, most = worker_range(workers)
    is_elastic = least < most
    if is_elastic:
        os.environ.setdefault(*_SOONER)
    resources = worker_amounts(demand, cluster_nodes(), workers=most, device=device)
    asked = Asked(resources=resources, workers=least, demand=demand, what=what)
    require_room(cluster_nodes, resources, demand=demand, count=least, what=what, call=call_for_nodes)
    restarts = Restarts(place)
    scaling: dict[str, Any] = {
        "num_workers": (least, most) if is_elastic else least,
        "elastic_resize_monitor_interval_s": RESIZE_SECONDS,
        "use_gpu": "GPU" in resources,
        "resources_per_worker": resources,
        "placement_strategy": demand.placement.upper(),
    }
    loop = {"worker": worker, "request": request, "gpu_share": resources.get("GPU", 0.0), "parts": parts}
    work = ray.put(partial(_take_part, loop))  # as train_loop_config the controller would import torch for it
    with tempfile.TemporaryDirectory(prefix="charflow-train-") as scratch, restarts:
        trainer = _trainer_class(restarts)(
            partial(enter, work),
            scaling_config=ScalingConfig(**scaling),
            run_config=RunConfig(
                name=place.key,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=_ELASTIC_RESTARTS if is_elastic else RESTARTS),
            ),
        )
        guard = Guard(asked, restarts=restarts.told, end=trainer.end)
        with Follower(place, steps, progress), guard:
            _run(trainer, guard)
        told = restarts.told()
    startup = time.monotonic() - began - read_journal(place.journal)[-1]["elapsed"]
    return Outcome(startup_seconds=startup, restarts=len(told))


def cluster_device(asked: str, demand: Demand) -> str:
    """Give ``cpu`` or ``cuda``: what workers of the cluster will compute on for ``compute.device`` = ``asked``.

    Raises:
        InputError: a GPU was asked for and the cluster has none.
    """
    return choose_device(asked, gpus=usable_gpus(demand, cluster_nodes()))


def _trainer_class(restarts: Restarts) -> Any:
    """Give Ray Train's data-parallel trainer without what this project has no use for.

    ``TorchTrainer`` takes half as long again to start: it imports torch in its controller before any worker starts,
    and it starts processes for datasets and for a cleaner that asks a dashboard we do not run. It would also start
    workers anew after an error that they meet again. The methods that are overridden are private; test_ddp.py watches
    over them.
    """
    import ray
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class Trainer(DataParallelTrainer):
        controller: Any = None  # once it runs, for whoever has to end it

        def _register_sigint_handler(self, controller: Any) -> None:
            self.controller = controller
            super()._register_sigint_handler(controller)

        def end(self) -> bool:
            """Kill the controller, and with it the workers; not in a thread but the main one, where none is known."""
            if self.controller is not None:
                ray.kill(self.controller)
            return self.controller is not None

        def _create_default_callbacks(self) -> list[Any]:
            return [c for c in super()._create_default_callbacks() if type(c).__name__ not in UNUSED_CALLBACKS]

        def _initialize_and_run_controller(self, **controller: Any) -> Any:
            policy = failure_policy(self.run_config.failure_config, restarts)
            return super()._initialize_and_run_controller(**controller | {"failure_policy": policy})

    return Trainer


def _run(trainer: Any, guard: Guard) -> None:
    """Fit, and raise what stopped it as it was raised: Ray wraps a worker's error and turns Ctrl-C into an exit."""
    from ray.exceptions import RayActorError, RayError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import RayTrainError

    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit as interruption:
        raise KeyboardInterrupt from interruption
    except (RayError, ControllerError) as error:
        if guard.error is None or not isinstance(error, RayActorError):
            require_cluster(error)
            if isinstance(error, ControllerError):
                note_lost_workers(error)
            raise
        raise guard.error from None
    except WorkerGroupError as error:
        causes = [cause_of(failure) for failure in error.worker_failures.values()] or [error]
        cause = _telling(causes)
        cause.add_note(str(error))  # the workers' tracebacks, for whoever looks deeper
        if any(isinstance(each, (RayError, RayTrainError)) for each in causes):
            require_cluster(cause)
            note_lost_workers(cause)
        raise cause from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Ray leaves its own, which would exit with 0


def _telling(causes: Sequence[Any]) -> Any:
    """Give what says most of several workers' errors: of one that fails the others fail, too, and know less."""
    kinds = (LossError, *HOPELESS)
    return next((cause for kind in kinds for cause in causes if isinstance(cause, kind)), causes[0])


def _take_part(config: dict[str, Any]) -> None:
    from ray import train

    torch.set_num_threads(1)
    device = given_device("cuda" if config["gpu_share"] else "cpu")
    context = train.get_context()
    rank, world = context.get_world_rank(), seats(context.get_world_size(), parts=config["parts"])
    worker, request, share = config["worker"], config["request"], config["gpu_share"]
    tell = _meter(worker.__name__, rank)
    if world == 1:
        if rank == 0:
            worker(request, replace(alone(device), tell=tell))
        return
    meeting = _meet(rank, world)
    if meeting is None:
        logger.warning("worker %d sits out: %d divide the batch, and not more", rank, world)
        return
    talk_on(_address())
    dist.init_process_group(backend(share), store=meeting, rank=rank, world_size=world)
    try:
        worker(request, Group(rank=rank, world=world, average=partial(_average, world), device=device, tell=tell))
    except GradientError:
        time.sleep(_LATER_SECONDS)
        raise
    finally:
        dist.destroy_process_group()


def _meter(work: str, rank: int) -> TrainingMeter:
    from ray.util.metrics import Counter, Gauge

    return TrainingMeter(Counter, Gauge, work=work, rank=rank)


def seats(workers: int, *, parts: int) -> int:
    """Give how many of so many workers take part in batches of ``parts`` equal parts: the most that divide them."""
    return workers if parts == 0 else next(count for count in range(workers, 0, -1) if parts % count == 0)


def _meet(rank: int, world: int) -> Store | None:
    """Give the store over which the ranks find each other, on a port of rank 0's node that it alone chose.

    Every worker comes here, since Ray waits for all; whoever has no seat gets None.
    """
    from ray.train.collective import broadcast_from_rank_zero

    host = _address()
    store = hosted(host, world) if rank == 0 else None
    host, port = broadcast_from_rank_zero((host, store.port) if store else None)
    if rank >= world:
        return None
    return store or TCPStore(host, port, world, is_master=False)


def _address() -> str:
    """Give Ray's address of this node."""
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _average(world: int, gradient: Tensor) -> None:
    """Average gradients in one exchange; for networks of this size quicker than a wrapper's buckets, and to import."""
    dist.all_reduce(gradient)
    gradient /= world
