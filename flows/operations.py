"""The flows that deployments schedule: nightly growth, weekly training, repair, and a growth of many days at once.

Prefect makes a form of each signature. A flow's parameters are checked by itself (flows/deployed.py), so that what a
server kept from another version is told of in one line.
"""

from datetime import date
from functools import partial

from prefect import flow

from flows.aftermath import OF_A_RUN
from flows.config import PipelineConfig
from flows.deployed import asked, days, growth, name_of, root_of
from flows.operate import as_stored, bring, grown, logical_day, mend_store, on_duty


@flow(name="charflow-grow", **OF_A_RUN)
def grow(
    config: PipelineConfig | str,
    name: str,
    since: date,
    nightly: int,
    root: str = "",
    at_most: int = 0,
    day: date | None = None,
    changes: list[str] = [],  # noqa: B006 - the form shows it, and nobody writes to it
) -> None:
    """Simulate more trajectories into a run's store, as many as the day asks for; all that is there is used again.

    Args:
        config: a preset's name, the absolute path of a .toml file, or sections as a .toml file has them.
        name: of the run that keeps the store.
        since: the day on which the store holds trajectories.count trajectories.
        nightly: trajectories that each later day adds.
        root: the folder of runs, absolute, or its address on an object store; empty: CHARFLOW_ROOT of the worker.
        at_most: trajectories that the store may come to hold; 0: no end.
        day: that it works for; empty: the day of the schedule, UTC.
        changes: as --set takes them, section.key=value.
    """
    with on_duty():
        ask = asked(config, name=name, root=root, changes=changes)
        plan = growth(since=since, nightly=nightly, at_most=at_most)
        bring(ask, partial(grown, growth=plan, day=logical_day(day)), until="integrate")


@flow(name="charflow-train", **OF_A_RUN)
def train(
    config: PipelineConfig | str,
    name: str,
    root: str = "",
    changes: list[str] = [],  # noqa: B006
) -> None:
    """Train a run's generator on all trajectories that its store holds, and measure it.

    Args:
        config: a preset's name, the absolute path of a .toml file, or sections as a .toml file has them.
        name: of the run that keeps the store.
        root: the folder of runs, absolute, or its address on an object store; empty: CHARFLOW_ROOT of the worker.
        changes: as --set takes them, section.key=value.
    """
    with on_duty():
        bring(asked(config, name=name, root=root, changes=changes), as_stored, until="evaluate")


@flow(name="charflow-mend", **OF_A_RUN)
def mend(name: str, root: str = "", repair: bool = True, quick: bool = False) -> None:
    """Recompute the digest of every committed chunk of a run, and simulate anew what is bad or missing.

    Args:
        name: of the run.
        root: the folder of runs, absolute, or its address on an object store; empty: CHARFLOW_ROOT of the worker.
        repair: simulate anew; otherwise only tell.
        quick: look at records and sizes only, and read no trajectory.
    """
    with on_duty():
        mend_store(root_of(root), name_of(name), is_quick=quick, is_repaired=repair)


@flow(name="charflow-backfill", **OF_A_RUN)
def backfill(
    config: PipelineConfig | str,
    name: str,
    since: date,
    nightly: int,
    first_day: date,
    last_day: date,
    root: str = "",
    at_most: int = 0,
    changes: list[str] = [],  # noqa: B006
) -> None:
    """Grow a run's store for each of many days, one flow run a day, as the nights would have.

    Args:
        config: a preset's name, the absolute path of a .toml file, or sections as a .toml file has them.
        name: of the run that keeps the store.
        since: the day on which the store holds trajectories.count trajectories.
        nightly: trajectories that each later day adds.
        first_day: of the backfill.
        last_day: of the backfill, itself included.
        root: the folder of runs, absolute, or its address on an object store; empty: CHARFLOW_ROOT of the worker.
        at_most: trajectories that the store may come to hold; 0: no end.
        changes: as --set takes them, section.key=value.
    """
    with on_duty():
        for day in days(first_day, last_day):
            grow(config, name, since, nightly, root=root, at_most=at_most, day=day, changes=changes)
