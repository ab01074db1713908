"""What the commands on the catalog say, to a person and as JSON."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.catalog import Catalog
from tests.end_to_end.command import told
from tests.flows.test_runs import finish, open_moons

pytestmark = pytest.mark.usefixtures("own_signals")


def told_json(capsys: pytest.CaptureFixture[str], *words: str, root: Path) -> Any:
    return json.loads(told(capsys, *words, "--json", root=root))


def names(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> list[str]:
    return [run["name"] for run in told_json(capsys, "runs", *words, root=root)["runs"]]


def words_of(text: str, first: str) -> list[str]:
    """Give the words of the line that begins with one."""
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first])


def test_runs_that_fit_all_that_is_asked_for_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(open_moons(tmp_path, name="done", tags=("paper", "a")))
    open_moons(tmp_path, "seed=3", name="begun", tags=("paper",))
    catalog = Catalog(tmp_path)
    catalog.update(catalog.get("begun"), created="2026-01-31T12:00:00+00:00")
    assert names(capsys, tmp_path) == ["done", "begun"]
    assert names(capsys, tmp_path, "--status", "finished") == ["done"]
    assert names(capsys, tmp_path, "--preset", "moons", "--status", "new") == ["begun"]
    assert names(capsys, tmp_path, "--preset", "digits") == []
    assert names(capsys, tmp_path, "--tag", "paper", "--tag", "a") == ["done"]
    assert names(capsys, tmp_path, "--until", "2026-01-31") == ["begun"]
    assert names(capsys, tmp_path, "--since", "2026-01-31T12:01", "--tag", "paper") == ["done"]
    assert words_of(told(capsys, "runs", "--until", "2026-01-31", root=tmp_path), "begun") == [
        *("begun", "new", "moons", "0", "2026-01-31"),
        *(catalog.get("begun").updated[:16], "paper"),
    ]


def test_a_run_without_a_ratio_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(open_moons(tmp_path))
    assert run.record.metrics == {"w2": 1.0}
    assert words_of(told(capsys, "runs", root=tmp_path), "moons")[:4] == ["moons", "finished", "moons", "5"]


def test_a_tag_is_added_to_a_finished_run_by_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(open_moons(tmp_path))
    assert "nothing to do" in told(capsys, "run", "moons", "--tag", "paper", "--tag", "b", root=tmp_path)
    assert Catalog(tmp_path).get("moons").tags == ("b", "paper")
    assert "tags: b, paper\n" in told(capsys, "show", "moons", root=tmp_path)


def test_show_tells_the_lineage_of_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_moons(tmp_path)
    with run.in_progress():
        run.finish("ingest", seconds=1800.0, summary={"digest": "d" * 32}, cores=4)
        run.finish("fit_velocity", seconds=3600.0, summary={"digest": "e" * 32}, cores=2)
    found = told_json(capsys, "show", "moons", root=tmp_path)
    assert found["digests"] == {"data": "d" * 32, "velocity": "e" * 32}
    assert (found["core_hours"], found["bytes"]) == (4.0, 0)
    velocity = found["lineage"]["fit_velocity"]
    assert velocity["inputs"] == {"data": "d" * 32}
    assert (velocity["holder"], velocity["is_held"], velocity["cores"]) == ("moons", True, 2)
    assert velocity["versions"].keys() >= {"charflow", "torch"}
    text = told(capsys, "show", "moons", root=tmp_path)
    host, code = run.record.host, run.record.versions["charflow"]
    assert f"fit_velocity data {'d' * 12} {code} {host} 2 2 0" in " ".join(text.split())
    assert "in all, steps of other runs included: 4 core-hours, 0 bytes" in text


def test_show_of_a_run_of_before_says_that_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(open_moons(tmp_path))
    old = replace(run.record.steps["ingest"], inputs=None, host="", cores=None, bytes=None, versions={})
    run.catalog.update(run.record, steps={"ingest": old}, metrics={})
    assert told_json(capsys, "show", "moons", root=tmp_path)["core_hours"] is None
    text = told(capsys, "show", "moons", root=tmp_path)
    assert "ingest unknown unknown unknown unknown unknown unknown" in " ".join(text.split())
    assert "unknown core-hours, unknown bytes" in text


def test_show_says_what_a_holder_has_no_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = finish(open_moons(tmp_path))
    finish(open_moons(tmp_path, "evaluation.samples=77", name="second"), "evaluate")
    assert "no longer" not in told(capsys, "show", "second", root=tmp_path)
    first.catalog.finish_stage(first.record, "train_generator", replace(first.record.steps["evaluate"], key="other"))
    assert "train_generator: run moons no longer holds what was used here" in told(
        capsys, "show", "second", root=tmp_path
    )


def test_diff_tells_keys_parting_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = finish(open_moons(tmp_path, name="a"))
    a.catalog.update(a.record, metrics_detail={"w2": {"standard_error": 0.25, "n": 9}})
    finish(open_moons(tmp_path, "generator.steps=3", name="b"), "train_generator", "evaluate")
    text = told(capsys, "diff", "a", "b", root=tmp_path)
    assert words_of(text, "generator.steps") == ["generator.steps", str(a.config.generator.steps), "3"]
    assert "they share ingest, fit_velocity, integrate, and part at train_generator\n" in text
    assert words_of(text, "w2") == ["w2", "1", "0.25", "1"]
    found = told_json(capsys, "diff", "a", "b", root=tmp_path)
    assert found["first_difference"] == "train_generator"
    assert found["metrics"]["w2"]["a"] == {"value": 1.0, "standard_error": 0.25}
    assert told(capsys, "diff", "a", "a", root=tmp_path).startswith("the same stages, all of them\n")
    open_moons(tmp_path, "seed=5", name="c")
    assert "they share no stage, and part at ingest" in told(capsys, "diff", "a", "c", root=tmp_path)


def test_an_unknown_run_is_said_as_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(open_moons(tmp_path))
    assert told(capsys, "diff", "moons", "ghost", root=tmp_path, code=2) == ""


def test_commands_on_the_catalog_load_no_engine(tmp_path: Path) -> None:
    import subprocess

    finish(open_moons(tmp_path))
    engines = {"torch", "ray", "prefect", "zarr", "matplotlib", "numpy"}
    for words in (["runs"], ["show", "moons"], ["diff", "moons", "moons"], ["gc"], ["gc", "--delete"]):
        code = (
            "import sys, flows.cli\n"
            "try:\n"
            f"    flows.cli.main({[*words, '--root', str(tmp_path)]!r})\n"
            "except SystemExit as end:\n"
            f"    print(end.code, sorted({engines!r} & set(sys.modules)))\n"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.endswith("0 []\n"), (words, found)
