"""How many trajectories a deployed flow works on: decided once it has the store, by the day and by what is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows import operate
from flows.deployed import Asked, Growth, asked
from flows.operate import as_stored, bring, grown, stored_count
from tests.flows.test_runs import finish, open_moons

PLAN = Growth(since=date(2026, 1, 1), nightly=100)


class Opened(Exception):  # noqa: N818
    """Ends the flow where it would begin to work."""


def ask(root: Path) -> Asked:
    return asked("moons", name="moons", root=str(root), changes=["trajectories.count=1000"])


def store_of(root: Path, count: int) -> None:
    """Leave a run whose store has so many trajectories."""
    run = open_moons(root, f"trajectories.count={count}", name="moons", until="integrate")
    finish(run, "ingest", "fit_velocity", "integrate")


@pytest.mark.parametrize(("held", "day", "count"), [(0, 1, 1000), (0, 4, 1300), (1300, 6, 1500), (1300, 2, 1300)])
def test_a_day_asks_for_its_count_and_never_for_less_than_there_is(
    held: int, day: int, count: int, tmp_path: Path
) -> None:
    if held:
        store_of(tmp_path, held)
    found = grown(ask(tmp_path), growth=PLAN, day=date(2026, 1, day))
    assert found.config.trajectories.count == count


def test_a_growth_that_is_not_done_is_not_counted(tmp_path: Path) -> None:
    store_of(tmp_path, 1300)
    open_moons(tmp_path, "trajectories.count=2000", name="moons", until="integrate")  # and was cancelled
    assert stored_count(tmp_path, "moons") == 1300
    assert as_stored(ask(tmp_path)).config.trajectories.count == 1300
    assert stored_count(tmp_path, "another") == 0


@pytest.mark.parametrize("sized", [as_stored, partial(grown, growth=PLAN, day=date(2026, 1, 1))])
def test_what_another_flow_simulated_while_this_one_waited_counts(
    sized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def slot(root: Path, run: str) -> Iterator[None]:
        store_of(tmp_path, 1700)  # by a growth that has the store
        yield

    def opened(config: Any, **_: Any) -> None:
        raise Opened(config.trajectories.count)

    monkeypatch.setattr(operate, "store_slot", slot)
    monkeypatch.setattr(operate, "open_run", opened)
    with pytest.raises(Opened) as found:
        bring(ask(tmp_path), sized, until="evaluate")
    assert found.value.args == (1700,)
