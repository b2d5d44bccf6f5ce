"""Where callbacks leave messages: bounded, newest wins, every drop counted with its reason. Needs no ROS."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from reconx_ros.io.ingest.drops import DropCounter

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A bounded queue whose oldest entry gives way when it is full.

    Args:
        capacity: entries held, >= 1.
        on_drop: called with (reason, count) whenever entries are thrown away; must return quickly.
        wake: called after each put, outside the lock.
    """

    def __init__(
        self, capacity: int, on_drop: Callable[[str, int], None], wake: Callable[[], None] = lambda: None
    ) -> None:
        self._entries: deque[T] = deque()
        self._capacity = capacity
        self._on_drop = on_drop
        self._wake = wake
        self._lock = threading.Lock()
        self._overflowed = False

    def overflowed(self) -> bool:
        """Whether an entry has given way since this was asked last."""
        with self._lock:
            overflowed, self._overflowed = self._overflowed, False
        return overflowed

    def put(self, entry: T) -> None:
        """Add an entry; drops the oldest with reason "busy" when full."""
        with self._lock:
            self._entries.append(entry)
            dropped = len(self._entries) > self._capacity
            if dropped:
                self._entries.popleft()
                self._overflowed = True
        if dropped:
            self._on_drop("busy", 1)
        self._wake()

    def take_all(self) -> list[T]:
        """Remove and return all entries, oldest first."""
        with self._lock:
            entries = list(self._entries)
            self._entries.clear()
        return entries

    def clear(self, reason: str) -> None:
        """Throw all entries away, counted under a reason."""
        count = len(self.take_all())
        if count:
            self._on_drop(reason, count)

    def __len__(self) -> int:
        return len(self._entries)


class Durations:
    """The recent durations of something, for percentiles; safe to use from several threads.

    Args:
        window: how many are remembered.
    """

    def __init__(self, window: int = 1000) -> None:
        self._lock = threading.Lock()
        self._recent_ms: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """Remember one duration."""
        with self._lock:
            self._recent_ms.append(seconds * 1e3)

    def percentiles_ms(self, *shares: float) -> tuple[float, ...]:
        """Durations [ms] below which these shares in [0, 1] of the recent ones lie; NaN before the first."""
        with self._lock:
            ordered = sorted(self._recent_ms)
        if not ordered:
            return tuple(float("nan") for _ in shares)
        return tuple(ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in shares)


class RateMeter:
    """How often and how recently messages came, by a monotonic clock in seconds.

    Args:
        window: messages over which the rate is taken.
    """

    def __init__(self, window: int = 20) -> None:
        self._times_s: deque[float] = deque(maxlen=window)
        self.count = 0

    def tick(self, now_s: float) -> None:
        """A message came."""
        self._times_s.append(now_s)
        self.count += 1

    def rate_hz(self) -> float:
        """Messages a second over the window; 0 before the second one."""
        times = list(self._times_s)
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return (len(times) - 1) / span if span > 0 else 0.0

    def age_s(self, now_s: float) -> float | None:
        """Seconds since the last message; None before the first."""
        times = list(self._times_s)
        return now_s - times[-1] if times else None


class InputCounters:
    """What is counted about images since the last reset.

    Attributes:
        drops: frames not used, by reason.
        callbacks: time spent in image callbacks.
        frames_in: images received; written by one callback at a time.
    """

    def __init__(self) -> None:
        self.drops = DropCounter()
        self.callbacks = Durations()
        self.frames_in = 0

    def clear(self) -> None:
        """Start over; the durations stay."""
        self.drops.clear()
        self.frames_in = 0
