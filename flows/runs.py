"""A run in the making: its configuration, its keys, its record, and which steps it can take over from where."""

import importlib.metadata
import os
import platform
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.config import PipelineConfig, as_tree, build_config, dump_config, flatten
from flows.stages import STEPS, run_identity, stage_keys
from storage.catalog import Catalog, RunRecord, StageRecord, stage_record
from storage.errors import InputError, RunConflictError
from storage.paths import RunPaths
from tasks.specs import PATH_KINDS

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
        self.keys = stage_keys(config)
        self.timings: dict[str, float] = {}  # seconds of orchestration, by what took them
        self.made: dict[str, float] = {}  # seconds of each step that this process worked on

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
        is_trained = self.config.velocity.kind == "network"
        return bool({"integrate", "train_generator", *(["fit_velocity"] if is_trained else [])} & set(self.pending))

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
                self.record = self.catalog.finish_stage(self.record, step, found)

    def finish(self, step: str, *, seconds: float, summary: Mapping[str, Any]) -> None:
        """Record a step that was worked on here."""
        stage = stage_record(key=self.keys[step], holder=self.record.name, seconds=seconds, summary=summary)
        self.record = self.catalog.finish_stage(self.record, step, stage)
        self.made[step] = seconds

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
        """Keep the run's status true while it is worked on, whatever ends it."""
        self.record = self.catalog.update(
            self.record,
            status="running",
            error="",
            host=os.uname().nodename,
            pid=os.getpid(),
            versions=versions(),
        )
        try:
            yield
        except Exception as error:
            self.record = self.catalog.update(self.record, status="failed", error=f"{type(error).__name__}: {error}")
            raise
        except BaseException:
            self.record = self.catalog.update(self.record, status="interrupted")
            raise
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

    def _fits(self, step: str, stage: StageRecord) -> bool:
        if stage.key != self.keys[step] or not self.catalog.paths(stage.holder).record.exists():
            return False
        return step != "integrate" or stage.summary["count"] >= self.config.trajectories.count


def open_run(config: PipelineConfig, *, root: Path, name: str, source: str, until: str) -> Run:
    """Claim the run of a configuration and take over what is there already.

    Args:
        config: the configuration.
        root: where runs lie.
        name: asked for by the user; empty to call it after the configuration.
        source: the preset or file that the configuration was made from.
        until: the last step wanted.

    Raises:
        InputError: the step is unknown, the root cannot be written, or the name belongs to another configuration.
    """
    if until not in STEPS:
        raise InputError(f"--until must be one of {', '.join(STEPS)}, got {until!r}")
    if config.dataset.kind in PATH_KINDS and not Path(config.dataset.path).exists():
        raise InputError(f"dataset.path {config.dataset.path!r} is missing; it must name a file that can be read")
    catalog = Catalog(root)
    try:
        record = catalog.claim(
            name or config.name or source, identity=run_identity(config), config=source, is_explicit=bool(name)
        )
    except RunConflictError as error:
        raise RunConflictError(
            f"{error}; it differs in {_differing(catalog, name, config)}: choose another name"
        ) from None
    catalog.write_config(record.name, dump_config(config))
    run = Run(config, catalog=catalog, record=record, until=until)
    run.adopt()
    return run


def reopen(catalog: Catalog, name: str) -> Run:
    """Give a run that exists, with the configuration that it was made from.

    Raises:
        UnknownRunError: there is none of that name.
    """
    record = catalog.get(name)
    config = build_config(tomllib.loads(catalog.paths(name).config.read_text()))
    return Run(config, catalog=catalog, record=record, until=STEPS[-1])


def versions() -> dict[str, str]:
    """Give the versions that a result depends on."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **found}


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
