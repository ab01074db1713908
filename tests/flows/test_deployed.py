"""What a deployed flow is asked for: checked in one line, whoever wrote it, and never relative."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.config import load_config
from flows.deployed import asked, day_of, days, growth, root_of, with_count
from storage.errors import InputError


def test_a_configuration_may_be_a_preset_a_file_or_sections(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[dataset]\nkind = "moons"\n')
    for config, source in (("moons", "moons"), (str(file), "mine"), ({"dataset": {"kind": "moons"}}, "r")):
        found = asked(config, name="r", root=str(tmp_path), changes=["seed=3"])
        assert (found.config.dataset.kind, found.config.seed, found.source) == ("moons", 3, source)
        assert (found.root, found.name) == (tmp_path, "r")


def test_sections_stay_as_they_are_when_changes_are_applied(tmp_path: Path) -> None:
    sections = {"dataset": {"kind": "moons", "count": 10}}
    asked(sections, name="r", root=str(tmp_path), changes=["dataset.count=20"])
    assert sections == {"dataset": {"kind": "moons", "count": 10}}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"config": 3}, "config must be a preset, a .toml file or sections of a configuration, got 3"),
        ({"config": "nope"}, "config 'nope' is unknown"),
        ({"config": "mine.toml"}, "config must be a preset or the absolute path of a .toml file, got 'mine.toml'"),
        ({"config": {"dataset": {"kind": "moons"}, "sed": 1}}, "sed is unknown, got 1; allowed: name, seed, "),
        ({"config": {"seed": 1}}, "dataset is missing"),
        ({"changes": "seed=1"}, "changes must be a list of section.key=value, got 'seed=1'"),
        ({"changes": ["seed"]}, "--set must be section.key=value, got 'seed'"),
        ({"name": "../up"}, "name must be letters, digits"),
        ({"name": None}, "name must be a run's name, got None"),
        ({"root": "runs"}, "root must be absolute, for workers have folders of their own, got 'runs'"),
        ({"root": 3}, "root must be an absolute folder or an address, or CHARFLOW_ROOT set where workers run, got 3"),
        ({"config": {"dataset": {"kind": "npz", "path": "x.npz"}}}, "dataset.path must be absolute, for workers"),
    ],
)
def test_what_is_not_right_is_said_in_one_line(changed: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as told:
        asked(**({"config": "moons", "name": "r", "root": "/runs", "changes": []} | changed))
    assert str(told.value).startswith(line)
    assert "\n" not in str(told.value)


def test_an_empty_root_is_the_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHARFLOW_ROOT", str(tmp_path))
    assert root_of("") == tmp_path
    monkeypatch.delenv("CHARFLOW_ROOT")
    with pytest.raises(InputError, match="CHARFLOW_ROOT set where workers run, got ''"):
        root_of("")


def test_growth_is_a_function_of_the_day() -> None:
    plan = growth(since="2026-01-30", nightly=100, at_most=350)
    counts = [plan.count(50, day) for day in days("2026-01-30", "2026-02-04")]
    assert counts == [50, 150, 250, 350, 350, 350]
    assert growth(since=date(2026, 1, 30), nightly=100).count(50, date(2027, 1, 30)) == 50 + 365 * 100
    assert growth(since="2026-01-30", nightly=1, at_most=10).count(50, date(2026, 2, 1)) == 50  # never less
    with pytest.raises(InputError, match=r"^day must not be before since \(2026-01-30\), got 2026-01-29$"):
        plan.count(50, date(2026, 1, 29))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"since": "tomorrow"}, "since must be a day such as 2026-01-31, got 'tomorrow'"),
        ({"nightly": 0}, "nightly must be a whole number of at least 1, got 0"),
        ({"nightly": "1000"}, "nightly must be a whole number of at least 1, got '1000'"),
        ({"nightly": True}, "nightly must be a whole number of at least 1, got True"),
        ({"at_most": -1}, "at_most must be a whole number of at least 0, got -1"),
    ],
)
def test_growth_refuses(changed: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}$"):
        growth(**({"since": "2026-01-01", "nightly": 10} | changed))


def test_days_are_read_from_what_servers_send() -> None:
    assert day_of("day", "2026-03-01") == date(2026, 3, 1)
    assert day_of("day", "2026-03-01T23:00:00+00:00") == date(2026, 3, 1)
    assert day_of("day", datetime(2026, 3, 1, 23, tzinfo=UTC)) == date(2026, 3, 1)
    assert days("2026-02-28", "2026-03-01") == [date(2026, 2, 28), date(2026, 3, 1)]
    for last in ("2026-02-27", "2046-01-01"):
        with pytest.raises(InputError, match=f"^last_day must be 0 to 3659 days after first_day .*, got {last}$"):
            days("2026-02-28", last)


def test_another_count_changes_nothing_else(tmp_path: Path) -> None:
    found = with_count(asked("moons", name="r", root=str(tmp_path)), 77).config
    assert found == load_config("moons", changes=["trajectories.count=77"])
