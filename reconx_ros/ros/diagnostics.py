"""Statuses for /diagnostics (REP-107) that say what is wrong and where to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from reconx_ros.ros.mailbox import RateMeter
from reconx_ros.ros.qos import reliable_qos

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
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", reliable_qos())
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

    def close(self) -> None:
        """Stop publishing."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)


@dataclass
class InputMonitor:
    """What is known about one subscribed topic.

    Attributes:
        topic: fully resolved name.
        needed: whether nothing works without it.
        meter: rate and age of its messages.
        incompatible: QoS policy that kept a publisher from matching; empty when none did.
        since_s: monotonic time of the subscription.
    """

    topic: str
    needed: bool
    since_s: float
    meter: RateMeter = field(default_factory=RateMeter)
    incompatible: str = ""

    def problem(self, now_s: float, timeout_s: float, publishers: int) -> str:
        """One sentence about what keeps messages from coming; empty when they come or it is too early to say."""
        age_s = self.meter.age_s(now_s)
        silent_s = now_s - self.since_s if age_s is None else age_s
        if silent_s < timeout_s:
            return ""
        ever = "no message has come" if age_s is None else "no further message has come"
        return f"{ever} on {self.topic} for {silent_s:.0f} s: {self._reason(publishers)}"

    def _reason(self, publishers: int) -> str:
        if self.incompatible:
            return (
                f"a publisher offers an incompatible {self.incompatible} policy, "
                f"set qos_overrides.{self.topic}.subscription"
            )
        if not publishers:
            return "nobody publishes it, check the topic's name or remap it"
        return f"{publishers} publisher(s) exist but send nothing that arrives"


def input_status(monitor: InputMonitor, now_s: float, timeout_s: float, publishers: int) -> DiagnosticStatus:
    """Rate and age of one topic, or what keeps its messages from coming."""
    problem = monitor.problem(now_s, timeout_s, publishers)
    age_s = monitor.meter.age_s(now_s)
    values = {
        "topic": monitor.topic,
        "rate [Hz]": f"{monitor.meter.rate_hz():.2f}",
        "age [s]": "never" if age_s is None else f"{age_s:.2f}",
        "messages": monitor.meter.count,
        "publishers": publishers,
        "incompatible QoS": monitor.incompatible or "none",
    }
    if problem:
        return status(f"input {monitor.topic}", ERROR if monitor.needed else WARN, problem, values)
    if age_s is None:
        return status(f"input {monitor.topic}", WARN, f"waiting for the first message on {monitor.topic}", values)
    return status(f"input {monitor.topic}", OK, f"{monitor.meter.rate_hz():.1f} Hz", values)
