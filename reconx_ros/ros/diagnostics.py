"""Statuses for /diagnostics (REP-107) that say what is wrong and where to look."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from reconx_ros.ros.endpoints import Publisher
from reconx_ros.ros.mailbox import RateMeter
from reconx_ros.ros.qos import publisher_options, reliable_qos

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1.0


def status(name: str, level: bytes, message: str, values: Mapping[str, object] | None = None) -> DiagnosticStatus:
    """One status; values become strings."""
    pairs = [KeyValue(key=str(key), value=str(value)) for key, value in (values or {}).items()]
    return DiagnosticStatus(name=name, level=level, message=message, hardware_id="reconx_ros", values=pairs)


class DiagnosticsPublisher:
    """Publishes what its tasks return, once a second by the steady clock (also when simulated time stands still).

    Args:
        node: publishes in its name.
        tasks: each returns statuses whose names are prefixed with the node's.
        clock: the steady clock of the timer.
    """

    def __init__(self, node: Node, tasks: Sequence[Callable[[], list[DiagnosticStatus]]], clock: object) -> None:
        self._node = node
        self._tasks = tasks
        options = publisher_options("/diagnostics", lambda topic, policy: None)
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", reliable_qos(), **options)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=clock)

    def publish(self) -> None:
        """Publish now."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        for task in self._tasks:
            for one in task():
                one.name = f"{self._node.get_name()}: {one.name}"
                array.status.append(one)
        self._publisher.publish(array)


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


class TroubleLog:
    """Says in the log what keeps the node from working: at once when it is new, then every so often, and when it ends.

    Args:
        warn, tell: take one sentence.
        period_s: time between two sentences about what lasts.
    """

    def __init__(self, warn: Callable[[str], object], tell: Callable[[str], object], period_s: float) -> None:
        self._warn, self._tell, self._period_s = warn, tell, period_s
        self._since_s: dict[str, float] = {}
        self._seen_s: dict[str, float] = {}
        self._said_s = -math.inf

    def update(self, troubles: Mapping[str, str], now_s: float) -> None:
        """Take what is wrong now: a name for each trouble, and its sentence."""
        new = [name for name in troubles if now_s - self._seen_s.get(name, -math.inf) > self._period_s]
        for name in new:
            self._since_s[name] = now_s
        self._seen_s.update(dict.fromkeys(troubles, now_s))
        if new or (troubles and now_s - self._said_s >= self._period_s):
            self._said_s = now_s
            self._warn("; ".join(troubles.values()))
        for name in [n for n, seen_s in self._seen_s.items() if n not in troubles and n in self._since_s]:
            self._tell(f"{name}: in order again after {now_s - self._since_s.pop(name):.0f} s")
