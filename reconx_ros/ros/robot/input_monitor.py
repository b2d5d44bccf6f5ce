"""What is known of one input topic, and its status for /diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus

from reconx_ros.ros.graph.diagnostics import ERROR, OK, WARN, status
from reconx_ros.ros.graph.endpoints import Publisher
from reconx_ros.ros.robot.mailbox import RateMeter


@dataclass
class InputMonitor:
    """What is known about one subscribed topic.

    Attributes:
        topic: fully resolved name.
        type_name: of its messages.
        needed: whether nothing works without it.
        since_s: steady time of the subscription.
        meter: rate and age of its messages.
        publishers: nodes that publish it, or did; see ``endpoints.remembered``.
    """

    topic: str
    type_name: str
    needed: bool
    since_s: float
    meter: RateMeter = field(default_factory=RateMeter)
    publishers: tuple[str, ...] = ()

    def silent_s(self, now_s: float) -> float:
        """Seconds since the last message, or since the subscription."""
        age_s = self.meter.age_s(now_s)
        return now_s - self.since_s if age_s is None else age_s

    def silence(self, now_s: float) -> str:
        """How long the topic has been silent, as the start of a sentence."""
        ever = "no further message has come" if self.meter.count else "no message has come"
        return f"{ever} on {self.topic} for {self.silent_s(now_s):.0f} s"


def input_status(
    monitor: InputMonitor, now_s: float, publishers: Sequence[Publisher], problem: str
) -> DiagnosticStatus:
    """Rate and age of one topic, or what keeps its messages from coming.

    Args:
        monitor: of the topic.
        now_s: steady time.
        publishers: of the topic.
        problem: one sentence when it has been silent for too long.
    """
    age_s = monitor.meter.age_s(now_s)
    values = {
        "topic": monitor.topic,
        "type": monitor.type_name,
        "rate [Hz]": f"{monitor.meter.rate_hz():.2f}",
        "age [s]": "never" if age_s is None else f"{age_s:.2f}",
        "messages": monitor.meter.count,
        "publishers": len(publishers),
        "published by": ", ".join(p.node for p in publishers) or "nobody",
        "mismatch": "; ".join(f"{p.node} {p.mismatch}" for p in publishers if p.mismatch) or "none",
    }
    if problem:
        return status(f"input {monitor.topic}", ERROR if monitor.needed else WARN, problem, values)
    if age_s is None:
        return status(f"input {monitor.topic}", WARN, f"waiting for the first message on {monitor.topic}", values)
    return status(f"input {monitor.topic}", OK, f"{monitor.meter.rate_hz():.1f} Hz", values)
