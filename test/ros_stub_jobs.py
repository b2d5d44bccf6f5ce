"""Stand-ins for the reconstruction, for tests of the protocol between nodes. Worker processes load them by name."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from reconx_ros.core import SE3, InsufficientParallaxError, Job, PinholeCamera, PointCloud
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.job_data import JobOutcome, JobRequest
from reconx_ros.ros.reconstruct_job import JobOutput, encoded_view

POINTS_PER_KEYFRAME = 200
STEP_S = 0.05


def _draw(camera: PinholeCamera, pose: SE3) -> SimpleNamespace:
    shape = (camera.height, camera.width)
    return SimpleNamespace(
        rgb_u8=np.full((*shape, 3), 90, np.uint8),
        depth=np.full(shape, 1.5, np.float32),
        provenance=np.ones(shape, np.uint8),
        camera=camera,
        world_from_cam=pose,
    )


def quick(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """Points on a plane two units in front of each keyframe, three novel views."""
    del config, out_dir
    keyframes = [k.decoded() for k in request.keyframes]
    clouds = []
    for i, keyframe in enumerate(keyframes):
        job.for_stage("pointmap").step(i / len(keyframes), f"keyframe {i}")
        assert keyframe.frame.world_from_cam is not None
        grid = np.linspace(-1, 1, POINTS_PER_KEYFRAME)
        local = np.stack([grid, np.sin(9 * grid), np.full_like(grid, 2.0)], axis=1)
        clouds.append(
            PointCloud(
                points=keyframe.frame.world_from_cam.apply(local).astype(np.float32),
                rgb_u8=np.full((POINTS_PER_KEYFRAME, 3), 128, np.uint8),
                confidence=np.full(POINTS_PER_KEYFRAME, 0.9, np.float32),
                provenance=np.ones(POINTS_PER_KEYFRAME, np.uint8),
                keyframe_ids=np.full(POINTS_PER_KEYFRAME, keyframe.id, np.uint32),
            )
        )
    first = keyframes[0].frame
    assert first.world_from_cam is not None
    outcome = JobOutcome(
        cloud=PointCloud.concatenate(clouds),
        keyframe_poses={k.id: k.frame.world_from_cam for k in keyframes if k.frame.world_from_cam is not None},
        novel_views=tuple(encoded_view(_draw(first.camera, first.world_from_cam)) for _ in range(3)),
        metric_scale=request.metric_poses,
        report_json='{"backends": {"pointmap": "stub", "diffusion": "stub", "splatting": "stub"}}',
    )
    return JobOutput(outcome=outcome, draw=_draw)


def endless(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """Steps until cancelled."""
    while True:
        job.for_stage("splatting").step(0.5, "going on")
        threading.Event().wait(STEP_S)


def deaf(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """Neither steps nor notices cancellation."""
    job.for_stage("splatting").step(0.0, "deaf")
    while True:
        threading.Event().wait(STEP_S)


def no_parallax(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """Fails as views from one place do."""
    raise InsufficientParallaxError("the views share one centre, expected a camera that moves sideways")


def out_of_memory(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """Fails as a full memory does."""
    raise MemoryError("tried to allocate 99 GiB")


def dies_once(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """Kills its own process the first time, succeeds the second; the folder remembers."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    marker = out_dir.parent / "died"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    return quick(request, config, job, out_dir)


def by_preset(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """The stand-in that the goal's preset names."""
    jobs = {"": quick, "endless": endless, "deaf": deaf, "no_parallax": no_parallax, "out_of_memory": out_of_memory}
    return jobs[request.preset](request, config, job, out_dir)
