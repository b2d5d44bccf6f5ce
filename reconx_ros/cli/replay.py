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
    print_table,
    writable_folder,
    write_json,
)
from reconx_ros.cli.replay_list import list_topics
from reconx_ros.cli.replay_session import (
    Replay,
    add_topic_arguments,
    bag_config,
    chosen_topics,
    play_through_nodes,
)
from reconx_ros.cli.ros_run import (
    closing_rows,
    draw_recording,
    map_rows,
    save_recording,
    summarise,
)
from reconx_ros.evaluation.sensor_score import score_against_sensor
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    from reconx_ros.io.bag_choice import BagTopics
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
        "--list", action="store_true", help="print the topics and which would be used and why, and do nothing else"
    )
    add_topic_arguments(parser)
    add_config_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay, score, draw, summarise."""
    from reconx_ros.io.bags import open_bag

    with open_bag(arguments.bag) as reader:
        if arguments.list:
            return list_topics(reader, arguments)
        topics = chosen_topics(reader, arguments)
        config = bag_config(reader, topics, arguments.out, arguments)
        out = writable_folder(arguments.out)
        started = time.perf_counter()
        if arguments.no_ros:
            from reconx_ros.cli.replay_offline import replay_offline

            summary = replay_offline(reader, topics, config, out, arguments)
        else:
            summary = replay_live(reader, topics, config, out, arguments)
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
    reader: BagReader, topics: BagTopics, config: ReconxConfig, out: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Play the bag in front of the nodes until it ends and the map is finished."""
    played = play_through_nodes(reader, topics, config, out, Replay(rate=arguments.rate, quiet=arguments.quiet))
    recording = played.recording
    summary = summarise(recording, played.reports) | {"triggers_at_end": played.triggers}
    save_recording(recording, played.server_folder, out)
    keyframes = {i: (k.stamp_ns, k.pose) for i, k in recording.keyframes.items()}
    assert recording.cloud is not None
    score = score_against_sensor(recording.cloud, keyframes, reader, topics, config.ros)
    summary |= {"depth": score.statistics, "depth_note": score.row()}
    draw_recording(recording, out, title=arguments.bag.name, report=summary)
    return summary


def _print(summary: dict[str, Any], out: Path) -> None:
    rows = [
        *map_rows(summary),
        ("novel views", str(summary["novel_views"])),
        ("depth vs sensor", summary["depth_note"]),
    ]
    print_table("reconx replay", [*rows, *closing_rows(summary, out)])
