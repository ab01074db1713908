"""The conditional road in this process: labelled data, a network velocity, guided trajectories, a class on demand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from flows.cli import main
from flows.config import load_config
from flows.runs import open_run
from flows.work import perform
from storage.catalog import Catalog
from storage.models import read_model
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.simulation import row_labels
from tasks.train_generator import load_generator
from tasks.training.ddp import Outcome
from tasks.training.group import Group, alone

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_signals")]

MEANS = np.array([[-3.0, 0.0], [3.0, 1.0]])
SPREADS = np.array([0.3, 0.6])
SHARES = (0.75, 0.25)

CHANGES = (
    "dataset.kind=npz",
    "interpolant.kind=trigonometric",
    "velocity.kind=network",
    "velocity.conditional=true",
    "velocity.network.width=64",
    "velocity.network.depth=2",
    "velocity.steps=500",
    "velocity.batch_size=256",
    "velocity.label_dropout=0.2",
    "velocity.ema=0.99",
    "trajectories.count=4000",
    "trajectories.steps=8",
    "trajectories.chunk_rows=512",
    "trajectories.unlabelled_share=0.2",
    "generator.network.width=64",
    "generator.network.depth=2",
    "generator.steps=500",
    "generator.batch_size=256",
    "generator.ema=0.99",
    "generator.form=euler",
    "generator.warm_start=true",
    "generator.semigroup=0.1",
)


def train_here(worker: Callable[[Any, Group], None], request: Any, **_: object) -> Outcome:
    worker(request, alone())
    return Outcome()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a conditional run up to its generator, trained without Ray."""
    folder = tmp_path_factory.mktemp("conditional")
    rng = np.random.default_rng(0)
    label = (np.arange(4000) % 4 == 3).astype(np.int64)
    x = MEANS[label] + SPREADS[label, None] * rng.standard_normal((4000, 2))
    np.savez(folder / "two.npz", x=x.astype(np.float32), label=label)
    config = load_config("moons", changes=[*CHANGES, f"dataset.path={folder / 'two.npz'}"])
    with pytest.MonkeyPatch.context() as patch:
        for step in ("fit_velocity", "train_generator"):
            patch.setattr(f"tasks.{step}.train_on_cluster", train_here)
        run = open_run(config, root=folder / "runs", name="two", source="moons", until="train_generator")
        with run.in_progress():
            for step in run.pending:
                perform(step, run, SerialExecutor(), progress=lambda *_: None)
    return folder / "runs"


def sampled(root: Path, out: Path, *words: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    with pytest.raises(SystemExit) as caught:
        main(["sample", "two", "--root", str(root), "--count", "3000", "--out", str(out), *words])
    assert caught.value.code == 0
    with np.load(out) as found:
        return dict(found)


@pytest.mark.parametrize("label", [0, 1])
def test_the_asked_class_comes_out_in_one_step(label: int, root: Path, tmp_path: Path) -> None:
    found = sampled(root, tmp_path / "x.npz", "--label", str(label))
    assert (found["label"] == label).all()
    assert nearest(found["x"], label) > 0.99
    assert found["x"].mean(0) == pytest.approx(MEANS[label], abs=0.4)
    assert found["x"].std(0) == pytest.approx(SPREADS[label], abs=0.3)


def nearest(x: np.ndarray[Any, np.dtype[Any]], label: int) -> float:
    """Give the share of points that lie nearer to the mean of their class than to the other's."""
    distances = np.linalg.norm(x[:, None] - MEANS, axis=2)
    return float((distances.argmin(1) == label).mean())


def test_guidance_keeps_the_class_and_changes_the_samples(root: Path, tmp_path: Path) -> None:
    plain, guided, none = (
        sampled(root, tmp_path / f"{w}.npz", "--label", "1", "--guidance", str(w))["x"] for w in (1, 2, 0)
    )
    assert nearest(guided, 1) > 0.99
    assert abs(guided - plain).max() > 0.05
    # the unconditional map is that of the whole law, three quarters of which are of the other class
    assert nearest(none, 1) == pytest.approx(SHARES[1], abs=0.08)


def test_without_a_label_samples_have_the_shares_of_the_data_and_sit_where_they_say(root: Path, tmp_path: Path) -> None:
    found = sampled(root, tmp_path / "x.npz")
    assert abs(found["label"].mean() - SHARES[1]) < 4.5 * (0.75 * 0.25 / 3000) ** 0.5
    for label in (0, 1):
        assert nearest(found["x"][found["label"] == label], label) > 0.99


def test_the_exported_program_is_the_generator(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "two", "--root", str(root), "--out", str(tmp_path / "two"), "--json"])
    assert caught.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == "two"
    assert sorted(told["files"]) == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert told["difference"] < 1e-5


def test_each_stored_trajectory_ends_in_the_class_that_it_is_labelled_with(root: Path) -> None:
    paths = Catalog(root).paths("two")
    store = TrajectoryStore.open(paths.trajectories)
    group: Any = zarr.open_group(paths.trajectories, mode="r")
    label, x = group["label"][:], group["x"][:]
    assert store.plan.class_shares == SHARES
    planned = row_labels(store.plan, 0, 4000)
    assert planned is not None
    assert label.tolist() == planned.tolist()
    data: Any = zarr.open_group(paths.data, mode="r")
    ends = np.asarray(data.attrs["mean"]) + np.asarray(data.attrs["scale"]) * x[:, -1]
    for k in (0, 1):
        assert nearest(ends[label == k], k) > 0.99
    assert nearest(ends[label == -1], 1) == pytest.approx(SHARES[1], abs=0.08)


def test_the_published_generator_says_what_it_knows(root: Path) -> None:
    folder = Catalog(root).paths("two").generator
    spec = read_model(folder).spec
    assert (spec["classes"], spec["class_shares"], spec["unlabelled_share"]) == (2, list(SHARES), 0.2)
    stored = load_generator(folder)
    assert (stored.classes, stored.class_shares, stored.unlabelled_share) == (2, SHARES, 0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--label", "2"), "--label '2' is unknown; known: 0, 1"),
        (("--label", "dog"), "--label 'dog' is unknown; known: 0, 1"),
        (("--label=-1",), "--label '-1' is unknown; known: 0, 1"),
        (("--label", "1", "--guidance", "-1"), "--guidance must be at least 0, got -1"),
        (("--label", "1", "--guidance", "much"), "argument --guidance: invalid float value: 'much'"),
    ],
)
def test_a_class_that_is_not_there_is_one_line_and_exit_code_two(
    words: tuple[str, ...], message: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sample", "two", "--root", str(root), "--count", "3", "--out", str(tmp_path / "x.npz"), *words])
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []
