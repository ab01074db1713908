"""Verify the trajectories of a run against its ledger, and simulate anew just what is bad or missing."""

from flows.progress import current_listener
from flows.runs import Run, reopen
from flows.work import integrate_request
from storage.errors import InputError
from tasks.executor import ray_session
from tasks.integrate import Verification, repair_store, verify_store


def holder_of_trajectories(run: Run) -> Run:
    """Give the run whose folder holds the trajectories that this run uses.

    Raises:
        InputError: there are none yet.
    """
    stage = run.record.steps.get("integrate")
    holder = run if stage is None or stage.holder == run.record.name else reopen(run.catalog, stage.holder)
    if not holder.paths.trajectories.exists():
        raise InputError(f"run {run.record.name!r} has no trajectories yet; run it until integrate first")
    return holder


def verify(run: Run) -> Verification:
    """Recompute the digest of every chunk that a run's trajectories need."""
    return verify_store(run.paths.trajectories, rows=run.config.trajectories.count)


def repair(run: Run, found: Verification) -> list[int]:
    """Delete bad chunks, simulate what is missing then, and give the chunks that were made anew."""
    listener = current_listener()
    listener.began("integrate")
    with ray_session(run.config.compute) as executor:
        repair_store(
            integrate_request(run),
            found,
            executor=executor,
            progress=lambda done, total, words: listener.moved("integrate", done, total, words),
        )
    return sorted({*found.bad, *found.missing})
