"""Stand-ins for the reconstruction, for tests of the protocol between nodes. Worker processes load them by name."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from reconx_ros.core import SE3, GaussianScene, InsufficientParallaxError, Job, PinholeCamera, PointCloud
from reconx_ros.jobs.data import JobOutcome, JobRequest
from reconx_ros.jobs.reconstruct import JobOutput, encoded_view
from reconx_ros.pipeline.config import ReconxConfig

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


def half_generated(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """As quick, but a model made up every other point."""
    output = quick(request, config, job, out_dir)
    cloud = output.outcome.cloud
    kinds = np.where(np.arange(len(cloud)) % 2, 2, 1).astype(np.uint8)
    return JobOutput(outcome=replace(output.outcome, cloud=replace(cloud, provenance=kinds)), draw=output.draw)


def with_scene(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """As quick, with Gaussians at the points, written to the job's folder and drawn by the real renderer; previews."""
    from reconx_ros.io.gaussians import write_scene_ply
    from reconx_ros.pipeline.reconstructor import SceneRenderer

    output = quick(request, config, job, out_dir)
    job.for_stage("splatting").show(lambda: np.full((24, 32, 3), 90, np.uint8))
    scene = gaussians(output.outcome.cloud)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_scene_ply(out_dir / "scene.ply", scene)
    outcome = replace(output.outcome, scene_path=str(out_dir))
    return JobOutput(outcome=outcome, draw=SceneRenderer(scene, config).render)


def held(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """As with_scene, but not before the file "hold" is gone from the output folder."""
    while (out_dir.parent / "hold").exists():
        job.for_stage("pointmap").step(0.1, "held")
        threading.Event().wait(STEP_S)
    return with_scene(request, config, job, out_dir)


def gaussians(cloud: PointCloud) -> GaussianScene:
    """A small Gaussian for every point, coloured by its number."""
    count = len(cloud)
    generator = torch.Generator().manual_seed(3)
    return GaussianScene(
        means=torch.from_numpy(cloud.points),
        quats_wxyz=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        log_scales=torch.full((count, 3), -2.5),
        logit_opacities=torch.full((count,), 2.0),
        sh=torch.rand((count, 1, 3), generator=generator),
        confidence=torch.from_numpy(cloud.confidence),
        provenance=torch.from_numpy(cloud.provenance),
        keyframe_ids=torch.from_numpy(cloud.keyframe_ids.astype(np.int64)),
    )


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


def until_told(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """Steps until a file ``go`` lies in the server's folder, then succeeds; never makes the same step twice."""
    steps = 0
    while not (out_dir.parent / "go").exists():
        steps += 1
        job.for_stage("splatting").step(steps / (steps + 10), f"step {steps}")
        threading.Event().wait(STEP_S)
    return quick(request, config, job, out_dir)


def large(request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
    """As quick, with a cloud of 8 MB: a wavy surface as a camera sees it."""
    output = quick(request, config, job, out_dir)
    y, x = np.mgrid[:500, :600]
    depth = 2 + 0.1 * np.sin(x / 40) + 0.001 * y
    cloud = PointCloud(
        points=np.stack([(x - 300) / 500 * depth, (y - 250) / 500 * depth, depth], -1)
        .reshape(-1, 3)
        .astype(np.float32),
        rgb_u8=np.stack([x % 256, y % 256, (x + y) % 256], -1).reshape(-1, 3).astype(np.uint8),
        confidence=np.full(x.size, 0.9, np.float32),
        provenance=np.ones(x.size, np.uint8),
        keyframe_ids=np.full(x.size, request.keyframes[0].id, np.uint32),
    )
    return JobOutput(outcome=replace(output.outcome, cloud=cloud), draw=output.draw)
