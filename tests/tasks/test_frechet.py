"""Frechet distances of many samples to all data: streamed as at once, in pixels of 8 bits, beside the right floor."""

from pathlib import Path

import numpy as np
import pytest
import torch

from storage.data import DataStore
from storage.errors import InputError
from tasks import frechet as module
from tasks.evaluation.frechet import frechet_of_points
from tasks.features import LawFeatures
from tasks.frechet import FrechetScores, measure_frechet, require_enough
from tasks.ingest import ingest
from tasks.networks.build import build_generator
from tasks.sample import sample_rows
from tasks.specs import DatasetSpec, EvaluationSpec, NetworkSpec
from tasks.train_generator import StoredGenerator
from tasks.training.device import CPU
from tasks.transport.noise import FRESH_DATA
from tasks.transport.synthetic import draw
from tests.storage.datasets.files import draw_pixels, write_idx

ROWS, TEST_ROWS, SIDE = 150, 60, 4
SPEC = EvaluationSpec(frechet_samples=120)


def generator(dim: tuple[int, ...]) -> StoredGenerator:
    found = build_generator(NetworkSpec(width=8, depth=1), dim, seed=0, interpolant="linear", data_std=1.0)
    return StoredGenerator(generator=found.requires_grad_(False), times=(0.0, 0.5, 0.9), dim=dim, digest="")


def mnist(folder: Path, *, side: int = SIDE, test_side: int = SIDE) -> DatasetSpec:
    write_idx(folder / "train-images-idx3-ubyte", draw_pixels(ROWS, side, side))
    write_idx(folder / "t10k-images-idx3-ubyte", draw_pixels(TEST_ROWS, test_side, test_side, seed=1) // 2)
    return DatasetSpec(kind="idx", path=str(folder))


def store(folder: Path, dataset: DatasetSpec) -> DataStore:
    ingest(dataset, seed=0, path=folder / "data.zarr")
    return DataStore(folder / "data.zarr")


def measured(
    dataset: DatasetSpec, data: DataStore, *, spec: EvaluationSpec = SPEC, features: LawFeatures | None = None
) -> FrechetScores:
    stored, told = generator(data.dim), []
    first = [sample_rows(stored, data.standardisation, start=k, stop=k + 25, steps=1, seed=0) for k in (0, 25)]
    found = measure_frechet(
        spec, dataset, data, stored, first=first, features=features, told=lambda done, total: told.append((done, total))
    )
    assert not told or told[-1][0] == told[-1][1]
    return found


def samples(data: DataStore, count: int) -> np.ndarray:
    return sample_rows(generator(data.dim), data.standardisation, start=0, stop=count, steps=1, seed=0)


def test_pixels_lie_in_the_unit_interval_samples_have_8_bits_and_the_test_split_gives_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.distances._BLOCK_VALUES", 1)
    dataset = mnist(tmp_path)
    data = store(tmp_path, dataset)
    scores = measured(dataset, data)
    found = scores.measured[0]
    train, test = draw_pixels(ROWS, SIDE, SIDE) / 255, draw_pixels(TEST_ROWS, SIDE, SIDE, seed=1) // 2 / 255
    levels = np.clip(np.rint((samples(data, 120) + 1) * 127.5), 0, 255) / 255
    assert found.distance.value == pytest.approx(frechet_of_points(levels, train), rel=1e-6)  # stored in single
    assert found.floor.value == pytest.approx(frechet_of_points(test, train), rel=1e-6)
    assert found.ratio.value == found.distance.value / found.floor.value
    assert (found.distance.name, found.distance.n, found.distance.n_reference) == ("frechet_pixel", 120, ROWS)
    assert (found.floor.name, found.floor.n, found.floor.n_reference) == ("frechet_pixel_floor", TEST_ROWS, ROWS)
    words = scores.about["frechet_pixel"]
    assert "pixels in [0, 1], samples rounded to 8 bits, to all 150 rows; floor" in words
    assert words.endswith("floor: the 60 rows of the test split")


def test_streamed_and_at_once_are_the_same_to_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 256 rows and in one, where nothing but the stream differs."""
    x = np.random.default_rng(0).standard_normal((700, 1, 3, 3))
    np.savez(tmp_path / "x.npz", x=x)
    dataset = DatasetSpec(kind="npz", path=str(tmp_path / "x.npz"), standardise=False)
    data = store(tmp_path, dataset)
    spec = EvaluationSpec(frechet_samples=600)
    whole = measured(dataset, data, spec=spec).measured[0]
    monkeypatch.setattr("tasks.distances._BLOCK_VALUES", 1)
    scores = measured(dataset, data, spec=spec)
    found = scores.measured[0]
    expected = frechet_of_points(samples(data, 600), x.astype(np.float32))
    assert found.distance.value == pytest.approx(expected, abs=1e-8)
    assert found.distance.value == pytest.approx(whole.distance.value, abs=1e-10)
    assert found.floor.value == pytest.approx(whole.floor.value, abs=1e-10)
    assert "values as they are, no 8-bit pixels" in scores.about["frechet_pixel"]


def test_without_another_split_the_floor_is_that_of_two_halves_which_make_up_the_data(tmp_path: Path) -> None:
    dataset = mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    data = store(tmp_path, dataset)
    scores = measured(dataset, data)
    found = scores.measured[0]
    train = draw_pixels(ROWS, SIDE, SIDE) / 255
    first = np.random.default_rng([0, module._HALVES]).permutation(ROWS)[:75]
    expected = frechet_of_points(train[first], np.delete(train, first, axis=0))
    assert found.floor.value == pytest.approx(expected, rel=1e-6)
    assert (found.floor.n, found.floor.n_reference, found.distance.n_reference) == (75, 75, ROWS)
    levels = np.clip(np.rint((samples(data, 120) + 1) * 127.5), 0, 255) / 255
    assert found.distance.value == pytest.approx(frechet_of_points(levels, train), rel=1e-6)
    words = scores.about["frechet_pixel"]
    assert words.endswith("floor: half of the data to the other (75 and 75 rows), high for its fewer points")


def test_more_samples_than_rows_are_not_drawn(tmp_path: Path) -> None:
    dataset = mnist(tmp_path)
    found = measured(dataset, store(tmp_path, dataset), spec=EvaluationSpec()).measured[0]
    assert found.distance.n == ROWS


def test_features_see_what_pixels_see_in_data_units_and_drawn_targets_have_fresh_draws_for_a_floor(
    tmp_path: Path,
) -> None:
    seen = []

    def squares(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.flatten(1)[:, :2] ** 2

    features = LawFeatures(name="mine:net", digest="", device=CPU, map=squares)
    images = mnist(tmp_path)
    data = store(tmp_path, images)
    pixels, scores = measured(images, data, features=features).measured
    assert (pixels.distance.name, scores.distance.name) == ("frechet_pixel", "frechet_features")
    levels = np.clip(np.rint((samples(data, 120) + 1) * 127.5), 0, 255) / 127.5 - 1
    train = draw_pixels(ROWS, SIDE, SIDE) / 127.5 - 1
    expected = frechet_of_points(levels.reshape(120, -1)[:, :2] ** 2, train.reshape(ROWS, -1)[:, :2] ** 2)
    assert scores.distance.value == pytest.approx(expected, rel=1e-5)
    assert {x.dtype for x in seen} == {torch.float32}
    plane = DatasetSpec(kind="moons", count=400)
    (tmp_path / "plane").mkdir()
    data = store(tmp_path / "plane", plane)
    found = measured(plane, data, features=features)
    assert [m.distance.name for m in found.measured] == ["frechet_features"]
    fresh = draw(plane.target(), 0, 120, seed=0, stream=FRESH_DATA).numpy()
    rows = np.concatenate(
        [data.standardisation.to_data(data.read(data.shards.chunk(k))) for k in range(data.shards.count)]
    )
    assert found.measured[0].floor.value == pytest.approx(frechet_of_points(fresh**2, rows**2), rel=1e-5)
    assert "the features mine:net, to all 400 rows; floor: 120 fresh draws" in (found.about["frechet_features"])


def test_vectors_without_features_have_no_frechet_distance(tmp_path: Path) -> None:
    plane = DatasetSpec(kind="moons", count=40)
    assert measured(plane, store(tmp_path, plane)) == FrechetScores(measured=[], about={})


def test_images_of_more_numbers_than_rows_are_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = mnist(tmp_path, side=13, test_side=13)
    assert measured(dataset, store(tmp_path, dataset)).measured == []
    assert "frechet_pixel is left out: images of 169 numbers need more rows than that" in caplog.text


@pytest.mark.parametrize(
    ("kind", "count", "message"),
    [
        ("plane", 120, "dataset must have at least 4 rows for an evaluation, two for each half, got 3"),
        ("mnist", 16, "evaluation.frechet_samples must be at least 17 for frechet_pixel, one more .* numbers, got 16"),
        ("wide", 120, "rows of the dataset must be at least 201 for frechet_features, .* got 150"),
        ("features", 120, "evaluation.frechet_samples must be at least 131 for frechet_features, .* got 120"),
        ("split", 120, r"its test split has rows of shape \[1, 5, 5\], and the data have \[1, 4, 4\]"),
    ],
)
def test_what_could_not_be_measured_is_refused_before_any_training(
    kind: str, count: int, message: str, tmp_path: Path
) -> None:
    size = {"wide": 200, "features": 130}.get(kind, 0)
    features = LawFeatures(name="m:f", digest="", device=CPU, map=lambda x: torch.zeros(len(x), size))
    dataset = mnist(tmp_path, test_side=5 if kind == "split" else SIDE)
    if kind == "plane":
        dataset = DatasetSpec(kind="moons", count=3)
    data, spec = store(tmp_path, dataset), EvaluationSpec(frechet_samples=count)
    with pytest.raises(InputError, match=message):
        require_enough(spec, dataset, data, features if size else None)


def test_what_can_be_measured_is_not_refused(tmp_path: Path) -> None:
    dataset = mnist(tmp_path)
    require_enough(EvaluationSpec(frechet_samples=17), dataset, store(tmp_path, dataset), None)
