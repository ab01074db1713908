"""One flow at a time on a store, wherever flows run: a slot of a concurrency limit that the Prefect server keeps.

The lock of a run's folder is its host's alone; a nightly growth and a weekly training may be given to two hosts. A slot
is a lease: a killed flow's is free again when it runs out.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from storage.errors import RunBusyError
from storage.paths import Location

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 24 * 3600.0  # for a flow that has the store: a training may take all day
_LEASE_SECONDS = 60.0  # the least that a server grants


def slot_name(root: Location, run: str) -> str:
    """Give the name of the limit for a run's store; a root may have signs that no limit's name may have."""
    return f"charflow-{run}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


@contextmanager
def store_slot(root: Location, run: str) -> Iterator[None]:
    """Have a run's store alone among deployed flows; waits for the one that has it.

    Raises:
        RunBusyError: it did not let go for a day.
    """
    name = slot_name(root, run)
    if not has_slot(name):
        logger.warning("run %s: its store is another flow's, waiting for a slot of the concurrency limit %s", run, name)
    held = concurrency(
        name,
        timeout_seconds=PATIENCE_SECONDS,
        lease_duration=_LEASE_SECONDS,
        strict=True,
        raise_on_lease_renewal_failure=False,  # a server that is away for a while must not end a day's work
    )
    try:
        held.__enter__()
    except TimeoutError:
        raise RunBusyError(
            f"run {run!r} was worked on by another flow for {PATIENCE_SECONDS / 3600:g} hours; see who holds a slot of "
            f"the concurrency limit {name}"
        ) from None
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def has_slot(name: str) -> bool:
    """Tell whether a limit has a slot now; it is made, of one, unless it is there.

    Who has set it to 0, to hold the store back, meant it.
    """
    with get_client(sync_client=True) as client:
        try:
            found = client.read_global_concurrency_limit_by_name(name)
            return found.active_slots < found.limit
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            except ObjectAlreadyExists:
                logger.debug("another flow made the limit %s meanwhile", name)
    return True
