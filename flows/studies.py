"""A study in the making: what was asked for, its record, and which of its runs are left to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from flows.config import config_name
from flows.members import Member, members_of, references_of
from flows.runs import Run, digest_of, open_run
from flows.stages import STEPS
from flows.sweep import Point, parse_sweep, points_of
from storage.catalog import Catalog, require_name
from storage.errors import InputError, UnknownRunError
from storage.fingerprint import fingerprint
from storage.paths import Location
from storage.studies import StudyRecord, claim_study, find_study
from tasks.session import require_reachable
from tasks.specs import ComputeSpec

MEASURED_STEPS = STEPS[STEPS.index("integrate") :]
_LONGEST_NAME = 75  # leaves room for what the names of its runs add
_MEASURE_VERSION = 2  # of what is measured: the result of another version is measured anew


@dataclass(frozen=True, kw_only=True)
class Study:
    """A claimed study."""

    catalog: Catalog
    record: StudyRecord
    until: str
    points: Sequence[Point]
    members: Sequence[Member]  # the points' runs, in their order
    references: Mapping[tuple[object, ...], Member]  # by flow

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    @property
    def compute(self) -> ComputeSpec:
        """Where all its runs are worked on."""
        return self.points[0].config.compute

    @property
    def page(self) -> Location:
        """The page that shows it."""
        return self.catalog.paths(self.name).report / "index.html"

    @property
    def pending(self) -> list[Member]:
        """The runs that are not as far as asked; larger counts first, whose stores serve smaller ones."""
        left = [member for member in (*self.members, *self.references.values()) if not self._is_done(member)]
        return sorted(left, key=lambda member: -member.config.trajectories.count)

    @property
    def is_finished(self) -> bool:
        """Tell whether every run is done and what they hold was measured."""
        return self.record.key == self.key and self.page.is_file() and not self.pending

    @property
    def result(self) -> dict[str, Any]:
        """Give the object that the command prints, of a finished study."""
        rest = {key: value for key, value in self.record.result.items() if key != "study"}
        return {"study": self.name, "path": str(self.catalog.paths(self.name).folder), **rest}

    @cached_property
    def key(self) -> str:
        """Fingerprint of all that the result depends on."""
        members = [*self.members, *self.references.values()]
        facts = [[member.name, member.keys[member.until], member.config.trajectories.count] for member in members]
        return fingerprint({"version": _MEASURE_VERSION, "until": self.until, "members": facts})

    def claim(self, member: Member) -> Run:
        """Claim a member's run and take over what other runs hold by now."""
        return open_run(
            member.config, root=self.catalog.root, name=member.name, source=self.record.config, until=member.until
        )

    def run(self, member: Member) -> Run:
        """Give a member's run as it is.

        Raises:
            UnknownRunError: it was not claimed yet.
        """
        record = self.catalog.get(member.name)
        return Run(member.config, catalog=self.catalog, record=record, until=member.until)

    def _is_done(self, member: Member) -> bool:
        try:
            return not self.run(member).pending
        except UnknownRunError:
            return False


def open_study(
    source: str, *, sweeps: Sequence[str], changes: Sequence[str], root: Location, name: str, until: str
) -> Study:
    """Check everything that is asked for, then claim the study; no run is made yet.

    Args:
        source: a preset or a ``.toml`` file.
        sweeps: each ``a.b=v1,v2,...``.
        changes: each ``a.b=value``, for all points.
        root: where runs lie.
        name: asked for by the user; empty to call it after the configuration.
        until: the last step of each point.

    Raises:
        InputError: something is not allowed, a dataset is missing, the root cannot be written, or the name, or that of
            a point's run, belongs to something else.
        UnreachableClusterError: a Ray address was given and nothing answers there.
    """
    if until not in MEASURED_STEPS:
        raise InputError(f"--until must be one of {', '.join(MEASURED_STEPS)} for a study, got {until!r}")
    parsed = [parse_sweep(text) for text in sweeps]
    points = points_of(source, changes=changes, sweeps=parsed)
    asked = name or points[0].config.name or f"{config_name(source)}-study"
    require_name(asked)
    if len(asked) > _LONGEST_NAME:
        raise InputError(f"the name of a study must have at most {_LONGEST_NAME} characters, got {len(asked)}")
    if points[0].config.compute.address:
        require_reachable(points[0].config.compute.address)
    catalog = Catalog(root)
    digests = [digest_of(point.config, catalog) for point in points]
    identities = [member.identity for member in members_of(asked, points, digests=digests, until=until)]
    identity = fingerprint({"sweeps": [sweep.key for sweep in parsed], "runs": identities})
    objection = ""
    for candidate in [asked] if name else [asked, f"{asked}-{identity[:6]}"]:
        members = members_of(candidate, points, digests=digests, until=until)
        references = references_of(candidate, points, members)
        objection = _objection(catalog, candidate, identity, [*members, *references.values()])
        if not objection:
            record = StudyRecord(name=candidate, identity=identity, config=config_name(source), created=_now())
            return Study(
                catalog=catalog,
                record=claim_study(catalog.root, record),
                until=until,
                points=points,
                members=members,
                references=references,
            )
    raise InputError(objection)


def _objection(catalog: Catalog, name: str, identity: str, members: Sequence[Member]) -> str:
    """Say to what else a name belongs, or that of one of its runs; nothing where it is free or ours."""
    found = find_study(catalog.root, name)
    if found is not None and found.identity != identity:
        return f"study {name!r} has other sweeps or another configuration: choose another name"
    if catalog.paths(name).record.is_file():
        return f"name {name!r} is a run's: choose another name"
    for member in members:
        paths = catalog.paths(member.name)
        if paths.study.is_file() or (paths.record.is_file() and catalog.get(member.name).identity != member.identity):
            return f"run {member.name!r} of this study is there already and is of something else: choose another name"
    return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
