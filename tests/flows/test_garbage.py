"""Clearing away among real runs: nothing that a record names ever goes, whoever works or begins meanwhile."""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flows.config import load_config
from flows.garbage import wishes_of
from flows.runs import Run, open_run
from flows.stages import STEPS
from flows.studies import open_study
from flows.work import perform
from storage import garbage
from storage.catalog import Catalog
from storage.garbage import clear_garbage, find_garbage
from storage.models import publish_model
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tests.end_to_end.command import integrate_here, told
from tests.flows.test_runs import open_moons, summary_of
from tests.local import files_of, on_disk
from tests.storage.disk import interrupted

pytestmark = pytest.mark.usefixtures("own_signals")

SMALL = ("dataset.count=64", "trajectories.count=32", "trajectories.chunk_rows=16", "trajectories.steps=2")
PLACES = {
    "ingest": ["data.zarr"],
    "fit_velocity": ["velocity"],
    "integrate": ["trajectories.zarr", "trajectories.ledger"],
    "train_generator": ["generator"],
    "evaluate": ["report"],
}


def referred(root: Path) -> dict[str, bytes]:
    """Give every file that some record names, read from the records as they lie there."""
    records = [json.loads(path.read_text()) for path in root.glob("*/run.json")]
    named = {(stage["holder"], place) for r in records for step, stage in r["steps"].items() for place in PLACES[step]}
    assert all((root / holder / place).is_dir() for holder, place in named), named
    found = {f"{h}/{p}/{name}": content for h, p in named for name, content in files_of(root / h / p).items()}
    own = [path for path in root.rglob("*") if path.name in ("run.json", "config.toml", "study.json")]
    return found | {str(path.relative_to(root)): path.read_bytes() for path in own}


def cleared(root: Path) -> list[str]:
    """Clear a root, check that all that is referred to is as it was, and give what went."""
    catalog, before = Catalog(root), referred(root)
    found = clear_garbage(catalog, partial(wishes_of, catalog))
    assert referred(root) == before
    return sorted(str(item.path.relative_to(root)) for item in found.garbage)


def begin(root: Path, *changes: str, name: str, until: str = "integrate") -> Run:
    config = load_config("gaussian", changes=(*SMALL, *changes))
    return open_run(config, root=root, name=name, source="gaussian", until=until)


def do(run: Run, *steps: str) -> Run:
    with run.in_progress():
        for step in steps or run.pending:
            perform(step, run, SerialExecutor(), progress=lambda *_: None)
    return run


def copy(root: Path, place: str, *, source: str, to: str) -> None:
    shutil.copytree(root / source / place, root / to / place)


def test_runs_that_share_stages_and_a_study_keep_all_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(begin(tmp_path, name="one"))
    do(begin(tmp_path, "trajectories.steps=3", name="two"))
    sweeps, changes = ["trajectories.steps=2,4"], [*SMALL, "velocity.kind=kernel", "velocity.bandwidth=0.5"]
    study = open_study("gaussian", sweeps=sweeps, changes=changes, root=tmp_path, name="", until="integrate")
    for member in study.pending:
        do(study.claim(member))
    assert cleared(tmp_path) == []
    # an earlier attempt of run two, which was interrupted before run one had these
    for place in ("data.zarr", "velocity"):
        copy(tmp_path, place, source="one", to="two")
    assert cleared(tmp_path) == ["two/data.zarr", "two/velocity"]
    for name in ("one", "two", *(member.name for member in study.members)):
        assert "all as committed" in told(capsys, "verify", name, root=tmp_path)
    assert begin(tmp_path, name="one").pending == ()


def test_growth_keeps_every_chunk_and_what_it_goes_on_from(tmp_path: Path) -> None:
    do(begin(tmp_path, name="one"))
    other = begin(tmp_path, "generator.steps=3", name="other")
    assert other.pending == ()
    assert cleared(tmp_path) == []
    # other grows beyond what one has: its own store begins, and is interrupted
    grown = begin(tmp_path, "generator.steps=3", "trajectories.count=64", name="other")
    assert grown.pending == ("integrate",)
    do(grown)
    chunk = TrajectoryStore.open(grown.paths.trajectories)
    chunk.retract(3)
    grown.catalog.finish_stage(grown.record, "integrate", other.record.steps["integrate"])
    begin(tmp_path, "generator.steps=3", "trajectories.count=64", name="other")  # which asks for 64 again
    kept = files_of(tmp_path / "other" / "trajectories.zarr")
    assert cleared(tmp_path) == []
    assert files_of(tmp_path / "other" / "trajectories.zarr") == kept
    # as it asked for 32 in the end, run one serves it, and its own is not needed
    begin(tmp_path, "generator.steps=3", name="other")
    assert cleared(tmp_path) == ["other/trajectories.ledger", "other/trajectories.zarr"]


def test_a_run_whose_configuration_is_not_read_keeps_everything(tmp_path: Path) -> None:
    do(begin(tmp_path, name="one"))
    do(begin(tmp_path, "trajectories.steps=3", name="two"))
    copy(tmp_path, "data.zarr", source="one", to="two")
    path = tmp_path / "two" / "config.toml"
    text = path.read_text()
    for content in ("[dataset", "[dataset]\nkind = 'of tomorrow'\n"):
        path.write_text(content)
        assert cleared(tmp_path) == []
    path.unlink()
    assert cleared(tmp_path) == []
    path.write_text(text)
    assert cleared(tmp_path) == ["two/data.zarr"]


def make(run: Run, *steps: str) -> Run:
    """Finish steps with small files in place of the work."""
    with run.in_progress():
        for step in steps or run.pending:
            for place in map(on_disk, run.paths.stages[step]):
                place.mkdir(exist_ok=True)
                (place / "content").write_text(run.keys[step])
            if step in ("fit_velocity", "train_generator"):
                publish_model(run.paths.stages[step][0], spec={"kind": "mlp", "key": run.keys[step]})
            run.finish(step, seconds=1.0, summary=summary_of(run, step))
    return run


def scene(root: Path) -> None:
    """Let run ``holder`` hold a generator that it is about to let go of: ``grown`` has that of more trajectories."""
    make(open_moons(root, "trajectories.count=10", name="holder"))
    make(open_moons(root, "trajectories.count=20", "evaluation.samples=66", name="grown"))


def let_go(root: Path) -> None:
    """Raise the count of run ``holder``, which then takes the generator from run ``grown``."""
    run = open_moons(root, "trajectories.count=20", name="holder")
    assert run.holder("train_generator").run == "grown"


def clear(root: Path) -> None:
    catalog = Catalog(root)
    clear_garbage(catalog, partial(wishes_of, catalog))


def adopt(root: Path) -> None:
    """Begin a run that takes over what run ``holder`` holds, as long as it does."""
    open_moons(root, "trajectories.count=10", "evaluation.samples=55", name="late")


def let_go_and_clear(root: Path) -> None:
    let_go(root)
    clear(root)


@pytest.mark.parametrize(
    ("acts", "meanwhile"),
    [(adopt, let_go_and_clear), (let_go_and_clear, adopt)],
)
def test_whenever_a_run_takes_over_what_another_lets_go_of_it_is_there_or_not_named(
    acts: Callable[[Path], None], meanwhile: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them comes between any two calls of the other; then everything that a record names lies there."""
    monkeypatch.setattr(garbage, "_PATIENCE_SECONDS", 0.0)  # who has a lock is this very process
    scene(tmp_path / "scene")
    outcomes = set()
    for k in count(1):
        root = Path(shutil.copytree(tmp_path / "scene", tmp_path / str(k)))
        with interrupted(k, partial(meanwhile, root)) as calls:
            acts(root)
        referred(root)
        late = root / "late" / "run.json"
        outcomes.add(late.exists() and "train_generator" in json.loads(late.read_text())["steps"])
        if len(calls) < k:
            break
    assert k > 10
    assert outcomes == {True, False}


def test_what_is_let_go_of_goes_once_nobody_has_it(tmp_path: Path) -> None:
    scene(tmp_path)
    let_go(tmp_path)
    assert cleared(tmp_path) == ["holder/generator", "holder/trajectories.ledger", "holder/trajectories.zarr"]


def _clear_on_and_on(root: Path, stop: Any) -> None:
    while not stop.is_set():
        clear(root)


def test_processes_that_begin_and_grow_runs_beside_one_that_clears_on_and_on_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    clearing = spawn.Process(target=_clear_on_and_on, args=(tmp_path, stop))
    clearing.start()
    try:
        for k in range(12):
            seed = f"seed={k // 6}"
            run = make(open_moons(tmp_path, seed, f"trajectories.count={10 + k}", name=f"grows-{k // 6}"))
            make(open_moons(tmp_path, seed, f"trajectories.count={10 + k}", f"evaluation.samples={50 + k}"))
            referred(tmp_path)
            assert run.pending == ()
    finally:
        stop.set()
        clearing.join()
    assert clearing.exitcode == 0
    assert len(list(tmp_path.glob("*/run.json"))) > 12
    for path in tmp_path.glob("*/run.json"):
        assert set(json.loads(path.read_text())["steps"]) == set(STEPS)


def test_the_command_lists_then_deletes_and_says_what_is_at_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    integrate_here(tmp_path, changes=SMALL)
    do(begin(tmp_path, "trajectories.steps=3", name="two"))
    copy(tmp_path, "data.zarr", source="gaussian", to="two")
    size = sum(len(content) for content in files_of(tmp_path / "two" / "data.zarr").values())
    listed = told(capsys, "gc", root=tmp_path)
    assert f"two/data.zarr {size:,} run two takes ingest from run gaussian" in " ".join(listed.split())
    assert f"{size:,} bytes; charflow gc --delete deletes them\n" in listed
    found = json.loads(told(capsys, "gc", "--json", root=tmp_path))
    (item,) = found.pop("garbage")
    assert (item["run"], item["path"], item["bytes"]) == ("two", str(tmp_path / "two" / "data.zarr"), size)
    assert found == {"bytes": size, "is_deleted": False, "spared": {}}
    with Catalog(tmp_path).held("two"):
        assert "run two was left alone: a process is at work on it" in told(capsys, "gc", "--delete", root=tmp_path)
    assert (tmp_path / "two" / "data.zarr").exists()
    assert f"{size:,} bytes deleted\n" in told(capsys, "gc", "--delete", root=tmp_path)
    assert not (tmp_path / "two" / "data.zarr").exists()
    assert told(capsys, "gc", root=tmp_path) == "nothing to clear away\n"
    catalog = Catalog(tmp_path)
    assert find_garbage(catalog, partial(wishes_of, catalog)).garbage == ()
