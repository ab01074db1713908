"""What a deployed flow is asked for, checked.

Its parameters come from a Prefect server as JSON, written perhaps by hand in a form or by another version, and its
working folder is a worker's. So Prefect leaves the checks to us, and nothing may be relative.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.config import PipelineConfig, as_tree, config_name, configure, load_config, placed
from storage.catalog import require_name
from storage.errors import InputError
from storage.paths import Location, root_location

_MOST_DAYS = 3660  # of a backfill; more are a slip of the hand


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run that a deployed flow works on."""

    config: PipelineConfig
    source: str  # the preset or file that the configuration was made from
    root: Location
    name: str  # of the run, which keeps one store


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a store grows: a function of the day alone, so that a day which is worked on twice adds nothing."""

    since: date  # the day on which there are as many trajectories as the configuration says
    nightly: int  # trajectories that each later day adds
    at_most: int = 0  # of them; 0: no end

    def count(self, first: int, day: date) -> int:
        """Give how many trajectories there are to be on a day, from ``first`` on.

        Raises:
            InputError: the day is before all growth.
        """
        nights = (day - self.since).days
        if nights < 0:
            raise InputError(f"day must not be before since ({self.since}), got {day}")
        grown = first + nights * self.nightly
        return min(grown, max(first, self.at_most)) if self.at_most else grown


def asked(config: Any, *, name: Any, root: Any, changes: Any = ()) -> Asked:
    """Check what a run is asked for and give it.

    Args:
        config: a preset's name, the absolute path of a ``.toml`` file, or its sections.
        name: of the run.
        root: the folder of runs, or its address on an object store; empty: what ``CHARFLOW_ROOT`` says.
        changes: as ``--set`` takes them.

    Raises:
        InputError: a key or value is not allowed.
    """
    return Asked(
        config=config_of(config, changes), source=_source(config, name), root=root_of(root), name=name_of(name)
    )


def config_of(config: Any, changes: Any = ()) -> PipelineConfig:
    """Give the configuration that a preset, a file or sections make with changes.

    Raises:
        InputError: a key or value is not allowed.
    """
    if not isinstance(changes, Sequence) or isinstance(changes, str) or not all(isinstance(c, str) for c in changes):
        raise InputError(f"changes must be a list of section.key=value, got {changes!r}")
    if isinstance(config, str):
        if config.endswith(".toml") and not Path(config).is_absolute():
            raise InputError(f"config must be a preset or the absolute path of a .toml file, got {config!r}")
        found = load_config(config, changes=changes)
    elif isinstance(config, (Mapping, PipelineConfig)):
        tree = as_tree(config) if isinstance(config, PipelineConfig) else config
        found = configure(tree, changes=changes)
    else:
        raise InputError(f"config must be a preset, a .toml file or sections of a configuration, got {config!r}")
    path = found.dataset.path
    if path and _is_relative(path):
        raise InputError(f"dataset.path must be absolute, for workers have folders of their own, got {path!r}")
    return placed(found)


def name_of(name: Any) -> str:
    """Give a run's name, if it can be one.

    Raises:
        InputError: it cannot.
    """
    if not isinstance(name, str):
        raise InputError(f"name must be a run's name, got {name!r}")
    require_name(name)
    return name


def root_of(root: Any) -> Location:
    """Give where runs lie, for a flow whose working folder is a worker's.

    Raises:
        InputError: it is relative, or said nowhere, or an object store does not answer.
    """
    text = root or os.environ.get("CHARFLOW_ROOT", "")
    require_absolute_root(text)
    return root_location(text)


def require_absolute_root(root: Any) -> None:
    """Raise :class:`InputError` unless it is an absolute folder or an address; whether anyone answers is not asked."""
    if not isinstance(root, str) or not root:
        raise InputError(
            f"root must be an absolute folder or an address, or CHARFLOW_ROOT set where workers run, got {root!r}"
        )
    if _is_relative(root):
        raise InputError(f"root must be absolute, for workers have folders of their own, got {root!r}")


def growth(*, since: Any, nightly: Any, at_most: Any = 0) -> Growth:
    """Check how a store is to grow and give it.

    Raises:
        InputError: a value is not allowed.
    """
    for key, value, least in (("nightly", nightly, 1), ("at_most", at_most, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{key} must be a whole number of at least {least}, got {value!r}")
    return Growth(since=day_of("since", since), nightly=nightly, at_most=at_most)


def day_of(key: str, value: Any) -> date:
    """Give a day: a date, a moment's date in its own zone, or either as ISO 8601.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return datetime.fromisoformat(value).date()
    except (TypeError, ValueError):
        raise InputError(f"{key} must be a day such as 2026-01-31, got {value!r}") from None


def days(first: Any, last: Any) -> list[date]:
    """Give the days of a backfill, both ends included.

    Raises:
        InputError: they are no days, or too many, or end before they begin.
    """
    begin, end = day_of("first_day", first), day_of("last_day", last)
    count = (end - begin).days + 1
    if not 1 <= count <= _MOST_DAYS:
        raise InputError(f"last_day must be 0 to {_MOST_DAYS - 1} days after first_day ({begin}), got {end}")
    return [begin + timedelta(days=number) for number in range(count)]


def with_count(ask: Asked, count: int) -> Asked:
    """Give it with as many trajectories."""
    spec = replace(ask.config.trajectories, count=count)
    return replace(ask, config=ask.config.model_copy(update={"trajectories": spec}))


def _is_relative(place: str) -> bool:
    return "://" not in place and not Path(place).is_absolute()


def _source(config: Any, name: Any) -> str:
    return config_name(config) if isinstance(config, str) else str(name)
