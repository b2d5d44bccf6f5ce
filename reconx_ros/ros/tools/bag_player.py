"""Plays a bag's messages as they were recorded (raw CDR) at a chosen rate, with /clock."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from reconx_ros.core import InvalidInputError
from reconx_ros.io.bag_messages import BagMessage

_NS = 1_000_000_000
_CLOCK_PERIOD_S = 0.05
_CLOCK = "/clock"


def message_class(type_name: str) -> Any:
    """The class of ``package/msg/Type``.

    Raises:
        InvalidInputError: when its package is not installed.
    """
    parts = type_name.split("/")
    try:
        return getattr(importlib.import_module(".".join(parts[:-1])), parts[-1])
    except (ImportError, AttributeError):
        raise InvalidInputError(f"message type {type_name} of the bag is not installed here") from None


class BagPlayer(Node):
    """Publishes messages in order of time; runs in a thread of its own."""

    def __init__(self, context: Context, topics: dict[str, str], *, rate: float) -> None:
        """Create publishers.

        Args:
            context: rclpy context.
            topics: name to type of what will be played; /tf_static is latched, all is reliable. Where /clock is among
                them, time is that of the recording.
            rate: 1 plays in real time, 2 twice as fast.
        """
        super().__init__("reconx_bag_player", context=context)
        if not rate > 0:
            raise InvalidInputError(f"--rate is {rate}, expected a positive number")
        self._rate = rate
        self._stop = threading.Event()
        self._static_depth = 100
        self._clock = None
        if _CLOCK not in topics:
            self._clock = self.create_publisher(
                Clock, _CLOCK, QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
            )
        self._topics = {name: self._publisher(name, kind) for name, kind in topics.items()}
        self.played = 0
        self.done = False

    def _publisher(self, name: str, kind: str) -> Any:
        latched = name.endswith("/tf_static") or name == "/tf_static"
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=self._static_depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
        return self.create_publisher(message_class(kind), name, qos)

    def heard(self, topics: Sequence[str]) -> bool:
        """Whether somebody subscribes to every one of these topics."""
        return all(self._topics[name].get_subscription_count() > 0 for name in topics)

    def play(self, messages: Iterable[BagMessage], *, on_progress: Callable[[int], None] | None = None) -> None:
        """Publish all messages at their pace; returns after the last, or soon after ``stop``."""
        first: int | None = None
        started = monotonic()
        for message in messages:
            if first is None:
                first = message.stamp_ns
            if not self._wait_until(started, first, message.stamp_ns):
                return
            self._topics[message.topic].publish(message.data)
            self.played += 1
            if on_progress is not None:
                on_progress(message.stamp_ns)
        self.done = True

    def _wait_until(self, started: float, first_ns: int, stamp_ns: int) -> bool:
        """Publish /clock until the playing time reaches a stamp; False when stopped."""
        while not self._stop.is_set():
            elapsed_ns = int((monotonic() - started) * self._rate * _NS)
            now_ns = min(first_ns + elapsed_ns, stamp_ns)
            self._publish_clock(now_ns)
            remaining_s = (stamp_ns - first_ns - elapsed_ns) / _NS / self._rate
            if remaining_s <= 0:
                return True
            self._stop.wait(min(remaining_s, _CLOCK_PERIOD_S))
        return False

    def _publish_clock(self, stamp_ns: int) -> None:
        if self._clock is None:
            return
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = int(stamp_ns // _NS), int(stamp_ns % _NS)
        self._clock.publish(clock)

    def stop(self) -> None:
        """End ``play`` early."""
        self._stop.set()
