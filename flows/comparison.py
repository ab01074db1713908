"""Two runs beside each other: what was asked differently, from where on they part, and what came of it."""

from collections.abc import Mapping
from typing import Any

from flows.config import as_tree, flatten
from flows.lineage import digests_of
from flows.runs import Run
from flows.stages import STEPS
from storage.catalog import RunRecord

Pair = dict[str, Any]  # "a" and "b": the values of the two; None where one has none


def compare(a: Run, b: Run) -> dict[str, Any]:
    """Give the object that ``charflow diff --json`` prints.

    Stages are shared as far as their keys are the same, whichever run holds them; of trajectories as many as both ask
    for.
    """
    shared = [step for step in STEPS if a.keys[step] == b.keys[step]]
    return {
        "a": a.record.name,
        "b": b.record.name,
        "configuration": _differing(flatten(_plain(as_tree(a.config))), flatten(_plain(as_tree(b.config)))),
        "shared": shared,
        "first_difference": next((step for step in STEPS if step not in shared), None),
        "digests": _differing(digests_of(a.record), digests_of(b.record)),
        "versions": _differing_versions(a.record, b.record),
        "metrics": {
            name: {"a": _metric(a.record, name), "b": _metric(b.record, name)}
            for name in {**a.record.metrics, **b.record.metrics}
        },
    }


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    keys = [*a, *(key for key in b if key not in a)]
    return {key: {"a": a.get(key), "b": b.get(key)} for key in keys if a.get(key) != b.get(key)}


def _plain(value: Any) -> Any:
    """Give a tree with lists for tuples, so that a value is the same however it was given."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _differing_versions(a: RunRecord, b: RunRecord) -> dict[str, Pair]:
    """Give the packages that differ: ``torch``, or ``evaluate.torch`` where other steps were done with the same.

    Steps that did not record theirs count with what the run was worked on last.
    """
    steps = [step for step in STEPS if step in a.steps and step in b.steps]
    of_steps = {step: _differing(_versions(a, step), _versions(b, step)) for step in steps}
    if not steps:
        return _differing(a.versions, b.versions)
    found: dict[str, Pair] = {}
    for package in sorted({package for pairs in of_steps.values() for package in pairs}):
        pairs = [of_steps[step].get(package) for step in steps]
        if all(pair == pairs[0] for pair in pairs):
            found[package] = of_steps[steps[0]][package]
        else:
            found |= {f"{step}.{package}": of_steps[step][package] for step in steps if package in of_steps[step]}
    return found


def _versions(record: RunRecord, step: str) -> Mapping[str, str]:
    return record.steps[step].versions or record.versions


def _metric(record: RunRecord, name: str) -> dict[str, float | None] | None:
    if name not in record.metrics:
        return None
    error = record.metrics_detail.get(name, {}).get("standard_error")
    return {"value": record.metrics[name], "standard_error": error}
