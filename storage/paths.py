"""Where everything of a run lies; the one place that joins these names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """The places of one run, ``ROOT/<run>/...``; nothing is created here."""

    root: Path
    run: str

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.root / self.run

    @property
    def config(self) -> Path:
        """The resolved configuration, TOML."""
        return self.folder / "config.toml"

    @property
    def record(self) -> Path:
        """The catalog's record of the run."""
        return self.folder / "run.json"

    @property
    def lock(self) -> Path:
        """The file that is locked by the process that works on the run."""
        return self.folder / ".lock"

    @property
    def progress(self) -> Path:
        """What the process that works on the run told last."""
        return self.folder / "progress.json"

    @property
    def data(self) -> Path:
        """The standardised dataset, a Zarr group."""
        return self.folder / "data.zarr"

    @property
    def velocity(self) -> Path:
        """The velocity estimate."""
        return self.folder / "velocity"

    @property
    def trajectories(self) -> Path:
        """The trajectories, a Zarr group."""
        return self.folder / "trajectories.zarr"

    @property
    def generator(self) -> Path:
        """The generator."""
        return self.folder / "generator"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.folder / "report"


def sources_path(root: Path) -> Path:
    """Give the folder that keeps the digests of datasets that were read under a root."""
    return root / ".sources"


def ledger_path(store: Path) -> Path:
    """Give the ledger's folder beside a store: ``trajectories.zarr`` -> ``trajectories.ledger``."""
    return store.with_suffix(".ledger")
