"""Where everything of a run lies; the one place that joins these names."""

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from storage.errors import DamagedError
from storage.remote import AT_ONCE, RemotePath, at_once, is_address, remote_path

Item = TypeVar("Item")
Result = TypeVar("Result")

Location = Path | RemotePath  # of a file or folder of a run


def root_location(root: str) -> Location:
    """Give the place of a root: a folder, or an address on an object store, which is asked whether it answers.

    Raises:
        InputError: it is an address that no store has, or one that does not answer or refuses.
    """
    if not is_address(root):
        return Path(root)
    place = remote_path(root)
    place.require_reachable()
    return place


def each(
    function: Callable[[Item], Result], items: Iterable[Item], *, place: Location, workers: int = AT_ONCE
) -> Iterator[Result]:
    """Give results in order: one by one where the files are on a disk, from an object store many at once."""
    return at_once(function, items, workers=workers) if isinstance(place, RemotePath) else map(function, items)


def relative(place: Location, *, start: Location) -> str:
    """Give the way from a folder to another place under the same root, such as ``../data.zarr``."""
    if isinstance(place, RemotePath) and isinstance(start, RemotePath):
        return posixpath.relpath(f"/{place.key}", f"/{start.key}")
    return os.path.relpath(str(place), str(start))


def follow(start: Location, way: str) -> Location:
    """Give the place to which a way leads from a folder of a run.

    Raises:
        DamagedError: it leads out of the root.
    """
    if way.startswith("/") or posixpath.normpath(way).startswith("../../.."):
        raise DamagedError(f"{start} names {way!r}, which is not under its root; restore it, or make it anew")
    if isinstance(start, RemotePath):
        return RemotePath(start.bucket, posixpath.normpath(f"/{start.key}/{way}").lstrip("/"))
    return Path(os.path.normpath(start / way))


@dataclass(frozen=True)
class RunPaths:
    """The places of one run, ``ROOT/<run>/...``; nothing is created here."""

    root: Location
    run: str

    @property
    def folder(self) -> Location:
        """The run's own folder."""
        return self.root / self.run

    @property
    def config(self) -> Location:
        """The resolved configuration, TOML."""
        return self.folder / "config.toml"

    @property
    def record(self) -> Location:
        """The catalog's record of the run."""
        return self.folder / "run.json"

    @property
    def study(self) -> Location:
        """The record of a study, whose folder holds no run."""
        return self.folder / "study.json"

    @property
    def lock(self) -> Location:
        """The file that is locked by the process that works on the run."""
        return self.folder / ".lock"

    @property
    def progress(self) -> Location:
        """What the process that works on the run told last."""
        return self.folder / "progress.json"

    @property
    def account(self) -> Location:
        """What went wrong when the run last failed, for people, Markdown."""
        return self.folder / "failure.md"

    @property
    def data(self) -> Location:
        """The standardised dataset, a Zarr group."""
        return self.folder / "data.zarr"

    @property
    def velocity(self) -> Location:
        """The velocity estimate."""
        return self.folder / "velocity"

    @property
    def trajectories(self) -> Location:
        """The trajectories, a Zarr group."""
        return self.folder / "trajectories.zarr"

    @property
    def generator(self) -> Location:
        """The generator."""
        return self.folder / "generator"

    @property
    def report(self) -> Location:
        """The report's folder, a run's or a study's."""
        return self.folder / "report"

    @property
    def stages(self) -> dict[str, tuple[Location, ...]]:
        """What each step makes, by its name; a record before what it vouches for, the order in which they may go."""
        return {
            "ingest": (self.data,),
            "fit_velocity": (self.velocity,),
            "integrate": (ledger_path(self.trajectories), self.trajectories),
            "train_generator": (self.generator,),
            "evaluate": (self.report,),
        }


def sources_path(root: Location) -> Location:
    """Give the folder that keeps the digests of datasets that were read under a root."""
    return root / ".sources"


def ledger_path(store: Location) -> Location:
    """Give the ledger's folder beside a store: ``trajectories.zarr`` -> ``trajectories.ledger``."""
    return store.with_suffix(".ledger")
