"""Why nothing is mapped: what topics, transforms and frames say, as diagnostics, as one log sentence, as the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticStatus

from reconx_ros.io.ingest.camera_input import CameraInput, InputProblem
from reconx_ros.io.ingest.drops import POSE_REASONS
from reconx_ros.io.ingest.frame_queue import Now, Pending
from reconx_ros.pipeline.config import RosConfig
from reconx_ros.ros.graph import diagnostics
from reconx_ros.ros.graph.diagnostics import TroubleLog
from reconx_ros.ros.graph.tf import PoseLookup
from reconx_ros.ros.robot.input_monitor import input_status
from reconx_ros.ros.robot.inputs import NodeInputs

_LASTING_S = 1.0  # waiting shorter than this is how frames and transforms meet every day
_RECENT_S = 10.0
_RECORDED_S = 86_400.0  # stamps older than this come from a recording


class InputWatch:
    """Looks at the inputs once a second.

    Args:
        log: where troubles are told.

    Attributes:
        starved: why no usable frame has come for a while; empty while frames come. Read by other threads.
    """

    def __init__(self, log: TroubleLog) -> None:
        self._log = log
        self._usable_s: float | None = None
        self.starved = ""

    @property
    def usable_frame(self) -> bool:
        """Whether a usable frame has come since the start."""
        return self._usable_s is not None

    def took_frame(self, now_s: float) -> None:
        """A frame had all that belongs to it."""
        self._usable_s, self.starved = now_s, ""

    def start_over(self) -> None:
        """Forget that frames came."""
        self._usable_s, self.starved = None, ""

    def look(
        self, inputs: NodeInputs | None, ros: RosConfig, lookup: PoseLookup, waiting: Sequence[Pending], now: Now
    ) -> list[DiagnosticStatus]:
        """One status for each subscribed topic and one for the transforms; troubles go to the log."""
        if inputs is None:
            self.starved = ""
            return [diagnostics.status("inputs", diagnostics.OK, "not active, nothing is subscribed")]
        statuses, troubles = [], {}
        for monitor in inputs.monitors.values():
            publishers = inputs.publishers(monitor)
            problem = inputs.problem(monitor, publishers, now.steady_s, ros.input_timeout_s)
            statuses.append(input_status(monitor, now.steady_s, publishers, problem))
            if problem:
                troubles[f"input {monitor.topic}"] = problem
        cameras = tuple(inputs.cameras.values())
        poses = transform_status(cameras, ros, lookup, waiting, now, hopeless=not self.usable_frame)
        if poses.level != diagnostics.OK:
            troubles["transforms"] = poses.message
        troubles |= _frame_troubles(cameras, troubles, now.steady_s)
        self._log.update(troubles, now.steady_s)
        self._judge(troubles, now.steady_s, ros.input_timeout_s)
        return [*statuses, poses]

    def _judge(self, troubles: Mapping[str, str], now_s: float, timeout_s: float) -> None:
        dry = self._usable_s is None or now_s - self._usable_s > timeout_s
        self.starved = "; ".join(troubles.values()) if dry else ""


def camera_problems(cameras: Sequence[CameraInput]) -> dict[str, str]:
    """Reason to sentence of all cameras, of the frames that wait or were dropped since the last good one."""
    found: dict[str, list[str]] = {}
    for camera in cameras:
        for reason, problem in camera.problems.items():
            found.setdefault(reason, []).append(problem.sentence)
    return {reason: "; ".join(dict.fromkeys(sentences)) for reason, sentences in found.items()}


def _lasting(camera: CameraInput, now_s: float) -> dict[str, InputProblem]:
    """Problems that cost a frame or have lasted."""
    return {r: p for r, p in camera.problems.items() if p.dropped or now_s - p.since_s >= _LASTING_S}


def _frame_troubles(cameras: Sequence[CameraInput], known: Mapping[str, str], now_s: float) -> dict[str, str]:
    """What is wrong with frames themselves; what a silent topic explains already is left out."""
    troubles = {}
    for camera in cameras:
        explained = {"no_camera_info": camera.lens.topic, "no_depth": camera.depth_topic}
        for reason, problem in _lasting(camera, now_s).items():
            if reason in POSE_REASONS or f"input {explained.get(reason)}" in known:
                continue
            name = f"camera '{camera.name}' {reason}"
            troubles[name] = f"{_cost(reason, problem.dropped)}: {problem.sentence}"
    return troubles


def _cost(reason: str, dropped: int) -> str:
    if reason == "depth_refused":
        return f"{dropped} frames used without their depth"
    return f"{dropped} frames dropped as {reason}" if dropped else "frames wait"


def transform_status(
    cameras: Sequence[CameraInput],
    ros: RosConfig,
    lookup: PoseLookup,
    waiting: Sequence[Pending],
    now: Now,
    *,
    hopeless: bool,
) -> DiagnosticStatus:
    """Whether frames get their pose; when they do not: which frames and stamps, what there is, and what waits."""
    if ros.pose_source == "none":
        source = "nowhere: pose_source is none"
    else:
        source = lookup.name
    late = [p for p in waiting if p.waits_for in POSE_REASONS]
    values: dict[str, object] = {"source": source, "frames waiting": len(late), "refused": lookup.refusals.count}
    if late:
        values["oldest stamp waiting [s]"] = f"{min(p.stamp_ns for p in late) / 1e9:.3f}"
    trouble = [p.sentence for c in cameras for r, p in _lasting(c, now.steady_s).items() if r in POSE_REASONS]
    refused = lookup.refusals.recent(now.steady_s, _RECENT_S)
    if not trouble and not refused:
        return diagnostics.status("transforms", diagnostics.OK, f"from the {source}", values)
    values["buffer"] = lookup.contents()
    parts = [f"frames have no pose: {'; '.join(dict.fromkeys(trouble))}"] if trouble else []
    parts += [_waiting(late, now)] if late else []
    parts += [f"the buffer holds {values['buffer']}", lookup.trouble()] if trouble else []
    parts += [refused] if refused else []
    level = diagnostics.ERROR if trouble and (hopeless or _never(cameras)) else diagnostics.WARN
    return diagnostics.status("transforms", level, "; ".join(p for p in parts if p), values)


def _never(cameras: Sequence[CameraInput]) -> bool:
    return any("pose_too_old" in camera.problems for camera in cameras)


def _waiting(late: Sequence[Pending], now: Now) -> str:
    """How many frames wait, and how old the oldest is by the node's clock."""
    oldest = min(late, key=lambda p: p.stamp_ns)
    sentence = f"{len(late)} wait, the oldest since stamp {oldest.stamp_ns / 1e9:.3f} s"
    sentence += f", for {now.steady_s - oldest.arrived_s:.1f} s"
    if not now.ros_ns:
        return sentence
    age_s = (now.ros_ns - oldest.stamp_ns) / 1e9
    sentence += f" ({abs(age_s):.1f} s {'before' if age_s >= 0 else 'after'} {now.clock})"
    recorded = age_s > _RECORDED_S and not now.simulated
    return f"{sentence}, which is a recording's time: set use_sim_time" if recorded else sentence
