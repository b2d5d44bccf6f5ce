"""When to try again. Needs no ROS."""

from __future__ import annotations

MAX_BACKOFF_S = 60.0


class Backoff:
    """When to try again: the wait doubles with each failure up to a minute, a success starts over."""

    def __init__(self) -> None:
        self._wait_s = 0.0
        self._due_s: float | None = None

    def failed(self, now_s: float, first_wait_s: float) -> float:
        """A try failed; returns the seconds until the next one."""
        self._wait_s = min(2 * self._wait_s, MAX_BACKOFF_S) if self._wait_s else first_wait_s
        self._due_s = now_s + self._wait_s
        return self._wait_s

    def stop(self) -> None:
        """No further try is due."""
        self._due_s = None

    def hurry(self, now_s: float) -> None:
        """What kept the tries from succeeding is gone: the next one is due now, and waits start over."""
        self._wait_s = 0.0
        if self._due_s is not None:
            self._due_s = min(self._due_s, now_s)

    def succeeded(self) -> None:
        """A try went well."""
        self._wait_s, self._due_s = 0.0, None

    @property
    def waiting(self) -> bool:
        """Whether a further try is planned."""
        return self._due_s is not None

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the planned try; None when none is planned."""
        due_s = self._due_s
        return None if due_s is None else max(0.0, due_s - now_s)

    def due(self, now_s: float) -> bool:
        """Whether the planned try should be made now."""
        return self._due_s is not None and now_s >= self._due_s
