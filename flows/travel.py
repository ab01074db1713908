"""Taking a run's steps in order, on one cluster that is started where the first step needs it."""

import threading
from contextlib import ExitStack
from functools import partial
from types import TracebackType

from flows import signals
from flows.overlap import Simulation
from flows.runs import Run
from flows.steps import take_step
from flows.work import generator_place
from storage.admissions import begin_growth, end_growth
from tasks.executor import Executor, SerialExecutor, ray_session
from tasks.specs import ComputeSpec, worker_range


class Cluster:
    """Where the steps of one run, or of many, are worked on: here, or on Ray once a step needs it."""

    def __init__(self, compute: ComputeSpec) -> None:
        self._compute = compute
        self._stack = ExitStack()
        self._executor: Executor | None = None

    def executor(self, run: Run) -> Executor:
        """Give what serves a run's pending steps; the seconds of a start are counted as the run's."""
        if self._executor is None and (self._compute.address or run.needs_cluster):
            with run.timed("ray"):
                self._executor = self._stack.enter_context(ray_session(self._compute))
        return self._executor or SerialExecutor()

    def close(self) -> None:
        """Leave the cluster, which ends it if it was started here."""
        self._executor = None
        self._stack.close()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, _)


def travel(run: Run) -> None:
    """Take the steps that are left of one run, on a cluster of its own."""
    with signals.kept(), run.in_progress(), Cluster(run.config.compute) as cluster:
        take_steps(run, cluster)
        with run.timed("ray"):
            cluster.close()


def take_steps(run: Run, cluster: Cluster) -> None:
    """Take the steps that are left of a run in progress.

    Raises:
        InputError: code that the last of them would need is not there, or two of them cannot be taken at once, which
            is said before the first.
    """
    if run.config.generator.features and "train_generator" in run.pending:
        from tasks.train_generator import require_importable  # imports torch, which is not needed here otherwise

        require_importable(run.config.generator.features)
    if run.config.evaluation.features and "evaluate" in run.pending:
        from tasks.evaluate import require_features  # likewise

        require_features(run.config.evaluation)
    executor = cluster.executor(run)
    _require_room(run, executor)
    halted = threading.Event()
    beside = _beside(run, executor, halted=halted)
    for step in run.steps:
        if beside is not None and step == "integrate":
            _take_both(run, executor, beside, halted=halted)
        elif beside is None or step != "train_generator":
            take_step(step, run, executor.given(run.config.compute.demand(step)))


def _require_room(run: Run, executor: Executor) -> None:
    """Refuse, before the first step, what the cluster cannot serve in one of them, unless nodes are waited for.

    A step looks again when it begins, for nodes come and go.

    Raises:
        InputError: no nodes have what a step asks for.
    """
    velocity, compute = run.config.velocity, run.config.compute
    if compute.patience:
        return
    for step in set(run.pending) & {"fit_velocity", "integrate", "train_generator"}:
        demand = compute.demand(step)
        device = "cuda" if demand.asks_for_gpu and (step == "train_generator" or velocity.kind == "network") else "cpu"
        if step == "train_generator" or (step == "fit_velocity" and velocity.kind == "network"):
            section, spec = ("generator", run.config.generator) if step == "train_generator" else ("velocity", velocity)
            least, _ = worker_range(spec.workers)
            executor.given(demand).require_room(device=device, count=least, what=f"{section}.workers")
        elif step == "integrate" or velocity.kind == "kernel":
            executor.given(demand).require_room(device=device)


def _beside(run: Run, executor: Executor, *, halted: threading.Event) -> Executor | None:
    """Give what serves the simulation while the generator is trained; None where the two do not overlap.

    Raises:
        InputError: nothing is left for it.
    """
    if not run.config.generator.overlap or not {"integrate", "train_generator"} <= set(run.pending):
        return None
    compute, (_, most) = run.config.compute, worker_range(run.config.generator.workers)
    return executor.given(compute.demand("integrate")).beside(
        most,
        training=compute.demand("train_generator"),
        device=compute.device if run.config.velocity.kind == "network" else "cpu",
        training_device=compute.device,
        halted=halted,
    )


def _take_both(run: Run, executor: Executor, beside: Executor, *, halted: threading.Event) -> None:
    """Train the generator here while another thread simulates; the first error ends both, and is raised.

    What is committed is kept, whichever fails, and the same command goes on from there.
    """
    records = generator_place(run).admissions
    begin_growth(records)
    simulate = partial(take_step, "integrate", run, beside)
    run.simulation = Simulation(simulate, end=partial(end_growth, records))
    run.simulation.start()
    try:
        training = run.config.compute.demand("train_generator")
        take_step("train_generator", run, executor.given(training))
    except BaseException as error:
        cause = run.simulation.error  # before the end of the training makes one
        halted.set()
        run.simulation.wait()
        if cause is not None and isinstance(error, Exception):
            raise cause from None
        raise
