"""The node that reconstructs: an action with one job at a time, and pictures of the newest scene on request.

The work happens in a process of its own (``reconx_ros.jobs.worker``), so that callbacks stay quick and a worker that is
killed takes nothing with it. Runs wherever the GPU is, on the robot or beside it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup

from reconx_ros.action import Reconstruct
from reconx_ros.core import ReconxError
from reconx_ros.jobs.data import ErrorCode, JobOutcome, JobRequest
from reconx_ros.jobs.folders import KeptResults, job_folder
from reconx_ros.jobs.job_queue import JobQueue, Ticket, Turn
from reconx_ros.jobs.worker_process import WorkerDiedError, WorkerProcess
from reconx_ros.ros.conversions import ns_from_stamp
from reconx_ros.ros.conversions.action_messages import request_from_goal, result_from_outcome, transport_bytes
from reconx_ros.ros.graph import diagnostics
from reconx_ros.ros.graph.lifecycle import ManagedNode, reported, spin
from reconx_ros.ros.server.feedback import GoalFeedback, report_from_json, resident_mib, stage_values
from reconx_ros.ros.server.render_service import RenderService

THREADS = 12
MAX_WAITING = 8  # each takes a thread; the rest answer
_POLL_S = 0.05


class ReconstructionServer(ManagedNode):
    """Action ``~/reconstruct`` and service ``~/render_view``."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__("reconstruction_server", "server", **node_options)
        self._queue = JobQueue()
        self._tickets: dict[bytes, Ticket] = {}
        self._worker: WorkerProcess | None = None
        self._action: ActionServer | None = None
        self._render: RenderService | None = None
        self._prepared = ""
        self._last_job = "none yet"
        self._last_failure = ""
        self._report: dict[str, Any] = {}
        self._transport: dict[str, int] = {}
        self._kept = KeptResults()

    # Lifecycle ------------------------------------------------------------------------------------------------

    @reported
    def on_configure(self) -> None:
        """Start the worker process, which loads backends and weights once; make the action and the services."""
        self.check_parameters()
        config = self.parameters.config
        self._worker = WorkerProcess(self._log_worker, config.ros.worker_nice)
        self.get_logger().info("the worker process loads backends and weights")
        self._prepared = self._worker.prepare(config, config.ros.worker_target).result()
        self.get_logger().info(self._prepared)
        group = ReentrantCallbackGroup()
        self._render = RenderService(self, self._worker, group)
        self._action = ActionServer(
            self,
            Reconstruct,
            "~/reconstruct",
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
            callback_group=group,
            result_timeout=config.ros.result_timeout_s,
        )

    @reported
    def on_activate(self) -> None:
        """Take goals; a worker that died meanwhile is started again."""
        assert self._worker is not None
        self._worker.start()
        self.active = True

    @reported
    def on_deactivate(self) -> None:
        """Refuse new goals and cancel the running one."""
        self.active = False

    def close(self) -> None:
        """As ManagedNode."""
        self.active = False
        if self._worker is not None:
            self._worker.stop()

    def release(self) -> None:
        """End the worker; its scene is forgotten."""
        self.close()
        if self._render is not None:
            self._render.close()
        if self._action is not None:
            self._action.destroy()
        self._render = self._action = self._worker = None
        self._report, self._prepared = {}, ""

    def _log_worker(self, level: int, sentence: str) -> None:
        logger = self.get_logger()
        if level >= logging.ERROR:
            logger.error(sentence)
        elif level >= logging.WARNING:
            logger.warning(sentence)
        else:
            logger.info(sentence)

    # Goals ----------------------------------------------------------------------------------------------------

    def _on_goal(self, goal: Reconstruct.Goal) -> GoalResponse:
        if self.active and self._queue.waiting < MAX_WAITING:
            return GoalResponse.ACCEPT
        reason = f"{MAX_WAITING} jobs wait already" if self.active else "the server is not active"
        self.get_logger().warning(f"job '{goal.job_id}' is refused: {reason}")
        return GoalResponse.REJECT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        ticket = self._queue.enter(str(handle.request.client))  # here, in the order of arrival
        self._tickets[bytes(handle.goal_id.uuid)] = ticket
        handle.execute()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        del handle
        return CancelResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> Reconstruct.Result:
        try:
            return self._run_goal(handle)
        except Exception:
            if self.context.ok():
                raise
            return Reconstruct.Result()  # the process is ending, and its client hears nothing any more

    def _run_goal(self, handle: ServerGoalHandle) -> Reconstruct.Result:
        ticket = self._tickets.pop(bytes(handle.goal_id.uuid))
        feedback = GoalFeedback(handle)
        try:
            turn = self._queue.wait(ticket, lambda: self._unwanted(handle, ticket), feedback.beat, _POLL_S)
            outcome = self._outcome(handle, turn, feedback, ticket)
        except ReconxError as error:
            outcome = JobOutcome.failure(ErrorCode.INVALID_GOAL, str(error))
        finally:
            self._queue.leave(ticket)
        return self._finish(handle, outcome)

    def _unwanted(self, handle: ServerGoalHandle, ticket: Ticket) -> bool:
        return bool(handle.is_cancel_requested) or ticket.superseded or not self.active

    def _outcome(self, handle: ServerGoalHandle, turn: Turn, feedback: GoalFeedback, ticket: Ticket) -> JobOutcome:
        if turn is Turn.SUPERSEDED:
            return JobOutcome.failure(ErrorCode.SUPERSEDED, "a newer job took its place before it started")
        if turn is Turn.CANCELLED:
            return JobOutcome.failure(ErrorCode.CANCELLED, "cancelled before it started")
        request = request_from_goal(handle.request)
        self.get_logger().info(f"job '{request.job_id}' starts with {len(request.keyframes)} keyframes")
        outcome = self._worked(request, feedback, lambda: self._unwanted(handle, ticket))
        if ticket.superseded and outcome.error_code == ErrorCode.CANCELLED:
            return JobOutcome.failure(ErrorCode.SUPERSEDED, f"{ticket.client} sent a newer job and left this one")
        return outcome

    def _worked(self, request: JobRequest, feedback: GoalFeedback, unwanted: Callable[[], bool]) -> JobOutcome:
        assert self._worker is not None
        config = self.parameters.config
        out_dir = str(job_folder(config.ros.output_dir, request.job_id))
        key, future = self._worker.run(request, config, out_dir, config.ros.worker_target, feedback.take, feedback.show)
        try:
            return self._awaited(key, future, unwanted, feedback)
        except WorkerDiedError as error:
            return JobOutcome.failure(ErrorCode.WORKER_DIED, f"{error}; it starts again with the next job")

    def _awaited(
        self, key: str, future: Future[JobOutcome], unwanted: Callable[[], bool], feedback: GoalFeedback
    ) -> JobOutcome:
        assert self._worker is not None
        deadline_s: float | None = None
        while True:
            try:
                return future.result(timeout=_POLL_S)
            except FutureTimeoutError:
                feedback.beat()
            if deadline_s is None and unwanted():
                self._worker.cancel(key)
                deadline_s = time.monotonic() + self.parameters.config.ros.cancel_timeout_s
            if deadline_s is not None and time.monotonic() > deadline_s:
                self._worker.kill()
                return JobOutcome.failure(ErrorCode.CANCELLED, "cancelled; the worker did not stop and was ended")

    def _finish(self, handle: ServerGoalHandle, outcome: JobOutcome) -> Reconstruct.Result:
        header, name = handle.request.header, handle.request.job_id
        self._note(name, outcome)
        if outcome.scene_path:
            self._kept.add(Path(outcome.scene_path), self.parameters.config.ros.keep_results)
        packed = bool(handle.request.compress_cloud)
        result = result_from_outcome(outcome, ns_from_stamp(header.stamp), header.frame_id, compress_cloud=packed)
        self._report_transport(handle.request, result, len(outcome.cloud))
        if self._render is not None and outcome.error_code in (ErrorCode.NONE, ErrorCode.NO_DISK):
            self._render.scene_header = header
        if outcome.succeeded:
            handle.succeed()
        elif outcome.error_code == ErrorCode.CANCELLED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    def _report_transport(self, goal: Reconstruct.Goal, result: Reconstruct.Result, points: int) -> None:
        self._transport = transport_bytes(goal, result, points)
        report = report_from_json(result.report_json)
        if report:
            result.report_json = json.dumps({**report, "transport": self._transport})

    def _note(self, name: str, outcome: JobOutcome) -> None:
        if outcome.succeeded:
            self._report = report_from_json(outcome.report_json)
            self._last_failure = ""
            self._last_job = f"job '{name}' made {len(outcome.cloud)} points, {len(outcome.novel_views)} novel views"
            self.get_logger().info(self._last_job)
            return
        self._last_job = f"job '{name}' ended with {outcome.error_code.name}: {outcome.error_msg}"
        calm = outcome.error_code in (ErrorCode.CANCELLED, ErrorCode.SUPERSEDED)
        self._last_failure = "" if calm else self._last_job
        log = self.get_logger().info if calm else self.get_logger().error
        log(self._last_job)

    def statuses(self) -> list[DiagnosticStatus]:
        """As ManagedNode."""
        pid = self._worker.pid if self._worker is not None else None
        level = diagnostics.ERROR if self._last_failure else diagnostics.OK
        words = self._last_failure or (
            "a job is running" if self._queue.busy else "ready" if self.active else "inactive"
        )
        values = {
            "worker process": pid or "not running",
            "worker memory [MiB]": resident_mib(pid),
            "worker device": self._worker.device if self._worker is not None else "",
            "prepared": self._prepared or "nothing",
            "last job": self._last_job,
            "active": self.active,
            "jobs waiting": self._queue.waiting,
            **{f"last job, {name}": count for name, count in self._transport.items()},
            **stage_values(self._report),
        }
        unknown = self.parameters.unknown
        parameters = diagnostics.status(
            "parameters", diagnostics.WARN if unknown else diagnostics.OK, "; ".join(unknown) or "all known"
        )
        return [diagnostics.status("jobs", level, words, values), parameters]


def main(make: Callable[[], ManagedNode] = ReconstructionServer) -> int:
    """Run the server."""
    return spin(make, THREADS)


if __name__ == "__main__":
    raise SystemExit(main())
