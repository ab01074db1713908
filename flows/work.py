"""What each step is asked for, made from a run's configuration, and what is recorded when it is done."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from flows.config import dump_config
from flows.progress import ProgressFile, Telling, told
from flows.runs import Run, versions
from storage.catalog import StageRecord
from tasks.executor import Executor
from tasks.facts import Facts, Progress, ReportFacts, TrainingPlace
from tasks.fit_velocity import VelocityRequest, fit_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate, open_planned, require_planned
from tasks.session import own_cpus
from tasks.specs import worker_range
from tasks.train_generator import GeneratorRequest, train_generator

Work = Callable[[Run, Executor, Progress], Any]


def perform(step: str, run: Run, executor: Executor, *, progress: Progress) -> Any:
    """Do one step, record it, tell whoever listens, and give the step's summary."""
    with told(step, run=run.record.name) as telling:
        return _perform(step, run, executor, progress=progress, telling=telling)


def _perform(step: str, run: Run, executor: Executor, *, progress: Progress, telling: Telling) -> Any:
    # of two steps at once the training has the file: of chunks the ledger tells, too
    is_beside = run.simulation is not None and step == "integrate"
    hearing = [telling, progress, *([] if is_beside else [ProgressFile(run.paths.progress, step)])]
    began = time.monotonic()
    fallen = run.fallen(executor)  # in the step before, or between the two

    def tell(done: int, total: int, words: str, facts: Facts | None = None, /) -> None:
        for hear in hearing:
            hear(done, total, words, facts)

    summary = WORK[step](run, executor, tell)
    if run.simulation is not None and step == "train_generator":
        run.simulation.require_done()
        began = max(began, run.simulation.ended)  # so that seconds of both at once are counted once
    seconds = telling.seconds = time.monotonic() - began
    facts = asdict(summary)
    if fallen := fallen + run.fallen(executor):
        facts["nodes_lost"] = [str(node) for node in fallen]
    if facts.get("startup_seconds") and run.simulation is None:
        run.timings[f"{step} workers"] = facts["startup_seconds"]
    run.finish(step, seconds=seconds, summary=facts, cores=cores_of(step, run, executor))
    return summary


def cores_of(step: str, run: Run, executor: Executor) -> int | None:
    """Give how many cores a step has: a training one a worker, a simulation all of the cluster that are not taken.

    None for a training whose workers come and go.
    """
    velocity = run.config.velocity
    if step == "train_generator" or (step == "fit_velocity" and velocity.kind == "network"):
        least, most = worker_range((run.config.generator if step == "train_generator" else velocity).workers)
        return math.ceil(least * run.config.compute.demand(step).asked.cpus) if least == most else None
    is_searched = velocity.kind == "kernel" and velocity.bandwidth == "loo"
    is_spread = step == "integrate" or (step == "fit_velocity" and is_searched)
    return executor.cpus if is_spread else own_cpus()


def _ingest(run: Run, _: Executor, progress: Progress) -> Any:
    return ingest(run.config.dataset, seed=run.config.seed, path=run.paths.data, progress=progress)


def _require_measurable(run: Run) -> None:
    """Refuse what could not be measured after a training, before it."""
    if "evaluate" in run.pending:
        from tasks.evaluate import require_measurable  # takes seconds to import, which it would later

        require_measurable(run.config.evaluation, run.config.dataset, run.holder("ingest").data)


def _fit_velocity(run: Run, executor: Executor, progress: Progress) -> Any:
    _require_measurable(run)
    request = VelocityRequest(
        velocity=run.config.velocity,
        interpolant=run.config.interpolant,
        dataset=run.config.dataset,
        stop=run.config.trajectories.stop,
        seed=run.config.seed,
        data=run.holder("ingest").data,
        place=TrainingPlace(folder=run.paths.velocity, key=run.keys["fit_velocity"]),
        device=run.config.compute.device,
        demand=run.config.compute.demand("fit_velocity"),
        generator=run.config.generator if "train_generator" in run.pending else None,
    )
    return fit_velocity(request, executor=executor, progress=progress)


def integrate_request(run: Run) -> IntegrateRequest:
    """Give the request whose store is this run's own."""
    return IntegrateRequest(
        trajectories=run.config.trajectories,
        interpolant=run.config.interpolant,
        seed=run.config.seed,
        dim=tuple(run.record.steps["ingest"].summary["dim"]),
        data=run.holder("ingest").data,
        velocity=run.holder("fit_velocity").velocity,
        store=run.paths.trajectories,
        device=run.config.compute.device,
        asks_for_gpu=run.config.compute.demand("integrate").asks_for_gpu,
        is_spread=run.config.compute.spread,
    )


def _integrate(run: Run, executor: Executor, progress: Progress) -> Any:
    return integrate(integrate_request(run), executor=executor, progress=progress)


def generator_place(run: Run) -> TrainingPlace:
    """Give where the run's own generator is trained."""
    return TrainingPlace(folder=run.paths.generator, key=run.keys["train_generator"])


def _train_generator(run: Run, _: Executor, progress: Progress) -> Any:
    _require_measurable(run)
    trajectories = integrate_request(run)
    if run.simulation is not None:
        open_planned(trajectories)  # perhaps before the simulation does
    else:
        trajectories = replace(trajectories, store=run.holder("integrate").trajectories)
        require_planned(trajectories)
    request = GeneratorRequest(
        generator=run.config.generator,
        count=run.config.trajectories.count,
        seed=run.config.seed,
        data=run.holder("ingest").data,
        velocity=run.holder("fit_velocity").velocity,
        store=trajectories.store,
        place=generator_place(run),
        device=run.config.compute.device,
        demand=run.config.compute.demand("train_generator"),
    )
    return train_generator(request, progress=progress)


def _evaluate(run: Run, _: Executor, progress: Progress) -> Any:
    from tasks.evaluate import EvaluateRequest, evaluate  # its libraries take seconds to import, and only here are used

    velocity, generator = run.holder("fit_velocity").velocity, run.holder("train_generator").generator
    request = EvaluateRequest(
        evaluation=run.config.evaluation,
        dataset=run.config.dataset,
        data=run.holder("ingest").data,
        velocity=TrainingPlace(folder=velocity, key=run.keys["fit_velocity"]),
        generator=TrainingPlace(folder=generator, key=run.keys["train_generator"]),
        store=run.holder("integrate").trajectories,
        count=run.config.trajectories.count,
        report=run.paths.report,
        facts=_facts(run),
        device=_drivers_device(run),
    )
    return evaluate(request, progress=progress)


def _drivers_device(run: Run) -> str:
    """Give what the driver measures on: of a cluster's it is not asked to have the GPU that the cluster must have."""
    compute = run.config.compute
    return "auto" if compute.address and compute.device == "cuda" else compute.device


WORK: Mapping[str, Work] = {
    "ingest": _ingest,
    "fit_velocity": _fit_velocity,
    "integrate": _integrate,
    "train_generator": _train_generator,
    "evaluate": _evaluate,
}


def _facts(run: Run) -> ReportFacts:
    """Gather what the report prints and only the flow knows."""
    done = {step: run.record.steps[step] for step in run.steps if step in run.record.steps}
    batches = {step: stage.summary["batch_size"] for step, stage in done.items() if stage.summary.get("batch_size")}
    return ReportFacts(
        run=run.record.name,
        title=run.record.config,
        created=run.record.created,
        configuration=dump_config(run.config),
        versions=versions(),
        seeds={"seed": run.config.seed, "evaluation.seed": run.config.evaluation.seed},
        batches=batches,
        seconds={step: stage.seconds for step, stage in done.items()},
        is_reused={step: step not in run.made for step in done},
        orchestration=dict(run.timings),
        lineage={step: (stage.key, stage.holder) for step, stage in done.items()},
        simulated=_simulated(done),
    )


def _simulated(done: Mapping[str, StageRecord]) -> int:
    """Give how many trajectories the seconds of integrate are of: those whose chunks were not there before."""
    found = done["integrate"].summary if "integrate" in done else {}
    return round(found["count"] * found["simulated"] / found["chunks"]) if found.get("chunks") else 0
