"""The benchmarks as the command line sees them: scripts that print one JSON object."""

import json
from pathlib import Path

import pytest

from flows import bench
from flows.bench import benchmarks, run_benchmark
from flows.cli import main
from storage.errors import InputError

GOOD = '''"""Counts to three.

And more."""

import json
import sys

sys.stderr.write("counting")
results = {"charflow": 1.25, "limit": 1.0}
print(json.dumps({"bench": "good", "unit": "s", "results": results, "detail": {"n": 3}, "more": 1}))
'''


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "good.py").write_text(GOOD)
    (folder / "silent.py").write_text("")
    (folder / "failing.py").write_text("raise SystemExit(3)")
    (folder / "_shared.py").write_text("")
    (folder / "test_good.py").write_text("")
    monkeypatch.setattr(bench, "_ROOT", tmp_path)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(("bench", *words))
    assert isinstance(caught.value.code, int)
    return caught.value.code, *capsys.readouterr()


def test_they_are_listed_with_a_line_each_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks() == {"failing": "", "good": "Counts to three.", "silent": ""}
    code, out, _ = answer(capsys, "--json")
    assert code == 0
    assert json.loads(out) == benchmarks()
    assert "Counts to three." in answer(capsys)[1]


def test_one_is_run_as_a_process_and_its_object_given(capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"bench": "good", "unit": "s", "results": {"charflow": 1.25, "limit": 1.0}, "detail": {"n": 3}}
    code, out, _ = answer(capsys, "good", "--json")
    assert code == 0
    assert json.loads(out) == expected
    _, table, _ = answer(capsys, "good")
    assert all(word in table for word in ("charflow", "1.25", "limit", "n: 3"))


def test_an_unknown_one_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = answer(capsys, "../good")
    assert (code, out) == (2, "")
    assert "benchmark '../good' is unknown; known: failing, good, silent" in err
    assert err.count("\n") == 1


def test_one_that_fails_or_prints_nothing_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (("failing", "ended with exit code 3"), ("silent", "printed no JSON object")):
        code, out, err = answer(capsys, name)
        assert (code, out) == (1, "")
        assert message in err
        with pytest.raises(RuntimeError, match=message):
            run_benchmark(name)


def test_an_installation_without_tests_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_ROOT", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="benchmarks come with a checkout"):
        benchmarks()
