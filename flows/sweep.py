"""Sweeps: which values of which keys a study goes over, and the configuration and name of each of its points."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from flows.config import PipelineConfig, as_tree, flatten, load_config
from storage.errors import InputError
from storage.fingerprint import fingerprint

MOST_POINTS = 200
_COMMA = re.compile(r",(?![^\[]*\])")  # but for those inside a list
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")  # what no run's name may have
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A key and the values that it takes, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination of swept values."""

    values: Mapping[str, Any]  # by key, as the configuration has them
    config: PipelineConfig


def parse_sweep(text: str) -> Sweep:
    """Parse ``a.b=v1,v2,...``; a value is written as for ``--set``, a list in brackets.

    Raises:
        InputError: it is written otherwise, or the key is one that cannot be swept.
    """
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"--sweep must be section.key=v1,v2,..., got {text!r}")
    values = tuple(value.strip() for value in _COMMA.split(raw))
    if "" in values:
        raise InputError(f"--sweep {key} must list values with commas between them, got {raw!r}")
    if key == "name" or key.split(".")[0] == "compute":
        raise InputError(f"--sweep {key} is of no use: it changes no result; sweep another key")
    return Sweep(key=key, values=values)


def points_of(source: str, *, changes: Sequence[str], sweeps: Sequence[Sweep]) -> tuple[Point, ...]:
    """Give every combination of the swept values, the last sweep's values changing fastest.

    Args:
        source: a preset or a ``.toml`` file.
        changes: further ``a.b=value``, the same for all points.
        sweeps: at least one.

    Raises:
        InputError: a key is swept twice or has a value twice, there are too many points, or the configuration of one of
            them is not allowed.
    """
    if not sweeps:
        raise InputError("a study needs at least one --sweep section.key=v1,v2,...")
    twice = [key for key, times in Counter(sweep.key for sweep in sweeps).items() if times > 1]
    if twice:
        raise InputError(f"--sweep {twice[0]} is there twice; list its values in one")
    count = math.prod(len(sweep.values) for sweep in sweeps)
    if count > MOST_POINTS:
        raise InputError(f"a study may have at most {MOST_POINTS} points, the sweeps make {count:,}")
    points = tuple(
        _point(source, changes, dict(zip((sweep.key for sweep in sweeps), values, strict=True)))
        for values in product(*(sweep.values for sweep in sweeps))
    )
    for sweep in sweeps:
        if len({repr(point.values[sweep.key]) for point in points}) < len(sweep.values):
            raise InputError(f"--sweep {sweep.key} has a value twice, got {', '.join(sweep.values)}")
    return points


def _point(source: str, changes: Sequence[str], swept: Mapping[str, str]) -> Point:
    config = load_config(source, changes=[*changes, *(f"{key}={value}" for key, value in swept.items())])
    leaves = flatten(as_tree(config))
    for key in swept:
        if key not in leaves:
            raise InputError(f"--sweep {key} must be a key with a value, not a section")
    return Point(values={key: leaves[key] for key in swept}, config=config)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Give each key's last word or, where two keys share it, the key itself."""
    lasts = {key: key.rpartition(".")[2] for key in keys}
    times = Counter(lasts.values())
    return {key: last if times[last] == 1 else key for key, last in lasts.items()}


def run_names(study: str, values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give the names of runs, such as ``study-steps-8-solver-heun``; all different, and each a run's name.

    Where one would be too long, or two the same, twelve digits that stand for the values follow the study's name.
    """
    readable = ["-".join([study, *_words(each)]) for each in values]
    times = Counter(readable)
    return [
        name if len(name) <= _LONGEST_NAME and times[name] == 1 else f"{study}-{fingerprint(each)[:12]}"
        for name, each in zip(readable, values, strict=True)
    ]


def _words(values: Mapping[str, Any]) -> list[str]:
    shorts = short_keys(list(values))
    return [f"{shorts[key]}-{_NO_NAME.sub('_', str(value)).strip('_')}" for key, value in values.items()]
