"""One job at a time; of each client the newest waits, and clients take turns. Needs no ROS."""

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
    """A place in the queue.

    Attributes:
        client: whose it is; empty for those that do not say.
        superseded: set when a newer one of the same client took its place.
    """

    def __init__(self, client: str) -> None:
        self.client = client
        self.superseded = False


class JobQueue:
    """One running ticket, at most one waiting one of each client; safe to use from several threads.

    A client that names itself has one job altogether: its new ticket also supersedes its running one, which nobody
    waits for any more, because the client was started anew or lost the link and gave the job up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: Ticket | None = None
        self._waiting: list[Ticket] = []

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._running is not None

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def enter(self, client: str = "") -> Ticket:
        """Take a place, that of the client's waiting ticket where there is one. Never blocks."""
        ticket = Ticket(client)
        with self._changed:
            places = [i for i, other in enumerate(self._waiting) if other.client == client]
            if self._running is None:
                self._running = ticket
            elif places:
                self._waiting[places[0]].superseded = True
                self._waiting[places[0]] = ticket
            else:
                self._waiting.append(ticket)
            if client and self._running is not ticket and self._running.client == client:
                self._running.superseded = True
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
        """Give the place back, whatever happened; the one that waits longest moves up."""
        with self._changed:
            if self._running is ticket:
                self._running = self._waiting.pop(0) if self._waiting else None
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
            self._changed.notify_all()
