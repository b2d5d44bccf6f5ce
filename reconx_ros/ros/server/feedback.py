"""What the reconstruction server tells about its jobs while and after they run."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

from rclpy.action.server import ServerGoalHandle
from sensor_msgs.msg import CompressedImage

from reconx_ros.action import Reconstruct
from reconx_ros.ros.conversions import byte_array, header_msg, ns_from_stamp

_HEARTBEAT_S = 1.0
_WAITING = "another job is running, this one is next"


class GoalFeedback:
    """Feedback of one goal: each step of the worker, and the last one again when nothing is new for a second."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self._handle = handle
        self._last: tuple[str, float, str] = ("queued", 0.0, _WAITING)
        self._sent_s = 0.0

    def take(self, stage: str, fraction: float, message: str) -> None:
        """A step of the worker."""
        self._last = (stage, fraction, message)
        self._send()

    def show(self, jpeg: bytes) -> None:
        """A preview; it travels with the next feedback only."""
        self._send(jpeg)

    def beat(self) -> None:
        """Show that the server lives."""
        if time.monotonic() - self._sent_s > _HEARTBEAT_S:
            self._send()

    def _send(self, jpeg: bytes = b"") -> None:
        self._sent_s = time.monotonic()
        header = self._handle.request.header
        stage, fraction, message = self._last
        feedback = Reconstruct.Feedback(header=header_msg(ns_from_stamp(header.stamp), header.frame_id))
        feedback.stage, feedback.fraction, feedback.message = stage, float(fraction), message
        if jpeg:
            feedback.preview = CompressedImage(header=feedback.header, format="jpeg", data=byte_array(jpeg))
        if self._handle.is_active:
            self._handle.publish_feedback(feedback)


def report_from_json(report_json: str) -> dict[str, Any]:
    """The report in a result; empty where there is none."""
    try:
        report = json.loads(report_json)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def stage_values(report: dict[str, Any]) -> dict[str, str]:
    """Seconds and peak memory of each stage of a report, for diagnostics."""
    values = {}
    for stage in report.get("stages", []):
        name = stage.get("name", "stage")
        values[f"{name} [s]"] = f"{stage.get('seconds', 0.0):.2f}"
        if stage.get("peak_cuda_mb") is not None:
            values[f"{name} peak GPU memory [MiB]"] = f"{stage['peak_cuda_mb']:.0f}"
    return values


def resident_mib(pid: int | None) -> str:
    """Memory that a process holds now; empty where it cannot be read."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return ""
    return f"{pages * resource.getpagesize() / 2**20:.0f}"
