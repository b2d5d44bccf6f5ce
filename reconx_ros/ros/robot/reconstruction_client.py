"""The robot's side of the reconstruct action: one job at a time, and a server that is absent or silent is noticed."""

from __future__ import annotations

import socket
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
from reconx_ros.jobs.data import ErrorCode, JobOutcome, JobRequest
from reconx_ros.jobs.link import Advice, JobLink
from reconx_ros.pipeline.config import RosConfig
from reconx_ros.ros.conversions.action_messages import goal_from_request, outcome_from_result, payload_bytes

OnDone = Callable[[JobRequest, JobOutcome], None]


@dataclass
class _Running:
    """The job in progress."""

    request: JobRequest
    link: JobLink
    handle: Any = None


class ReconstructionClient:
    """Sends jobs; safe to use from several threads.

    Args:
        node: acts in its name.
        server: name of the server's node, relative to this node's namespace or absolute.
        group: callback group of the action client.
        on_done: called once for each started job, from any thread.

    Attributes:
        name: under which the server knows this robot: node and computer, the same after a restart.
    """

    def __init__(self, node: Node, server: str, group: CallbackGroup, on_done: OnDone) -> None:
        self._node = node
        self._action = f"{server}/reconstruct"
        self._client = ActionClient(node, Reconstruct, self._action, callback_group=group)
        self._on_done = on_done
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self.name = f"{node.get_fully_qualified_name()}@{socket.gethostname()}"

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
        return f"the reconstruction server is not there: nobody offers the action {self._action}"

    @property
    def progress(self) -> tuple[str, float] | None:
        """(stage, fraction) of the running job; None when none runs."""
        running = self._running
        return None if running is None else (running.link.stage, running.link.fraction)

    def trouble(self, silence_s: float) -> str:
        """One clause while nothing is heard of the running job; empty otherwise."""
        running = self._running
        return "" if running is None else running.link.trouble(time.monotonic(), silence_s)

    def start(self, request: JobRequest) -> int:
        """Send a job; call only when none runs. Returns the bytes sent."""
        running = _Running(request=request, link=JobLink(time.monotonic()))
        goal = goal_from_request(request)
        with self._lock:
            self._running = running
        future = self._client.send_goal_async(
            goal, feedback_callback=lambda message: self._on_feedback(running, message.feedback)
        )
        future.add_done_callback(lambda done: self._on_answer(running, done))
        return payload_bytes(goal)

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

    def check(self, config: RosConfig) -> None:
        """Look after the running job: say when the link breaks and is back, ask again for its result, give it up.

        Call several times a second.
        """
        running = self._running
        if running is None:
            return
        now_s, link = time.monotonic(), running.link
        advice, words = link.advice(
            now_s,
            present=self._client.server_is_ready(),
            silence_s=config.server_timeout_s,
            stall_s=config.progress_timeout_s,
        )
        if advice is Advice.GIVE_UP:
            self.cancel()
            sentence = f"the reconstruction server {words}, the job is given up"
            self._finish(running, JobOutcome.failure(ErrorCode.WORKER_DIED, sentence))
        elif advice is Advice.TELL_LOST:
            self._node.get_logger().warning(words)
        elif advice is Advice.TELL_BACK:
            self._node.get_logger().info(f"the reconstruction server {words}, the job goes on")
        if running.handle is not None and link.should_ask(now_s):
            self._ask_result(running)

    def _on_feedback(self, running: _Running, feedback: Reconstruct.Feedback) -> None:
        running.link.progress(time.monotonic(), str(feedback.stage), float(feedback.fraction), str(feedback.message))

    def _on_answer(self, running: _Running, future: Any) -> None:
        handle = future.result()
        running.link.heard(time.monotonic())
        if not handle.accepted:
            sentence = f"the reconstruction server refused the job: {self._action} is not active, or too many jobs wait"
            self._finish(running, JobOutcome.failure(ErrorCode.WORKER_DIED, sentence))
            return
        running.handle = handle
        if self._running is not running:  # abandoned meanwhile
            handle.cancel_goal_async()
        self._ask_result(running)

    def _ask_result(self, running: _Running) -> None:
        running.handle.get_result_async().add_done_callback(lambda done: self._on_result(running, done))

    def _on_result(self, running: _Running, future: Any) -> None:
        response = future.result()
        if response.status == GoalStatus.STATUS_UNKNOWN:
            sentence = "the reconstruction server was started anew and no longer knows the job"
            outcome = JobOutcome.failure(ErrorCode.WORKER_DIED, sentence)
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
        return outcome_from_result(result)
    except InvalidInputError as error:
        return JobOutcome.failure(ErrorCode.RECONSTRUCTION_FAILED, f"the server's result cannot be used: {error}")
