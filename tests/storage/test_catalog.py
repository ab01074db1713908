"""The catalog: names, identities, and who holds what."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from storage.catalog import Catalog, RunRecord, StageRecord, is_alive, require_tag, stage_record
from storage.errors import DamagedError, InputError, RunBusyError, RunConflictError, UnknownRunError, VersionError
from tests.local import on_disk
from tests.storage.disk import deaths

ONE, OTHER = "a1b2c3" + "0" * 26, "d4e5f6" + "0" * 26


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "runs")


def claim(catalog: Catalog, name: str = "digits", *, identity: str = ONE, is_explicit: bool = False) -> RunRecord:
    return catalog.claim(name, identity=identity, config="digits", is_explicit=is_explicit)


def stage(key: str, *, holder: str) -> StageRecord:
    return stage_record(key=key, holder=holder, seconds=1.23456, summary={"rows": 3})


def test_a_claim_makes_a_run_that_can_be_looked_up(catalog: Catalog) -> None:
    record = claim(catalog)
    assert (record.name, record.identity, record.status, record.steps) == ("digits", ONE, "new", {})
    assert catalog.get("digits") == record
    assert catalog.runs() == [record]


@pytest.mark.parametrize("is_explicit", [False, True])
def test_the_same_configuration_finds_its_run_again_as_it_is(is_explicit: bool, catalog: Catalog) -> None:
    kept = catalog.update(claim(catalog, is_explicit=is_explicit), status="failed", error="disk full")
    assert claim(catalog, is_explicit=is_explicit) == kept


def test_another_configuration_gets_six_digits_of_its_identity(catalog: Catalog) -> None:
    first = claim(catalog)
    second = claim(catalog, identity=OTHER)
    assert (first.name, second.name) == ("digits", "digits-d4e5f6")
    assert claim(catalog, identity=OTHER) == second
    assert claim(catalog) == first


def test_an_explicit_name_of_another_configuration_is_a_conflict_that_changes_nothing(catalog: Catalog) -> None:
    record = claim(catalog)
    with pytest.raises(RunConflictError, match="run 'digits' has another configuration"):
        claim(catalog, identity=OTHER, is_explicit=True)
    assert catalog.runs() == [record]


def test_a_third_configuration_with_the_same_six_digits_is_a_conflict(catalog: Catalog) -> None:
    claim(catalog)
    claim(catalog, identity=OTHER)
    with pytest.raises(RunConflictError):
        claim(catalog, identity="d4e5f6" + "1" * 26)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", "-x", ".hidden", "a b", "ä", "a\n", "x" * 101])
def test_a_name_that_is_no_folders_is_refused(name: str, catalog: Catalog) -> None:
    with pytest.raises(InputError, match="name must be letters"):
        claim(catalog, name)
    with pytest.raises(UnknownRunError):
        catalog.get(name)
    assert not catalog.root.exists()


def test_an_unknown_run_lists_the_known_ones(catalog: Catalog) -> None:
    with pytest.raises(UnknownRunError, match=r"run 'moons' is unknown under .*; known: none yet"):
        catalog.get("moons")
    claim(catalog, "rings")
    claim(catalog, "digits")
    with pytest.raises(UnknownRunError, match="known: digits, rings"):
        catalog.get("moons")


def test_a_root_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"root .* must be a folder that can be written"):
            claim(Catalog(root))


def test_runs_come_newest_first_and_other_folders_are_none(catalog: Catalog) -> None:
    for name, created in (("b", "2024-01-02"), ("c", "2024-01-01"), ("a", "2024-01-03")):
        catalog.update(claim(catalog, name), created=created)
    for name in ("lost+found", ".trash"):
        on_disk(catalog.root / name).mkdir()
        on_disk(catalog.root / name / "run.json").write_text("{}")
    on_disk(catalog.root / "empty").mkdir()
    assert [record.name for record in catalog.runs()] == ["a", "b", "c"]


def test_an_update_keeps_what_it_does_not_change(catalog: Catalog) -> None:
    record = claim(catalog)
    changed = catalog.update(record, status="running", metrics={"w2": 0.1})
    assert changed == replace(record, status="running", metrics={"w2": 0.1}, updated=changed.updated)
    assert catalog.get("digits") == changed


def test_finished_stages_add_up(catalog: Catalog) -> None:
    record = claim(catalog)
    for step, key in (("ingest", "k1"), ("integrate", "k2")):
        record = catalog.finish_stage(record, step, stage(key, holder="digits"))
    found = catalog.get("digits").steps
    assert {step: (done.key, done.holder, done.seconds, done.summary) for step, done in found.items()} == {
        "ingest": ("k1", "digits", 1.235, {"rows": 3}),
        "integrate": ("k2", "digits", 1.235, {"rows": 3}),
    }


def test_only_the_run_that_made_a_stage_holds_it(catalog: Catalog) -> None:
    made = stage("k", holder="one")
    for name in ("one", "two"):
        catalog.finish_stage(claim(catalog, name), "ingest", made)
    catalog.finish_stage(claim(catalog, "three"), "ingest", stage("other", holder="three"))
    catalog.finish_stage(claim(catalog, "four"), "integrate", stage("k", holder="four"))
    assert list(catalog.holders("ingest", "k")) == [made]
    assert list(catalog.holders("ingest", "unknown")) == []


def test_tags_add_up_and_stay(catalog: Catalog) -> None:
    record = catalog.tag(claim(catalog), ["paper", "b"])
    assert record.tags == ("b", "paper")
    assert catalog.get("digits") == record
    assert catalog.tag(record, ["paper"]) is record  # which writes nothing
    assert catalog.tag(record, ["a"]).tags == ("a", "b", "paper")
    assert catalog.update(catalog.get("digits"), status="failed").tags == ("a", "b", "paper")


@pytest.mark.parametrize("tag", ["", "-x", "a b", "a,b", "ä", "a\n", "x" * 101])
def test_a_tag_that_a_table_could_not_show_is_refused(tag: str) -> None:
    with pytest.raises(InputError, match=r"--tag must be at most 100 letters"):
        require_tag(tag)
    require_tag("team/a:b=c+1.0_x-y")


def test_a_record_of_before_reads_as_it_was_and_knows_less(catalog: Catalog) -> None:
    catalog.finish_stage(claim(catalog), "ingest", stage("k", holder="digits"))
    path = on_disk(catalog.paths("digits").record)
    content = json.loads(path.read_text())
    del content["tags"]
    for name in ("inputs", "host", "cores", "bytes", "versions"):
        del content["steps"]["ingest"][name]
    path.write_text(json.dumps(content))
    record = catalog.get("digits")
    found = record.steps["ingest"]
    assert record.tags == ()
    assert (found.inputs, found.host, found.cores, found.bytes, found.versions) == (None, "", None, None, {})
    assert found.core_hours is None


def test_the_cost_of_a_step_is_its_time_on_all_its_cores() -> None:
    assert replace(stage("k", holder="r"), seconds=1800.0, cores=4).core_hours == 2.0


def test_a_stage_is_held_as_long_as_its_holders_record_has_it_under_its_key(catalog: Catalog) -> None:
    made = stage("k", holder="one")
    one = catalog.finish_stage(claim(catalog, "one"), "ingest", made)
    assert catalog.holds("ingest", made)
    assert not catalog.holds("integrate", made)
    assert not catalog.holds("ingest", stage("other", holder="one"))
    assert not catalog.holds("ingest", stage("k", holder="nobody"))
    assert not catalog.holds("ingest", stage("k", holder="../one"))
    catalog.finish_stage(claim(catalog, "two"), "ingest", made)
    assert not catalog.holds("ingest", stage("k", holder="two"))  # it refers to what one holds
    catalog.finish_stage(one, "ingest", stage("new", holder="one"))
    assert not catalog.holds("ingest", made)


def test_the_configuration_is_kept_beside_the_record(catalog: Catalog) -> None:
    claim(catalog)
    catalog.write_config("digits", 'name = "ä"\n')
    assert on_disk(catalog.paths("digits").config).read_text(encoding="utf-8") == 'name = "ä"\n'


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "steps": {"ingest": 3}}'])
def test_a_record_that_makes_no_sense_is_damaged(content: str, catalog: Catalog) -> None:
    claim(catalog)
    on_disk(catalog.paths("digits").record).write_text(content)
    with pytest.raises(DamagedError, match=r"run\.json is no run's record"):
        catalog.get("digits")


def test_a_record_of_a_newer_version_is_refused(catalog: Catalog) -> None:
    claim(catalog)
    path = catalog.paths("digits").record
    on_disk(path).write_text(json.dumps(json.loads(path.read_text()) | {"version": 2, "more": 1}))
    with pytest.raises(VersionError, match="format 2, this charflow reads up to 1; upgrade"):
        catalog.get("digits")


def test_a_death_at_any_call_of_a_claim_leaves_no_run_or_a_whole_one(tmp_path: Path) -> None:
    def act(k: int) -> Callable[[], object]:
        if k > 1:
            left = Catalog(tmp_path / str(k - 1))
            assert [record.name for record in left.runs()] in ([], ["digits"])
            assert claim(left).name == "digits"
        return lambda: claim(Catalog(tmp_path / str(k)))

    assert deaths(act) > 5


def test_a_death_at_any_call_of_an_update_leaves_the_old_record_or_the_new(catalog: Catalog) -> None:
    record = claim(catalog)
    seen = set()

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            seen.add(catalog.get("digits").status)
        catalog.update(record)
        return lambda: catalog.update(record, status="running")

    assert deaths(act) >= 3
    assert seen == {"new", "running"}


def test_a_run_is_alive_while_its_process_is(catalog: Catalog) -> None:
    record = catalog.update(claim(catalog), status="running", host=os.uname().nodename, pid=os.getpid())
    assert is_alive(record)
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    assert not is_alive(replace(record, pid=gone))
    assert is_alive(replace(record, host="elsewhere", pid=gone))  # which nobody here can know
    assert not is_alive(replace(record, status="finished"))
    assert not is_alive(replace(record, status="failed", host="elsewhere"))


def test_a_relative_root_becomes_absolute_for_workers_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Catalog(Path("runs")).paths("moons").folder == tmp_path / "runs" / "moons"


def test_a_run_that_is_held_is_busy_and_says_whose_it_is(catalog: Catalog) -> None:
    catalog.update(claim(catalog), status="running", host="node-7", pid=123)
    words = "run 'digits' is being worked on by process 123 on node-7; wait for it"
    with catalog.held("digits"), pytest.raises(RunBusyError, match=words), catalog.held("digits"):
        pass
    with catalog.held("digits"):
        pass


HOLDER = """
import sys
from pathlib import Path
from storage.catalog import Catalog
with Catalog(Path(sys.argv[1])).held("digits"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_goes_free_with_the_process_that_held_it_however_it_ends(catalog: Catalog) -> None:
    claim(catalog)
    command = [sys.executable, "-c", HOLDER, str(catalog.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusyError, match="by another process"), catalog.held("digits"):
            pass
        holder.kill()
        holder.wait()
    with catalog.held("digits"):
        pass


def test_a_file_system_without_locks_holds_nobody_back(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    claim(catalog)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with catalog.held("digits"), catalog.held("digits"):
        pass
