"""Waiting for the nodes to do their work, and finishing a map as an operator would at the end of a drive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reconx_ros.core import ReconstructionError
from reconx_ros.msg import Status
from reconx_ros.ros.tools.recorder import TopicRecorder, job_reports
from reconx_ros.ros.tools.session import RosSession

_QUIET_STATUSES = 4  # statuses without a running job after which the nodes count as idle
_JOB_TIMEOUT_S = 900.0
_REPLY_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 120.0
_SERVER_READY = "/reconstruction_server/render_view"  # served from activation on
_VIEWS_TIMEOUT_S = 60.0


def wait_for_server(session: RosSession, recorder: TopicRecorder) -> None:
    """Wait until the reconstruction server is active, so that nothing is asked of it in vain.

    Raises:
        ReconstructionError: when a node dies or the time is over.
    """

    def there() -> bool:
        return any(name.endswith(_SERVER_READY) for name, _ in recorder.get_service_names_and_types())

    session.wait(there, "the reconstruction server to become active", timeout_s=_START_TIMEOUT_S)


def wait_idle(session: RosSession, recorder: TopicRecorder, on_wait: Callable[[], None]) -> None:
    """Wait until no reconstruction runs and none has begun for a few statuses.

    Raises:
        ReconstructionError: when a node dies or the time is over.
    """
    quiet, seen = 0, recorder.recording.statuses

    def idle() -> bool:
        nonlocal quiet, seen
        status, count = recorder.recording.status, recorder.recording.statuses
        if status is None or count == seen:
            return False
        seen = count
        quiet = 0 if status.state == Status.RECONSTRUCTING else quiet + 1
        return quiet >= _QUIET_STATUSES

    session.wait(idle, "the reconstruction to end", timeout_s=_JOB_TIMEOUT_S, on_wait=on_wait)


def finish_map(session: RosSession, recorder: TopicRecorder, server_folder: Path, on_wait: Callable[[], None]) -> int:
    """Trigger until every keyframe was part of a reconstruction; returns how often that was needed.

    Args:
        session: running nodes.
        recorder: what was heard of them.
        server_folder: where the server writes its results.
        on_wait: called a few times a second.

    Raises:
        ReconstructionError: when the node refuses, or a reconstruction fails.
    """
    triggers = 0
    posed = {i for i, keyframe in recorder.recording.keyframes.items() if keyframe.pose is not None}
    while len(posed) > 1 and (left := posed - _used(server_folder)):
        _trigger(session, recorder)
        wait_idle(session, recorder, on_wait)
        triggers += 1
        if not left & _used(server_folder):
            status = recorder.recording.status
            raise ReconstructionError(status.last_error or "the triggered reconstruction used no new keyframe")
    _wait_for_views(session, recorder, server_folder)
    return triggers


def _wait_for_views(session: RosSession, recorder: TopicRecorder, server_folder: Path) -> None:
    """Wait until all novel views of the newest result have been heard: they are published one after the other."""
    reports = job_reports(server_folder)
    if not reports:
        return
    keyframes, expected = recorder.recording.keyframes, int(reports[-1]["novel_views"])
    newest_ns = max((keyframes[i].stamp_ns for i in reports[-1]["keyframe_ids"] if i in keyframes), default=0)

    def heard() -> bool:
        views = list(recorder.recording.novel_views.items())
        return sum(view.complete and stamp_ns >= newest_ns for stamp_ns, view in views) >= expected

    session.wait(heard, f"the {expected} novel views of the newest result", timeout_s=_VIEWS_TIMEOUT_S)


def _used(server_folder: Path) -> set[int]:
    return {i for report in job_reports(server_folder) for i in report["keyframe_ids"]}


def _trigger(session: RosSession, recorder: TopicRecorder) -> None:
    recorder.trigger()
    session.wait(lambda: recorder.trigger_reply is not None, "the reply of ~/trigger", timeout_s=_REPLY_TIMEOUT_S)
    reply = recorder.trigger_reply
    if not reply.success:
        raise ReconstructionError(f"reconx_node refused to reconstruct: {reply.message}")
