"""Who publishes a topic, and why what they publish does not arrive: type and QoS of every publisher against ours."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible

_LISTED = 4  # topics or publishers that one sentence names
_UNNAMED = "a publisher whose node is not known"


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """One publisher of a topic.

    Attributes:
        node: its node's full name.
        mismatch: why its messages cannot arrive, as the end of a sentence; empty when they can.
    """

    node: str
    mismatch: str = ""


def name_from_type(kind: type) -> str:
    """``package/msg/Type`` of a message class."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def topic_publishers(node: Node, topic: str, type_name: str, qos: QoSProfile) -> tuple[Publisher, ...]:
    """All publishers of a topic, held against a subscription.

    Args:
        node: asks the graph.
        topic: fully resolved name.
        type_name: of the subscription.
        qos: of the subscription, with its overrides.
    """
    infos = node.get_publishers_info_by_topic(topic)
    return tuple(Publisher(node=_name(info), mismatch=_mismatch(info, topic, type_name, qos)) for info in infos)


def _name(info: Any) -> str:
    name = f"{str(info.node_namespace).rstrip('/')}/{info.node_name}"
    return _UNNAMED if "UNKNOWN" in name else name


def remembered(former: tuple[str, ...], publishers: Sequence[Publisher]) -> tuple[str, ...]:
    """The nodes to name once nobody publishes a topic any more.

    A publisher that goes away is listed without its node's name for a moment: names that were seen before stay.

    Args:
        former: what was remembered before.
        publishers: of the topic now.
    """
    named = tuple(p.node for p in publishers if p.node != _UNNAMED)
    return named or former or tuple(p.node for p in publishers)


def _mismatch(info: Any, topic: str, type_name: str, qos: QoSProfile) -> str:
    if info.topic_type != type_name:
        return f"publishes {info.topic_type} there, expected {type_name}"
    verdict, reason = qos_check_compatible(info.qos_profile, qos)
    if verdict != QoSCompatibility.ERROR:
        return ""
    words = str(reason).replace("ERROR:", "").strip(" ;").lower()
    policy = "reliability" if _only_reliability_differs(info.qos_profile, qos) else "durability"
    value = getattr(info.qos_profile, policy).name.lower()
    return f"does not match this node's QoS ({words}): set qos_overrides.{topic}.subscription.{policy}: {value}"


def _only_reliability_differs(offered: QoSProfile, wanted: QoSProfile) -> bool:
    best_effort = ReliabilityPolicy.BEST_EFFORT
    return bool(offered.reliability == best_effort and wanted.reliability == ReliabilityPolicy.RELIABLE)


def topics_like(node: Node, topic: str, type_name: str) -> tuple[str, ...]:
    """Topics of the type that others publish, those whose names are nearest to ``topic`` first; at most a few."""
    names = [
        name
        for name, kinds in node.get_topic_names_and_types()
        if name != topic and type_name in kinds and _published_by_others(node, name, type_name)
    ]
    names.sort(key=lambda name: -difflib.SequenceMatcher(None, name, topic).ratio())
    return tuple(names[:_LISTED])


def _published_by_others(node: Node, topic: str, type_name: str) -> bool:
    own = node.get_fully_qualified_name()
    infos = node.get_publishers_info_by_topic(topic)
    return any(info.topic_type == type_name and _name(info) != own for info in infos)


def reason_for_silence(
    publishers: Sequence[Publisher], type_name: str, alternatives: Sequence[str], hint: str, former: Sequence[str]
) -> str:
    """The end of a sentence about a silent topic: who publishes it, and why it does not arrive.

    Args:
        publishers: of the topic.
        type_name: of the subscription.
        alternatives: other published topics of that type.
        hint: a setting that would help, from what else is published; empty when there is none.
        former: nodes that published it earlier.
    """
    if not publishers:
        nobody = f"nobody publishes it any more, {_listed(former)} did" if former else "nobody publishes it"
        if hint:
            return f"{nobody}; {hint}"
        if alternatives:
            return f"{nobody}, {type_name} is published on {_listed(alternatives)}: remap it or set ros.cameras"
        return f"{nobody}, nor anything else of type {type_name}: start the driver"
    refused = [f"{p.node} {p.mismatch}" for p in publishers if p.mismatch]
    if len(refused) == len(publishers):
        return _listed(refused, "; ")
    sending = [p.node for p in publishers if not p.mismatch]
    return (
        f"{_listed(sending)} publishes it, type and QoS match, but nothing arrives: the driver "
        "sends nothing, or messages are lost on the way (Transport in docs/ros.md)"
    )


def _listed(names: Sequence[str], between: str = ", ") -> str:
    shown = between.join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown}{between}and {len(names) - _LISTED} more"
