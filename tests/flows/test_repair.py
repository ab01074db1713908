"""Every damage of a store as the command line tells and mends it: chunk, remedy, exit code 1, the same bytes."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.cli import main
from tasks.executor import SerialExecutor
from tests.end_to_end.command import integrate_here
from tests.local import files_of

pytestmark = pytest.mark.usefixtures("own_signals")

CHANGES = ("dataset.count=200", "trajectories.count=64", "trajectories.chunk_rows=16", "trajectories.steps=4")
STORE, LEDGER = "gaussian/trajectories.zarr", "gaussian/trajectories.ledger"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "runs"
    integrate_here(root, changes=CHANGES)
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    @contextmanager
    def here(_: object) -> Iterator[SerialExecutor]:
        yield SerialExecutor()

    monkeypatch.setattr("flows.repair.ray_session", here)
    return Path(shutil.copytree(sound, tmp_path / "runs"))


def answer(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--root", str(root)])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def chunk(root: Path, k: int) -> Path:
    return root / STORE / f"x/c/{k}/0/0"


def record(root: Path, k: int) -> Path:
    return root / LEDGER / f"commits/{k:08d}.json"


def files(root: Path) -> dict[str, bytes]:
    return files_of(root / STORE)


def cut(root: Path) -> None:
    chunk(root, 1).write_bytes(chunk(root, 1).read_bytes()[:-7])


def flip(root: Path) -> None:
    content = bytearray(chunk(root, 1).read_bytes())
    content[100] ^= 1
    chunk(root, 1).write_bytes(content)


def lose_bytes(root: Path) -> None:
    chunk(root, 1).unlink()


def lose_record(root: Path) -> None:
    record(root, 1).unlink()


def name_other_bytes(root: Path) -> None:
    content = json.loads(record(root, 1).read_bytes())
    content["files"] = dict.fromkeys(content["files"], "0" * 32)
    record(root, 1).write_text(json.dumps(content))


def spoil_record(root: Path) -> None:
    record(root, 1).write_text("{")


def swap_bytes(root: Path) -> None:
    one, other = chunk(root, 1), chunk(root, 2)
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def swap_records(root: Path) -> None:
    one, other = record(root, 1), record(root, 2)
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


@pytest.mark.parametrize(
    ("damage", "told", "mended"),
    [
        (cut, "bad 1", [1]),
        (flip, "bad 1", [1]),
        (lose_bytes, "bad 1", [1]),
        (lose_record, "missing 1", [1]),
        (name_other_bytes, "bad 1", [1]),
        (spoil_record, "bad 1", [1]),
        (swap_bytes, "bad 1 2", [1, 2]),
        (swap_records, "bad 1 2", [1, 2]),
    ],
)
def test_damage_is_told_with_its_chunk_and_its_remedy_and_mended_to_the_same_bytes(
    damage: Callable[[Path], None],
    told: str,
    mended: list[int],
    root: Path,
    sound: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(root)
    code, out, err = answer(capsys, root, "verify", "gaussian")
    assert (code, err) == (1, "")
    assert out == f"4 chunks: {told}\ncharflow verify gaussian --repair simulates just these anew\n"
    code, out, _ = answer(capsys, root, "verify", "gaussian", "--repair", "--json")
    assert code == 0
    assert json.loads(out) == {"chunks": 4, "bad": [], "missing": [], "repaired": mended}
    assert files(root) == files(sound)


def test_leftovers_of_dead_writers_are_no_damage_and_repair_sweeps_them(
    root: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leftovers = [chunk(root, 1).with_name(".0.abc.partial"), record(root, 1).with_name(".00000001.json.abc.partial")]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    assert answer(capsys, root, "verify", "gaussian")[:2] == (0, "4 chunks: all as committed\n")
    assert answer(capsys, root, "verify", "gaussian", "--repair")[0] == 0
    assert not any(leftover.exists() for leftover in leftovers)
    assert files(root) == files(sound)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 99, "plan.json has format 99, this charflow reads up to"),
        ("seed", 1, "plans seed = 1, asked for 0; use another run name"),
    ],
)
def test_a_plan_that_is_newer_or_anothers_stops_everything_and_changes_nothing(
    key: str, value: int, message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = root / LEDGER / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_bytes()) | {key: value}))
    before = files(root)
    code, _, err = answer(capsys, root, "verify", "gaussian", "--repair")
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert files(root) == before
