"""Clearing away: what nobody refers to goes, what anybody refers to, wants or works on stays, whenever one dies."""

import fcntl
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from storage import garbage
from storage.atomic import set_aside
from storage.catalog import Catalog, RunRecord, stage_record
from storage.checkpoints import Checkpoint, CheckpointFolder
from storage.errors import DamagedError, InputError
from storage.garbage import AskWishes, Clearing, Wishes, clear_garbage, find_garbage
from storage.models import publish_model
from storage.remote import RemotePath
from storage.studies import StudyRecord, claim_study, finish_study
from tests.local import files_of, on_disk
from tests.storage.disk import deaths, interrupted

STEPS = ("ingest", "fit_velocity", "integrate", "train_generator", "evaluate")
K1, K2, K3 = ("1" * 32, "2" * 32, "3" * 32)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "runs")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no lock: it is this very process that has it."""
    monkeypatch.setattr(garbage, "_PATIENCE_SECONDS", 0.0)


def make(catalog: Catalog, name: str, step: str, key: str) -> None:
    """Lay what a step makes into a run's folder."""
    for place in map(on_disk, catalog.paths(name).stages[step]):
        place.mkdir(parents=True, exist_ok=True)
        (place / "content").write_bytes(f"{step} of {name}".encode())
        if step in ("fit_velocity", "train_generator"):
            publish_model(place, spec={"kind": "mlp", "key": key}, weights=b"1" * 100)


def train(catalog: Catalog, name: str, step: str, key: str) -> Path:
    """Lay what a training leaves beside its model, and give where."""
    folder = on_disk(catalog.paths(name).stages[step][0]) / "checkpoints" / key
    CheckpointFolder(folder).save(Checkpoint(step=10, payload=b"2" * 50))
    (folder / "admissions").mkdir()
    (folder / "admissions" / "epoch-000000.json").write_text("{}")
    (folder / "journal.jsonl").write_text("{}\n")
    return folder


def refer(catalog: Catalog, name: str, *steps: str, holder: str = "", key: str = K1) -> RunRecord:
    """Let a run's record name steps, made where it is their holder."""
    identity = f"{len(catalog.runs()):032x}"
    record = catalog.get(name) if catalog.paths(name).record.is_file() else None
    record = record or catalog.claim(name, identity=identity, config="moons", is_explicit=True)
    catalog.write_config(name, "")
    with catalog.held(name):
        for step in steps:
            if not holder:
                make(catalog, name, step, key)
            stage = stage_record(key=key, holder=holder or name, seconds=1.0, summary={})
            record = catalog.finish_stage(record, step, stage)
    return record


def wanting(
    key: str = K1, *, served: tuple[str, ...] = STEPS, but: Mapping[str, Wishes | None] | None = None
) -> AskWishes:
    """Let every run want one key for all steps, but for some runs, which want something else."""
    usual = Wishes(keys=dict.fromkeys(STEPS, key), served=frozenset(served))
    return lambda record: (but or {}).get(record.name, usual)


def names(catalog: Catalog, found: Clearing) -> list[str]:
    return sorted(str(item.path.relative_to(on_disk(catalog.root))) for item in found.garbage)


def clear(catalog: Catalog, wishes: AskWishes | None = None) -> list[str]:
    """Look, check that looking changed nothing, clear, check that just this went, and give the names of it."""
    wishes = wishes or wanting()
    before = files_of(on_disk(catalog.root))
    found = find_garbage(catalog, wishes)
    assert files_of(on_disk(catalog.root)) == before
    cleared = clear_garbage(catalog, wishes)
    assert cleared == found
    for item in found.garbage:
        assert not any(part.exists() for part in item.parts)
    after = files_of(on_disk(catalog.root))
    gone = {on_disk(catalog.root) / name for name in before.keys() - after.keys()}
    parts = [part for item in found.garbage for part in item.parts]
    for path in gone:
        assert any(path.is_relative_to(part) for part in parts) or path.name in (".lock", "config.toml")
    assert all(before[name] == content for name, content in after.items() if name in before)
    assert find_garbage(catalog, wishes).garbage == ()
    return names(catalog, found)


def test_an_empty_root_has_none_and_is_not_made(catalog: Catalog) -> None:
    assert find_garbage(catalog, wanting()) == clear_garbage(catalog, wanting()) == Clearing(garbage=(), spared={})
    assert not on_disk(catalog.root).exists()


def test_all_that_a_run_holds_stays(catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    before = files_of(on_disk(catalog.root))
    assert clear(catalog) == []
    assert files_of(on_disk(catalog.root)) == before


def test_what_a_run_takes_from_another_it_does_not_need_of_its_own(catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    refer(catalog, "two", *STEPS, holder="one")
    for step in STEPS:
        make(catalog, "two", step, K1)
    assert clear(catalog) == [
        *("two/data.zarr", "two/generator", "two/report"),
        *("two/trajectories.ledger", "two/trajectories.zarr", "two/velocity"),
    ]
    assert sorted(files_of(on_disk(catalog.root) / "two")) == [".lock", "config.toml", "run.json"]


@pytest.mark.parametrize("step", STEPS)
def test_what_a_third_run_takes_from_it_stays(step: str, catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    refer(catalog, "two", *STEPS, holder="one")
    make(catalog, "two", step, K1)
    refer(catalog, "three", step, holder="two", key=K3)
    assert clear(catalog) == []


@pytest.mark.parametrize(
    "wished",
    [
        None,
        Wishes(keys=dict.fromkeys(STEPS, K1), served=frozenset(STEPS) - {"integrate"}),  # more rows than the other has
        Wishes(keys=dict.fromkeys(STEPS, K2), served=frozenset(STEPS)),
    ],
)
def test_what_a_run_would_go_on_from_stays(wished: Wishes | None, catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    refer(catalog, "two", "integrate", holder="one")
    make(catalog, "two", "integrate", K1)
    assert clear(catalog, wanting(but={"two": wished})) == []
    assert len(clear(catalog)) == 2


@pytest.mark.parametrize("loss", ["record", "place", "key"])
def test_what_the_other_does_not_have_any_more_stays(loss: str, catalog: Catalog) -> None:
    one = refer(catalog, "one", "train_generator")
    refer(catalog, "two", "train_generator", holder="one")
    make(catalog, "two", "train_generator", K1)
    match loss:
        case "record":
            on_disk(catalog.paths("one").record).unlink()
        case "place":
            set_aside(on_disk(catalog.paths("one").generator))
        case "key":
            catalog.finish_stage(one, "train_generator", replace(one.steps["train_generator"], key=K2))
    kept = files_of(on_disk(catalog.paths("two").folder))
    clear_garbage(catalog, wanting())
    assert files_of(on_disk(catalog.paths("two").folder)) == kept


def test_a_run_that_begins_keeps_all_that_it_made(catalog: Catalog) -> None:
    refer(catalog, "one")
    for step in STEPS:
        make(catalog, "one", step, K1)
    checkpoints = train(catalog, "one", "train_generator", K1)
    assert clear(catalog, wanting(served=())) == []
    assert CheckpointFolder(checkpoints).newest() is not None


def test_checkpoints_go_when_their_training_is_done_and_the_journal_stays(catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    folders = [train(catalog, "one", step, K1) for step in ("fit_velocity", "train_generator")]
    assert clear(catalog) == [f"one/generator/checkpoints/{K1}", f"one/velocity/checkpoints/{K1}"]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["journal.jsonl"]] * 2


def test_checkpoints_stay_where_the_model_is_damaged_or_anothers(catalog: Catalog) -> None:
    refer(catalog, "one", "train_generator", "fit_velocity")
    train(catalog, "one", "train_generator", K1)
    (on_disk(catalog.paths("one").generator) / "model.safetensors").write_bytes(b"flipped")
    train(catalog, "one", "fit_velocity", K1)
    publish_model(catalog.paths("one").velocity, spec={"kind": "mlp", "key": K2}, weights=b"1")
    assert clear(catalog) == []


def test_a_training_that_nobody_refers_to_or_wants_goes_whole(catalog: Catalog) -> None:
    """As after growth: K2 is the generator of more trajectories, K1 of those before, and K3 of those that come."""
    refer(catalog, "one", "train_generator", key=K2)
    old, new, next_ = (train(catalog, "one", "train_generator", key) for key in (K1, K2, K3))
    assert clear(catalog, wanting(K3, served=())) == [
        f"one/generator/checkpoints/{K1}",
        f"one/generator/checkpoints/{K2}",
    ]
    assert not old.exists()
    assert [path.name for path in new.iterdir()] == ["journal.jsonl"]
    assert CheckpointFolder(next_).newest() is not None


def test_a_former_training_stays_where_another_run_refers_to_it_or_wishes_are_not_known(catalog: Catalog) -> None:
    refer(catalog, "one", "train_generator", key=K2)
    kept = train(catalog, "one", "train_generator", K1)
    assert clear(catalog, wanting(K2, but={"one": None})) == []
    refer(catalog, "two", "train_generator", holder="one", key=K1)
    assert clear(catalog, wanting(K2)) == []
    assert CheckpointFolder(kept).newest() is not None


def test_what_a_dead_writer_left_goes_and_what_others_keep_there_stays(catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    folder = on_disk(catalog.paths("one").folder)
    left = [
        *(
            ".run.json.0123456789ab.partial",
            ".progress.json.partial",
            "trajectories.ledger/.plan.json.0123456789ab.partial",
        ),
        *("trajectories.zarr/x/c/3/0/.0.0123456789ab.partial", "report/.index.html.0123456789ab.partial"),
    ]
    others = ("mine.txt", ".samples.0123456789ab.partial", "report/mine.txt", "trajectories.zarr/mine/x", ".partial")
    for name in (*left, *others):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    for name in (".pictures.0123456789ab.partial", "report/.pictures.0123456789ab.partial"):  # of a command at work
        (folder / name).mkdir()
        (folder / name / "a.png").write_text("1")
    assert clear(catalog) == sorted(f"one/{name}" for name in left)


def test_links_are_not_followed_and_not_taken(catalog: Catalog, tmp_path: Path) -> None:
    refer(catalog, "one", *STEPS)
    refer(catalog, "two", *STEPS, holder="one")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / K2).mkdir(parents=True)
    (elsewhere / K2 / ".0.0123456789ab.partial").write_text("1")
    folder = on_disk(catalog.paths("two").folder)
    (folder / "generator").symlink_to(elsewhere)
    (on_disk(catalog.paths("one").generator) / "checkpoints").mkdir()
    (on_disk(catalog.paths("one").generator) / "checkpoints" / K2).symlink_to(elsewhere / K2)
    on_disk(catalog.root / "lost").symlink_to(folder)
    assert clear(catalog) == []


def lose(catalog: Catalog, name: str) -> Path:
    """Make a run and delete its record."""
    refer(catalog, name, *STEPS)
    train(catalog, name, "train_generator", K1)
    on_disk(catalog.paths(name).record).unlink()
    return on_disk(catalog.paths(name).folder)


def test_the_folder_of_a_run_without_a_record_goes_whole(catalog: Catalog) -> None:
    folder = lose(catalog, "lost")
    refer(catalog, "one", *STEPS)
    set_aside(folder / "velocity")  # as if cleared half
    assert clear(catalog) == ["lost"]
    assert not folder.exists()


@pytest.mark.parametrize("content", ["mine.txt", "study.json", ".run.json.0123456789ab.partial", "data", "link"])
def test_a_folder_with_anything_else_in_it_stays(content: str, catalog: Catalog, tmp_path: Path) -> None:
    folder = lose(catalog, "lost")
    if content == "link":
        (folder / "progress.json").symlink_to(tmp_path)
    elif content == "study.json":
        claim_study(catalog.root, StudyRecord(name="lost", identity="i", config="moons", created="today"))
    else:
        (folder / content).touch()
    assert clear(catalog) == []


def test_a_folder_that_only_looks_a_little_like_a_run_stays(catalog: Catalog) -> None:
    for name, contents in (("empty", ()), ("a", ("data.zarr", "report")), ("b", ("config.toml", "report")), (".c", ())):
        for content in contents:
            (on_disk(catalog.root) / name / content).mkdir(parents=True)
        (on_disk(catalog.root) / name).mkdir(parents=True, exist_ok=True)
    assert clear(catalog) == []


def test_a_folder_that_a_run_or_a_study_names_stays_until_it_does_not(catalog: Catalog) -> None:
    lose(catalog, "lost")
    refer(catalog, "one", "ingest", holder="lost")
    assert clear(catalog) == []
    on_disk(catalog.paths("one").record).unlink()
    study = claim_study(catalog.root, StudyRecord(name="study", identity="i", config="moons", created="today"))
    finish_study(catalog.root, study, key="k", result={"points": [{"run": "lost"}]})
    assert "lost" not in clear(catalog)
    finish_study(catalog.root, study, key="k", result={"points": [{"run": "other"}]})
    assert clear(catalog) == ["lost"]


def test_a_studys_folder_stays(catalog: Catalog) -> None:
    claim_study(catalog.root, StudyRecord(name="study", identity="i", config="moons", created="today"))
    make(catalog, "study", "evaluate", K1)
    (on_disk(catalog.root) / "study" / ".study.json.0123456789ab.partial").touch()
    assert clear(catalog) == []


@pytest.mark.parametrize("name", ["two", "lost"])
def test_nothing_of_a_run_that_is_held_is_listed_or_touched(name: str, catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    refer(catalog, "two", *STEPS, holder="one")
    make(catalog, "two", "ingest", K1)
    lose(catalog, "lost")
    before = files_of(on_disk(catalog.paths(name).folder))
    with catalog.held(name):
        for found in (find_garbage(catalog, wanting()), clear_garbage(catalog, wanting())):
            assert name not in {item.run for item in found.garbage}
            assert dict(found.spared) == {name: "a process is at work on it"}
    assert files_of(on_disk(catalog.paths(name).folder)) == before
    assert find_garbage(catalog, wanting()).spared == {}


def test_nothing_of_a_run_at_work_on_another_host_is_touched(catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    two = refer(catalog, "two", *STEPS, holder="one")
    make(catalog, "two", "ingest", K1)
    catalog.update(two, status="running", host="node-7", pid=5)
    assert clear_garbage(catalog, wanting()) == Clearing(
        garbage=(), spared={"two": "process 5 on node-7 is at work on it"}
    )


def test_two_clearings_at_once_end_well_whenever_the_second_comes(tmp_path: Path) -> None:
    for k in count(1):
        catalog = Catalog(tmp_path / str(k))
        refer(catalog, "one", *STEPS)
        lose(catalog, "lost")
        train(catalog, "one", "train_generator", K1)
        make(catalog, "two", "ingest", K1)
        refer(catalog, "two", "ingest", holder="one")
        kept = files_of(on_disk(catalog.paths("one").folder))
        with interrupted(k, partial(clear_garbage, catalog, wanting())) as calls:
            clear_garbage(catalog, wanting())
        assert clear_garbage(catalog, wanting()).garbage == ()
        left = files_of(on_disk(catalog.paths("one").folder))
        assert left.keys() == {name for name in kept if "/checkpoints/" not in name or name.endswith("journal.jsonl")}
        if len(calls) < k:
            break
    assert k > 5


def test_without_locks_nothing_is_touched(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(catalog, "lost")

    def refuse(*_: object) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    found = clear_garbage(catalog, wanting())
    assert found.garbage == ()
    assert "has no locks" in found.spared["lost"]


def test_references_are_read_again_under_the_lock(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look and the lock a third run refers to the one, and the other is made anew."""
    refer(catalog, "one", *STEPS)
    refer(catalog, "two", *STEPS, holder="one")
    for step in STEPS:
        make(catalog, "two", step, K1)
    lost = lose(catalog, "zoo")
    seen: list[str] = []
    alone = garbage._alone

    def later(catalog: Catalog, name: str) -> ExitStack:
        seen.append(name)
        if name == "two":
            refer(catalog, "three", "integrate", holder="two")
        else:
            catalog.claim("zoo", identity="z" * 32, config="moons", is_explicit=True)
        return alone(catalog, name)

    monkeypatch.setattr(garbage, "_alone", later)
    found = clear_garbage(catalog, lambda record: None if record.name == "zoo" else wanting()(record))
    assert {item.path.name for item in found.garbage} == {"data.zarr", "velocity", "generator", "report"}
    assert (lost / "data.zarr" / "content").exists()
    assert on_disk(catalog.paths("two").trajectories / "content").exists()
    assert seen == ["two", "zoo"]


def test_a_record_that_cannot_be_read_ends_it_before_anything_goes(catalog: Catalog) -> None:
    lose(catalog, "lost")
    refer(catalog, "one", *STEPS)
    on_disk(catalog.paths("one").record).write_text("{}")
    before = files_of(on_disk(catalog.root))
    with pytest.raises(DamagedError, match=r"run\.json is no run's record"):
        clear_garbage(catalog, wanting())
    assert files_of(on_disk(catalog.root)) == before


def test_on_an_object_store_it_is_refused_in_a_line(memory: RemotePath) -> None:
    for act in (find_garbage, clear_garbage):
        with pytest.raises(InputError, match=r"root s3://memory/runs must be a folder for gc: an object store has no"):
            act(Catalog(memory), wanting())


def test_bytes_are_those_of_what_goes(catalog: Catalog) -> None:
    refer(catalog, "one", *STEPS)
    folder = train(catalog, "one", "train_generator", K1)
    expected = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl")
    found = find_garbage(catalog, wanting())
    assert found.bytes == sum(item.bytes for item in found.garbage) == expected


def test_a_death_at_any_call_leaves_all_that_is_referred_to_and_the_next_call_ends_it(tmp_path: Path) -> None:
    kept: dict[str, bytes] = {}

    def prepare(k: int) -> Catalog:
        catalog = Catalog(tmp_path / str(k))
        refer(catalog, "one", *STEPS)
        train(catalog, "one", "train_generator", K1)
        refer(catalog, "two", *STEPS, holder="one")
        make(catalog, "two", "integrate", K1)
        lose(catalog, "lost")
        return catalog

    def check(catalog: Catalog) -> None:
        root = on_disk(catalog.root)
        for step in STEPS:
            for place in catalog.paths("one").stages[step]:
                assert (on_disk(place) / "content").read_bytes() == f"{step} of one".encode()
        two = on_disk(catalog.paths("two").folder)
        # a ledger without its store would have chunks that are not there
        assert not (two / "trajectories.ledger").exists() or (two / "trajectories.zarr").exists()
        clear_garbage(catalog, wanting())
        assert find_garbage(catalog, wanting()).garbage == ()
        assert not (root / "lost").exists() or not list((root / "lost").iterdir())
        left = {name: content for name, content in files_of(root).items() if not name.endswith((".lock", "run.json"))}
        assert (kept or left) == left
        kept.update(left)

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            check(Catalog(tmp_path / str(k - 1)))
        catalog = prepare(k)
        return lambda: clear_garbage(catalog, wanting())

    assert deaths(act) > 10


def test_a_claim_of_a_folder_that_is_cleared_away_makes_a_run_whenever_it_comes(tmp_path: Path) -> None:
    for k in count(1):
        catalog = Catalog(tmp_path / str(k))
        lose(catalog, "lost")
        with interrupted(k, partial(catalog.claim, "lost", identity=K3, config="moons", is_explicit=True)) as calls:
            clear_garbage(catalog, wanting())
        if len(calls) < k:
            break
        assert catalog.get("lost").steps == {}
        with catalog.held("lost"):
            catalog.write_config("lost", "")
    assert k > 5
