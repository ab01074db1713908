"""Files appear whole or not at all, and one of many creators wins."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.atomic import (
    atomic_folder,
    create_exclusive,
    name_behind,
    set_aside,
    sweep,
    sync_tree,
    write_atomic,
)
from tests.storage.disk import deaths, disk, interrupted

CREATOR = """
import sys
from pathlib import Path
from storage.atomic import create_exclusive
folder, me = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
print(*[k for k in range(40) if create_exclusive(folder / str(k), me.encode() * 1000)])
"""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_of_many_processes_that_create_a_file_exactly_one_wins(tmp_path: Path) -> None:
    creators = [
        subprocess.Popen(
            [sys.executable, "-c", CREATOR, str(tmp_path), me], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for me in "abcd"
    ]
    for creator in creators:
        assert creator.stdout is not None
        assert creator.stdout.readline() == "ready\n"
    for creator in creators:  # all are up: let them loose
        assert creator.stdin is not None
        creator.stdin.write("go\n")
        creator.stdin.flush()
    won = {me: creator.communicate()[0].split() for me, creator in zip("abcd", creators, strict=True)}
    assert all(creator.returncode == 0 for creator in creators)
    assert sorted(int(k) for names in won.values() for k in names) == list(range(40))
    for me, names in won.items():
        assert all((tmp_path / k).read_text() == me * 1000 for k in names)
    assert files(tmp_path) == sorted(str(k) for k in range(40))


def test_the_second_creation_changes_nothing_and_says_so(tmp_path: Path) -> None:
    assert create_exclusive(tmp_path / "deep" / "er" / "file", b"first")
    assert not create_exclusive(tmp_path / "deep" / "er" / "file", b"second")
    assert (tmp_path / "deep" / "er" / "file").read_bytes() == b"first"
    assert files(tmp_path) == ["file"]


def test_a_write_replaces_the_whole_content(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"a long first content")
    write_atomic(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"second"
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_no_litter(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert files(tmp_path) == ["file"]


def test_a_death_at_any_call_of_a_write_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    seen = []

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            seen.append((tmp_path / "file").read_bytes())
        (tmp_path / "file").write_bytes(b"old")
        return lambda: write_atomic(tmp_path / "file", b"new")

    assert deaths(act) == len(seen) >= 3
    assert set(seen) == {b"old", b"new"}
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_death_at_any_call_of_a_creation_leaves_nothing_or_the_whole(tmp_path: Path) -> None:
    seen = []

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            path = tmp_path / str(k - 1) / "file"
            seen.append(path.read_bytes() if path.exists() else None)
        return lambda: create_exclusive(tmp_path / str(k) / "file", b"content")

    assert deaths(act) == len(seen) >= 5
    assert set(seen) == {None, b"content"}


def write_folder(path: Path, *names: str) -> None:
    with atomic_folder(path) as folder:
        for name in names:
            (folder / name).touch()


def test_a_death_at_any_call_of_replacing_a_folder_leaves_the_old_or_the_new_one_whole(tmp_path: Path) -> None:
    """In its place or, for one death, moved aside."""
    places, seen = [], []

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            found = {p.name: files(p) for p in (tmp_path / str(k - 1)).iterdir()}
            places.append(found.get("folder"))
            seen.append([names for names in found.values() if names in (["a", "b"], ["c", "d"])])
        write_folder(tmp_path / str(k) / "folder", "a", "b")
        return lambda: write_folder(tmp_path / str(k) / "folder", "c", "d")

    died = deaths(act)
    assert died == len(seen) >= 8
    assert all(seen)
    assert places.count(None) == 1
    assert {tuple(names) for names in places if names} == {("a", "b"), ("c", "d")}
    assert [p.name for p in (tmp_path / str(died + 1)).iterdir()] == ["folder"]


def test_a_folder_that_cannot_take_its_place_leaves_the_former_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "folder", "a")
    replace, tries = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        tries.append(target)
        if len(tries) == 2:
            raise OSError(16, "device or resource busy")
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="busy"):
        write_folder(tmp_path / "folder", "b")
    assert {p.name: files(p) for p in tmp_path.iterdir()} == {"folder": ["a"]}


def test_a_link_to_a_folder_stays_one_and_the_present_folder_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    write_folder(tmp_path / "link", "a")
    assert (tmp_path / "link").is_symlink()
    assert files(tmp_path / "there") == ["a"]
    monkeypatch.chdir(tmp_path / "there")
    write_folder(Path(), "b")
    assert files(tmp_path / "there") == ["b"]


def test_content_is_synced_before_it_is_published_and_every_new_folder_after_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with disk() as calls:
        write_atomic(path, b"content")
    inode = {name: place.stat().st_ino for name, place in (("top", tmp_path), ("a", path.parent.parent))}
    names = [name for name, _ in calls.trace]
    assert names == ["mkdir", "fsync", "mkdir", "fsync", "fsync", "replace", "fsync"]
    synced = [inode_ for name, inode_ in calls.trace if name == "fsync"]
    assert synced == [inode["top"], inode["a"], path.stat().st_ino, path.parent.stat().st_ino]


@pytest.mark.parametrize("is_there", [False, True])
def test_below_a_top_every_folder_is_synced_once_after_the_content_is_published(is_there: bool, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    if is_there:  # made by a writer who may have died before he synced them
        path.parent.mkdir(parents=True)
    with disk() as calls:
        write_atomic(path, b"content", top=tmp_path)
    assert [name for name, _ in calls.trace if name != "mkdir"] == ["fsync", "replace", "fsync", "fsync", "fsync"]
    synced = [inode for name, inode in calls.trace if name == "fsync"]
    assert synced == [place.stat().st_ino for place in (path, path.parent, path.parent.parent, tmp_path)]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_creation_syncs_the_folder_whoever_won_since_the_winner_may_have_died(is_there: bool, tmp_path: Path) -> None:
    if is_there:
        create_exclusive(tmp_path / "file", b"content")
    with disk() as calls:
        create_exclusive(tmp_path / "file", b"content")
    assert calls.trace[-1] == ("fsync", tmp_path.stat().st_ino)
    assert [name for name, _ in calls.trace] == ["fsync", "link", "unlink", "fsync"]


def test_a_tree_is_synced_file_by_file_and_folder_by_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    with disk() as calls:
        sync_tree(tmp_path)
    assert {inode for _, inode in calls.trace} == {p.stat().st_ino for p in (tmp_path, *tmp_path.rglob("*"))}


def test_a_sweep_deletes_what_dead_writers_left_and_nothing_else(tmp_path: Path) -> None:
    for k in (1, 2):
        with disk(dies_at=k) as mortal:
            write_atomic(tmp_path / "file", b"content")
        assert mortal.is_dead
    write_atomic(tmp_path / "deep" / "kept", b"content")
    (tmp_path / "deep" / ".hidden").touch()
    assert sweep(tmp_path) == 2
    assert files(tmp_path) == [".hidden", "kept"]
    assert sweep(tmp_path) == 0


def test_a_creation_outlives_whoever_clears_its_folder_away(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "record"

    def clear_away() -> None:
        for file in [*tmp_path.glob("folder/*"), *tmp_path.glob("folder/.*")]:
            file.unlink()
        if path.parent.exists():
            path.parent.rmdir()

    for k in (1, 2, 3, 4, 5):
        clear_away()
        path.parent.mkdir()
        with interrupted(k, clear_away) as calls:
            is_first = create_exclusive(path, b"me")
        if "link" in calls[: k - 1]:
            break  # it was published before, and cleared away as a whole
        assert is_first
        assert files(path.parent) == ["record"]
    assert k > 2


def test_what_is_set_aside_has_a_name_that_tells_what_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "trajectories.zarr"
    folder.mkdir()
    (folder / "x").touch()
    aside = set_aside(folder)
    assert not folder.exists()
    assert files(aside) == ["x"]
    assert aside.parent == tmp_path
    assert name_behind(aside.name) == "trajectories.zarr"


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        (".run.json.0123456789ab.partial", "run.json"),
        (".progress.json.partial", "progress.json"),
        (".00000003.json.0123456789ab.partial", "00000003.json"),
        ("run.json", ""),
        ("run.json.0123456789ab.partial", ""),
        (".run.json", ""),
        (".partial", ""),
        (".run.json.0123456789ab.partial.txt", ""),
    ],
)
def test_temporary_names_are_known_from_others(name: str, behind: str) -> None:
    assert name_behind(name) == behind
