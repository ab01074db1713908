"""What Prefect calls when a deployed flow's process is gone: a record that still says running is set right.

A process that is told to stop leaves its record and account in order itself. One that was killed outright, by the
system for its memory or by a worker whose patience ended, cannot; the worker then calls these, in its own process.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from flows.account import account
from flows.deployed import name_of, root_of
from flows.runs import reopen, store_coverage
from storage.catalog import Catalog, RunRecord, is_alive
from storage.errors import StorageError

logger = logging.getLogger(__name__)


def after_crash(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Record that the flow's process ended without a word."""
    _settle(flow_run, "failed", f"the process of flow run {flow_run.name} ended without a word: {state.message}")


def after_cancellation(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Record that the flow was cancelled, if its process could not, or took the end of its workers for a failure."""
    _settle(flow_run, "interrupted", f"flow run {flow_run.name} was cancelled", mistaken=("running", "failed"))


# What all flows of deployments have in common; they check their parameters themselves, and name the run they work on.
OF_A_RUN: Mapping[str, Any] = {
    "flow_run_name": "{name}",
    "validate_parameters": False,
    "persist_result": False,
    "on_crashed": [after_crash],
    "on_cancellation": [after_cancellation],
}


def _settle(flow_run: FlowRun, status: str, words: str, *, mistaken: Sequence[str] = ("running",)) -> None:
    try:
        catalog = Catalog(root_of(flow_run.parameters.get("root", "")))
        record = catalog.get(name_of(flow_run.parameters.get("name")))
        if record.status in mistaken and _was_of(flow_run, record) and not is_alive(record):
            settle_lost(catalog, record, status=status, words=words)
    except StorageError as error:
        logger.warning("the run of flow run %s is left as it is: %s", flow_run.name, error)


def settle_lost(catalog: Catalog, record: RunRecord, *, status: str, words: str) -> None:
    """Record how a run ended whose process is gone, with an account."""
    record = catalog.update(record, status=status, error=words if status == "failed" else "")
    run = reopen(catalog, record.name)
    catalog.write_account(record.name, account(record, left=run.pending, words=words, coverage=store_coverage(run)))


def _was_of(flow_run: FlowRun, record: RunRecord) -> bool:
    """Tell whether the flow's process was the last to work on the run: one that waited for the store never did.

    A worker calls hooks on the host of the flow's process, whose number it tells the server soon after the start.
    """
    number = str(flow_run.infrastructure_pid or "").rpartition(":")[2]
    return record.host == os.uname().nodename and number in ("", str(record.pid))
