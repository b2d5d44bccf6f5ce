"""The one thread that owns the mapper: it does what callbacks leave for it, and answers what services ask."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

R = TypeVar("R")


class MappingThread:
    """Runs tasks first, then steps, whenever woken; never ends by an exception.

    Args:
        step: looks at what has come; returns the longest time [s] until the next look.
        on_error: called with an exception of a step.
    """

    def __init__(self, step: Callable[[], float], on_error: Callable[[Exception], None]) -> None:
        self._step = step
        self._on_error = on_error
        self._condition = threading.Condition()
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._woken = False
        self._stopping = False
        self._rest_until_s = 0.0
        self._thread = threading.Thread(target=self._run, name="mapping", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it does now; waiting tasks are cancelled."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=10.0)

    def wake(self) -> None:
        """Something has come."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def rest(self, seconds: float) -> None:
        """Take no step for a while, whatever comes; tasks are still run. Called by a step."""
        self._rest_until_s = time.monotonic() + seconds

    def submit(self, task: Callable[[], R]) -> Future[R]:
        """Run a function on the thread."""
        future: Future[R] = Future()
        with self._condition:
            if self._stopping:
                future.cancel()
                return future
            self._tasks.append((task, future))
            self._condition.notify()
        return future

    def _run(self) -> None:
        pause_s = 0.0
        while True:
            with self._condition:
                self._wait(pause_s)
                self._woken = False
                tasks = list(self._tasks)
                self._tasks.clear()
                stopping = self._stopping
            if stopping:
                for _, future in tasks:
                    future.cancel()
                return
            for task, future in tasks:
                self._do(task, future)
            pause_s = self._stepped()

    def _wait(self, pause_s: float) -> None:
        """Until there is a task, or something has come and the rest is over, or the pause is over; holds the lock."""
        end_s = time.monotonic() + pause_s
        while not (self._tasks or self._stopping):
            due_s = self._rest_until_s if self._woken else max(end_s, self._rest_until_s)
            left_s = due_s - time.monotonic()
            if left_s <= 0:
                return
            self._condition.wait(left_s)

    def _do(self, task: Callable[[], Any], future: Future[Any]) -> None:
        try:
            future.set_result(task())
        except Exception as error:
            future.set_exception(error)

    def _stepped(self) -> float:
        try:
            return self._step()
        except Exception as error:
            self._on_error(error)
            return 0.1
