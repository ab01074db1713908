"""Verify the trajectories of a run against its ledger, and simulate anew just what is bad or missing."""

from contextlib import ExitStack

from flows.progress import told
from flows.runs import Run, reopen
from flows.work import integrate_request
from storage.errors import InputError
from tasks.executor import Executor, SerialExecutor, ray_session
from tasks.facts import Progress
from tasks.integrate import Verification, check_store, repair_store, verify_store


def _untold(*_: object) -> None:
    """Tell nobody: nothing is done."""


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


def verify(run: Run, *, is_quick: bool = False) -> Verification:
    """Recompute the digest of every chunk that a run's trajectories need; or look at records and sizes only."""
    return verify_store(run.paths.trajectories, rows=run.config.trajectories.count, is_quick=is_quick)


def repair(run: Run) -> list[int]:
    """Delete bad chunks, simulate what is missing then, seal anew, and give the chunks that were made.

    Raises:
        InputError: the run has no velocity to simulate with.
        RunBusyError: another process works on the run.
    """
    if "fit_velocity" not in run.record.steps:
        raise InputError(f"run {run.record.name!r} has no velocity to repair with; run it until integrate first")
    request = integrate_request(run)
    with ExitStack() as stack:
        stack.enter_context(run.catalog.held(run.record.name))
        found = check_store(request)
        bad = sorted({*found.bad, *found.missing})
        executor: Executor = SerialExecutor()
        progress: Progress = _untold
        if bad:
            progress = stack.enter_context(told("integrate", run=run.record.name))
            session = stack.enter_context(ray_session(run.config.compute))
            executor = session.given(run.config.compute.demand("integrate"))
        repair_store(request, found, executor=executor, progress=progress)
    return bad
