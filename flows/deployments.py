"""The deployments of a ``prefect.yaml``, read strictly.

Prefect ignores keys that it does not know, takes any parameters, and finds out about an entrypoint when it runs. Here
every key is known, every schedule builds, every entrypoint imports, and a deployment's parameters pass the checks that
its flow will make of them. What is allowed is a part of what Prefect allows, with Prefect's meaning.
"""

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.exceptions import MissingFlowError, ScriptError
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.templating import apply_values
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows import operations
from flows.deployed import config_of, day_of, days, growth, name_of, require_absolute_root
from storage.errors import InputError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class ScheduleEntry(_Strict):
    """When a deployment runs: exactly one of ``cron``, ``interval`` (seconds) and ``rrule``."""

    cron: str | None = None
    interval: timedelta | None = Field(default=None, gt=timedelta())
    rrule: str | None = None
    anchor_date: datetime | None = None  # from which an interval counts
    timezone: str = "UTC"
    active: bool = True
    slug: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class LimitEntry(_Strict):
    """How many runs of a deployment may be at work, and what becomes of more."""

    limit: int = Field(ge=1)
    collision_strategy: ConcurrencyLimitStrategy = ConcurrencyLimitStrategy.ENQUEUE


class PoolEntry(_Strict):
    """Who runs it."""

    name: str = Field(min_length=1)
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = Field(default_factory=dict)


class DeploymentEntry(_Strict):
    """One deployment, as the file has it."""

    name: str = Field(min_length=1)
    entrypoint: str
    description: str = ""
    version: str | None = None
    tags: list[str] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)
    schedules: list[ScheduleEntry] = Field(default_factory=list)
    concurrency_limit: int | LimitEntry | None = None
    paused: bool = False
    work_pool: PoolEntry


class DeploymentsFile(_Strict):
    """A ``prefect.yaml``; ``definitions`` is for anchors."""

    name: str
    prefect_version: str | None = Field(default=None, alias="prefect-version")
    definitions: dict[str, Any] = Field(default_factory=dict)
    pull: list[dict[str, Any]] | None = None
    deployments: list[DeploymentEntry] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployment that is known to be right."""

    entry: DeploymentEntry
    flow: Flow[..., Any]
    schedules: list[DeploymentScheduleCreate]

    @property
    def store(self) -> tuple[str, str]:
        """Root and run's name; an empty root is the worker's ``CHARFLOW_ROOT``."""
        return store_of(self.entry.parameters)

    @property
    def scheduled_stores(self) -> set[tuple[str, str]]:
        """Those that it works on by itself; a schedule may have parameters of its own."""
        active = [schedule for schedule in self.entry.schedules if schedule.active and not self.entry.paused]
        return {store_of({**self.entry.parameters, **schedule.parameters}) for schedule in active}

    @property
    def limit(self) -> LimitEntry | None:
        """How many of its runs may be at work."""
        found = self.entry.concurrency_limit
        return LimitEntry(limit=found) if isinstance(found, int) else found

    @property
    def when(self) -> str:
        """When it runs by itself, in words."""
        if not self.is_scheduled:
            return "by hand"
        return ", ".join(_words(entry) for entry in self.entry.schedules if entry.active)

    @property
    def is_scheduled(self) -> bool:
        """Tell whether it runs by itself."""
        return any(schedule.active for schedule in self.schedules) and not self.entry.paused


def store_of(parameters: Mapping[str, Any]) -> tuple[str, str]:
    """Give the root and the run's name that a flow's parameters name; an empty root is the worker's."""
    return str(parameters.get("root") or "").rstrip("/"), str(parameters.get("name", ""))


def read_deployments(path: Path) -> list[Deployment]:
    """Read a file and check all of it; ``{{ $NAME }}`` is taken from the environment.

    Raises:
        InputError: something in it is not right; said in one line that names the place.
    """
    found = _parsed(path)
    deployments = [_checked(entry, place=f"{path}: deployment {entry.name}") for entry in found.deployments]
    for name, count in Counter(d.entry.name for d in deployments).items():
        if count > 1:
            raise InputError(f"{path}: deployment {name} is there {count} times; names must differ")
    require_one_schedule_a_store(scheduled(deployments))
    return deployments


def scheduled(deployments: Iterable[Deployment]) -> list[tuple[str, str, tuple[str, str]]]:
    """Give flow, deployment and store of each that runs by itself."""
    return [(d.flow.name, d.entry.name, store) for d in deployments for store in sorted(d.scheduled_stores)]


def require_one_schedule_a_store(scheduled: list[tuple[str, str, tuple[str, str]]]) -> None:
    """Raise where two schedules do the same to one store: two growths would pull it to and fro.

    A growth and a training of one store go together, one at a time.

    Args:
        scheduled: flow, deployment and store of each deployment that has a schedule.

    Raises:
        InputError: two are one too many.
    """
    known: dict[tuple[str, tuple[str, str]], str] = {}
    for flow, deployment, store in scheduled:
        other = known.setdefault((flow, store), deployment)
        if other != deployment:
            raise InputError(
                f"deployments {other} and {deployment} both schedule {flow} on run {store[1]!r} under "
                f"{store[0] or 'CHARFLOW_ROOT'}; one schedule a store, so unschedule one or give it another run"
            )


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that is given twice, of which YAML would silently take the last, and leaves days as they are."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - it is the base's
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = [key for key, count in Counter(map(str, keys)).items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is given twice", node.start_mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


def _parsed(path: Path) -> DeploymentsFile:
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise InputError(f"--file must be a prefect.yaml that can be read, got {str(path)!r}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold name and deployments, got {tree!r}")
    tree = apply_values(tree, {}, remove_notset=False)  # {{ $NAME }} from the environment
    unset = next(_placeholders(tree, ""), None)
    if unset:
        raise InputError(f"{path}: {unset[0]} needs an environment variable that is not set: {unset[1]}")
    try:
        return DeploymentsFile.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_problem(error)}") from error


def _placeholders(tree: Any, place: str) -> Iterator[tuple[str, str]]:
    """Give what is left of ``{{ $NAME }}``, by its place."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _placeholders(value, f"{place}.{key}".lstrip("."))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _placeholders(value, f"{place}[{number}]")
    elif isinstance(tree, str) and "{{ $" in tree.replace("{{$", "{{ $"):
        yield place, tree


_MODELS: dict[str, type[BaseModel]] = {
    "deployments": DeploymentEntry,
    "schedules": ScheduleEntry,
    "work_pool": PoolEntry,
    "concurrency_limit": LimitEntry,
}


def _first_problem(error: ValidationError) -> str:
    """Give the first problem as a place, what is wrong there, and what is allowed."""
    problem = next((p for p in error.errors() if "int" not in p["loc"]), error.errors()[0])
    names = [part for part in problem["loc"] if part not in ("int", LimitEntry.__name__)]  # pydantic's, of a choice
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names).lstrip(".")
    if problem["type"] == "extra_forbidden":
        section = next((p for p in reversed(problem["loc"][:-1]) if p in _MODELS), "")
        model = _MODELS.get(str(section), DeploymentsFile)
        allowed = ", ".join(field.alias or name for name, field in model.model_fields.items())
        return f"{place} is unknown, got {problem['input']!r}; allowed: {allowed}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _checked(entry: DeploymentEntry, *, place: str) -> Deployment:
    flow = _flow(entry.entrypoint, place=place)
    schedules = [_schedule(s, place=f"{place}: schedules[{i}]") for i, s in enumerate(entry.schedules)]
    for parameters in (entry.parameters, *({**entry.parameters, **s.parameters} for s in entry.schedules)):
        _require_accepted(flow, parameters, place=place, is_scheduled=bool(entry.schedules))
    return Deployment(entry=entry, flow=flow, schedules=schedules)


def _flow(entrypoint: str, *, place: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    except (MissingFlowError, ScriptError, ImportError, ValueError, OSError) as error:
        raise InputError(f"{place}: entrypoint {entrypoint!r} is no flow: {_line(error)}") from error


def _schedule(entry: ScheduleEntry, *, place: str) -> DeploymentScheduleCreate:
    given = [key for key in ("cron", "interval", "rrule") if getattr(entry, key) is not None]
    if len(given) != 1:
        raise InputError(f"{place} must have one of cron, interval and rrule, got {', '.join(given) or 'none'}")
    try:
        schedule = _moments(entry)
    except (ValueError, TypeError) as error:  # what pydantic raises is a ValueError
        value = getattr(entry, given[0])
        raise InputError(
            f"{place}.{given[0]} cannot be parsed, got {value!r} in {entry.timezone}: {_line(error)}"
        ) from error
    return DeploymentScheduleCreate(
        schedule=schedule, active=entry.active, slug=entry.slug, parameters=entry.parameters
    )


def _words(entry: ScheduleEntry) -> str:
    if entry.cron is not None:
        return f"{entry.cron} {entry.timezone}"
    return str(entry.rrule) if entry.interval is None else f"every {entry.interval}"


def _moments(entry: ScheduleEntry) -> SCHEDULE_TYPES:
    if entry.cron is not None:
        return CronSchedule(cron=entry.cron, timezone=entry.timezone)
    if entry.interval is not None:
        anchor = {"anchor_date": entry.anchor_date} if entry.anchor_date else {}
        return IntervalSchedule(interval=entry.interval, timezone=entry.timezone, **anchor)
    return RRuleSchedule(rrule=str(entry.rrule), timezone=entry.timezone)


def _require_accepted(flow: Flow[..., Any], parameters: Mapping[str, Any], *, place: str, is_scheduled: bool) -> None:
    """Raise unless a flow takes the parameters; without a schedule a person gives the missing ones in the form."""
    signature = inspect.signature(flow.fn)
    for key, value in parameters.items():
        if key not in signature.parameters:
            allowed = ", ".join(signature.parameters)
            raise InputError(f"{place}: parameters.{key} is unknown, got {value!r}; allowed: {allowed}")
    needed = [key for key, p in signature.parameters.items() if p.default is p.empty and key not in parameters]
    if needed and is_scheduled:
        raise InputError(f"{place}: parameters.{needed[0]} is missing, and a schedule gives none")
    try:
        _require_valid(flow, parameters)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _require_valid(flow: Flow[..., Any], given: Mapping[str, Any]) -> None:
    """Check the values that one of our own flows will check, as far as they are given."""
    if flow.fn.__module__ != operations.__name__:
        return
    if given.get("root"):
        require_absolute_root(given["root"])
    if "name" in given:
        name_of(given["name"])
    if "config" in given:
        config_of(given["config"], given.get("changes", ()))
    if {"since", "nightly"} <= given.keys():
        growth(since=given["since"], nightly=given["nightly"], at_most=given.get("at_most", 0))
    if given.get("day") is not None:
        day_of("day", given["day"])
    if {"first_day", "last_day"} <= given.keys():
        days(given["first_day"], given["last_day"])


def _line(error: BaseException) -> str:
    """Give an error's words in one line."""
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    cause = error.__cause__ or error
    return " ".join(str(cause).split()) or type(cause).__name__
