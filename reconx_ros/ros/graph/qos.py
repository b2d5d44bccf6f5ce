"""Quality of service (REP-2003): sensors best effort, maps reliable and latched, all overridable by parameters.

``qos_overrides./image.subscription.reliability: reliable`` (and ``history``, ``depth``, ``durability``) in a parameter
file changes one endpoint; bags that must be replayed without loss use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

OnIncompatible = Callable[[str, str], None]
"""Called with (topic, policy name) when a peer's QoS does not match."""


def sensor_qos(depth: int = 5) -> QoSProfile:
    """For camera images and calibration: best effort, matches every publisher."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


def reliable_qos(depth: int = 10) -> QoSProfile:
    """For streams of which no message may be missed."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def latched_qos(depth: int = 1) -> QoSProfile:
    """For maps: reliable and transient local, so that late subscribers get the newest one."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def _overridable() -> QoSOverridingOptions:
    """What parameters may change: rclpy's own choice, and durability, which turns a latched topic into a stream."""
    return QoSOverridingOptions(
        (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
    )


def publisher_warning(node: Node) -> OnIncompatible:
    """Logs that a publisher does not match; for ``subscription_options``."""

    def warn(topic: str, policy: str) -> None:
        node.get_logger().warning(f"a publisher of {topic} offers an incompatible {policy} policy")

    return warn


def subscription_options(topic: str, on_incompatible: OnIncompatible) -> dict[str, Any]:
    """Keyword arguments of create_subscription: QoS overrides and the event of an incompatible publisher."""

    def incompatible(event: Any) -> None:
        on_incompatible(topic, qos_policy_name_from_kind(event.last_policy_kind))

    return {
        "qos_overriding_options": _overridable(),
        "event_callbacks": SubscriptionEventCallbacks(incompatible_qos=incompatible),
    }


def publisher_options(topic: str, on_incompatible: OnIncompatible) -> dict[str, Any]:
    """Keyword arguments of create_publisher: QoS overrides and the event of an incompatible subscriber."""

    def incompatible(event: Any) -> None:
        on_incompatible(topic, qos_policy_name_from_kind(event.last_policy_kind))

    return {
        "qos_overriding_options": _overridable(),
        "event_callbacks": PublisherEventCallbacks(incompatible_qos=incompatible),
    }
