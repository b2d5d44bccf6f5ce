"""~/status and the diagnostics of reconx_node, from what its parts let other threads read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header

from reconx_ros.io.ingest.drops import POSE_REASONS
from reconx_ros.io.ingest.frame_queue import Now
from reconx_ros.msg import Status
from reconx_ros.ros.graph import diagnostics
from reconx_ros.ros.robot.mailbox import InputCounters
from reconx_ros.ros.robot.map_session import Facts

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
        progress: (stage, fraction) of the running job.
        usable_frame: whether one has come since activation.
        starved: why no usable frame has come for a while; empty while frames come.
        absence: one sentence when the reconstruction server is not there.
        thinning: one sentence about ``~/points_downsampled``.
        trouble: one clause while nothing is heard of the running job.
        next_try_s: time until a job is tried again; None when none waits for that.
    """

    active: bool
    paused: bool
    usable_frame: bool
    absence: str
    facts: Facts
    problems: dict[str, str]
    progress: tuple[str, float] | None
    starved: str = ""
    thinning: str = ""
    trouble: str = ""
    next_try_s: float | None = None


def state_from_situation(situation: Situation) -> tuple[int, str]:
    """The state constant and its words, with the reason where there is one."""
    facts = situation.facts
    if not situation.active:
        state, reason = Status.IDLE, ""
    elif situation.paused:
        state, reason = Status.PAUSED, ""
    elif situation.progress is not None:
        stage = situation.progress[0]
        state, reason = Status.RECONSTRUCTING, f"{stage}; {situation.trouble}" if situation.trouble else stage
    elif facts.failing:
        state, reason = Status.ERROR, facts.last_error
    elif not situation.usable_frame or situation.starved:
        problems = "; ".join(situation.problems.values())
        state, reason = Status.WAITING_FOR_INPUT, situation.starved or problems or facts.notice
    else:
        state, reason = Status.COLLECTING, "; ".join(s for s in (facts.notice, situation.absence or facts.reason) if s)
    words = _STATE_WORDS[state]
    return int(state), f"{words}: {reason}" if reason else words


def status_msg(situation: Situation, counters: InputCounters, header: Header) -> Status:
    """The whole status."""
    facts = situation.facts
    msg = Status(header=header)
    msg.state, msg.state_text = state_from_situation(situation)
    drops = counters.drops.snapshot()
    msg.frames_in = int(counters.frames_in)
    msg.drop_reasons, msg.drop_counts = [str(r) for r in drops], [int(n) for n in drops.values()]
    msg.keyframes, msg.reconstructions = int(facts.keyframes), int(facts.reconstructions)
    msg.coverage = math.nan if facts.coverage is None else float(facts.coverage)
    msg.points, msg.metric_scale = int(facts.points), bool(facts.metric_scale)
    msg.pointmap_backend, msg.diffusion_backend, msg.splatting_backend = facts.backends
    msg.last_error = facts.last_error
    msg.job_stage, msg.job_fraction = situation.progress or ("", math.nan)
    msg.job_bytes_sent, msg.job_bytes_received = int(facts.bytes_sent), int(facts.bytes_received)
    msg.next_try_s = math.nan if situation.next_try_s is None else float(situation.next_try_s)
    msg.callback_p50_ms, msg.callback_p99_ms = counters.callbacks.percentiles_ms(0.5, 0.99)
    return msg


def unconfigured_msg(failure: str, header: Header) -> Status:
    """The status before configuration, with the reason why it failed."""
    msg = Status(header=header, state=Status.UNCONFIGURED, last_error=failure)
    msg.state_text = f"unconfigured: {failure}" if failure else "unconfigured"
    msg.coverage = msg.job_fraction = msg.next_try_s = msg.callback_p50_ms = msg.callback_p99_ms = math.nan
    return msg


def storage_status(facts: Facts) -> DiagnosticStatus:
    """How the newest saving or loading of a map went."""
    level = diagnostics.ERROR if facts.storage_failed else diagnostics.OK
    return diagnostics.status("map storage", level, facts.storage)


def mapping_status(situation: Situation, counters: InputCounters) -> DiagnosticStatus:
    """Keyframes, coverage, drops and callback times."""
    facts = situation.facts
    p50_ms, p99_ms = counters.callbacks.percentiles_ms(0.5, 0.99)
    values = {
        "keyframes": facts.keyframes,
        "coverage": "unknown" if facts.coverage is None else f"{facts.coverage:.3f}",
        "points": facts.points,
        "points downsampled": situation.thinning or "never asked for",
        "frames in": counters.frames_in,
        "drops": ", ".join(f"{r} {n}" for r, n in counters.drops.snapshot().items()) or "none",
        "image callback p50 [ms]": f"{p50_ms:.3f}",
        "image callback p99 [ms]": f"{p99_ms:.3f}",
    }
    trouble = [s for r, s in situation.problems.items() if r not in POSE_REASONS]
    words = "; ".join(trouble) or state_from_situation(situation)[1]
    return diagnostics.status("mapping", diagnostics.WARN if trouble else diagnostics.OK, words, values)


def server_status(situation: Situation) -> DiagnosticStatus:
    """Whether the reconstruction server is there, and how the last job ended."""
    facts = situation.facts
    values: dict[str, object] = {"last job": facts.last_job, "reconstructions": facts.reconstructions}
    if situation.progress is not None:
        stage, fraction = situation.progress
        values["running"] = f"{stage} {100 * fraction:.0f} %"
    values |= {"newest job sent [B]": facts.bytes_sent, "newest result received [B]": facts.bytes_received}
    if situation.next_try_s is not None:
        values["next try in [s]"] = f"{situation.next_try_s:.0f}"
    if situation.trouble:
        return diagnostics.status("reconstruction", diagnostics.WARN, situation.trouble, values)
    if situation.absence:
        return diagnostics.status("reconstruction", diagnostics.WARN, situation.absence, values)
    if facts.failing:
        return diagnostics.status("reconstruction", diagnostics.ERROR, facts.last_error, values)
    words = "a job is running" if situation.progress is not None else "ready"
    return diagnostics.status("reconstruction", diagnostics.OK, words, values)


def clock_status(now: Now, clocks: Sequence[str], notice: str, unknown: list[str]) -> list[DiagnosticStatus]:
    """Simulated time without a clock or with several, the newest jump, and parameters that no setting has."""
    values = {"newest jump": notice or "none", "published by": ", ".join(clocks) or "nobody"}
    if now.simulated and now.ros_ns == 0:
        words, level = "use_sim_time is set but nothing has come on /clock", diagnostics.ERROR
        words += "" if clocks else ": nobody publishes it"
    elif now.simulated and len(clocks) > 1:
        words, level = f"several nodes publish /clock, so that time jumps: {', '.join(clocks)}", diagnostics.WARN
    else:
        words, level = "simulated" if now.simulated else "system", diagnostics.OK
    clock = diagnostics.status("clock", level, f"{words}; {notice}" if notice else words, values)
    level = diagnostics.WARN if unknown else diagnostics.OK
    return [clock, diagnostics.status("parameters", level, "; ".join(unknown) or "all known")]
