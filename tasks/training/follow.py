"""Tells how far a training is that workers do elsewhere: what their journal says goes to progress and to the log."""

import logging
import threading
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial

from storage.journal import read_journal
from tasks.facts import Progress, TrainingFacts, TrainingPlace

logger = logging.getLogger(__name__)

_FOLLOW_SECONDS = 0.5
_TOLD = ("loss", "steps_per_second", "wait_share")  # of a journal's record, beside its step


class Follower:
    """A thread that tells how far a journal is.

    Args:
        place: whose journal it is.
        steps: optimiser steps in all.
        progress: told about twice a second.
    """

    def __init__(self, place: TrainingPlace, steps: int, progress: Progress) -> None:
        self._place, self._steps, self._progress = place, steps, progress
        self._stop = threading.Event()
        self._known: list[dict[str, float]] = []  # records of the journal
        self._taken = 0  # optimiser steps since this began
        follow = partial(copy_context().run, self._follow)  # whoever listens, listens in this context
        self._thread = threading.Thread(target=follow, name="follow-training", daemon=True)

    def __enter__(self) -> None:
        self._known = self._read()  # of a training that goes on
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._tell()

    def _follow(self) -> None:
        while not self._stop.wait(_FOLLOW_SECONDS):
            self._tell()

    def _read(self) -> list[dict[str, float]]:
        try:
            return read_journal(self._place.journal)
        except OSError as error:  # an object store that does not answer now may at the next look
            logger.debug("no progress: %s", error)
            return []

    def _tell(self) -> None:
        records = self._read()
        if not records:
            return
        for record in records[_common(records, self._known) :]:
            self._taken += int(record["steps"])
            facts = {name: record[name] for name in _TOLD if name in record}
            logger.debug(
                "step %d of %d: loss %.4g",
                record["step"],
                self._steps,
                record["loss"],
                extra={"event": "trained", "optimiser_step": int(record["step"]), **facts},
            )
        self._known, last = records, records[-1]
        told = TrainingFacts(steps=self._taken, loss=last["loss"], wait_share=last["wait_share"])
        self._progress(int(last["step"]), self._steps, f"steps, loss {last['loss']:.4f}", told)


def _common(records: Sequence[object], known: Sequence[object]) -> int:
    """Give how many records are known: after a worker went back to its checkpoint those that follow it are new."""
    same = zip(records, known, strict=False)
    return next((k for k, (record, other) in enumerate(same) if record != other), min(len(records), len(known)))
