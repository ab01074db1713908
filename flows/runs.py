"""A run in the making: its configuration, its keys, its record, and which steps it can take over from where."""

import importlib.metadata
import logging
import os
import platform
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flows.account import account
from flows.config import PipelineConfig, as_tree, build_config, dump_config, flatten
from flows.lineage import inputs_of
from flows.overlap import Simulation
from flows.progress import about
from flows.stages import STEPS, run_identity, stage_keys
from storage.catalog import Catalog, RunRecord, StageRecord, is_alive, require_tag, stage_record
from storage.errors import IncompleteError, InputError, RunConflictError, StorageError, UnknownRunError
from storage.paths import Location, RunPaths, root_location, sources_path
from storage.progress import Coverage, coverage, forget_news
from storage.sizes import stored_bytes
from storage.sources import source_digest
from storage.specs import SourceSpec
from tasks.capacity import Node, lost
from tasks.executor import Executor
from tasks.session import tell_lost
from tasks.specs import PATH_KINDS

logger = logging.getLogger(__name__)

_PACKAGES = ("charflow", "torch", "ray", "prefect", "zarr", "numpy", "pot")


class Run:
    """One run while it is worked on; ``record`` follows what the catalog holds.

    Not a dataclass, because Prefect looks into those when it takes one as a parameter.
    """

    def __init__(self, config: PipelineConfig, *, catalog: Catalog, record: RunRecord, until: str) -> None:
        self.config = config
        self.catalog = catalog
        self.record = record
        self.until = until
        self.keys = stage_keys(config, source=record.source_digest)
        self.timings: dict[str, float] = {}  # seconds of orchestration, by what took them
        self.made: dict[str, float] = {}  # seconds of each step that this process worked on
        self.simulation: Simulation | None = None  # of this run, where its generator is trained beside it
        self._gone: set[str] | None = None  # nodes of the cluster, before this was worked on and since
        self._lock = threading.Lock()  # two steps may end at once

    @property
    def paths(self) -> RunPaths:
        """The run's own places."""
        return self.catalog.paths(self.record.name)

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that were asked for, in order."""
        return STEPS[: STEPS.index(self.until) + 1]

    @property
    def pending(self) -> tuple[str, ...]:
        """The steps that nothing serves yet."""
        return tuple(step for step in self.steps if not self.serves(step))

    @property
    def needs_cluster(self) -> bool:
        """Tell whether a pending step runs on Ray."""
        velocity = self.config.velocity
        is_searched = velocity.kind == "kernel" and velocity.bandwidth == "loo"
        on_ray = {"integrate", "train_generator"} | (
            {"fit_velocity"} if velocity.kind == "network" or is_searched else set()
        )
        return bool(on_ray & set(self.pending))

    def holder(self, step: str) -> RunPaths:
        """Give the places of the run that holds a finished step."""
        return self.catalog.paths(self.record.steps[step].holder)

    def serves(self, step: str) -> bool:
        """Tell whether the record has the step under the present key, and over as many trajectories."""
        stage = self.record.steps.get(step)
        return stage is not None and self._fits(step, stage)

    def adopt(self) -> None:
        """Take over, by reference, every asked-for step that some run under this root holds."""
        for step in self.pending:
            found = next((s for s in self.catalog.holders(step, self.keys[step]) if self._fits(step, s)), None)
            if found is not None:
                self._refer(step, found)

    def finish(self, step: str, *, seconds: float, summary: Mapping[str, Any], cores: int | None = None) -> None:
        """Record a step that was worked on here; ``cores`` are those that it had, None where nobody counted."""
        stage = replace(
            stage_record(key=self.keys[step], holder=self.record.name, seconds=seconds, summary=summary),
            inputs=inputs_of(step, self.record),
            host=os.uname().nodename,
            cores=cores,
            bytes=stored_bytes(*self.paths.stages[step]),
            versions=versions(),
        )
        with self._lock:
            self.record = self.catalog.finish_stage(self.record, step, stage)
        self.made[step] = seconds

    def fallen(self, executor: Executor) -> list[Node]:
        """Give the nodes that the cluster is found to have lost since it was last asked, and log them.

        It may take a cluster seconds to notice: a node that a step lost can be found in the next one.
        """
        nodes = executor.nodes
        with self._lock:
            found = [] if self._gone is None else lost(nodes, but=self._gone)
            self._gone = (self._gone or set()) | {node.id for node in nodes if not node.is_alive}
        for node in found:
            tell_lost(node)
        return found

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the seconds spent inside as orchestration."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.timings[what] = self.timings.get(what, 0.0) + time.monotonic() - began

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        """Work on the run alone, and keep its status true, whatever ends it.

        Raises:
            RunBusyError: another process works on it.
        """
        with about(run=self.record.name), self.catalog.held(self.record.name):
            yield from self._recorded()

    def _refer(self, step: str, stage: StageRecord) -> None:
        """Refer to what another run holds, unless it no longer does: then what it held may have been cleared away.

        Whoever clears away reads all references after the holder let go (storage/garbage.py), and this looks at the
        holder after the reference is written, so one of the two sees the other.
        """
        former = self.record
        self.record = self.catalog.finish_stage(former, step, stage)
        if not self.catalog.holds(step, stage):
            self.record = self.catalog.update(self.record, steps=former.steps)

    def _recorded(self) -> Iterator[None]:
        self.record = self.catalog.update(
            self.catalog.get(self.record.name),  # as the process before this one left it
            status="running",
            error="",
            host=os.uname().nodename,
            pid=os.getpid(),
            versions=versions(),
        )
        forget_news(self.paths.progress)  # of the process before this one
        self.catalog.forget_account(self.record.name)
        try:
            yield
        except Exception as error:
            self._leave("failed", error)
            raise
        except BaseException as error:
            self._leave("interrupted", error)
            raise
        self.settle()

    def _leave(self, status: str, error: BaseException) -> None:
        """Record an end that is none, with an account for whoever finds it."""
        words, cause = (f"{type(error).__name__}: {error}", error) if status == "failed" else ("asked to stop", None)
        self.record = self.catalog.update(self.record, status=status, error=words if cause else "")
        text = account(self.record, left=self.pending, words=words, coverage=store_coverage(self), error=cause)
        self.catalog.write_account(self.record.name, text)

    def settle_alone(self) -> None:
        """Record the status of a run that has all that was asked for.

        Raises:
            RunBusyError: another process works on it.
        """
        with self.catalog.held(self.record.name):
            self.record = self.catalog.get(self.record.name)
            self.settle()

    def settle(self) -> None:
        """Record the end of the work, and what the last step measured."""
        changes: dict[str, Any] = {"status": "finished" if self.until == STEPS[-1] else "partial"}
        if self.made:
            changes["timings"] = {**self.record.timings, **self.timings}
        if self.serves("evaluate"):
            summary = self.record.steps["evaluate"].summary
            changes |= {"metrics": summary["metrics"], "metrics_detail": summary["metrics_detail"]}
        self.record = self.catalog.update(self.record, **changes)
        forget_news(self.paths.progress)

    def _fits(self, step: str, stage: StageRecord) -> bool:
        if stage.key != self.keys[step] or not self.catalog.paths(stage.holder).record.exists():
            return False
        return step != "integrate" or stage.summary["count"] >= self.config.trajectories.count


def store_coverage(run: Run) -> Coverage | None:
    """Tell how much of a run's own store is committed; None where there is none, or none that can be asked."""
    try:
        return coverage(run.paths.trajectories, rows=run.config.trajectories.count)
    except (OSError, StorageError) as error:
        logger.debug("no coverage: %s", error)
        return None


def open_run(
    config: PipelineConfig, *, root: Location, name: str, source: str, until: str, tags: Sequence[str] = ()
) -> Run:
    """Claim the run of a configuration and take over what is there already.

    Args:
        config: the configuration.
        root: where runs lie.
        name: asked for by the user; empty to call it after the configuration.
        source: the preset or file that the configuration was made from.
        until: the last step wanted.
        tags: that the run gets beside those that it has.

    Raises:
        InputError: the step is unknown, a tag is none, the dataset is missing, the root cannot be written, or the name
            belongs to another configuration or to the same one over other data.
        RunBusyError: another process works on the run.
    """
    if until not in STEPS:
        raise InputError(f"--until must be one of {', '.join(STEPS)}, got {until!r}")
    for tag in tags:
        require_tag(tag)
    catalog = Catalog(root)
    digest = digest_of(config, catalog)
    asked = name or config.name or source
    _renew(catalog, asked, config, digest)
    try:
        record = catalog.claim(
            asked,
            identity=run_identity(config, source=digest),
            config=source,
            is_explicit=bool(name),
            source_digest=digest,
        )
    except RunConflictError as error:
        raise _conflict(catalog, asked, config, error) from None
    if not name and "ingest" not in record.steps:
        _warn_of_change(catalog, record, config)
    with catalog.held(record.name):
        record = catalog.tag(catalog.get(record.name), tags)  # as it is now that no other process writes it
        run = Run(config, catalog=catalog, record=record, until=until)
        catalog.write_config(record.name, dump_config(config))
        run.adopt()
    return run


def chosen_root(asked: str) -> Location:
    """Give where runs lie: where ``--root`` says, else the environment, else here."""
    return root_location(asked or os.environ.get("CHARFLOW_ROOT") or "runs")


def reopen(catalog: Catalog, name: str) -> Run:
    """Give a run that exists, with the configuration that it was made from.

    Raises:
        UnknownRunError: there is none of that name.
        IncompleteError: its configuration was not written yet.
    """
    record = catalog.get(name)
    path = catalog.paths(name).config
    try:
        config = build_config(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise IncompleteError(f"{path} is missing; charflow run ... --name {name} writes it") from None
    return Run(config, catalog=catalog, record=record, until=STEPS[-1])


def digest_of(config: PipelineConfig, catalog: Catalog) -> str:
    """Give the digest of the dataset's files, empty for data that no file holds."""
    spec = config.dataset
    if spec.kind not in PATH_KINDS:
        return ""
    source = SourceSpec(kind=spec.kind, path=spec.path, split=spec.split)
    return source_digest(source, cache=sources_path(catalog.root))


def _warn_of_change(catalog: Catalog, record: RunRecord, config: PipelineConfig) -> None:
    """Tell when other runs of this configuration ingested other data under the same path."""
    digest = record.source_digest
    former = next((r for r in catalog.runs() if "ingest" in r.steps and _has_other_data(r, config, digest)), None)
    if former is not None:
        logger.warning(
            "dataset.path %r has changed since run %s ingested it; run %s takes it as it is now",
            config.dataset.path,
            former.name,
            record.name,
        )


def _renew(catalog: Catalog, name: str, config: PipelineConfig, digest: str) -> None:
    """Let a run that failed before it ingested anything take the data as it is now, mended perhaps."""
    try:
        record = catalog.get(name)
    except UnknownRunError:
        return
    if _may_take_other_data(record, config, digest):
        with catalog.held(name):
            record = catalog.get(name)  # as it is now that no other process writes it
            if _may_take_other_data(record, config, digest):
                catalog.update(record, identity=run_identity(config, source=digest), source_digest=digest)


def _may_take_other_data(record: RunRecord, config: PipelineConfig, digest: str) -> bool:
    return not record.steps and not is_alive(record) and _has_other_data(record, config, digest)


def _has_other_data(record: RunRecord, config: PipelineConfig, digest: str) -> bool:
    """Tell whether a run has this very configuration, but the files of its dataset had another digest."""
    return record.source_digest not in ("", digest) and (
        run_identity(config, source=record.source_digest) == record.identity
    )


def versions() -> dict[str, str]:
    """Give the versions that a result depends on."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **found}


def _conflict(catalog: Catalog, name: str, config: PipelineConfig, error: RunConflictError) -> RunConflictError:
    """Say in what the run that has the name differs from what was asked for: in its data or its configuration."""
    if _has_other_data(catalog.get(name), config, ""):
        return RunConflictError(
            f"dataset.path {config.dataset.path!r} has changed since run {name!r} was made of it; "
            "choose another name, or none"
        )
    return RunConflictError(f"{error}; it differs in {_differing(catalog, name, config)}: choose another name")


def _differing(catalog: Catalog, name: str, config: PipelineConfig) -> str:
    found = flatten(tomllib.loads(catalog.paths(name).config.read_text()))
    asked = flatten(as_tree(config))
    keys = [
        key
        for key in sorted(found.keys() | asked.keys())
        if _comparable(found.get(key)) != _comparable(asked.get(key)) and not key.startswith(("name", "compute."))
    ]
    return ", ".join(f"{key} (there {found.get(key)!r}, now {asked.get(key)!r})" for key in keys[:4])


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
