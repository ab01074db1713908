"""What deployed flows do with a run: bring it further, alone among them, and tell Prefect's pages of it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from flows import logs
from flows.artifacts import publish, slug, summary_of
from flows.deployed import Asked, Growth, day_of, with_count
from flows.repair import holder_of_trajectories, repair, verify
from flows.runs import open_run, reopen
from flows.slots import store_slot
from flows.travel import travel
from flows.watching import watched
from storage.catalog import Catalog
from storage.errors import DamagedError, IncompleteError, UnknownRunError
from storage.paths import Location
from tasks.session import require_reachable

logger = logging.getLogger(__name__)

_ENGINE_LOGS = ("prefect.flow_runs", "prefect.task_runs")


@contextmanager
def on_duty() -> Iterator[None]:
    """Work for a deployment: log and measure as the environment asks, and let an error be one line, as in a command."""
    logs.install("")
    for name in logs.PACKAGES:
        logging.getLogger(name).setLevel(logging.DEBUG if logs.is_json() else logging.INFO)
    for name in _ENGINE_LOGS:
        logging.getLogger(name).addFilter(_as_line)
    with watched():
        yield


def bring(ask: Asked, sized: Callable[[Asked], Asked], *, until: str) -> None:
    """Bring a run as far as it is asked to go, when no other deployed flow works on it.

    Args:
        ask: what is asked for.
        sized: gives it with the count of trajectories, which depends on what the store has once it is let go by others.
        until: the last step.

    Raises:
        UnreachableClusterError: ``compute.address`` does not answer.
    """
    with store_slot(ask.root, ask.name):
        ask = sized(ask)
        if ask.config.compute.address:
            require_reachable(ask.config.compute.address)
        run = open_run(ask.config, root=ask.root, name=ask.name, source=ask.source, until=until)
        pending = run.pending
        if pending:
            travel(run)
        else:
            run.settle_alone()
        what = f"took {', '.join(pending)}" if pending else "nothing to do, it has all of it already"
        logger.info("run %s: %s", ask.name, what, extra={"event": "brought"})
        run = reopen(run.catalog, ask.name)
        words = f"run {ask.name}: {what}"
        told = f"{words}\n\n{summary_of(run)}"
        publish(create_markdown_artifact, markdown=told, key=slug(ask.name), description=words)


def grown(ask: Asked, *, growth: Growth, day: date) -> Asked:
    """Give it with as many trajectories as a day asks for; what the store has already is never less."""
    count = growth.count(ask.config.trajectories.count, day)
    return with_count(ask, max(count, stored_count(ask.root, ask.name)))


def as_stored(ask: Asked) -> Asked:
    """Give it with as many trajectories as its store has; as the configuration says while there is none."""
    return with_count(ask, stored_count(ask.root, ask.name) or ask.config.trajectories.count)


def stored_count(root: Location, name: str) -> int:
    """Give how many trajectories a run has of those that it was last asked for, 0 before the first are done."""
    try:
        run = reopen(Catalog(root), name)
    except (UnknownRunError, IncompleteError):
        return 0
    stage = run.record.steps.get("integrate")
    return min(run.config.trajectories.count, int(stage.summary["count"])) if stage else 0


def logical_day(day: object) -> date:
    """Give the day that is asked for, else that of the schedule, UTC, however late the flow runs."""
    if day is not None:
        return day_of("day", day)
    scheduled = flow_run.scheduled_start_time
    return scheduled.astimezone(UTC).date() if scheduled else datetime.now(UTC).date()


def mend_store(root: Location, name: str, *, is_quick: bool, is_repaired: bool) -> None:
    """Verify the trajectories that a run uses, simulate anew what is bad or missing, and publish what was found.

    Raises:
        DamagedError: chunks are bad or missing still.
    """
    run = holder_of_trajectories(reopen(Catalog(root), name))
    with store_slot(root, run.record.name):
        made = repair(run) if is_repaired else []
        found = verify(run, is_quick=is_quick)
    rows = [
        {"chunks": "bad", "count": len(found.bad), "which": str(list(found.bad[:20]))},
        {"chunks": "missing", "count": len(found.missing), "which": str(list(found.missing[:20]))},
        {"chunks": "simulated anew", "count": len(made), "which": str(made[:20])},
    ]
    description = f"{found.chunks} chunks of run {run.record.name}"
    publish(create_table_artifact, table=rows, key=f"{slug(name)}-verification", description=description)
    if found.bad or found.missing:
        raise DamagedError(
            f"run {run.record.name}: {len(found.bad)} of {found.chunks} chunks are bad and {len(found.missing)} are "
            "missing; run the deployment with repair = true"
        )


def _as_line(record: logging.LogRecord) -> bool:
    """Take the traceback from what Prefect's engine says of an error; the account beside the run has it."""
    record.exc_info = record.exc_text = None
    return True
