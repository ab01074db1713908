"""STEP ingest: a dataset becomes standardised, digested shards in ``data.zarr``."""

import logging
from dataclasses import asdict, dataclass

import numpy as np

from storage.data import Dataset, DataStore, Labels, Values, ingest_dataset
from storage.datasets.resolve import open_dataset
from storage.paths import Location
from storage.specs import SourceSpec
from tasks.facts import Progress
from tasks.specs import SYNTHETIC_KINDS, DatasetSpec, TargetSpec
from tasks.transport.noise import DATA
from tasks.transport.synthetic import draw

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """What was ingested."""

    rows: int
    dim: tuple[int, ...]  # shape of one row
    shards: int
    classes: int  # 0 for unlabelled data
    digest: str


class SyntheticDataset:
    """Rows of a synthetic target, drawn when read; row i depends on (seed, i) alone."""

    has_labels = False
    classes: tuple[str, ...] = ()

    def __init__(self, target: TargetSpec, *, rows: int, seed: int) -> None:
        self.rows = rows
        self._target = target
        self._seed = seed
        self.dim = tuple(self._draw(0, 1).shape[1:])

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop``; there are no labels."""
        return self._draw(start, stop), None

    def where(self, row: int) -> str:
        """Give the row."""
        return f"{self._target.kind}: row {row}"

    def _draw(self, start: int, stop: int) -> Values:
        return draw(self._target, start, stop, seed=self._seed, stream=DATA).numpy().astype(np.float32)


def ingest(spec: DatasetSpec, *, seed: int, path: Location, progress: Progress = lambda *_: None) -> DataSummary:
    """Write the dataset of a run.

    Args:
        spec: which data, how many shards, whether to standardise.
        seed: of a synthetic target's draws.
        path: of the store to be made; a half-made one is replaced.
        progress: told of rows read; each is read twice, to survey it and to write it.

    Raises:
        InputError: the data cannot be read, or a value is not finite, or a label is no class.
    """
    store = ingest_dataset(
        path,
        _open(spec, seed=seed),
        source=asdict(spec),
        shards=spec.shards,
        standardise=spec.standardise,
        progress=lambda done, total: progress(done, total, "rows, each read twice"),
    )
    logger.info("ingested %d rows of shape %s in %d shards", store.rows, store.dim, store.shards.count)
    return summarise_data(store)


def summarise_data(store: DataStore) -> DataSummary:
    """Give the facts of a store that later steps and people ask for."""
    return DataSummary(
        rows=store.rows,
        dim=store.dim,
        shards=store.shards.count,
        classes=len(store.classes),
        digest=store.digest,
    )


def _open(spec: DatasetSpec, *, seed: int) -> Dataset:
    if spec.kind in SYNTHETIC_KINDS:
        return SyntheticDataset(spec.target(), rows=spec.count, seed=seed)
    return open_dataset(
        SourceSpec(kind=spec.kind, path=spec.path, split=spec.split, column=spec.column, label_column=spec.label_column)
    )
