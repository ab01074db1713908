"""A run that is watched: what is shown of a state, when a line is printed, and how the watching ends."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.cli import main
from flows.watch import Sight, _lined, _live, line, look, sparkline, view
from storage.catalog import Catalog, RunRecord
from storage.journal import Journal
from storage.progress import News, write_news
from tasks.facts import TrainingPlace
from tests.flows.test_runs import finish, open_moons
from tests.flows.test_standing import news, stop
from tests.local import on_disk
from tests.storage.stores import filled

pytestmark = pytest.mark.usefixtures("own_signals")


def drawn(sight: Sight) -> str:
    out = io.StringIO()
    Console(file=out, width=140, force_terminal=True, color_system=None).print(view(sight))
    return out.getvalue()


def at_work(root: Path, told: News) -> Sight:
    """Look at a run that this process works on."""
    run = open_moons(root, "trajectories.count=20")
    finish(run, "ingest")
    with run.in_progress():
        write_news(run.paths.progress, told)
        filled(on_disk(run.paths.folder), rows=20, chunks=[0, 2])
        journal = TrainingPlace(folder=run.paths.generator, key=run.keys["train_generator"]).journal
        on_disk(journal).parent.mkdir(parents=True)
        with Journal(journal, step=0) as records:
            for k in range(1, 9):
                records.append({"step": k, "loss": 2.0**-k})
        return look(run.catalog, run.record.name)


def test_a_terminal_sees_each_step_a_bar_and_the_chunks(tmp_path: Path) -> None:
    sight = at_work(tmp_path, news())
    text = drawn(sight)
    rows = {words[0]: " ".join(words[1:]) for row in text.splitlines() if (words := row.split())}
    assert rows["moons:"] == "running"
    assert rows["ingest"].startswith("done in ")
    assert rows["fit_velocity"] == "waits"
    assert "━" in rows["integrate"]
    assert rows["integrate"].endswith("12,288/50,000 4,096/s, 0:00:09 left at work")
    assert rows["evaluate"] == "waits"
    assert "2 of 5 chunks are committed, 1 tried again" in text
    assert "loss" not in text
    assert line(sight) == (
        "moons: running; integrate: 12,288 of 50,000 trajectories, 6 MB, slowest chunk 2: 1.5 s, 4,096/s, "
        "0:00:09 left; 2 of 5 chunks are committed, 1 tried again"
    )


def test_a_training_shows_its_curve_and_a_simulation_beside_it(tmp_path: Path) -> None:
    text = drawn(at_work(tmp_path, news(step="train_generator", words="steps, loss 0.0039", again=())))
    assert "loss █▇▆▅▄▃▂▁ 0.003906" in text
    assert [row.split()[1:] for row in text.splitlines() if row.startswith("integrate")] == [["at", "work"]]


def test_the_view_of_a_terminal_is_replaced(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=140, height=40, force_terminal=True, color_system=None)
    first = at_work(tmp_path, news())
    last = replace(first, status="finished", standing=None)
    assert list(_live(iter([first, last]), console)) == [first, last]
    assert out.getvalue().index("moons: running") < out.getvalue().index("moons: finished")


def test_what_is_not_heard_of_is_said(tmp_path: Path) -> None:
    sight = at_work(tmp_path, news())
    assert sight.standing is not None
    silent = replace(sight, standing=replace(sight.standing, age_seconds=3700.0))
    words = f"nothing was told for 1:01:40 by process {os.getpid()} on {os.uname().nodename}"
    assert line(silent).endswith(words)
    assert words in drawn(silent)
    elsewhere = replace(sight, standing=None, status="new")
    assert line(elsewhere) == "moons: new; no process works on it yet"


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([1.0, 2.0, 4.0, 8.0], "▁▃▆█"),
        ([0.0, 1.0], "▁█"),
        ([5.0], "▁"),
        ([1.0, float("nan"), 2.0, float("inf")], "▁?█?"),
        ([], ""),
    ],
)
def test_a_curve_in_a_line(values: list[float], curve: str) -> None:
    assert sparkline(values) == curve


def test_a_long_curve_is_made_of_means() -> None:
    assert sparkline([1.0] * 500 + [4.0] * 500, width=2) == "▁█"
    assert len(sparkline([float(k) for k in range(1, 1001)], width=48)) <= 48


def test_a_line_is_printed_when_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("flows.watch.time.monotonic", lambda: now)
    sight = at_work(tmp_path, news())

    def sights() -> Iterator[Sight]:
        nonlocal now
        assert sight.standing is not None
        for k in range(12):  # a second apart; from the tenth on nothing changes
            now = float(k)
            told = replace(sight.standing, news=news(done=min(k, 9), told=0.0, rate=None))
            yield replace(sight, standing=told)
        yield replace(sight, status="finished", standing=None)

    out = io.StringIO()
    assert len(list(_lined(sights(), Console(file=out, soft_wrap=True)))) == 13
    heads = [row.split(" of ")[0].removeprefix("moons: ") for row in out.getvalue().splitlines()]
    assert heads == [*(f"running; integrate: {done}" for done in (0, 5, 9)), "finished"]


def watched(root: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(("show", "moons", "--watch", "--root", str(root), *words))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_exit_code_tells_how_the_run_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_moons(tmp_path)
    stop(run, OSError("no disk"), news())
    assert watched(tmp_path) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("OSError: no disk")
    with run.in_progress():
        pass
    assert watched(tmp_path) == 0
    assert capsys.readouterr().out == "moons: finished\n"
    assert watched(tmp_path, "--json") == 0
    assert '"status": "finished"' in capsys.readouterr().out


def test_a_process_that_is_gone_is_said_and_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_moons(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run.catalog.update(run.record, status="running", pid=gone.pid, host=os.uname().nodename)
    assert watched(tmp_path) == 1
    words = f"moons: interrupted; its process {gone.pid} is gone; the same command goes on from there"
    assert capsys.readouterr().out == f"{words}\n"


def test_leaving_says_that_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.watch.time.sleep", leave)
    run = open_moons(tmp_path)
    before = run.paths.record.read_bytes()
    for words in ((), ("--json",)):
        assert watched(tmp_path, *words) == 130
        found = capsys.readouterr()
        assert found.err == "charflow: not watched any more; the run goes on\n"
        assert ("{" in found.out) is False
    assert run.paths.record.read_bytes() == before


def test_a_run_that_never_begins_is_not_watched_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_moons(tmp_path)
    monkeypatch.setattr("flows.watch._NEW_SECONDS", -1.0)
    assert watched(tmp_path) == 1
    assert capsys.readouterr().out == "moons: new; no process works on it yet\n"
    assert main_code("show", "ghost", "--watch", "--root", str(tmp_path)) == 2


def main_code(*words: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def test_a_configuration_that_is_not_written_yet_hides_nothing_else(tmp_path: Path) -> None:
    record: RunRecord = open_moons(tmp_path).record
    (tmp_path / "moons" / "config.toml").unlink()
    assert look(Catalog(tmp_path), record.name).status == "new"
