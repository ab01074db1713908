"""Reads the files of deploy/ strictly, and changes their contents as a slip of the hand would."""

import copy
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = Path(__file__).parent / "schemas"
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
IMAGE = f"charflow:{VERSION}"

Check = Callable[[Any], list[str]]
Path_ = tuple[str | int, ...]


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that stands twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]!r} stands twice", problem_mark=node.start_mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def documents(path: Path) -> list[Any]:
    """Give the documents of a YAML file; what an anchor repeats is a copy, so that a change is in one place."""
    with open(path) as file:
        return [copied(document) for document in yaml.load_all(file, _Strict)]


def document(path: Path) -> Any:
    """Give the only document of a YAML or JSON file."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    (found,) = documents(path)
    return found


def copied(value: Any) -> Any:
    """Give a copy without shared parts."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list) else value


def against(name: str, value: Any) -> list[str]:
    """Give what a schema of this folder says against a value."""
    validator = Draft202012Validator(json.loads((SCHEMAS / name).read_text()))
    return told(validator, value)


def told(validator: Any, value: Any) -> list[str]:
    """Give a validator's complaints, a line each."""
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(value)]


def at(value: Any, path: Path_) -> Any:
    """Give the part that lies at a path."""
    for step in path:
        value = value[step]
    return value


def put(value: Any, path: Path_, new: Any) -> Any:
    """Give a copy with another part at a path."""
    value = copy.deepcopy(value)
    at(value, path[:-1])[path[-1]] = new
    return value


def renamed(value: Any, path: Path_, new: str) -> Any:
    """Give a copy in which a key has another name, in the same place."""
    value = copy.deepcopy(value)
    parent = at(value, path[:-1])
    items = [(new if key == path[-1] else key, part) for key, part in parent.items()]
    parent.clear()
    parent.update(items)
    return value


def keys(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Give the path of every key of every mapping, at all depths."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (*path, key)
            yield from keys(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from keys(part, (*path, number))


def strings(value: Any) -> Iterator[str]:
    """Give every string at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for part in value.values() for text in strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in strings(part))


def ports_named(text: str) -> list[tuple[str, int]]:
    """Give the hosts and ports that a text names, as in an address."""
    return [
        (host, int(port)) for host, port in re.findall(r"(?<![\w.$}-])([a-z][\w.-]*|127\.0\.0\.1):(\d{2,5})\b", text)
    ]
