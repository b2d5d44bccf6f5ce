"""A thread that always works on the newest request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class NewestOnly:
    """Runs a function in a thread of its own, again whenever asked.

    Requests that come while it runs count as one, so that a slider that is being dragged never builds up a queue.

    Args:
        work: what to run; an exception is handed to ``on_error`` and the thread goes on.
        on_error: told of exceptions.
    """

    def __init__(self, work: Callable[[], None], on_error: Callable[[Exception], None]) -> None:
        self._work, self._on_error = work, on_error
        self._changed = threading.Condition()
        self._asked = self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have it run once more."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until everything asked for is done; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._asked or self._busy), timeout_s)

    def close(self) -> None:
        """End the thread after the present run."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while self._next():
            try:
                self._work()
            except Exception as err:
                _log.debug("drawing failed", exc_info=True)
                self._on_error(err)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> bool:
        """Wait for a request; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._closed)
            self._asked, self._busy = False, not self._closed
            return not self._closed
