"""Statuses for /diagnostics (REP-107) that say what is wrong and where to look."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from reconx_ros.ros.graph.qos import publisher_options, reliable_qos

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
