"""``reconx replay``: plays a recorded bag to the real nodes, or reconstructs from it without them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import (
    EXIT_OK,
    add_common_arguments,
    add_config_arguments,
    load_config,
    print_table,
    writable_folder,
    write_json,
)
from reconx_ros.cli.replay_session import Replay, named_topics, node_defaults, play_through_nodes
from reconx_ros.cli.ros_run import (
    closing_rows,
    draw_recording,
    map_rows,
    save_recording,
    summarise,
)
from reconx_ros.evaluation.depth import cloud_depth_errors, depth_statistics
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    from reconx_ros.io.bag_frames import BagFrames
    from reconx_ros.io.bags import BagReader


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
        frames = BagFrames(reader, topics=named_topics(reader, arguments.image, arguments.camera_info))
        config = load_config(arguments, node_defaults(reader, frames, arguments.out, use_depth=arguments.use_depth))
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


def replay_live(
    reader: BagReader, frames: BagFrames, config: ReconxConfig, out: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Play the bag in front of the nodes until it ends and the map is finished."""
    replay = Replay(rate=arguments.rate, use_depth=arguments.use_depth, quiet=arguments.quiet)
    played = play_through_nodes(reader, frames, config, out, replay)
    recording = played.recording
    summary = summarise(recording, played.reports) | {"triggers_at_end": played.triggers}
    save_recording(recording, played.server_folder, out)
    keyframes = {i: (k.stamp_ns, k.pose) for i, k in recording.keyframes.items()}
    assert recording.cloud is not None
    errors = cloud_depth_errors(recording.cloud, keyframes, frames)
    summary["depth"] = depth_statistics(errors) if len(errors) else None
    draw_recording(recording, out, title=arguments.bag.name, report=summary)
    return summary


def _print(summary: dict[str, Any], out: Path) -> None:
    rows = [*map_rows(summary), ("novel views", str(summary["novel_views"]))]
    depth = summary["depth"]
    if depth is not None:
        rows.append(
            ("depth vs sensor", f"median {100 * depth['median']:.2f} %, within 2 %: {100 * depth['within_2pct']:.0f} %")
        )
    print_table("reconx replay", [*rows, *closing_rows(summary, out)])
