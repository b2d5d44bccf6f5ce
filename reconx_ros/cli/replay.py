"""``reconx replay``: a recorded bag through the real nodes, or straight into the pipeline."""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import (
    EXIT_OK,
    Progress,
    add_common_arguments,
    add_config_arguments,
    load_config,
    print_table,
    writable_folder,
    write_json,
)
from reconx_ros.cli.ros_run import (
    closing_rows,
    draw_recording,
    empty_server_folder,
    map_rows,
    node_parameters,
    save_recording,
    summarise,
    watch_job,
)
from reconx_ros.core import InvalidInputError
from reconx_ros.evaluation.depth import cloud_depth_errors, depth_statistics
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    from reconx_ros.io.bag_frames import BagFrames, BagTopics
    from reconx_ros.io.bags import BagReader

_DISCOVERY_TIMEOUT_S = 60.0


def add_parser(commands: Any) -> None:
    """Add ``replay`` to the commands."""
    parser = commands.add_parser(
        "replay",
        help="play a ROS 2 bag through the real nodes and score the map",
        description="Play a ROS 2 bag (sqlite3 or MCAP) through the real nodes; depth in the bag is withheld from them "
        "and used to score the map.",
        epilog="example: reconx replay bags/kitchen --out out/kitchen --json out/kitchen.json",
    )
    parser.add_argument("bag", type=Path, help="bag folder, or one .mcap or .db3 file")
    parser.add_argument("--out", type=Path, default=Path("out/replay"), help="result folder")
    parser.add_argument("--rate", type=float, default=1.0, help="playing speed; 1 is real time")
    parser.add_argument(
        "--use-depth", action="store_true", help="give the bag's depth to the nodes instead of withholding it"
    )
    parser.add_argument("--no-ros", action="store_true", help="read the bag straight into the pipeline, without nodes")
    parser.add_argument(
        "--image", help="image topic, where the choice made for you is not the one (with --camera-info)"
    )
    parser.add_argument("--camera-info", help="its camera_info topic")
    add_config_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay, score, draw, summarise."""
    from reconx_ros.io.bag_frames import BagFrames
    from reconx_ros.io.bags import open_bag

    with open_bag(arguments.bag) as reader:
        frames = BagFrames(reader, topics=_named_topics(reader, arguments))
        config = load_config(arguments, _defaults(reader, frames, arguments))
        out = writable_folder(arguments.out)
        started = time.perf_counter()
        if arguments.no_ros:
            from reconx_ros.cli.replay_offline import replay_offline

            summary = replay_offline(frames, config, out, arguments)
        else:
            summary = replay_live(reader, frames, config, out, arguments)
        problem = reader.problem
    summary.update(bag=str(arguments.bag), bag_problem=problem, seconds=time.perf_counter() - started)
    if problem:
        summary["warnings"] = list(dict.fromkeys([*summary["warnings"], problem]))
    write_json(out / "report.json", summary)
    if arguments.json:
        write_json(arguments.json, summary)
    _print(summary, out)
    return EXIT_OK


def _named_topics(reader: BagReader, arguments: argparse.Namespace) -> BagTopics | None:
    """The topics given on the command line; None leaves the choice to BagFrames."""
    from reconx_ros.io.bag_frames import BagTopics

    if (arguments.image is None) != (arguments.camera_info is None):
        raise InvalidInputError("--image and --camera-info name one camera, expected both or none")
    if arguments.image is None:
        return None
    for name in (arguments.image, arguments.camera_info):
        if name not in reader.topics:
            raise InvalidInputError(f"bag {reader.path} has no topic {name}, it has {', '.join(sorted(reader.topics))}")
    return BagTopics(image=arguments.image, camera_info=arguments.camera_info)


def _is_compressed(reader: BagReader, topic: str) -> bool:
    return reader.topics[topic].type.endswith("/CompressedImage")


def _depth_transport(reader: BagReader, topics: BagTopics) -> str:
    return "compressedDepth" if topics.depth is not None and _is_compressed(reader, topics.depth) else "raw"


def _defaults(reader: BagReader, frames: BagFrames, arguments: argparse.Namespace) -> dict[str, Any]:
    known = frames.transforms.frames()
    return {
        "ros.image_transport": "compressed" if _is_compressed(reader, frames.topics.image) else "raw",
        "ros.use_depth": arguments.use_depth,
        "ros.depth_transport": _depth_transport(reader, frames.topics),
        "pointmap.use_depth": arguments.use_depth,
        "ros.map_frame": next((n for n in ("map", "odom", "world") if n in known), "map"),
        "ros.output_dir": str((arguments.out / "server").resolve()),
    }


def replay_live(
    reader: BagReader, frames: BagFrames, config: ReconxConfig, out: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Play the bag in front of the nodes until it ends and the map is finished."""
    from reconx_ros.ros.environment import require_ros

    require_ros()
    from reconx_ros.ros.bag_player import BagPlayer
    from reconx_ros.ros.mission import finish_map, wait_idle
    from reconx_ros.ros.recorder import Recorder, job_reports
    from reconx_ros.ros.session import RosSession

    topics = played_topics(reader, frames.topics, use_depth=arguments.use_depth)
    server_folder = empty_server_folder(config, out)
    progress = Progress(quiet=arguments.quiet)
    with RosSession(out / "logs") as session:
        recorder = Recorder(session.context)
        player = BagPlayer(session.context, topics, rate=arguments.rate)
        session.add_node(recorder)
        session.add_node(player)
        parameters = node_parameters(config, use_sim_time=True)
        session.start("reconx_ros.ros.reconstruction_server", parameters)
        session.start("reconx_ros.ros.reconx_node", parameters, remaps(reader, frames.topics))
        heard = [frames.topics.image, frames.topics.camera_info]
        session.wait(
            lambda: player.heard(heard), f"reconx_node to subscribe to {heard[0]}", timeout_s=_DISCOVERY_TIMEOUT_S
        )
        failure: list[BaseException] = []
        thread = threading.Thread(target=_play, args=(player, reader, set(topics), failure), name="player", daemon=True)
        thread.start()
        try:
            length = max(reader_span_s(reader), 1.0) / arguments.rate
            began = time.monotonic()
            session.wait(
                lambda: not thread.is_alive(), "the bag to end", timeout_s=20 * length + 60,
                on_wait=lambda: progress("replay", (time.monotonic() - began) / length, f"{player.played} messages"),
            )  # fmt: skip
        finally:
            player.stop()
            thread.join(timeout=10)
        recorder.recording.source_done = True
        if failure:
            raise failure[0]
        wait_idle(session, recorder, lambda: watch_job(recorder, progress))
        finished = finish_map(session, recorder, server_folder, lambda: watch_job(recorder, progress))
        progress.close()
        recording = recorder.recording
        summary = summarise(recording, job_reports(server_folder))
    summary["triggers_at_end"] = finished
    save_recording(recording, server_folder, out)
    keyframes = {i: (k.stamp_ns, k.pose) for i, k in recording.keyframes.items()}
    assert recording.cloud is not None
    errors = cloud_depth_errors(recording.cloud, keyframes, frames)
    summary["depth"] = depth_statistics(errors) if len(errors) else None
    draw_recording(recording, out, title=arguments.bag.name, report=summary)
    return summary


def _play(player: Any, reader: BagReader, topics: set[str], failure: list[BaseException]) -> None:
    try:
        player.play(reader.messages(topics))
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


def remaps(reader: BagReader, topics: BagTopics) -> dict[str, str]:
    """Remappings of reconx_node's inputs to the bag's topics."""
    image = "image/compressed" if _is_compressed(reader, topics.image) else "image"
    names = {image: topics.image, "camera_info": topics.camera_info}
    if topics.depth is not None:
        names["depth/compressedDepth" if _is_compressed(reader, topics.depth) else "depth"] = topics.depth
    return names


def _print(summary: dict[str, Any], out: Path) -> None:
    rows = [*map_rows(summary), ("novel views", str(summary["novel_views"]))]
    depth = summary["depth"]
    if depth is not None:
        rows.append(
            ("depth vs sensor", f"median {100 * depth['median']:.2f} %, within 2 %: {100 * depth['within_2pct']:.0f} %")
        )
    print_table("reconx replay", [*rows, *closing_rows(summary, out)])
