"""The command line's answers to bad input: one line, exit code 2, nothing half-written."""

import socket
from pathlib import Path

import pytest

from flows.cli import main

pytestmark = pytest.mark.usefixtures("own_signals")


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(words)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHARFLOW_ROOT", raising=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "nope"), "config 'nope' is unknown"),
        (("run", "moons", "--set", "trajectories.count=-3"), "trajectories.count must be at least 1, got -3"),
        (("run", "moons", "--set", "trajectories.stop=2"), "trajectories.stop must be in (0, 1], got 2"),
        (("run", "moons", "--set", "velocity.batch=3"), "velocity.batch is unknown, got 3; allowed: kind, bandwidth"),
        (("run", "moons", "--set", "dataset.count=many"), "got 'many'"),
        (("run", "moons", "--until", "tomorrow"), "--until must be one of ingest"),
        (("run", "moons", "--root", "/proc/nowhere"), "root '/proc/nowhere' must be a folder that can be written"),
        (("run", "moons", "--name", "a/b"), "name must be letters"),
        (("run", "moons", "--ray", "nowhere"), "compute.address must be host:port"),
        (("show", "ghost"), "/runs; known: none yet"),
        (("verify", "ghost"), "run 'ghost' is unknown"),
        (("report", "ghost"), "run 'ghost' is unknown"),
        (("evaluate", "ghost"), "run 'ghost' is unknown"),
        (("sample", "ghost", "--count", "3", "--out", "x.npy"), "run 'ghost' is unknown"),
        (("sample", "ghost", "--count", "0", "--out", "x.npy"), "--count must be at least 1, got 0"),
        (("sample", "ghost", "--count", "3", "--seed", "-1", "--out", "x.npy"), "--seed must be in [0, 2^63), got -1"),
        (("export", "ghost", "--out", "x"), "run 'ghost' is unknown"),
        (("study", "nope", "--sweep", "seed=1,2"), "config 'nope' is unknown"),
        (("study", "moons"), "a study needs at least one --sweep section.key=v1,v2,..."),
        (("study", "moons", "--sweep", "trajectories.step=4,8"), "trajectories.step is unknown, got 4; allowed: count"),
        (("study", "moons", "--sweep", "trajectories.steps=8,0"), "trajectories.steps must be at least 1, got 0"),
        (("study", "moons", "--sweep", "trajectories.steps=8,8"), "--sweep trajectories.steps has a value twice"),
        (("study", "moons", "--sweep", "seed=1", "--sweep", "seed=2"), "--sweep seed is there twice"),
        (("study", "moons", "--sweep", "seed=1,2", "--until", "ingest"), "--until must be one of integrate, train_gen"),
        (("study", "moons", "--sweep", "seed=1,2", "--name", "a/b"), "name must be letters"),
        (("study", "moons", "--sweep", "seed=1,2", "--ray", "nowhere"), "compute.address must be host:port"),
        (("study", "moons", "--sweep", "seed=1,2", "--root", "/proc/no"), "root '/proc/no' must be a folder that can"),
        (("run", "moons", "--tag", "a b"), "--tag must be at most 100 letters, digits or any of"),
        (("runs", "--status", "done"), "--status must be one of new, running, partial, finished, failed, interrupted"),
        (("runs", "--since", "yesterday"), "--since must be a day such as 2026-01-31 or a time such as"),
        (("runs", "--until", "2026-13-01"), "--until must be a day such as 2026-01-31"),
        (("runs", "--since", "2026-02-01", "--until", "2026-01-31"), "--until must not be before --since 2026-02-01"),
        (("diff", "ghost", "moons"), "run 'ghost' is unknown"),
        (("diff", "ghost"), "required: B"),
        (("gc", "--root", "ftp://bucket/runs"), "root ftp://... must be a folder"),
        (("fly",), "invalid choice: 'fly'"),
        ((), "COMMAND"),
    ],
)
def test_bad_input_is_one_line_exit_code_two_and_no_trace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    code, out, err = answer(capsys, *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_ray_address_where_nothing_answers_is_bad_input_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code, _, err = answer(capsys, "run", "moons", "--ray", f"127.0.0.1:{port}")
    assert code == 2
    assert "does not answer" in err
    assert list(tmp_path.iterdir()) == []


def test_presets_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "presets")
    assert code == 0
    for name in ("gaussian", "mixture", "moons", "checkerboard", "digits"):
        assert name in out


def test_an_empty_root_has_no_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "runs", "--json")
    assert code == 0
    assert out == '{\n "runs": []\n}\n'


def test_the_root_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARFLOW_ROOT", "elsewhere")
    _, _, err = answer(capsys, "show", "ghost")
    assert "/elsewhere; known: none yet" in err


def test_a_dataset_that_is_missing_is_named_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = answer(
        capsys, "run", "moons", "--set", "dataset.kind=npz", "--set", f"dataset.path={tmp_path / 'absent.npz'}"
    )
    assert code == 2
    assert "absent.npz" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
