"""The configuration of a run: the specs of the steps, composed; read from TOML, changed by ``--set``, written resolved.

Values are checked twice: keys here, where the list of allowed ones is known, and values in the specs themselves. Every
message names the key, the value and what is allowed.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import InputError
from tasks.specs import (
    KEYS_OF_DATASET,
    KEYS_OF_NETWORK,
    KEYS_OF_VELOCITY,
    ORACLE_KINDS,
    SYNTHETIC_KINDS,
    ComputeSpec,
    DatasetSpec,
    EvaluationSpec,
    GeneratorSpec,
    InterpolantSpec,
    NetworkSpec,
    ResourcesSpec,
    TrajectoriesSpec,
    VelocitySpec,
)

Tree = dict[str, Any]

_KEYS_OF_KIND = {
    "dataset": KEYS_OF_DATASET,
    "velocity": KEYS_OF_VELOCITY,
    "velocity.network": KEYS_OF_NETWORK,
    "generator.network": KEYS_OF_NETWORK,
}
_DEFAULT_KINDS = {
    "velocity": VelocitySpec().kind,
    "velocity.network": NetworkSpec().kind,
    "generator.network": NetworkSpec().kind,
}
_LARGEST_SEED = 2**63 - 1


class PipelineConfig(BaseModel):
    """Everything a run is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""  # of the run; empty: after the preset or file
    seed: int = Field(default=0, ge=0, le=_LARGEST_SEED)
    dataset: DatasetSpec
    interpolant: InterpolantSpec = InterpolantSpec()
    velocity: VelocitySpec = VelocitySpec()
    trajectories: TrajectoriesSpec = TrajectoriesSpec()
    generator: GeneratorSpec = GeneratorSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    compute: ComputeSpec = ComputeSpec()


def load_config(source: str, *, changes: Sequence[str] = ()) -> PipelineConfig:
    """Read a preset or a ``.toml`` file and apply ``--set`` changes, each ``a.b=value``.

    Raises:
        InputError: the source is unknown or no TOML, or a key or value is not allowed.
    """
    return configure(_read(source), changes=changes)


def configure(tree: Mapping[str, Any], *, changes: Sequence[str] = ()) -> PipelineConfig:
    """Apply ``--set`` changes to a parsed configuration, check it and give it; the tree stays as it is.

    Raises:
        InputError: a key or value is not allowed.
    """
    changed = deepcopy(dict(tree))
    parsed = [_parse_change(change) for change in changes]
    for path, value in parsed:
        if len(path) > 1 and path[-1] == "kind":
            _switch_kind(changed, path[:-1], value)
    for path, value in parsed:
        _assign(changed, path, value)
    return build_config(changed)


def placed(config: PipelineConfig) -> PipelineConfig:
    """Give a configuration that names no Ray cluster that of ``CHARFLOW_RAY``, and one without patience its patience.

    Both are of the place where it is worked on: the same configuration goes to a cluster that grows and to a laptop.

    Raises:
        InputError: ``CHARFLOW_PATIENCE`` is no number of seconds.
    """
    address = config.compute.address or os.environ.get("CHARFLOW_RAY", "")
    if not address:
        return config
    asked = os.environ.get("CHARFLOW_PATIENCE") or "0"
    try:
        given = replace(config.compute, address=address, patience=config.compute.patience or float(asked))
    except ValueError:
        raise InputError(f"CHARFLOW_PATIENCE must be seconds, at least 0, got {asked!r}") from None
    return config.model_copy(update={"compute": given})


def build_config(tree: Tree) -> PipelineConfig:
    """Check a parsed configuration and give it.

    Raises:
        InputError: a key or value is not allowed.
    """
    _require_known(tree, PipelineConfig, prefix="")
    for section, kinds in _KEYS_OF_KIND.items():
        _require_fitting(_section(tree, section.split(".")), section, kinds)
    try:
        config = PipelineConfig.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error)) from error
    _require_consistent(config)
    return config


def dump_config(config: PipelineConfig) -> str:
    """Give the resolved configuration as TOML that :func:`load_config` reads back to the same."""
    return tomli_w.dumps(as_tree(config))


def as_tree(config: PipelineConfig) -> Tree:
    """Give the configuration as nested mappings, without the keys that mean nothing for the kinds it has."""
    tree: Tree = {"name": config.name, "seed": config.seed}
    for section in PipelineConfig.model_fields:
        spec = getattr(config, section)
        if is_dataclass(spec) and not isinstance(spec, type):
            tree[section] = _meaningful(asdict(spec), section)
    return tree


def flatten(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Give a tree's leaves by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        leaves |= flatten(value, prefix=f"{path}.") if isinstance(value, Mapping) else {path: value}
    return leaves


def presets() -> dict[str, str]:
    """Give each preset's name and first line of comment."""
    files = sorted(resources.files("flows").joinpath("presets").iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".toml"): file.read_text().split("\n", 1)[0].removeprefix("# ")
        for file in files
        if file.name.endswith(".toml")
    }


def config_name(source: str) -> str:
    """Give what a run of this source is called: the preset's or the file's name."""
    return Path(source).stem if source.endswith(".toml") else source


def _read(source: str) -> Tree:
    if source.endswith(".toml"):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"config {source!r} is no file; it must be a .toml file or one of {', '.join(presets())}")
        text = path.read_text()
    elif source in presets():
        text = resources.files("flows").joinpath("presets", f"{source}.toml").read_text()
    else:
        raise InputError(f"config {source!r} is unknown; it must be a .toml file or one of {', '.join(presets())}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"config {source!r} is not TOML: {error}") from error


def _parse_change(change: str) -> tuple[list[str], Any]:
    key, equals, raw = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set must be section.key=value, got {change!r}")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw  # a bare word is a string
    return key.strip().split("."), value


def _section(tree: Tree, path: Sequence[str]) -> Tree:
    """Give a section inside a tree, empty where there is none."""
    for key in path:
        tree = tree.get(key, {})
        if not isinstance(tree, dict):
            return {}  # a value where a section belongs is complained of elsewhere
    return tree


def _switch_kind(tree: Tree, path: Sequence[str], kind: Any) -> None:
    """Drop a section's keys that mean nothing for the kind it is going to have."""
    found, kinds = _section(tree, path), _KEYS_OF_KIND.get(".".join(path), {})
    for key in [key for key in found if key in kinds and str(kind) not in kinds[key]]:
        del found[key]


def _meaningful(values: Tree, section: str) -> Tree:
    """Give a section without the keys that mean nothing for its kind, all the way down."""
    kinds = _KEYS_OF_KIND.get(section, {})
    return {
        key: _meaningful(value, f"{section}.{key}") if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in kinds or values["kind"] in kinds[key]
    }


def _assign(tree: Tree, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise InputError(f"--set {'.'.join(path)}: {key} is a value, not a section")
    tree[path[-1]] = value


def _require_known(tree: Tree, kind: Any, *, prefix: str) -> None:
    """Raise unless every key of the tree is a field of the class, all the way down."""
    hints = get_type_hints(kind)
    names = list(kind.model_fields) if issubclass(kind, BaseModel) else [field.name for field in fields(kind)]
    for key, value in tree.items():
        if key not in names:
            raise InputError(f"{prefix}{key} is unknown, got {value!r}; allowed: {', '.join(names)}")
        inner = next((t for t in (hints[key], *get_args(hints[key])) if is_dataclass(t)), None)
        if inner is not None:
            if not isinstance(value, dict):
                raise InputError(f"{prefix}{key} must be a section, got {value!r}; its keys: {_field_names(inner)}")
            _require_known(value, inner, prefix=f"{prefix}{key}.")


def _require_consistent(config: PipelineConfig) -> None:
    """Raise where sections that are right by themselves do not fit together."""
    velocity, trajectories = config.velocity, config.trajectories
    if velocity.kind == "oracle" and config.dataset.kind not in ORACLE_KINDS:
        raise InputError(
            f"velocity.kind = oracle needs dataset.kind {' or '.join(ORACLE_KINDS)}, got {config.dataset.kind!r}"
        )
    is_singular = velocity.kind == "network" or (velocity.kind == "kernel" and velocity.bandwidth == 0)
    if is_singular and trajectories.solver == "heun" and trajectories.stop == 1:
        raise InputError(
            "trajectories.stop must be below 1 for trajectories.solver = heun, which asks the velocity there, got 1"
        )
    if config.compute.spread and velocity.kind != "kernel":
        raise InputError(f"compute.spread = true needs velocity.kind = kernel, got {velocity.kind!r}")
    if velocity.conditional and config.dataset.kind in SYNTHETIC_KINDS:
        raise InputError(
            f"velocity.conditional = true needs a dataset with labels, got dataset.kind = {config.dataset.kind}, whose "
            "points have none"
        )
    if config.generator.diagonal > 0 and velocity.conditional and trajectories.guidance != 1:
        raise InputError(
            f"generator.diagonal must be 0 for trajectories.guidance other than 1 (got {trajectories.guidance:g}): the "
            "denoiser of the data is not the guided one"
        )
    if config.generator.warm_start and (velocity.kind != "network" or velocity.network != config.generator.network):
        raise InputError(
            "generator.warm_start = true needs velocity.kind = network and generator.network equal to velocity.network"
        )


def _field_names(kind: Any) -> str:
    return ", ".join(field.name for field in fields(kind))


def _require_fitting(found: Tree, section: str, kinds: dict[str, frozenset[str]]) -> None:
    kind = found.get("kind", _DEFAULT_KINDS.get(section))
    for key, value in found.items():
        if isinstance(kind, str) and key in kinds and kind not in kinds[key]:
            only = ", ".join(sorted(kinds[key]))
            raise InputError(
                f"{section}.{key} = {value!r} has no meaning for {section}.kind = {kind}, only for: {only}"
            )


def _explain(error: ValidationError) -> str:
    """Give the first problem as one line."""
    problem = error.errors()[0]
    if "error" in problem.get("ctx", {}):
        message = str(problem["ctx"]["error"])  # a spec's own; a network does not know whose it is
        return f"{problem['loc'][0]}.{message}" if message.startswith("network.") else message
    key = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part in _ALL_NAMES)
    if "resources" in problem["loc"][:-1]:  # whose keys are the user's own
        key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{key} is missing; a configuration needs at least dataset.kind"
    rule = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key}: {rule}, got {problem['input']!r}"


_SPECS = (
    DatasetSpec, InterpolantSpec, NetworkSpec, VelocitySpec, TrajectoriesSpec, GeneratorSpec, EvaluationSpec,
    ComputeSpec, ResourcesSpec,
)  # fmt: skip
_ALL_NAMES = {name for spec in _SPECS for name in (f.name for f in fields(spec))} | set(PipelineConfig.model_fields)
