"""``reconx demo``: a simulated robot drives a procedural room in front of the real nodes."""

from __future__ import annotations

import argparse
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
    newest_views,
    node_parameters,
    save_recording,
    summarise,
    watch_job,
)
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    from reconx_ros.ros.tools.recorder import HeardTopics

_DRIVE_TIMEOUT_S = 300.0


def add_parser(commands: Any) -> None:
    """Add ``demo`` to the commands."""
    parser = commands.add_parser(
        "demo",
        help="a simulated robot maps a room through the real ROS nodes",
        description="A simulated robot drives a procedural room in front of the real nodes (separate processes, DDS); "
        "what they publish is recorded and scored against the simulator.",
        epilog="example: reconx demo --out out/demo --json out/demo.json",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="result folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the room")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of simulated driving")
    add_config_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Drive, record, score, draw, summarise."""
    config = load_config(arguments, {"ros.output_dir": str((arguments.out / "server").resolve())})
    out = writable_folder(arguments.out)
    started = time.perf_counter()
    summary, recording = drive(config, out, arguments)
    summary.update(score(recording, arguments.seed))
    summary["seconds"] = time.perf_counter() - started
    draw_recording(recording, out, title=f"Simulated room {arguments.seed}", report=summary)
    write_json(out / "report.json", summary)
    if arguments.json:
        write_json(arguments.json, summary)
    _print(summary, out)
    return EXIT_OK


def drive(config: ReconxConfig, out: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], HeardTopics]:
    """Run the robot and the nodes until the map is finished; save and score what was recorded."""
    from reconx_ros.ros.graph.environment import require_ros

    require_ros()
    from reconx_ros.ros.tools.mission import finish_map, wait_idle
    from reconx_ros.ros.tools.recorder import TopicRecorder, job_reports
    from reconx_ros.ros.tools.session import RosSession

    server_folder = empty_server_folder(config, out)
    progress = Progress(quiet=arguments.quiet)
    with RosSession(out / "logs") as session:
        recorder = TopicRecorder(session.context, source_done="sim_robot/done")
        session.add_node(recorder)
        nodes = node_parameters(config, use_sim_time=True)
        session.start("reconstruction_server", nodes)
        session.start("reconx_node", nodes, {"image": "camera/image_raw", "camera_info": "camera/camera_info"})
        robot = {"seed": arguments.seed, "duration_s": arguments.duration, "truth_dir": str(out / "truth")}
        session.start("sim_robot", robot)

        def show_drive() -> None:
            status = recorder.recording.status
            if status is not None:
                progress("drive", 0.0, f"{status.frames_in} frames, {status.keyframes} keyframes, {status.state_text}")

        session.wait(
            lambda: recorder.recording.source_done, "the robot to end its drive", timeout_s=_DRIVE_TIMEOUT_S,
            on_wait=show_drive,
        )  # fmt: skip
        wait_idle(session, recorder, lambda: watch_job(recorder, progress))
        finished = finish_map(session, recorder, server_folder, lambda: watch_job(recorder, progress))
        progress.close()
        recording = recorder.recording
        summary = summarise(recording, job_reports(server_folder))
    summary["triggers_at_end"] = finished
    save_recording(recording, server_folder, out)
    return summary, recording


def score(recording: HeardTopics, seed: int) -> dict[str, Any]:
    """Cloud and novel views against the simulator's truth at poses the nodes never saw."""
    import numpy as np

    from reconx_ros.evaluation.depth import depth_statistics
    from reconx_ros.evaluation.images import psnr
    from reconx_ros.sim.raycast import RoomRenderer
    from reconx_ros.sim.room import RoomConfig, make_room
    from reconx_ros.sim.truth import relative_depth_errors, render_truth

    renderer = RoomRenderer(make_room(RoomConfig(seed=seed)))
    cloud = recording.cloud
    assert cloud is not None
    known = {i: k.pose for i, k in recording.keyframes.items() if k.pose is not None}
    chosen = np.isin(cloud.keyframe_ids, list(known))
    centres = np.array([known[int(i)].translation for i in cloud.keyframe_ids[chosen]])
    errors = relative_depth_errors(renderer, cloud.points[chosen].astype(np.float64), centres)
    depth = depth_statistics(errors[np.isfinite(errors)])
    values = []
    for view in newest_views(recording):
        if view.rgb_u8 is None or view.camera is None or view.world_from_cam is None:
            continue
        truth = render_truth(renderer, view.camera, view.world_from_cam)
        values.append(psnr(view.rgb_u8, truth.rgb_u8))
    return {
        "depth_abs_rel": depth["abs_rel"],
        "depth_within_2pct": depth["within_2pct"],
        "depth_median": depth["median"],
        "psnr_heldout": float(np.mean(values)) if values else None,
        "psnr_heldout_views": values,
    }


def _print(summary: dict[str, Any], out: Path) -> None:
    within = 100 * summary["depth_within_2pct"]
    novel = f"{summary['novel_views']}, {summary['psnr_heldout']:.2f} dB against frames the nodes never saw"
    callback = summary["callback_ms"]
    rows = [
        *map_rows(summary),
        ("depth vs truth", f"abs rel {summary['depth_abs_rel']:.4f}, within 2 %: {within:.1f} %"),
        ("novel views", novel),
        ("image callback", f"p50 {callback['p50']:.2f} ms, p99 {callback['p99']:.2f} ms"),
        *closing_rows(summary, out),
    ]
    print_table("reconx demo", rows)
