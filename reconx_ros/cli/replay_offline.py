"""``reconx replay --no-ros``: the same mapping without nodes, for machines without ROS and for debugging."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconx_ros.cli.common import Progress
from reconx_ros.cli.reconstruct import draw
from reconx_ros.core import Job, ReconstructionError
from reconx_ros.evaluation.depth import cloud_depth_errors, depth_statistics
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.mapper import KeyframeMapper
from reconx_ros.pipeline.reconstructor import Reconstruction, Reconstructor
from reconx_ros.pipeline.result import save_reconstruction

if TYPE_CHECKING:
    from reconx_ros.io.bag_frames import BagFrames


class _Offline:
    """Feeds frames to a KeyframeMapper and reconstructs, one after the other, whenever it asks."""

    def __init__(self, config: ReconxConfig, progress: Progress) -> None:
        self.mapper = KeyframeMapper(config)
        self.stamps: dict[int, int] = {}
        self.reports: list[dict[str, Any]] = []
        self.newest: Reconstruction | None = None
        self.coverage_before: float | None = None
        self.frame_ms: list[float] = []
        self._reconstructor = Reconstructor(config)
        self._progress = progress
        self._used: set[int] = set()

    def add(self, frame: Any) -> None:
        started = time.perf_counter()
        decision = self.mapper.add_frame(frame)
        trigger = self.mapper.should_reconstruct(frame.stamp_ns)
        self.frame_ms.append(1e3 * (time.perf_counter() - started))
        if decision.keyframe is not None:
            self.stamps[decision.keyframe.id] = frame.stamp_ns
        if trigger.fire:
            self.reconstruct(frame.stamp_ns)

    def finish(self) -> int:
        """Reconstruct until every keyframe was part of a job; returns how often that was needed."""
        triggers = 0
        while len(self.mapper.keyframes) > 1 and self._left():
            self.reconstruct(max(self.stamps.values()))
            triggers += 1
        return triggers

    def _left(self) -> set[int]:
        return {k.id for k in self.mapper.keyframes if k.frame.world_from_cam is not None} - self._used

    def reconstruct(self, stamp_ns: int) -> None:
        keyframes = self.mapper.job_keyframes()
        if self.coverage_before is None:
            self.coverage_before = self.mapper.coverage().mean
        self.mapper.job_started(keyframes)
        self._used |= {k.id for k in keyframes}
        result = self._reconstructor.run(keyframes, job=Job(on_progress=self._progress))
        self._progress.close()
        self.mapper.integrate(result.cloud, result.keyframe_poses)
        self.mapper.job_finished(stamp_ns, succeeded=True)
        self.newest = result
        self.reports.append(result.report)


def replay_offline(frames: BagFrames, config: ReconxConfig, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the pipeline over a bag's frames and save the newest result with the whole map's cloud.

    Raises:
        ReconstructionError: when no reconstruction was possible.
    """
    run = _Offline(config, Progress(quiet=arguments.quiet))
    unposed = 0
    for frame in frames:
        unposed += frame.world_from_cam is None
        run.add(frame if arguments.use_depth else _without_depth(frame))
    finished = run.finish()
    if run.newest is None:
        raise ReconstructionError(f"{run.mapper.frames_in} frames gave {len(run.mapper.keyframes)} keyframes, too few")
    save_reconstruction(run.newest, out)
    cloud = run.mapper.cloud()
    write_point_cloud_ply(out / "points.ply", cloud)
    keyframes = {i: (run.stamps[i], pose) for i, pose in run.mapper.map_poses.items()}
    errors = cloud_depth_errors(cloud, keyframes, frames)
    report = run.newest.report
    summary = {
        "frames_in": run.mapper.frames_in,
        "frames_dropped": {"no_pose": unposed} if unposed else {},
        "frames_not_kept": dict(run.mapper.frames_not_kept),
        "keyframes": len(run.mapper.keyframes),
        "reconstructions": run.mapper.reconstructions,
        "coverage_before": run.coverage_before,
        "coverage_after": run.mapper.coverage().mean,
        "points": len(cloud),
        "novel_views": len(run.newest.novel_views),
        "metric_scale": run.newest.metric_scale,
        "backends": report["backends"],
        "stages": report["stages"],
        "jobs": run.reports,
        "callback_ms": {"p50": float(np.percentile(run.frame_ms, 50)), "p99": float(np.percentile(run.frame_ms, 99))},
        "triggers_at_end": finished,
        "warnings": [*report["warnings"], *frames.summary.warnings()],
        "diagnostics": [],
        "depth": depth_statistics(errors) if len(errors) else None,
    }
    draw(run.newest, out, title=arguments.bag.name, report=summary)
    return summary


def _without_depth(frame: Any) -> Any:
    from dataclasses import replace

    return replace(frame, depth_m=None)
