"""The road, on one screen: dataset, velocity, trajectories, generator, report.

Prefect loads this file by its path as a module named ``pipeline``, so it holds the flow alone.
"""

from contextlib import ExitStack

from prefect import flow

from flows import signals
from flows.config import PipelineConfig
from flows.runs import Run, open_run
from flows.steps import TASKS
from storage.paths import root_location
from tasks.executor import Executor, SerialExecutor, ray_session


@flow(name="charflow", flow_run_name="{name}", persist_result=False)
def pipeline(
    config: PipelineConfig, root: str = "runs", name: str = "", source: str = "charflow", until: str = "evaluate"
) -> None:
    """Bring a run as far as it was asked to go; every step that some run holds under the same key is taken from there.

    Args:
        config: what is asked for.
        root: the folder of runs, or its address on an object store.
        name: of the run; empty to call it after the configuration.
        source: the preset or file that the configuration was made from.
        until: the last step.
    """
    travel(open_run(config, root=root_location(root), name=name, source=source, until=until))


def travel(run: Run) -> None:
    """Take the steps that are left, the cluster started only where a step needs it."""
    with signals.kept(), run.in_progress(), ExitStack() as stack:
        executor: Executor = SerialExecutor()
        if run.config.compute.address or run.needs_cluster:
            with run.timed("ray"):
                executor = stack.enter_context(ray_session(run.config.compute))
        for step in run.steps:
            TASKS[step](step, run, executor)
        with run.timed("ray"):
            stack.close()
