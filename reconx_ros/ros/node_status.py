"""~/status and the diagnostics of reconx_node, from what its parts let other threads read."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header

from reconx_ros.msg import Status
from reconx_ros.pipeline.config import RosConfig
from reconx_ros.ros import diagnostics
from reconx_ros.ros.ingest import Pending
from reconx_ros.ros.mailbox import InputCounters
from reconx_ros.ros.map_session import Facts
from reconx_ros.ros.node_inputs import NodeInputs

_STATE_WORDS = {
    Status.WAITING_FOR_INPUT: "waiting for input",
    Status.COLLECTING: "collecting",
    Status.RECONSTRUCTING: "reconstructing",
    Status.IDLE: "idle",
    Status.PAUSED: "paused",
    Status.ERROR: "error",
}


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the node is in the middle of.

    Attributes:
        facts: of the mapping.
        problems: reason to sentence, of frames that wait or were dropped.
        waiting: frames that wait.
        progress: (stage, fraction) of the running job.
        usable_frame: whether one has come since activation.
        absence: one sentence when the reconstruction server is not there.
    """

    active: bool
    paused: bool
    usable_frame: bool
    absence: str
    facts: Facts
    problems: dict[str, str]
    waiting: tuple[Pending, ...]
    progress: tuple[str, float] | None


def state_of(situation: Situation) -> tuple[int, str]:
    """The state constant and its words, with the reason where there is one."""
    facts = situation.facts
    if not situation.active:
        state, reason = Status.IDLE, ""
    elif situation.paused:
        state, reason = Status.PAUSED, ""
    elif situation.progress is not None:
        state, reason = Status.RECONSTRUCTING, situation.progress[0]
    elif facts.failing:
        state, reason = Status.ERROR, facts.last_error
    elif not situation.usable_frame:
        state, reason = Status.WAITING_FOR_INPUT, "; ".join(situation.problems.values())
    else:
        state, reason = Status.COLLECTING, situation.absence or facts.reason
    words = _STATE_WORDS[state]
    return int(state), f"{words}: {reason}" if reason else words


def status_msg(situation: Situation, counters: InputCounters, header: Header) -> Status:
    """The whole status."""
    facts = situation.facts
    msg = Status(header=header)
    msg.state, msg.state_text = state_of(situation)
    drops = counters.drops.snapshot()
    msg.frames_in = int(counters.frames_in)
    msg.drop_reasons, msg.drop_counts = [str(r) for r in drops], [int(n) for n in drops.values()]
    msg.keyframes, msg.reconstructions = int(facts.keyframes), int(facts.reconstructions)
    msg.coverage = math.nan if facts.coverage is None else float(facts.coverage)
    msg.points, msg.metric_scale = int(facts.points), bool(facts.metric_scale)
    msg.pointmap_backend, msg.diffusion_backend, msg.splatting_backend = facts.backends
    msg.last_error = facts.last_error
    msg.job_stage, msg.job_fraction = situation.progress or ("", math.nan)
    msg.callback_p50_ms, msg.callback_p99_ms = counters.callbacks.percentiles_ms(0.5, 0.99)
    return msg


def input_statuses(inputs: NodeInputs | None, config: RosConfig) -> list[DiagnosticStatus]:
    """One status for each subscribed topic."""
    if inputs is None:
        return [diagnostics.status("inputs", diagnostics.OK, "not active, nothing is subscribed")]
    now_s = time.monotonic()
    return [
        diagnostics.input_status(monitor, now_s, config.input_timeout_s, inputs.publishers_of(monitor.topic))
        for monitor in inputs.monitors.values()
    ]


def transform_status(situation: Situation, source: str) -> DiagnosticStatus:
    """Whether frames get their pose, with the frames and stamps when they do not."""
    waiting = [p for p in situation.waiting if p.waits_for == "no_pose"]
    values: dict[str, object] = {"source": source, "frames waiting": len(waiting)}
    if waiting:
        values["oldest stamp waiting [s]"] = f"{min(p.stamp_ns for p in waiting) / 1e9:.3f}"
    trouble = [situation.problems[r] for r in ("no_pose", "pose_too_old") if r in situation.problems]
    if not trouble:
        return diagnostics.status("transforms", diagnostics.OK, f"from the {source}", values)
    sentence = f"frames have no pose: {'; '.join(trouble)}"
    if waiting:
        sentence += f"; {len(waiting)} wait, the oldest since stamp {values['oldest stamp waiting [s]']} s"
    hopeless = "pose_too_old" in situation.problems or not situation.usable_frame
    level = diagnostics.ERROR if hopeless else diagnostics.WARN
    return diagnostics.status("transforms", level, sentence, values)


def mapping_status(situation: Situation, counters: InputCounters) -> DiagnosticStatus:
    """Keyframes, coverage, drops and callback times."""
    facts = situation.facts
    p50_ms, p99_ms = counters.callbacks.percentiles_ms(0.5, 0.99)
    values = {
        "keyframes": facts.keyframes,
        "coverage": "unknown" if facts.coverage is None else f"{facts.coverage:.3f}",
        "points": facts.points,
        "frames in": counters.frames_in,
        "drops": ", ".join(f"{r} {n}" for r, n in counters.drops.snapshot().items()) or "none",
        "image callback p50 [ms]": f"{p50_ms:.3f}",
        "image callback p99 [ms]": f"{p99_ms:.3f}",
    }
    trouble = [s for r, s in situation.problems.items() if r not in ("no_pose", "pose_too_old")]
    words = "; ".join(trouble) or state_of(situation)[1]
    return diagnostics.status("mapping", diagnostics.WARN if trouble else diagnostics.OK, words, values)


def server_status(situation: Situation) -> DiagnosticStatus:
    """Whether the reconstruction server is there, and how the last job ended."""
    facts = situation.facts
    values: dict[str, object] = {"last job": facts.last_job, "reconstructions": facts.reconstructions}
    if situation.progress is not None:
        stage, fraction = situation.progress
        values["running"] = f"{stage} {100 * fraction:.0f} %"
    if situation.absence:
        return diagnostics.status("reconstruction", diagnostics.WARN, situation.absence, values)
    if facts.failing:
        return diagnostics.status("reconstruction", diagnostics.ERROR, facts.last_error, values)
    words = "a job is running" if situation.progress is not None else "ready"
    return diagnostics.status("reconstruction", diagnostics.OK, words, values)


def clock_status(simulated: bool, now_ns: int, unknown: list[str]) -> list[DiagnosticStatus]:
    """Simulated time without a clock, and parameters that no setting has."""
    stuck = simulated and now_ns == 0
    clock = diagnostics.status(
        "clock",
        diagnostics.ERROR if stuck else diagnostics.OK,
        "use_sim_time is set but nothing has come on /clock" if stuck else "simulated" if simulated else "system",
    )
    level = diagnostics.WARN if unknown else diagnostics.OK
    return [clock, diagnostics.status("parameters", level, "; ".join(unknown) or "all known")]
