"""A bag through the real nodes, from the first message to the finished map: what ``replay`` and ``evaluate`` share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import Progress
from reconx_ros.cli.ros_run import empty_server_folder, node_parameters, watch_job
from reconx_ros.core import InvalidInputError
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    from reconx_ros.io.bag_frames import BagFrames, BagTopics
    from reconx_ros.io.bag_messages import BagMessage
    from reconx_ros.io.bags import BagReader
    from reconx_ros.ros.tools.recorder import HeardTopics, TopicRecorder
    from reconx_ros.ros.tools.session import RosSession

_DISCOVERY_TIMEOUT_S = 120.0

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
        use_depth: give the bag's depth to the nodes.
        quiet: no progress.
        select: what becomes of the messages on their way to the player; it may leave some out.
        recorder: makes the node that listens, of a context; the usual one when None.
        on_idle: called when the bag is over and the reconstructions that it set off are done.
        on_finished: called when the map is finished, while the nodes still run.
    """

    rate: float = 1.0
    use_depth: bool = False
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
    reader: BagReader, frames: BagFrames, config: ReconxConfig, out: Path, replay: Replay
) -> Replayed:
    """Play a bag in front of the nodes until it ends and the map is finished.

    Raises:
        InvalidInputError: when the bag has no transforms.
        ReconstructionError: when a node dies, a job fails or a wait is over.
    """
    from reconx_ros.ros.graph.environment import require_ros

    require_ros()
    from reconx_ros.ros.tools.bag_player import BagPlayer
    from reconx_ros.ros.tools.mission import finish_map, wait_for_server, wait_idle
    from reconx_ros.ros.tools.recorder import TopicRecorder, job_reports
    from reconx_ros.ros.tools.session import RosSession

    topics = played_topics(reader, frames.topics, use_depth=replay.use_depth)
    server_folder = empty_server_folder(config, out)
    progress = Progress(quiet=replay.quiet)
    with RosSession(out / "logs") as session:
        recorder = (replay.recorder or TopicRecorder)(session.context)
        player = BagPlayer(session.context, topics, rate=replay.rate)
        session.add_node(recorder)
        session.add_node(player)
        parameters = node_parameters(config, use_sim_time=True)
        session.start("reconstruction_server", parameters)
        session.start("reconx_node", parameters, remaps(reader, frames.topics))
        heard = [frames.topics.image, frames.topics.camera_info]
        session.wait(
            lambda: player.heard(heard), f"reconx_node to subscribe to {heard[0]}", timeout_s=_DISCOVERY_TIMEOUT_S
        )
        wait_for_server(session, recorder)
        _play(session, player, replay, reader, set(topics), progress)
        recorder.recording.source_done = True
        wait_idle(session, recorder, lambda: watch_job(recorder, progress))
        replay.on_idle(session, recorder)
        triggers = finish_map(session, recorder, server_folder, lambda: watch_job(recorder, progress))
        progress.close()
        replay.on_finished(session, recorder)
    return Replayed(
        recording=recorder.recording, reports=job_reports(server_folder), server_folder=server_folder, triggers=triggers
    )


def _play(
    session: RosSession, player: Any, replay: Replay, reader: BagReader, topics: set[str], progress: Progress
) -> None:
    """Play to the end in a thread of its own; what fails there is raised here."""
    failure: list[BaseException] = []
    messages = replay.select(reader.messages(topics))
    thread = threading.Thread(target=_played, args=(player, messages, failure), name="player", daemon=True)
    thread.start()
    try:
        length = max(reader_span_s(reader), 1.0) / replay.rate
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


def reader_span_s(reader: BagReader) -> float:
    """Seconds between the first and the last message."""
    first = last = None
    for message in reader.messages():
        first = message.stamp_ns if first is None else first
        last = message.stamp_ns
    return 0.0 if first is None or last is None else (last - first) / 1e9


def played_topics(reader: BagReader, topics: BagTopics, *, use_depth: bool) -> dict[str, str]:
    """Topics to play and their types: the camera, transforms, and depth only when it is used."""
    wanted = {topics.image, topics.camera_info, "/tf", "/tf_static"} | ({topics.depth} if use_depth else set())
    played = {name: topic.type for name, topic in reader.topics.items() if name in wanted}
    if "/tf" not in played and "/tf_static" not in played:
        raise InvalidInputError(f"bag {reader.path} has neither /tf nor /tf_static, so its images have no poses")
    return played


def is_compressed(reader: BagReader, topic: str) -> bool:
    """Whether images of a topic are compressed."""
    return reader.topics[topic].type.endswith("/CompressedImage")


def remaps(reader: BagReader, topics: BagTopics) -> dict[str, str]:
    """Remappings of reconx_node's inputs to the bag's topics."""
    image = "image/compressed" if is_compressed(reader, topics.image) else "image"
    names = {image: topics.image, "camera_info": topics.camera_info}
    if topics.depth is not None:
        names["depth/compressedDepth" if is_compressed(reader, topics.depth) else "depth"] = topics.depth
    return names


def named_topics(reader: BagReader, image: str | None, camera_info: str | None) -> BagTopics | None:
    """The topics given on the command line; None leaves the choice to BagFrames.

    Raises:
        InvalidInputError: when only one is given, or the bag lacks one.
    """
    from reconx_ros.io.bag_frames import BagTopics

    if (image is None) != (camera_info is None):
        raise InvalidInputError("--image and --camera-info name one camera, expected both or none")
    if image is None or camera_info is None:
        return None
    for name in (image, camera_info):
        if name not in reader.topics:
            raise InvalidInputError(f"bag {reader.path} has no topic {name}, it has {', '.join(sorted(reader.topics))}")
    return BagTopics(image=image, camera_info=camera_info)


def node_defaults(reader: BagReader, frames: BagFrames, out: Path, *, use_depth: bool) -> dict[str, Any]:
    """Parameters of the nodes that follow from the bag."""
    known = frames.transforms.frames()
    depth = frames.topics.depth
    return {
        "ros.image_transport": "compressed" if is_compressed(reader, frames.topics.image) else "raw",
        "ros.use_depth": use_depth,
        "ros.depth_transport": "compressedDepth" if depth is not None and is_compressed(reader, depth) else "raw",
        "ros.map_frame": next((n for n in ("map", "odom", "world") if n in known), "map"),
        "ros.output_dir": str((out / "server").resolve()),
    }
