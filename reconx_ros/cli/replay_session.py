"""A bag through the real nodes, from the first message to the finished map: what ``replay`` and ``evaluate`` share."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import Progress, load_config
from reconx_ros.cli.ros_run import empty_server_folder, node_parameters, watch_job
from reconx_ros.core import InvalidInputError, ReconstructionError
from reconx_ros.core.settings import updated
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    import argparse

    from reconx_ros.io.bag_choice import BagTopics
    from reconx_ros.io.bag_messages import BagMessage
    from reconx_ros.io.bags import BagReader
    from reconx_ros.ros.tools.recorder import HeardTopics, TopicRecorder
    from reconx_ros.ros.tools.session import RosSession

_DISCOVERY_TIMEOUT_S = 120.0
_SETTLE_S = 3.0
_WAITING = re.compile(r"; \d+ wait, [^;]*")  # said a moment before the last frame was given up

Messages = Iterable["BagMessage"]


def _unchanged(messages: Messages) -> Messages:
    return messages


def _nothing(session: RosSession, recorder: TopicRecorder) -> None:
    del session, recorder


@dataclass(frozen=True, kw_only=True)
class Replay:
    """How a bag is played.

    Attributes:
        rate: playing speed; 1 is real time.
        quiet: no progress.
        select: what becomes of the messages on their way to the player; it may leave some out.
        recorder: makes the node that listens, of a context; the usual one when None.
        on_idle: called when the bag is over and the reconstructions that it set off are done.
        on_finished: called when the map is finished, while the nodes still run.
    """

    rate: float = 1.0
    quiet: bool = False
    select: Callable[[Messages], Messages] = _unchanged
    recorder: Callable[[Any], TopicRecorder] | None = None
    on_idle: Callable[[RosSession, TopicRecorder], None] = _nothing
    on_finished: Callable[[RosSession, TopicRecorder], None] = _nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """What came of it: what was heard, reports of the jobs, how often the map had to be asked for at the end."""

    recording: HeardTopics
    reports: list[dict[str, Any]]
    server_folder: Path
    triggers: int


def play_through_nodes(
    reader: BagReader, topics: BagTopics, config: ReconxConfig, out: Path, replay: Replay
) -> Replayed:
    """Play a bag in front of the nodes until it ends and the map is finished.

    Raises:
        InvalidInputError: when the bag has no poses.
        ReconstructionError: when a node dies, a job fails, a wait is over, or no map came of it.
    """
    from reconx_ros.ros.graph.environment import require_ros

    require_ros()
    from reconx_ros.ros.tools.bag_player import BagPlayer
    from reconx_ros.ros.tools.mission import finish_map, wait_for_server, wait_idle
    from reconx_ros.ros.tools.recorder import TopicRecorder, job_reports
    from reconx_ros.ros.tools.session import RosSession

    played = played_topics(reader, topics, config)
    server_folder = empty_server_folder(config, out)
    progress = Progress(quiet=replay.quiet)
    with RosSession(out / "logs") as session:
        recorder = (replay.recorder or TopicRecorder)(session.context)
        player = BagPlayer(session.context, played, rate=replay.rate)
        session.add_node(recorder)
        session.add_node(player)
        parameters = node_parameters(config, use_sim_time=True)
        session.start("reconstruction_server", parameters)
        session.start("reconx_node", parameters, remaps(reader, topics, config))
        heard = [name for name in played if name != topics.clock]
        session.wait(
            lambda: player.heard(heard), f"reconx_node to subscribe to {topics.image}", timeout_s=_DISCOVERY_TIMEOUT_S
        )
        wait_for_server(session, recorder)
        _play(session, player, replay, reader, static_first(reader, topics, set(played)), progress)
        recorder.recording.source_done = True
        wait_idle(session, recorder, lambda: watch_job(recorder, progress))
        replay.on_idle(session, recorder)
        triggers = finish_map(session, recorder, server_folder, lambda: watch_job(recorder, progress))
        progress.close()
        _await_reasons(session, recorder, config)
        require_map(recorder.recording, reader, topics, config)
        replay.on_finished(session, recorder)
    return Replayed(
        recording=recorder.recording, reports=job_reports(server_folder), server_folder=server_folder, triggers=triggers
    )


def _play(
    session: RosSession, player: Any, replay: Replay, reader: BagReader, recorded: Messages, progress: Progress
) -> None:
    """Play to the end in a thread of its own; what fails there is raised here."""
    failure: list[BaseException] = []
    messages = replay.select(recorded)
    thread = threading.Thread(target=_played, args=(player, messages, failure), name="player", daemon=True)
    thread.start()
    try:
        length = max(reader.span_ns() / 1e9, 1.0) / replay.rate
        began = time.monotonic()
        session.wait(
            lambda: not thread.is_alive(), "the bag to end", timeout_s=20 * length + 60,
            on_wait=lambda: progress("replay", (time.monotonic() - began) / length, f"{player.played} messages"),
        )  # fmt: skip
    finally:
        player.stop()
        thread.join(timeout=10)
    if failure:
        raise failure[0]


def _played(player: Any, messages: Messages, failure: list[BaseException]) -> None:
    try:
        player.play(messages)
    except BaseException as err:
        failure.append(err)


def static_first(reader: BagReader, topics: BagTopics, played: set[str]) -> Messages:
    """The messages to play; static transforms come first, since they hold at every time."""
    static = {topics.tf_static} & played if topics.tf_static is not None else set()
    start_ns = next((m.stamp_ns for m in reader.messages(played)), 0)
    yield from (replace(m, stamp_ns=start_ns) for m in (reader.messages(static) if static else ()))
    yield from reader.messages(played - static)


def _await_reasons(session: RosSession, recorder: TopicRecorder, config: ReconxConfig) -> None:
    """Without a map: wait until every image has been refused, so that the reason counts all of them."""
    until_s = time.monotonic() + config.ros.tf_timeout_s + _SETTLE_S

    def settled() -> bool:
        status = recorder.recording.status
        lost = status is not None and sum(status.drop_counts) >= status.frames_in
        return recorder.recording.cloud is not None or lost or time.monotonic() > until_s

    session.wait(settled, "the last images", timeout_s=config.ros.tf_timeout_s + 2 * _SETTLE_S)


def require_map(recording: HeardTopics, reader: BagReader, topics: BagTopics, config: ReconxConfig) -> None:
    """Raise ReconstructionError with the first reason why frames were lost, when no cloud was published."""
    from reconx_ros.io.bag_frames import with_missing_poses
    from reconx_ros.io.ingest.drops import first_reason

    if recording.cloud is not None:
        return
    status = recording.status
    if status is None:
        raise ReconstructionError("no cloud was published: no status was received")
    drops = dict(zip(status.drop_reasons, (int(n) for n in status.drop_counts), strict=True))
    said = status.last_error or status.state_text
    for head in ("waiting for input: ", "frames have no pose: "):
        said = said.removeprefix(head)
    said = _WAITING.sub("", said)
    reason = first_reason(drops, int(status.frames_in), dict.fromkeys(drops, said))
    told = with_missing_poses(reason, drops, reader, topics, config.ros)
    raise ReconstructionError(told or f"no cloud was published: {said}")


def played_topics(reader: BagReader, topics: BagTopics, config: ReconxConfig) -> dict[str, str]:
    """Topics to play and their types: the camera, what gives poses, the clock, and depth only when it is used.

    Raises:
        InvalidInputError: when the bag has nothing that gives poses.
    """
    require_poses(reader, topics, config)
    ros = config.ros
    wanted = {topics.image, topics.camera_info, topics.tf, topics.tf_static, topics.clock}
    wanted |= {topics.depth, topics.depth_info} if ros.use_depth else set()
    wanted |= {topics.odometry} if ros.pose_source == "odometry" else set()
    return {name: topic.type for name, topic in reader.topics.items() if name in wanted}


def require_poses(reader: BagReader, topics: BagTopics, config: ReconxConfig) -> None:
    """Raise InvalidInputError when the bag has nothing where ``ros.pose_source`` looks for poses."""
    source = config.ros.pose_source
    if source == "odometry" and topics.odometry is None:
        raise InvalidInputError(f"bag {reader.path} has no odometry of this camera, expected it for ros.pose_source")
    if source != "tf" or topics.tf is not None or topics.tf_static is not None:
        return
    others = [name for name, topic in sorted(reader.topics.items()) if topic.type == "tf2_msgs/msg/TFMessage"]
    held = f"; transforms of others are on {', '.join(others)}" if others else ""
    held += f"; {topics.odometry} has odometry: set ros.pose_source: odometry" if topics.odometry else ""
    raise InvalidInputError(
        f"bag {reader.path} has neither /tf nor /tf_static of {topics.image}, so its images have no poses{held}"
    )


def is_compressed(reader: BagReader, topic: str) -> bool:
    """Whether images of a topic are compressed."""
    return reader.topics[topic].type.endswith("/CompressedImage")


def remaps(reader: BagReader, topics: BagTopics, config: ReconxConfig) -> dict[str, str]:
    """Remappings of reconx_node's inputs to the bag's topics."""
    camera = config.ros.cameras[0]
    prefix = f"{camera}/" if camera else ""
    image = "image/compressed" if is_compressed(reader, topics.image) else "image"
    names = {f"{prefix}{image}": topics.image, f"{prefix}camera_info": topics.camera_info}
    if topics.depth is not None:
        depth = "depth/compressedDepth" if is_compressed(reader, topics.depth) else "depth"
        names[f"{prefix}{depth}"] = topics.depth
    if topics.depth_info is not None and topics.depth_info != topics.camera_info:
        names[f"{prefix}depth/camera_info"] = topics.depth_info
    others = {"/tf": topics.tf, "/tf_static": topics.tf_static, "odom": topics.odometry}
    return names | {ours: theirs for ours, theirs in others.items() if theirs is not None and theirs != ours}


def add_topic_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--image, --camera-info and --depth."""
    parser.add_argument("--image", metavar="TOPIC", help="image topic, where the choice made for you is not the one")
    parser.add_argument("--camera-info", metavar="TOPIC", help="its camera_info topic, likewise")
    parser.add_argument("--depth", metavar="TOPIC", help="its depth topic, likewise")


def chosen_topics(reader: BagReader, arguments: argparse.Namespace) -> BagTopics:
    """The topics of the command line, and those that belong to them.

    Raises:
        InvalidInputError: as choose_topics.
    """
    from reconx_ros.io.bag_choice import choose_topics

    return choose_topics(reader, image=arguments.image, camera_info=arguments.camera_info, depth=arguments.depth)


def bag_config(reader: BagReader, topics: BagTopics, out: Path, arguments: argparse.Namespace) -> ReconxConfig:
    """The configuration of the command line, with defaults that follow from the bag; its transports are facts.

    Raises:
        ConfigError: as load_config.
    """
    from reconx_ros.io.bag_poses import likely_map_frame, whole_transforms

    defaults: dict[str, Any] = {
        "ros.use_depth": arguments.use_depth,
        "pointmap.use_depth": arguments.use_depth,
        "ros.rectified": topics.rectified,
        "ros.output_dir": str((out / "server").resolve()),
    }
    ros = load_config(arguments, defaults).ros
    transforms = whole_transforms(reader, topics, ros.pose_source)
    defaults["ros.map_frame"] = likely_map_frame(transforms, ros.optical_frame or topics.frame)
    return updated(load_config(arguments, defaults), _transports(reader, topics))


def _transports(reader: BagReader, topics: BagTopics) -> dict[str, str]:
    deep = topics.depth is not None and is_compressed(reader, topics.depth)
    return {
        "ros.image_transport": "compressed" if is_compressed(reader, topics.image) else "raw",
        "ros.depth_transport": "compressedDepth" if deep else "raw",
    }
