"""One job at a time; the newest waits and takes the place of an older waiting one. Needs no ROS."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable


class Turn(enum.Enum):
    """How waiting ended."""

    RUN = "run"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


class Ticket:
    """A place in the queue."""

    def __init__(self) -> None:
        self.superseded = False


class JobQueue:
    """One running ticket, at most one waiting one; safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: Ticket | None = None
        self._waiting: Ticket | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._running is not None

    def enter(self) -> Ticket:
        """Take a place; an older waiting ticket is superseded. Never blocks."""
        ticket = Ticket()
        with self._changed:
            if self._running is None:
                self._running = ticket
            else:
                if self._waiting is not None:
                    self._waiting.superseded = True
                self._waiting = ticket
            self._changed.notify_all()
        return ticket

    def wait(self, ticket: Ticket, cancelled: Callable[[], bool], on_wait: Callable[[], None], poll_s: float) -> Turn:
        """Block until the ticket may run, was superseded or is cancelled.

        Args:
            ticket: from ``enter``.
            cancelled: asked every ``poll_s``.
            on_wait: called every ``poll_s`` while waiting, outside the lock.
            poll_s: seconds.
        """
        while True:
            with self._changed:
                if ticket.superseded:
                    return Turn.SUPERSEDED
                if self._running is ticket:
                    return Turn.CANCELLED if cancelled() else Turn.RUN
                if cancelled():
                    return Turn.CANCELLED
                self._changed.wait(poll_s)
            on_wait()

    def leave(self, ticket: Ticket) -> None:
        """Give the place back, whatever happened; a waiting ticket moves up."""
        with self._changed:
            if self._running is ticket:
                self._running, self._waiting = self._waiting, None
            elif self._waiting is ticket:
                self._waiting = None
            self._changed.notify_all()
