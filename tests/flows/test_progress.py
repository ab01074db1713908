"""Listeners: heard inside their context alone; a run's steps may be told of as one."""

from flows.progress import as_one, current_listener, listening


class Notes:
    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def began(self, step: str) -> None:
        self.told.append(("began", step))

    def moved(self, step: str, done: int, total: int, words: str) -> None:
        self.told.append(("moved", step, done, total, words))

    def ended(self, step: str, *, seconds: float) -> None:
        self.told.append(("ended", step, seconds))


def test_a_listener_hears_what_happens_inside_its_context() -> None:
    notes = Notes()
    with listening(notes):
        current_listener().began("ingest")
    current_listener().began("integrate")
    assert notes.told == [("began", "ingest")]


def test_the_steps_of_a_run_move_one_bar_that_is_begun_elsewhere() -> None:
    notes = Notes()
    run = as_one("s-steps-4", notes)
    run.began("integrate")
    run.moved("integrate", 1, 2, "trajectories")
    run.ended("integrate", seconds=1.0)
    assert notes.told == [("moved", "s-steps-4", 1, 2, "integrate, trajectories")]
