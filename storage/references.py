"""What the records of all runs and studies under a root refer to at one time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from storage.catalog import Catalog, RunRecord
from storage.paths import Location
from storage.studies import find_study


@dataclass(frozen=True, kw_only=True)
class References:
    """The references under a root.

    Attributes:
        records: of the runs, by name.
        stages: (step, key, run that holds it) of all that a run refers to, its own included.
        runs: names of the runs that a run or a study refers to, whether they have a record or not.
    """

    records: Mapping[str, RunRecord]
    stages: frozenset[tuple[str, str, str]]
    runs: frozenset[str]

    def is_used(self, step: str, run: str) -> bool:
        """Tell whether any run refers to what a run holds of a step, under whatever key."""
        return any((found, holder) == (step, run) for found, _, holder in self.stages)

    def other_holder(self, step: str, run: str) -> str:
        """Give the run from which a run takes a step, where that one has it by its own record; else nothing."""
        stage = self.records[run].steps.get(step)
        holder = self.records.get(stage.holder) if stage is not None else None
        if stage is None or holder is None or holder.name == run:
            return ""
        held = holder.steps.get(step)
        return holder.name if held and (held.key, held.holder) == (stage.key, holder.name) else ""


def read_references(catalog: Catalog) -> References:
    """Read every record under a root.

    Raises:
        StorageError: one cannot be read, so nobody knows what it refers to.
    """
    records = {record.name: record for record in catalog.runs()}
    stages = {(step, stage.key, stage.holder) for run in records.values() for step, stage in run.steps.items()}
    runs = {holder for _, _, holder in stages} | {*_of_studies(catalog.root)}
    return References(records=records, stages=frozenset(stages), runs=frozenset(runs))


def _of_studies(root: Location) -> Iterator[str]:
    for path in root.glob("*/study.json"):
        study = find_study(root, path.parent.name)
        if study is not None:
            yield from (str(point["run"]) for point in study.result.get("points", ()) if "run" in point)
