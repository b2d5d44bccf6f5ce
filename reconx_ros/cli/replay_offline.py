"""``reconx replay --no-ros``: the same mapping without nodes, for machines without ROS and for debugging."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconx_ros.cli.common import Progress
from reconx_ros.cli.reconstruct import draw
from reconx_ros.cli.replay_session import require_poses
from reconx_ros.core import Frame, Job, ReconstructionError
from reconx_ros.evaluation.sensor_score import score_against_sensor
from reconx_ros.io.bag_frames import BagFrames
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.pipeline.config import ReconxConfig, with_map_axes
from reconx_ros.pipeline.mapper import KeyframeMapper
from reconx_ros.pipeline.reconstructor import Reconstruction, Reconstructor
from reconx_ros.pipeline.result import save_reconstruction

if TYPE_CHECKING:
    from reconx_ros.io.bag_choice import BagTopics
    from reconx_ros.io.bags import BagReader


class _Offline:
    """Feeds frames to a KeyframeMapper and reconstructs, one after the other, whenever it asks."""

    def __init__(self, config: ReconxConfig, progress: Progress) -> None:
        self.mapper = KeyframeMapper(config)
        self.stamps: dict[int, int] = {}
        self.reports: list[dict[str, Any]] = []
        self.newest: Reconstruction | None = None
        self.coverage_before: float | None = None
        self.frame_ms: list[float] = []
        self._reconstructor = Reconstructor(with_map_axes(config))
        self._metric_poses = config.ros.metric_poses
        self._progress = progress
        self._used: set[int] = set()

    def forget_after(self, stamp_ns: int) -> None:
        """The time jumped back; see KeyframeMapper."""
        self.mapper.forget_after(stamp_ns)

    def add(self, frame: Frame) -> None:
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
        job = Job(on_progress=self._progress)
        result = self._reconstructor.run(keyframes, metric_poses=self._metric_poses, job=job)
        self._progress.close()
        self.mapper.integrate(result.cloud, result.keyframe_poses)
        self.mapper.job_finished(stamp_ns, succeeded=True)
        self.newest = result
        self.reports.append(result.report)


def replay_offline(
    reader: BagReader, topics: BagTopics, config: ReconxConfig, out: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Run the pipeline over a bag's frames and save the newest result with the whole map's cloud.

    Raises:
        InvalidInputError: when the bag has no poses.
        ReconstructionError: when no reconstruction was possible.
    """
    require_poses(reader, topics, config)
    run = _Offline(config, Progress(quiet=arguments.quiet))
    frames = BagFrames(
        reader, topics, config.ros, max_size=config.keyframes.max_size,
        on_jump=lambda sentence, now_ns: run.forget_after(now_ns),
    )  # fmt: skip
    for frame in frames:
        run.add(frame)
    finished = run.finish()
    if run.newest is None:
        raise ReconstructionError(_too_few(run, frames))
    save_reconstruction(run.newest, out)
    cloud = run.mapper.cloud()
    write_point_cloud_ply(out / "points.ply", cloud)
    keyframes = {i: (run.stamps[i], pose) for i, pose in run.mapper.map_poses.items()}
    score = score_against_sensor(cloud, keyframes, reader, topics, config.ros)
    report = run.newest.report
    summary = {
        "frames_in": frames.summary.frames_in,
        "frames_dropped": frames.summary.drops,
        "frames_not_kept": dict(run.mapper.frames_not_kept),
        "keyframes": len(run.stamps),
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
        "depth": score.statistics,
        "depth_note": score.row(),
    }
    draw(run.newest, out, title=arguments.bag.name, report=summary)
    return summary


def _too_few(run: _Offline, frames: BagFrames) -> str:
    """Why there were too few keyframes, the most frequent reason first."""
    kept = f"too few keyframes for a reconstruction: {len(run.mapper.keyframes)}"
    lost = frames.lost()
    if lost:
        return f"{lost}; {kept}"
    refused = ", ".join(f"{n} {reason}" for reason, n in run.mapper.frames_not_kept.most_common())
    return (
        f"{frames.summary.frames_in} images gave {run.mapper.frames_in} frames, not kept: {refused or 'none'}; {kept}"
    )
