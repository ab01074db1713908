"""Specs: every wrong value is refused by key, value and what is allowed, and only then."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from tasks.checks import as_tuple, shown
from tasks.facts import TrainingPlace
from tasks.specs import (
    KEYS_OF_DATASET,
    KEYS_OF_VELOCITY,
    ORACLE_KINDS,
    SYNTHETIC_KINDS,
    ComputeSpec,
    DatasetSpec,
    EvaluationSpec,
    GeneratorSpec,
    InterpolantSpec,
    NetworkSpec,
    TargetSpec,
    TrajectoriesSpec,
    VelocitySpec,
)
from tests.local import on_disk


def dataset(**changes: Any) -> DatasetSpec:
    return DatasetSpec(**({"kind": "gaussian"} | changes))


WRONG: list[tuple[Callable[..., object], dict[str, Any], str]] = [
    (
        dataset,
        {"kind": "torus"},
        r"dataset\.kind must be one of gaussian, mixture, .*digits, idx, .*npz.*, got 'torus'",
    ),
    (dataset, {"count": 0}, r"dataset\.count must be at least 1, got 0"),
    (dataset, {"dim": 0}, r"dataset\.dim must be at least 1, got 0"),
    (dataset, {"kind": "mixture", "components": 0}, r"dataset\.components must be at least 1, got 0"),
    (dataset, {"shards": 0}, r"dataset\.shards must be at least 1, got 0"),
    (dataset, {"mean": math.inf}, r"dataset\.mean must be finite, got inf"),
    (dataset, {"mean": (0.0, math.nan)}, r"dataset\.mean must be finite, got \[0, nan\]"),
    (dataset, {"std": 0.0}, r"dataset\.std must be positive, got 0"),
    (dataset, {"std": (1.0, -2.0)}, r"dataset\.std must be positive, got \[1, -2\]"),
    (dataset, {"std": math.nan}, r"dataset\.std must be positive, got nan"),
    (dataset, {"std": math.inf}, r"dataset\.std must be finite, got inf"),
    (dataset, {"mean": (1.0, 2.0), "std": (1.0,)}, r"must have the same length, got \[1, 2\] and \[1\]"),
    (dataset, {"mean": ()}, r"dataset\.mean must be a number or a list of numbers, got \[\]"),
    (dataset, {"kind": "mixture", "std": (1.0,)}, r"dataset\.std must have 2 numbers, got \[1\]"),
    (dataset, {"kind": "sphere", "intrinsic": 0}, r"dataset\.intrinsic must be at least 1, got 0"),
    (dataset, {"kind": "sphere", "intrinsic": 2}, r"dataset\.dim must be at least dataset\.intrinsic \+ 1 = 3, got 2"),
    (
        dataset,
        {"kind": "sphere", "std": (0.1, 0.1)},
        r"dataset\.std must be a number for .* = sphere, got \[0\.1, 0\.1\]",
    ),
    (dataset, {"kind": "npz"}, r"dataset\.path must name a file for dataset\.kind = npz, got ''"),
    (InterpolantSpec, {"kind": "cosine"}, r"interpolant\.kind must be one of linear, foellmer.*, got 'cosine'"),
    (NetworkSpec, {"kind": "unet9"}, r"network\.kind must be one of mlp.*, got 'unet9'"),
    (NetworkSpec, {"width": 1}, r"network\.width must be at least 2, got 1"),
    (NetworkSpec, {"depth": 0}, r"network\.depth must be at least 1, got 0"),
    (NetworkSpec, {"fourier": -1}, r"network\.fourier must be at least 0, got -1"),
    (NetworkSpec, {"fourier_scale": 0.0}, r"network\.fourier_scale must be positive, got 0"),
    (VelocitySpec, {"kind": "magic"}, r"velocity\.kind must be one of oracle, .*network, got 'magic'"),
    (TrajectoriesSpec, {"count": 0}, r"trajectories\.count must be at least 1, got 0"),
    (TrajectoriesSpec, {"steps": 0}, r"trajectories\.steps must be at least 1, got 0"),
    (TrajectoriesSpec, {"stop": 0.0}, r"trajectories\.stop must be in \(0, 1\], got 0"),
    (TrajectoriesSpec, {"stop": 1.5}, r"trajectories\.stop must be in \(0, 1\], got 1\.5"),
    (TrajectoriesSpec, {"stop": math.nan}, r"trajectories\.stop must be in \(0, 1\], got nan"),
    (TrajectoriesSpec, {"solver": "rk4"}, r"trajectories\.solver must be one of euler, .*, got 'rk4'"),
    (TrajectoriesSpec, {"grid": "log"}, r"trajectories\.grid must be one of uniform, karras, got 'log'"),
    (TrajectoriesSpec, {"rho": 0.0}, r"trajectories\.rho must be positive, got 0"),
    (TrajectoriesSpec, {"chunk_rows": -1}, r"trajectories\.chunk_rows must be at least 0, got -1"),
    (TrajectoriesSpec, {"sub_batch": -1}, r"trajectories\.sub_batch must be at least 0, got -1"),
    (TrajectoriesSpec, {"precision": "int8"}, r"trajectories\.precision must be one of .*float32.*, got 'int8'"),
    (TrajectoriesSpec, {"codec": "zip"}, r"trajectories\.codec must be one of none, lz4, zstd, got 'zip'"),
    (TrajectoriesSpec, {"precision": "round-0"}, r"trajectories\.precision must be .*round-N .*, got 'round-0'"),
    (TrajectoriesSpec, {"precision": "round-23"}, r"trajectories\.precision must be .*round-N .*, got 'round-23'"),
    (TrajectoriesSpec, {"save": "some"}, r"trajectories\.save must be one of all.*, got 'some'"),
    (TrajectoriesSpec, {"save": "every-33"}, r"trajectories\.save must be .*every-N with N from 1 to 32.*'every-33'"),
    (TrajectoriesSpec, {"save": "every-0"}, r"trajectories\.save must be .*, got 'every-0'"),
    (TrajectoriesSpec, {"save": (0, 8)}, r"trajectories\.save must list ascending steps from 0 .*= 32.*got \[0, 8\]"),
    (TrajectoriesSpec, {"save": (0, 9, 8, 32)}, r"trajectories\.save must list ascending .*got \[0, 9, 8, 32\]"),
    (TrajectoriesSpec, {"save": (8, 32)}, r"trajectories\.save must list ascending .*got \[8, 32\]"),
    (TrajectoriesSpec, {"save": (32,)}, r"trajectories\.save must list ascending .*got \[32\]"),
    (GeneratorSpec, {"full_span_share": 1.5}, r"generator\.full_span_share must be in \[0, 1\], got 1\.5"),
    (GeneratorSpec, {"full_span_share": -0.1}, r"generator\.full_span_share must be in \[0, 1\], got -0\.1"),
    (GeneratorSpec, {"semigroup": -1.0}, r"generator\.semigroup must be at least 0, got -1"),
    (GeneratorSpec, {"form": "heun"}, r"generator\.form must be one of exponential, euler, got 'heun'"),
    (GeneratorSpec, {"loss": "l1"}, r"generator\.loss must be one of squared, huber, got 'l1'"),
    (GeneratorSpec, {"diagonal": -0.1}, r"generator\.diagonal must be at least 0, got -0\.1"),
    (GeneratorSpec, {"features": "net"}, r"generator\.features must be module:attribute, got 'net'"),
    (GeneratorSpec, {"features": ":net"}, r"generator\.features must be module:attribute, got ':net'"),
    (GeneratorSpec, {"features": "net:"}, r"generator\.features must be module:attribute, got 'net:'"),
    (GeneratorSpec, {"features_weight": 0.0}, r"generator\.features_weight must be positive, got 0"),
    (GeneratorSpec, {"pairs_per_row": 0}, r"generator\.pairs_per_row must be at least 1, got 0"),
    (EvaluationSpec, {"samples": 1}, r"evaluation\.samples must be between 2 and 10000 .*, got 1"),
    (EvaluationSpec, {"samples": 10_001}, r"evaluation\.samples must be between 2 and 10000 .*, got 10001"),
    (EvaluationSpec, {"repeats": 2}, r"evaluation\.repeats must be at least 3, got 2"),
    (ComputeSpec, {"cpus": -1}, r"compute\.cpus must be at least 0, got -1"),
    (ComputeSpec, {"gpus": -1}, r"compute\.gpus must be at least 0, got -1"),
    (ComputeSpec, {"device": "tpu9"}, r"compute\.device must be one of auto, cpu, cuda, got 'tpu9'"),
]

WRONG_OPTIMISER: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, r"steps must be at least 1, got 0"),
    ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
    ({"learning_rate": 0.0}, r"learning_rate must be positive, got 0"),
    ({"learning_rate": math.nan}, r"learning_rate must be positive, got nan"),
    ({"workers": 0}, r"workers must be at least 1, got 0"),
    ({"warmup": -1}, r"warmup must be at least 0, got -1"),
    ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1"),
    ({"ema": -0.5}, r"ema must be in \[0, 1\), got -0\.5"),
    ({"clip": 0.0}, r"clip must be positive, got 0"),
    ({"workers": (0, 2)}, r"workers must be at least 1, got 0"),
    ({"workers": (4, 2)}, r"workers must be \[least, most\], got \[4, 2\]"),
    ({"batch_size": 10, "workers": (1, 3)}, r"batch_size must be a multiple of workers \(3\), got 10"),
    ({"batch_size": 10, "workers": 3}, r"batch_size must be a multiple of workers \(3\), got 10"),
]


@pytest.mark.parametrize(("make", "changes", "message"), WRONG)
def test_a_wrong_value_is_refused_by_key_value_and_what_is_allowed(
    make: Callable[..., object], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("section", "make"), [("velocity", VelocitySpec), ("generator", GeneratorSpec)])
@pytest.mark.parametrize(("changes", "message"), WRONG_OPTIMISER)
def test_both_trainings_refuse_wrong_knobs_under_their_own_section(
    section: str, make: Callable[..., object], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{section}\.{message}"):
        make(**changes)


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (TrajectoriesSpec, {"stop": 1.0, "steps": 1, "count": 1, "chunk_rows": 0}),
        (GeneratorSpec, {"full_span_share": 0.0, "semigroup": 0.0, "pairs_per_row": 1}),
        (GeneratorSpec, {"full_span_share": 1.0, "ema": 0.0, "warmup": 0, "batch_size": 6, "workers": 3}),
        (EvaluationSpec, {"samples": 2, "repeats": 3}),
        (EvaluationSpec, {"samples": 10_000}),
        (NetworkSpec, {"width": 2, "depth": 1, "fourier": 0}),
        (dataset, {"count": 1, "shards": 1, "dim": 1}),
        (dataset, {"kind": "sphere", "dim": 3, "intrinsic": 2}),
        (dataset, {"kind": "npz", "path": "file.npz"}),
        (dataset, {"kind": "digits"}),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(make: Callable[..., object], changes: dict[str, Any]) -> None:
    make(**changes)


def test_both_trainings_hand_their_own_knobs_to_the_optimiser() -> None:
    knobs: dict[str, Any] = {
        "steps": 11,
        "batch_size": 12,
        "learning_rate": 0.13,
        "workers": 3,
        "warmup": 14,
        "ema": 0.15,
        "clip": 16.0,
    }
    for made in (VelocitySpec(**knobs).optimiser(), GeneratorSpec(**knobs).optimiser()):
        assert {name: getattr(made, name) for name in knobs} == knobs


def test_numbers_serve_every_dimension_and_lists_set_it() -> None:
    assert dataset(dim=3, mean=1.0, std=2.0).target() == TargetSpec(kind="gaussian", mean=(1.0,) * 3, std=(2.0,) * 3)
    assert dataset(mean=(1.0, 2.0, 3.0)).target() == TargetSpec(kind="gaussian", mean=(1.0, 2.0, 3.0), std=(1.0,) * 3)
    assert dataset(std=(1.0,), dim=7).target() == TargetSpec(kind="gaussian", mean=(0.0,), std=(1.0,))
    assert dataset(kind="mixture", std=0.3, components=5).target() == TargetSpec(
        kind="mixture", mean=(0.0, 0.0), std=(0.3, 0.3), components=5
    )
    assert dataset(kind="sphere", dim=3, intrinsic=2, std=0.2).target() == TargetSpec(
        kind="sphere", mean=(0.0,) * 3, std=(0.2,) * 3, intrinsic=2
    )


def test_a_spread_that_is_not_given_is_the_kinds_own() -> None:
    assert (dataset().std, dataset(kind="mixture").std, dataset(kind="sphere").std) == (1.0, 1.0, 0.05)


def test_a_stored_dataset_has_no_synthetic_target() -> None:
    with pytest.raises(ValueError, match=r"dataset\.kind digits is not synthetic"):
        dataset(kind="digits").target()


def test_values_are_shown_as_a_person_would_write_them() -> None:
    assert shown(0.5) == "0.5"
    assert shown((1.0, -2.5)) == "[1, -2.5]"
    assert as_tuple(2.0, dim=3) == (2.0, 2.0, 2.0)
    assert as_tuple((1.0, 2.0), dim=3) == (1.0, 2.0)


def test_specs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        dataset().kind = "moons"  # type: ignore[misc]


def test_the_keys_of_a_kind_are_keys_and_kinds_that_exist() -> None:
    assert KEYS_OF_DATASET.keys() <= {field.name for field in fields(DatasetSpec)}
    assert KEYS_OF_VELOCITY.keys() <= {field.name for field in fields(VelocitySpec)}
    for kinds in KEYS_OF_DATASET.values():
        for kind in kinds:
            DatasetSpec(kind=kind, path="file.npz")
    for kinds in KEYS_OF_VELOCITY.values():
        for kind in kinds:
            VelocitySpec(kind=kind)
    assert set(ORACLE_KINDS) <= set(SYNTHETIC_KINDS)


def test_a_training_keeps_the_checkpoints_of_each_key_apart() -> None:
    first, second = (TrainingPlace(folder=Path("velocity"), key=key) for key in ("a", "b"))
    assert first.checkpoints != second.checkpoints
    assert first.journal.parent == first.checkpoints
    assert on_disk(first.checkpoints).is_relative_to("velocity")
