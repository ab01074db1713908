"""The integrate step in a thread of its own, while the generator is trained beside it on what is committed so far."""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial

from storage.errors import HaltedError


class Simulation:
    """The integrate step of a run that overlaps with the training of its generator.

    Args:
        take: takes the step.
        end: called when the step has ended, well or not.
    """

    def __init__(self, take: Callable[[], None], *, end: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self.ended = 0.0  # time.monotonic()
        self._take, self._end = take, end
        work = partial(copy_context().run, self._work)  # whoever listens, listens in this context, as Prefect does
        self._thread = threading.Thread(target=work, name="integrate")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self) -> None:
        """Wait for the end, well or not."""
        self._thread.join()

    def require_done(self) -> None:
        """Wait for the end.

        Raises:
            HaltedError: the step failed; why is in ``error``.
        """
        self.wait()
        if self.error is not None:
            raise HaltedError("the integrate step failed, and a generator is done only after it")

    def _work(self) -> None:
        try:
            self._take()
        except BaseException as error:  # for the thread that waits
            self.error = error
        finally:
            self.ended = time.monotonic()
            self._end()
