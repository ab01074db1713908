"""Bars and tables: what a person is told, on a terminal and in a log."""

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from flows.display import Bars, advice_of, metric_rows, print_metrics, print_study, print_table
from storage.catalog import RunRecord, StageRecord


def console(*, is_terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=is_terminal, width=160, color_system=None), out


def test_a_log_gets_a_line_at_the_start_and_end_of_a_step() -> None:
    where, out = console(is_terminal=False)
    with Bars(where).shown() as listener:
        listener.began("integrate")
        listener.moved("integrate", 5, 10, "trajectories")
        listener.ended("integrate", seconds=2.25)
    assert out.getvalue() == "integrate ...\nintegrate done in 2.2 s\n"


def test_a_terminal_gets_a_bar_with_what_is_done() -> None:
    where, out = console(is_terminal=True)
    with Bars(where).shown() as listener:
        listener.began("engines")
        listener.began("integrate")
        listener.moved("integrate", 500, 1000, "trajectories")
        listener.ended("integrate", seconds=2.0)
    text = out.getvalue()
    assert "500/1,000" in text
    assert "trajectories" in text
    assert "engines" in text


def test_a_row_is_a_line_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    where = Console(file=out, force_terminal=False, width=40)
    print_table(where, ("run", "facts"), [("a" * 30, "b " * 30), ("short", "c")])
    first, second, third = out.getvalue().splitlines()
    assert first.split() == ["run", "facts"]
    assert (second.split()[0], second.count("b"), third.split()) == ("a" * 30, 30, ["short", "c"])


def test_names_stay_whole_on_a_narrow_terminal() -> None:
    out = io.StringIO()
    where = Console(file=out, force_terminal=True, width=40, color_system=None)
    print_table(where, ("run", "facts"), [("checkerboard-of-eight", "b " * 30)])
    assert "checkerboard-of-eight" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 40


def test_two_steps_at_once_have_a_bar_each() -> None:
    bars = Bars(console(is_terminal=True)[0])
    with bars.shown() as listener:
        for step, done in (("integrate", 1), ("train_generator", 2)):
            listener.began(step)
            listener.moved(step, done, 10, "")
        listener.moved("integrate", 5, 10, "")
        assert [task.completed for task in bars._bars.tasks] == [5, 2]
        listener.ended("integrate", seconds=1.0)
        listener.moved("integrate", 3, 10, "")
    assert [(task.completed, task.finished) for task in bars._bars.tasks] == [(10, True), (2, False)]


def test_the_steps_of_a_run_of_many_move_one_bar_which_a_failure_stops() -> None:
    bars = Bars(console(is_terminal=True)[0])
    with bars.shown() as listener:
        with listener.member("s-steps-4") as member:
            member.began("integrate")
            member.moved("integrate", 1, 2, "trajectories")
            member.ended("integrate", seconds=1.0)
            (bar,) = bars._bars.tasks
            assert (bar.description, bar.completed, bar.fields["words"]) == ("s-steps-4", 1, "integrate, trajectories")
        assert bar.finished
        listener.began("ingest")
        listener.moved("ingest", 1, 2, "")
        listener.failed("ingest", OSError(), seconds=1.0)
        listener.moved("ingest", 2, 2, "")
    assert [(task.completed, task.stop_time is None) for task in bars._bars.tasks] == [(2, False), (1, False)]


def test_of_many_steps_a_terminal_shows_the_last_ones() -> None:
    bars = Bars(console(is_terminal=True)[0])
    with bars.shown() as listener:
        for k in range(30):
            listener.began(f"run-{k}")
    assert [task.description for task in bars._bars.tasks if task.visible] == [f"run-{k}" for k in range(18, 30)]


def test_a_study_is_printed_with_its_points_and_orders() -> None:
    where, out = console(is_terminal=False)
    values = {"trajectories.steps": 8, "trajectories.solver": "heun"}
    point = {"values": values, "evaluations": 16, "error": 0.0123, "error_se": 0.001, "metrics": {}, "seconds": 1.0}
    numeric = {"quantity": "w2", "against": "trajectories.steps", "series": {"generator.steps": 9}}
    order: dict[str, Any] = {
        "quantity": "error",
        "against": "evaluations",
        "series": {"trajectories.solver": "heun"},
        "observed": 2.04,
        "se": None,
        "last": 2.01,
        "theory": 2.0,
    }
    print_study(where, {"points": [point], "orders": [order], "reference": "heun", "reference_error": 0.0012})
    lines = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    assert lines == [
        ["steps", "solver", "evaluations", "error", "±", "seconds"],
        ["8", "heun", "16", "0.0123", "0.001", "1.0"],
        ["quantity", "against", "series", "order", "±", "last", "two", "theory"],
        ["error", "evaluations", "heun", "2.04", "2.01", "2"],
        ["end", "states", "are", "compared", "with", "heun,", "whose", "own", "error", "is", "about", "1.2e-03"],
    ]
    out.truncate(0)
    both = {"values": {"trajectories.steps": 8, "generator.steps": 9}}
    print_study(where, {"points": [point | both], "orders": [order | numeric], "reference": None})
    assert "generator.steps 9" in out.getvalue()
    out.truncate(0)
    blank = point | {"error": None, "error_se": None, "metrics": {"w2": 0.5}}
    print_study(where, {"points": [blank], "orders": [], "reference": None})
    assert "error" not in out.getvalue()
    assert "0.5" in out.getvalue()


def test_moves_before_any_step_are_ignored() -> None:
    where, _ = console(is_terminal=True)
    with Bars(where).shown() as listener:
        listener.moved("integrate", 1, 2, "")


def test_a_table_aligns_numbers_to_the_right_and_says_everything() -> None:
    where, out = console(is_terminal=False)
    print_table(where, ("metric", "value"), [("w2", "1.5"), ("w2_floor", "12")])
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0].split() == ["metric", "value"]
    assert lines[1].endswith("1.5")
    assert lines[2].endswith(" 12")


def test_metrics_are_printed_with_their_errors_and_counts() -> None:
    rows = metric_rows({"w2": 1.23456, "x": 2.0}, {"w2": {"standard_error": 0.0123, "n": 2000.0}})
    assert rows == [("w2", "1.235", "0.012", "2000"), ("x", "2", "", "")]


def test_what_to_spend_on_next_stands_below_the_metrics() -> None:
    stage = StageRecord(key="k", holder="r", seconds=1.0, finished="", summary={"advice": "Next: [this] one."})
    record = RunRecord(name="r", identity="i", config="c", created="", updated="", metrics={"w2": 1.5})
    where, out = console(is_terminal=False)
    print_metrics(where, record)
    assert advice_of(record) == ""
    assert "Next" not in out.getvalue()
    print_metrics(where, replace(record, steps={"evaluate": stage}))
    assert out.getvalue().splitlines()[-1] == "Next: [this] one."
