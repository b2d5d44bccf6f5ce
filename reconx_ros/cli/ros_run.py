"""What ``demo`` and ``replay`` share: parameters of the nodes, collecting and saving what was recorded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconx_ros.cli.common import headlines
from reconx_ros.core import PointCloud, ReconstructionError
from reconx_ros.core.settings import to_mapping
from reconx_ros.io.images import decode_image, read_image, write_depth, write_image
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    from reconx_ros.cli.common import Progress
    from reconx_ros.ros.tools.recorder import HeardTopics, NovelView, TopicRecorder

_SAME_RESULT_NS = 1_000_000  # novel views of one result carry stamps within nanoseconds of each other


def empty_server_folder(config: ReconxConfig, out: Path) -> Path:
    """The server's output folder; our own ``OUT/server`` is cleared of an earlier run, a user's folder is not."""
    folder = Path(config.ros.output_dir)
    if folder == (out / "server").resolve():
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def node_parameters(config: ReconxConfig, **extra: Any) -> dict[str, Any]:
    """Parameters of a node's YAML file from a configuration; empty lists are left out (ROS cannot type them)."""
    return {**to_mapping(config), **extra}


def watch_job(recorder: TopicRecorder, progress: Progress) -> None:
    """Show the running job's stage and fraction."""
    status = recorder.recording.status
    if status is not None and status.job_stage:
        progress(f"job {status.reconstructions + 1}: {status.job_stage}", float(np.nan_to_num(status.job_fraction)), "")


def summarise(recording: HeardTopics, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures every ROS run reports."""
    from reconx_ros.ros.tools.recorder import status_summary

    last = reports[-1] if reports else {}
    views = [v for v in recording.novel_views.values() if v.complete]
    return {
        **status_summary(recording.status),
        "keyframes": len(recording.keyframes),
        "coverage_before": recording.reconstructing_from,
        "coverage_after": float(recording.status.coverage),
        "coverage_history": coverage_history(recording),
        "points": len(recording.cloud) if recording.cloud is not None else 0,
        "novel_views": len(newest_views(recording)),
        "novel_views_published": len(views),
        "backends": last.get("backends", {}),
        "stages": last.get("stages", []),
        "jobs": reports,
        "diagnostics": list(recording.warnings.values()),
        "warnings": last.get("warnings", []),
    }


def coverage_history(recording: HeardTopics) -> list[tuple[float, float]]:
    """(seconds since the first image, mean coverage in [0, 1]) in order of the stamps, where it is known."""
    known = sorted((stamp, share) for stamp, share in recording.coverage if np.isfinite(share))
    return [((stamp - known[0][0]) / 1e9, share) for stamp, share in known]


def save_recording(recording: HeardTopics, server_folder: Path, out: Path) -> list[NovelView]:
    """Write what was heard (points.ply, novel_views/) and the newest scene of the server (scene.ply, cameras.json).

    The confidence of novel views, which no topic carries, comes from the server's folder as well.

    Returns:
        The complete novel views of the newest result, in order.

    Raises:
        ReconstructionError: when no cloud was ever published.
    """
    if recording.cloud is None:
        status = recording.status
        reason = status.last_error or status.state_text if status is not None else "no status was received"
        raise ReconstructionError(f"no cloud was published: {reason}")
    write_point_cloud_ply(out / "points.ply", recording.cloud)
    newest = max(server_folder.glob("*/report.json"), key=lambda f: f.stat().st_mtime).parent
    for name in ("scene.ply", "cameras.json"):
        shutil.copyfile(newest / name, out / name)
    shutil.rmtree(out / "novel_views", ignore_errors=True)
    (out / "novel_views").mkdir()
    views = newest_views(recording)
    for index, view in enumerate(views):
        assert view.rgb_u8 is not None
        write_image(out / "novel_views" / f"{index:04d}.png", view.rgb_u8)
        if view.depth_m is not None:
            write_depth(out / "novel_views" / f"{index:04d}_depth.png", view.depth_m)
        confidence = newest / "novel_views" / f"{index:04d}_confidence.png"
        if confidence.is_file():
            shutil.copyfile(confidence, out / "novel_views" / confidence.name)
    return views


def draw_recording(recording: HeardTopics, out: Path, *, title: str, report: dict[str, Any]) -> None:
    """overview.png and report.html of what was heard."""
    from reconx_ros.viz.overview import OverviewData
    from reconx_ros.viz.pages import write_pages

    keyframes = {i: k for i, k in sorted(recording.keyframes.items()) if k.pose is not None}
    views = newest_views(recording)
    depths = [v.depth_m for v in views if v.depth_m is not None]
    data = OverviewData(
        title=title,
        lines=headlines(report),
        inputs=[decode_image(k.jpeg, f"keyframe {i}") for i, k in keyframes.items()],
        input_captions=[f"keyframe {i}" for i in keyframes],
        novel=[v.rgb_u8 for v in views if v.rgb_u8 is not None],
        depths=depths,
        confidences=_saved_confidences(out, len(views)),
        provenances=[v.provenance for v in views if v.provenance is not None],
        cloud=recording.cloud if recording.cloud is not None else PointCloud.empty(),
        input_poses=[k.pose for k in keyframes.values() if k.pose is not None],
        novel_poses=[v.world_from_cam for v in views if v.world_from_cam is not None],
        metric_scale=bool(recording.status.metric_scale),
    )
    write_pages(out, data, report)


def _saved_confidences(out: Path, count: int) -> list[np.ndarray]:
    """Confidence [H, W] in [0, 1] of the novel views that ``save_recording`` wrote; empty unless all have one."""
    files = [out / "novel_views" / f"{index:04d}_confidence.png" for index in range(count)]
    if not all(f.is_file() for f in files):
        return []
    return [read_image(f)[..., 0].astype(np.float32) / 255 for f in files]


def newest_views(recording: HeardTopics) -> list[NovelView]:
    """The complete novel views of the newest result: stamps of one result lie within nanoseconds of each other."""
    stamps = sorted(s for s, v in recording.novel_views.items() if v.complete)
    return [recording.novel_views[s] for s in stamps if stamps[-1] - s < _SAME_RESULT_NS]


def map_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the summary table on what came in and what map it made."""
    before, after = (float("nan") if summary[k] is None else summary[k] for k in ("coverage_before", "coverage_after"))
    return [
        ("frames in", f"{summary['frames_in']}  (not used: {summary['frames_dropped'] or 'none'})"),
        ("keyframes", str(summary["keyframes"])),
        ("reconstructions", str(summary["reconstructions"])),
        ("coverage", f"{before:.2f} before, {after:.2f} after"),
        ("points", f"{summary['points']:,} ({'metres' if summary['metric_scale'] else 'unknown scale'})"),
    ]


def closing_rows(summary: dict[str, Any], out: Path) -> list[tuple[str, str]]:
    """Rows of the summary table on stages, warnings, time and place."""
    rows = [
        (f"  {s['name']}", f"{s['backend']}, {s['seconds']:.1f} s, {s['peak_mb']:.0f} MiB") for s in summary["stages"]
    ]
    rows += [("warning", w) for w in summary["warnings"]]
    return [*rows, ("took", f"{summary['seconds']:.0f} s"), ("result", str(out))]
