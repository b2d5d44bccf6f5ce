"""``reconx replay BAG --list``: what a bag holds, what would be used of it, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import EXIT_OK, print_table, write_json
from reconx_ros.cli.replay_session import chosen_topics
from reconx_ros.core import InvalidInputError

if TYPE_CHECKING:
    import argparse

    from reconx_ros.io.bag_choice import BagTopics
    from reconx_ros.io.bag_topics import TopicContent
    from reconx_ros.io.bags import BagReader

_ROLES = ("image", "camera_info", "depth", "depth_info", "tf", "tf_static", "odometry", "clock")


def list_topics(reader: BagReader, arguments: argparse.Namespace) -> int:
    """Print the topics of a bag and the choice among them."""
    from reconx_ros.io.bag_topics import topic_contents

    contents = topic_contents(reader)
    rows = [(name, _described(content)) for name, content in contents.items()]
    print_table(f"topics of {reader.path}", rows or [("none", "")])
    try:
        topics, problem = chosen_topics(reader, arguments), ""
    except InvalidInputError as error:
        topics, problem = None, str(error)
    print_table("would be used", _choice_rows(topics) if topics else [("nothing", problem)])
    if arguments.json:
        write_json(arguments.json, _as_mapping(reader, contents, topics, problem))
    return EXIT_OK


def _described(content: TopicContent) -> str:
    size = f"{content.size[0]}x{content.size[1]}" if content.size else ""
    parts = [content.type, f"{content.count} messages", f"{content.rate_hz:.1f} Hz" if content.rate_hz else ""]
    parts += [size, content.encoding, "depth" if content.is_depth else ""]
    parts += [f"frame '{content.frame}'" if content.frame else "", "" if content.is_readable else "cannot be decoded"]
    return ", ".join(part for part in parts if part)


def _choice_rows(topics: BagTopics) -> list[tuple[str, str]]:
    rows = [(role, f"{getattr(topics, role)}: {topics.why.get(role, '')}") for role in _ROLES if getattr(topics, role)]
    return [*rows, ("rectified", "yes, as the topic is called: P is the camera")] if topics.rectified else rows


def _as_mapping(
    reader: BagReader, contents: dict[str, TopicContent], topics: BagTopics | None, problem: str
) -> dict[str, Any]:
    chosen = {role: getattr(topics, role) for role in _ROLES} if topics else {}
    held = [
        {"name": c.name, "type": c.type, "count": c.count, "rate_hz": c.rate_hz, "size": c.size, "frame": c.frame,
         "encoding": c.encoding, "is_depth": c.is_depth}
        for c in contents.values()
    ]  # fmt: skip
    why = dict(topics.why) if topics else {}
    return {
        "bag": str(reader.path), "topics": held, "chosen": chosen, "why": why, "problem": problem or None,
        "rectified": topics.rectified if topics else None, "bag_problem": reader.problem,
    }  # fmt: skip
