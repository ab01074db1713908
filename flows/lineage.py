"""Where a run's results come from: the digest of what each step made, and of what it read."""

from collections.abc import Mapping
from typing import Any

from flows.stages import STEPS
from storage.catalog import Catalog, RunRecord, StageRecord

PRODUCTS: Mapping[str, str] = {  # step -> what it makes that has a digest
    "ingest": "data",
    "fit_velocity": "velocity",
    "integrate": "trajectories",
    "train_generator": "generator",
}


def digests_of(record: RunRecord) -> dict[str, str]:
    """Give the digests of a run's ``source`` files, ``data``, ``velocity``, ``trajectories`` and ``generator``.

    Without what is not made yet, or has no digest, as data that no file holds have no source.
    """
    return _source(record) | _products(record, STEPS)


def inputs_of(step: str, record: RunRecord) -> dict[str, str]:
    """Give the digests of what a step of a run reads: the products of all steps before it, the first one's source."""
    before = STEPS[: STEPS.index(step)]
    return _products(record, before) if before else _source(record)


def lineage_of(catalog: Catalog, record: RunRecord) -> dict[str, dict[str, Any]]:
    """Give for each step that is done where it comes from and what it took; what is not known is None."""
    return {step: _lineage(catalog, step, record.steps[step]) for step in STEPS if step in record.steps}


def total(facts: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """Give the sum of a fact over the steps; None where one does not know it."""
    values = [fact[name] for fact in facts.values()]
    return None if any(value is None for value in values) else sum(values)


def _lineage(catalog: Catalog, step: str, stage: StageRecord) -> dict[str, Any]:
    return {
        "key": stage.key,
        "holder": stage.holder,
        "is_held": catalog.holds(step, stage),
        "digest": stage.summary.get("digest"),
        "inputs": None if stage.inputs is None else dict(stage.inputs),
        "versions": dict(stage.versions) or None,
        "host": stage.host or None,
        "finished": stage.finished,
        "seconds": stage.seconds,
        "cores": stage.cores,
        "core_hours": stage.core_hours,
        "bytes": stage.bytes,
    }


def _source(record: RunRecord) -> dict[str, str]:
    return {"source": record.source_digest} if record.source_digest else {}


def _products(record: RunRecord, steps: tuple[str, ...]) -> dict[str, str]:
    done = {step: record.steps[step].summary for step in steps if step in PRODUCTS and step in record.steps}
    return {PRODUCTS[step]: str(summary["digest"]) for step, summary in done.items() if summary.get("digest")}
