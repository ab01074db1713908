"""The whole road as a user travels it, on a target small enough for a test."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.catalog import Catalog
from tests.end_to_end.command import TINY, charflow_json, integrate_here, told

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_signals", "prefect_home")]

STEPS = ["ingest", "fit_velocity", "integrate", "train_generator", "evaluate"]
CHANGES = (
    *TINY,
    "velocity.kind=network",
    "velocity.steps=40",
    "velocity.batch_size=128",
    "velocity.network.width=32",
    "generator.workers=1",
)
SETS = [part for change in CHANGES for part in ("--set", change)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds one finished run of the gaussian preset, velocity trained by two workers."""
    root = tmp_path_factory.mktemp("road") / "runs"
    found = charflow_json("run", "gaussian", "--tag", "road", root=root, changes=CHANGES)
    assert {step: facts["status"] for step, facts in found["steps"].items()} == dict.fromkeys(STEPS, "done")
    return root


def test_a_finished_run_repeated_does_nothing_and_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = charflow_json("run", "gaussian", root=root, changes=CHANGES)
    assert {facts["status"] for facts in found["steps"].values()} == {"reused"}
    assert "nothing to do" in told(capsys, "run", "gaussian", *SETS, root=root)


def test_the_metrics_carry_their_promised_names_errors_and_counts(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(told(capsys, "run", "gaussian", "--json", *SETS, root=root))
    names = {"w2", "w2_floor", "w2_ratio", "sliced_w2", "sinkhorn", "memorised_fraction", "w2_excess", "fit_error"}
    terms = ("early_stopping", "velocity", "euler", "fit")
    names |= {f"budget.{name}" for name in (*terms, "bound")}
    assert names <= found["metrics"].keys()
    for name in names:
        assert found["metrics_detail"][name].keys() >= {"n", "standard_error"}
    ratio = found["metrics"]["w2"] / found["metrics"]["w2_floor"]
    assert found["metrics"]["w2_ratio"] == pytest.approx(ratio)
    bound = found["metrics"]["budget.bound"]
    assert bound == pytest.approx(sum(found["metrics"][f"budget.{name}"] for name in terms))
    assert bound > found["metrics"]["w2_excess"]
    assert found["advice"].startswith("Next: ")


def test_the_report_is_one_page_without_the_network(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(told(capsys, "report", "gaussian", root=root).strip()).read_text()
    assert "w2_ratio" in page or "W2" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page
    assert "data:image/png;base64," in page


def test_the_stores_open_with_zarr_alone(root: Path) -> None:
    x = zarr.open_array(root / "gaussian" / "trajectories.zarr" / "x", mode="r")
    t = zarr.open_array(root / "gaussian" / "trajectories.zarr" / "t", mode="r")
    assert x.shape == (600, 9, 2)
    assert np.isfinite(x[:]).all()
    assert np.asarray(t[:]) == pytest.approx(np.linspace(0, 1, 9))
    data = zarr.open_group(root / "gaussian" / "data.zarr", mode="r")
    assert {"mean", "scale", "source", "digest"} <= dict(data.attrs).keys()


def test_samples_are_written_as_numbers_and_as_a_picture(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("npy", "png"):
        out = str(tmp_path / f"x.{suffix}")
        told(capsys, "sample", "gaussian", "--count", "50", "--seed", "3", "--out", out, root=root)
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (50, 2)
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_a_flipped_byte_is_found_and_repaired_to_the_same_bytes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "gaussian" / "trajectories.zarr" / "x" / "c" / "2" / "0" / "0"
    good = file.read_bytes()
    file.write_bytes(good[:99] + bytes([good[99] ^ 4]) + good[100:])
    assert "bad 2" in told(capsys, "verify", "gaussian", root=root, code=1)
    assert "all as committed" in told(capsys, "verify", "gaussian", "--quick", root=root)  # which reads no trajectory
    found = charflow_json("verify", "gaussian", "--repair", root=root)
    assert found == {"chunks": 10, "bad": [], "missing": [], "repaired": [2]}
    assert file.read_bytes() == good


def test_show_and_runs_tell_what_there_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(told(capsys, "show", "gaussian", "--json", root=root))
    assert shown["status"] == "finished"
    assert list(shown["steps"]) == STEPS
    (run,) = json.loads(told(capsys, "runs", "--json", root=root))["runs"]
    assert run["name"] == "gaussian"
    out = told(capsys, "show", "gaussian", root=root)
    assert "integrate" in out
    assert shown["steps"]["evaluate"]["summary"]["advice"] in out


def test_the_lineage_of_real_steps_is_whole(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(told(capsys, "show", "gaussian", "--json", root=root))
    assert shown["tags"] == ["road"]
    lineage = shown["lineage"]
    assert list(lineage["evaluate"]["inputs"].items()) == list(shown["digests"].items())
    assert [lineage[step]["digest"] for step in STEPS[:-1]] == list(shown["digests"].values())
    assert (lineage["fit_velocity"]["cores"], lineage["train_generator"]["cores"]) == (2, 1)
    assert all(facts["cores"] and facts["bytes"] and facts["host"] and facts["is_held"] for facts in lineage.values())
    assert shown["core_hours"] == pytest.approx(sum(f["seconds"] * f["cores"] for f in lineage.values()) / 3600)
    assert [run["name"] for run in json.loads(told(capsys, "runs", "--tag", "road", "--json", root=root))["runs"]]


def test_what_is_cleared_away_nothing_misses(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root, tmp_path / "runs")
    root = tmp_path / "runs"
    keys = {step: stage.key for step, stage in Catalog(root).get("gaussian").steps.items()}
    found = json.loads(told(capsys, "gc", "--delete", "--json", root=root))
    assert [Path(item["path"]) for item in found["garbage"]] == [
        root / "gaussian" / "velocity" / "checkpoints" / keys["fit_velocity"],
        root / "gaussian" / "generator" / "checkpoints" / keys["train_generator"],
    ]
    assert found["bytes"] > 10_000
    assert "nothing to do" in told(capsys, "run", "gaussian", *SETS, root=root)
    assert "all as committed" in told(capsys, "verify", "gaussian", root=root)
    told(capsys, "sample", "gaussian", "--count", "5", "--out", str(tmp_path / "x.npy"), root=root)
    before = Catalog(root).get("gaussian").metrics
    told(capsys, "evaluate", "gaussian", root=root)
    assert Catalog(root).get("gaussian").metrics == pytest.approx(before)
    assert told(capsys, "gc", root=root) == "nothing to clear away\n"


def test_a_raised_count_keeps_every_chunk(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grown = tmp_path / "runs"
    shutil.copytree(root, grown)
    store = grown / "gaussian" / "trajectories.zarr" / "x" / "c"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("0") if path.is_file()}
    raised = "trajectories.count=1000"
    assert integrate_here(grown, changes=(*CHANGES, raised))["simulated"] == 6  # of 16 chunks
    words = ("run", "gaussian", "--until", "integrate", "--json", *SETS, "--set", raised)
    found = json.loads(told(capsys, *words, root=grown))
    assert [facts["status"] for facts in found["steps"].values()] == ["reused"] * 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert zarr.open_array(store.parent, mode="r").shape == (1000, 9, 2)


def test_the_stored_trajectories_carry_the_exact_euler_factor(tmp_path: Path) -> None:
    changes = (
        "dataset.mean=0",
        "dataset.std=2",
        "dataset.standardise=false",
        "velocity.kind=oracle",
        "interpolant.kind=linear",
        "trajectories.stop=1.0",
        "trajectories.steps=16",
    )
    integrate_here(tmp_path / "runs", changes=changes)
    x = np.asarray(zarr.open_array(tmp_path / "runs" / "gaussian" / "trajectories.zarr" / "x", mode="r")[:])
    assert len(x) == 20_000
    assert x[:, -1] == pytest.approx(1.822732 * x[:, 0], rel=2e-6)
