"""A study as a flow: every point is a run, all on one cluster; then what they hold is measured.

Prefect loads this file by its path as a module named ``study``, so it holds the flow alone.
"""

from collections.abc import Sequence

from prefect import flow

from flows import signals
from flows.conclude import conclude
from flows.progress import current_listener, listening
from flows.studies import open_study
from flows.travel import Cluster, take_steps
from storage.paths import root_location


@flow(name="charflow-study", flow_run_name="{name}", persist_result=False)
def study(
    source: str,
    sweeps: Sequence[str],
    changes: Sequence[str] = (),
    root: str = "runs",
    name: str = "",
    until: str = "evaluate",
) -> None:
    """Bring every combination of swept values as far as asked, and compare them.

    What some run holds under the same key is taken from there.

    Args:
        source: the preset or ``.toml`` file.
        sweeps: each ``a.b=v1,v2,...``.
        changes: each ``a.b=value``, for all points.
        root: the folder of runs.
        name: of the study; empty to call it after the configuration.
        until: the last step of each point.
    """
    found = open_study(source, sweeps=sweeps, changes=changes, root=root_location(root), name=name, until=until)
    with signals.kept(), Cluster(found.compute) as cluster:
        for member in found.pending:
            label = member.name.removeprefix(f"{found.name}-")
            with current_listener().member(label) as listener, listening(listener):
                run = found.claim(member)
                with run.in_progress():
                    take_steps(run, cluster)
    conclude(found)
