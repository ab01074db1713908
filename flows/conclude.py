"""The end of a study: what its runs hold is measured, and its record says so."""

from dataclasses import replace

from flows.config import dump_config
from flows.members import Member, has_exact_flow
from flows.progress import told
from flows.runs import versions
from flows.stages import STEPS
from flows.studies import Study
from flows.sweep import Point, short_keys
from storage.studies import finish_study
from tasks.orders import PointRequest
from tasks.specs import TrajectoriesSpec
from tasks.study import StudyRequest, measure_study


def conclude(study: Study) -> Study:
    """Measure a study whose runs are done, write its page and its record, and give it as it is then."""
    first = study.points[0].config
    request = StudyRequest(
        study=study.name,
        title=study.record.config,
        created=study.record.created,
        points=[_point(study, *pair) for pair in zip(study.points, study.members, strict=True)],
        shorts=short_keys(list(study.points[0].values)),
        reference=_reference(study),
        configuration=dump_config(first),
        versions=versions(),
        seeds={"seed": first.seed, "evaluation.seed": first.evaluation.seed},
        report=study.page.parent,
    )
    with told("measure") as telling:
        result = measure_study(request, progress=telling)
    return replace(study, record=finish_study(study.catalog.root, study.record, key=study.key, result=result))


def _point(study: Study, point: Point, member: Member) -> PointRequest:
    run, spec = study.run(member), point.config.trajectories
    reference = study.references.get(member.flow)
    is_evaluated = study.until == STEPS[-1]
    return PointRequest(
        run=member.name,
        values=point.values,
        steps=spec.steps,
        solver=spec.solver,
        count=spec.count,
        intrinsic=point.config.dataset.intrinsic if point.config.dataset.kind == "sphere" else None,
        store=run.holder("integrate").trajectories,
        velocity=run.holder("fit_velocity").velocity,
        reference=study.run(reference).holder("integrate").trajectories if reference else None,
        is_exact=has_exact_flow(point.config),
        finer=_finer(spec, reference.config.trajectories) if reference else 0,
        metrics=run.record.metrics if is_evaluated else {},
        metrics_detail=run.record.metrics_detail if is_evaluated else {},
        seconds=round(sum(s.seconds for s in run.record.steps.values() if s.holder == member.name), 3),
    )


def _finer(spec: TrajectoriesSpec, reference: TrajectoriesSpec) -> int:
    """Give how many times a point's steps its reference has; 0 where they differ in more than their steps."""
    is_alike = (spec.solver, spec.grid, spec.rho) == (reference.solver, reference.grid, reference.rho)
    return reference.steps // spec.steps if is_alike and reference.steps % spec.steps == 0 else 0


def _reference(study: Study) -> str:
    """Say what end states are compared with; nothing where they are compared with nothing."""
    exact = ["the exact flow map"] if any(has_exact_flow(point.config) for point in study.points) else []
    specs = [(member.config.trajectories, member.name) for member in study.references.values()]
    return "; ".join([*exact, *(f"heun with {spec.steps} {spec.grid} steps, run {name}" for spec, name in specs)])
