"""The robot's side of the reconstruct action: one job at a time, and a server that is absent or silent is noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node

from reconx_ros.action import Reconstruct
from reconx_ros.core import InvalidInputError
from reconx_ros.ros.action_messages import goal_of_request, outcome_of_result
from reconx_ros.ros.job_data import ErrorCode, JobOutcome, JobRequest

OnDone = Callable[[JobRequest, JobOutcome], None]
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

    def succeeded(self) -> None:
        """A try went well."""
        self._wait_s, self._due_s = 0.0, None

    @property
    def waiting(self) -> bool:
        """Whether a further try is planned."""
        return self._due_s is not None

    def due(self, now_s: float) -> bool:
        """Whether the planned try should be made now."""
        return self._due_s is not None and now_s >= self._due_s


@dataclass
class _Running:
    """The job in progress."""

    request: JobRequest
    heard_s: float
    stage: str = "queued"
    fraction: float = 0.0
    handle: Any = None


class ReconstructionClient:
    """Sends jobs; safe to use from several threads.

    Args:
        node: acts in its name.
        server: name of the server's node, relative to this node's namespace or absolute.
        group: callback group of the action client.
        on_done: called once for each started job, from any thread.
    """

    def __init__(self, node: Node, server: str, group: CallbackGroup, on_done: OnDone) -> None:
        self._node = node
        self._name = f"{server}/reconstruct"
        self._client = ActionClient(node, Reconstruct, self._name, callback_group=group)
        self._on_done = on_done
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def close(self) -> None:
        """Cancel the running job and stop."""
        self.cancel()
        with self._lock:
            self._running = None
        self._client.destroy()

    @property
    def absence(self) -> str:
        """One sentence when the server is not there; empty when it is."""
        if self._client.server_is_ready():
            return ""
        return f"the reconstruction server is not there: nobody offers the action {self._name}"

    @property
    def progress(self) -> tuple[str, float] | None:
        """(stage, fraction) of the running job; None when none runs."""
        running = self._running
        return None if running is None else (running.stage, running.fraction)

    def start(self, request: JobRequest) -> None:
        """Send a job; call only when none runs."""
        running = _Running(request=request, heard_s=time.monotonic())
        with self._lock:
            self._running = running
        future = self._client.send_goal_async(
            goal_of_request(request), feedback_callback=lambda message: self._on_feedback(running, message.feedback)
        )
        future.add_done_callback(lambda done: self._on_answer(running, done))

    def cancel(self) -> None:
        """Ask the server to stop the running job; its outcome still comes."""
        running = self._running
        if running is not None and running.handle is not None:
            running.handle.cancel_goal_async()

    def abandon(self) -> None:
        """Cancel the running job and forget it: its outcome will not come."""
        self.cancel()
        with self._lock:
            self._running = None

    def check(self, timeout_s: float) -> None:
        """Give the running job up when the server has been silent for too long."""
        running = self._running
        if running is None:
            return
        silent_s = time.monotonic() - running.heard_s
        if silent_s > timeout_s or (silent_s > 3.0 and not self._client.server_is_ready()):
            self.cancel()
            sentence = f"the reconstruction server has been silent for {silent_s:.0f} s, the job is given up"
            self._finish(running, JobOutcome.failure(ErrorCode.WORKER_DIED, sentence))

    def _on_feedback(self, running: _Running, feedback: Reconstruct.Feedback) -> None:
        running.heard_s = time.monotonic()
        running.stage, running.fraction = str(feedback.stage), float(feedback.fraction)

    def _on_answer(self, running: _Running, future: Any) -> None:
        handle = future.result()
        running.heard_s = time.monotonic()
        if not handle.accepted:
            sentence = f"the reconstruction server refused the job: {self._name} is not active"
            self._finish(running, JobOutcome.failure(ErrorCode.WORKER_DIED, sentence))
            return
        running.handle = handle
        if self._running is not running:  # abandoned meanwhile
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda done: self._on_result(running, done))

    def _on_result(self, running: _Running, future: Any) -> None:
        response = future.result()
        if response.status == GoalStatus.STATUS_UNKNOWN:
            outcome = JobOutcome.failure(ErrorCode.WORKER_DIED, "the reconstruction server no longer knows the job")
        else:
            outcome = _outcome(response.result)
        self._finish(running, outcome)

    def _finish(self, running: _Running, outcome: JobOutcome) -> None:
        with self._lock:
            if self._running is not running:
                return
            self._running = None
        self._on_done(running.request, outcome)


def _outcome(result: Reconstruct.Result) -> JobOutcome:
    try:
        return outcome_of_result(result)
    except InvalidInputError as error:
        return JobOutcome.failure(ErrorCode.RECONSTRUCTION_FAILED, f"the server's result cannot be used: {error}")
