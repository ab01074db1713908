"""What a run asks for, by its configuration, so that nothing it would go on from is taken for garbage."""

from flows.runs import reopen
from flows.stages import STEPS
from storage.catalog import Catalog, RunRecord
from storage.errors import StorageError
from storage.garbage import Wishes


def wishes_of(catalog: Catalog, record: RunRecord) -> Wishes | None:
    """Give what a run asks for; None where its configuration cannot be read, by this charflow at least."""
    try:
        run = reopen(catalog, record.name)
    except (StorageError, ValueError):  # of TOML
        return None
    return Wishes(keys=run.keys, served=frozenset(step for step in STEPS if run.serves(step)))
