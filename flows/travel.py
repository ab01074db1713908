"""Taking a run's steps in order, on one cluster that is started where the first step needs it."""

from contextlib import ExitStack
from types import TracebackType

from flows import signals
from flows.runs import Run
from flows.steps import TASKS
from tasks.executor import Executor, SerialExecutor, ray_session
from tasks.specs import ComputeSpec


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
        InputError: code that the last of them would need is not there, which is said before the first.
    """
    if run.config.generator.features and "train_generator" in run.pending:
        from tasks.train_generator import require_importable  # imports torch, which is not needed here otherwise

        require_importable(run.config.generator.features)
    executor = cluster.executor(run)
    for step in run.steps:
        TASKS[step](step, run, executor)
