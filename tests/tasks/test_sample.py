"""Samples of a class: which label each has, what guidance does to it, and what is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor

from storage.data import Standardisation
from storage.errors import InputError
from tasks import sample as sample_module
from tasks.networks.build import build_generator
from tasks.networks.generator import Generator
from tasks.sample import SampleRequest, find_class, sample_labels, sample_rows, write_sample_file
from tasks.specs import NetworkSpec
from tasks.train_generator import StoredGenerator
from tasks.transport.noise import SAMPLES, standard_normal

UNITS = Standardisation(mean=np.array([10.0, 20.0]), scale=np.array([2.0, 1.0]))
NAMES = ("cat", "dog", "2")


def shift(t: Tensor, s: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
    """Stand in for a generator: a row moves at the speed 1 + its class, and rests without one."""
    return x if label is None else x + (s - t) * (label + 1)[:, None]


CONDITIONAL = StoredGenerator(
    generator=cast(Generator, shift),
    times=(0.0, 0.25, 0.5, 1.0),
    dim=(2,),
    digest="d",
    classes=3,
    class_shares=(0.5, 0.125, 0.375),
    unlabelled_share=0.1,
)
PLAIN = replace(CONDITIONAL, classes=0, class_shares=(), unlabelled_share=0.0)


def rows(stored: StoredGenerator, **changes: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Give standardised samples less their noise."""
    asked = {"start": 0, "stop": 500, "steps": 1, "seed": 5} | changes
    x = (sample_rows(stored, UNITS, **asked) - UNITS.mean) / UNITS.scale
    noise = standard_normal(asked["seed"], asked["start"], asked["stop"], (2,), stream=SAMPLES)
    return np.asarray(x - noise.numpy())


def labels(stored: StoredGenerator, **changes: Any) -> Tensor:
    found = sample_labels(stored, **({"start": 0, "stop": 500, "seed": 5, "label": None} | changes))
    assert found is not None
    return found


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_samples_of_a_class_are_guided_along_the_line_from_the_unconditional_map(guidance: float, steps: int) -> None:
    for label in range(3):
        moved = rows(CONDITIONAL, label=label, guidance=guidance, steps=steps)
        assert moved == pytest.approx(np.full((500, 2), guidance * (label + 1)), abs=1e-5)


def test_without_a_label_each_sample_has_one_drawn_by_the_shares_and_none_is_unlabelled() -> None:
    found = labels(CONDITIONAL, stop=20_000)
    for k, share in enumerate(CONDITIONAL.class_shares):
        assert abs(float((found == k).double().mean()) - share) < 4.5 * (share * (1 - share) / 20_000) ** 0.5
    expected = 1.5 * (labels(CONDITIONAL).numpy()[:, None] + 1) * np.ones((1, 2))
    assert rows(CONDITIONAL, guidance=1.5) == pytest.approx(expected, abs=1e-5)


def test_the_label_of_a_sample_is_a_function_of_seed_and_index() -> None:
    whole = labels(CONDITIONAL)
    assert torch.equal(torch.cat([labels(CONDITIONAL, stop=7), labels(CONDITIONAL, start=7)]), whole)
    assert not torch.equal(labels(CONDITIONAL, seed=6), whole)
    assert rows(CONDITIONAL, start=100, stop=103) == pytest.approx(rows(CONDITIONAL)[100:103])


@pytest.mark.parametrize("span", [(0, 1), (7, 9), (1000, 1100), (0, 1500)])
def test_a_sample_has_the_same_bits_whichever_others_are_drawn(span: tuple[int, int]) -> None:
    """A product of matrices may add up in another order for another number of rows."""
    network = NetworkSpec(width=64, depth=2)
    generator = build_generator(network, (6,), seed=0, interpolant="linear", data_std=1.0).requires_grad_(False)
    torch.nn.init.normal_(generator.backbone.output.weight)  # type: ignore[union-attr, arg-type]
    stored = replace(PLAIN, generator=generator, dim=(6,))
    units = Standardisation(mean=np.zeros(6), scale=np.ones(6))
    start, stop = span
    whole = sample_rows(stored, units, start=0, stop=2000, steps=2, seed=5)
    part = sample_rows(stored, units, start=start, stop=stop, steps=2, seed=5)
    assert part.tobytes() == whole[start:stop].tobytes()


def test_an_unconditional_generator_samples_as_before() -> None:
    assert sample_labels(PLAIN, start=0, stop=3, seed=5, label=None) is None
    assert rows(PLAIN) == pytest.approx(np.zeros((500, 2)), abs=1e-5)


@pytest.mark.parametrize(
    ("stored", "changes", "message"),
    [
        (PLAIN, {"label": 0}, "label must be a class of the generator, which has 0, got 0"),
        (CONDITIONAL, {"label": 3}, "label must be a class of the generator, which has 3, got 3"),
        (CONDITIONAL, {"label": -1}, "label must be a class of the generator, which has 3, got -1"),
        (PLAIN, {"guidance": 2.0}, "--guidance other than 1 needs a generator with classes, got 2"),
        (CONDITIONAL, {"guidance": -1.0}, "--guidance must be at least 0, got -1"),
        (CONDITIONAL, {"guidance": float("nan")}, "--guidance must be at least 0, got nan"),
        (CONDITIONAL, {"guidance": float("inf")}, "--guidance must be at least 0, got inf"),
        (
            replace(CONDITIONAL, unlabelled_share=0.0),
            {"guidance": 2.0},
            r"--guidance other than 1 needs trajectories\.unlabelled_share above 0, got 2 and a share of 0",
        ),
    ],
)
def test_what_a_generator_cannot_follow_is_bad_input(
    stored: StoredGenerator, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rows(stored, **changes)


@pytest.mark.parametrize(("text", "index"), [("cat", 0), ("dog", 1), ("1", 1), ("2", 2), ("0", 0)])
def test_a_class_is_found_by_name_or_number(text: str, index: int) -> None:
    assert find_class(text, NAMES, count=3) == index


def test_a_name_that_is_another_classs_number_is_the_name() -> None:
    assert find_class("7", ("7", "0"), count=2) == 0
    assert find_class("0", ("7", "0"), count=2) == 1


@pytest.mark.parametrize("text", ["bird", "3", "-1", "", "1.0", "²", "Cat"])
def test_an_unknown_class_is_answered_with_those_that_there_are(text: str) -> None:
    with pytest.raises(InputError) as caught:
        find_class(text, NAMES, count=3)
    assert str(caught.value) == f"--label {text!r} is unknown; known: 0 (cat), 1 (dog), 2"


def test_a_long_list_of_classes_is_cut() -> None:
    with pytest.raises(InputError, match=r"known: 0, 1, .*, 39, \.\.\.$"):
        find_class("x", (), count=1000)


def test_a_label_for_an_unconditional_generator_says_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"--label needs a generator with classes \(velocity.conditional = true\)"):
        find_class("0", (), count=0)


class Data:
    """Stand in for the ingested dataset."""

    standardisation = UNITS
    classes = NAMES

    def __init__(self, path: Path) -> None:
        pass


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[StoredGenerator]:
    """Let the generator that is loaded be the one in this list."""
    found = [CONDITIONAL]
    monkeypatch.setattr(sample_module, "load_generator", lambda folder, device: found[0])
    monkeypatch.setattr(sample_module, "DataStore", Data)
    return found


def write(path: Path, **changes: Any) -> tuple[int, ...]:
    request = SampleRequest(**({"count": 5000, "steps": 1, "seed": 5} | changes))
    told: list[tuple[int, int]] = []
    shape = write_sample_file(
        path, path, request, out=path, progress=lambda done, total, *_: told.append((done, total))
    )
    assert told[0] == (0, request.count)
    assert told[-1] == (request.count, request.count)
    return shape


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_numbers_are_written_with_their_labels(suffix: str, stored: list[StoredGenerator], tmp_path: Path) -> None:
    path = tmp_path / f"samples{suffix}"
    for label, expected in ((None, labels(CONDITIONAL, stop=5000).numpy()), ("dog", np.ones(5000))):
        assert write(path, label=label) == (5000, 2)
        found: Any = np.load(path) if suffix == ".npz" else zarr.open_group(path, mode="r")
        assert found["label"].dtype == np.int64
        assert np.array_equal(found["label"][:], expected)
        chosen = None if label is None else 1
        assert np.array_equal(
            found["x"][:10], sample_rows(CONDITIONAL, UNITS, start=0, stop=10, steps=1, seed=5, label=chosen)
        )


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_an_unconditional_generator_writes_no_labels(
    suffix: str, stored: list[StoredGenerator], tmp_path: Path
) -> None:
    stored[0] = PLAIN
    path = tmp_path / f"samples{suffix}"
    write(path)
    found: Any = np.load(path) if suffix == ".npz" else zarr.open_group(path, mode="r")
    assert list(found) == ["x"]


def test_bad_input_leaves_no_file(stored: list[StoredGenerator], tmp_path: Path) -> None:
    for changes in ({"label": "bird"}, {"guidance": -2.0}, {"label": ""}, {"steps": 9}):
        with pytest.raises(InputError):
            write(tmp_path / "samples.npz", **changes)
    assert list(tmp_path.iterdir()) == []
