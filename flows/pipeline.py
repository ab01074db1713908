"""The road, on one screen: dataset, velocity, trajectories, generator, report.

Prefect loads this file by its path as a module named ``pipeline``, so it holds the flow alone.
"""

from prefect import flow

from flows.config import PipelineConfig
from flows.runs import open_run
from flows.travel import travel
from storage.paths import root_location


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
