"""What makes pictures in an evaluation: sparse 3DGS, the warped input, and test cameras put into a found map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pointmap_scenes import pinhole, room_scene
from splatting_scenes import random_gaussians, scene_from

from reconx_ros.core import SE3, AlignedViews, Frame, Job, Keyframe, PointMap, Provenance, ReconstructionError, Sim3
from reconx_ros.evaluation.baselines import WarpedNearest, nearest_inputs
from reconx_ros.evaluation.camera_placement import map_from_truth, optimised_pose
from reconx_ros.evaluation.heldout import HeldOutTask, posed
from reconx_ros.evaluation.images import psnr
from reconx_ros.evaluation.protocol import _mapped
from reconx_ros.evaluation.sparse import MIN_POINTS, _densified, _scattered, gaussians_from_points, sparse_points
from reconx_ros.io.scenes import shrunken_frame
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.stages import StageRecorder
from reconx_ros.pointmap.backends.multiview import MultiviewBackend
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.render import render_scene
from reconx_ros.splatting.select import select_rasterizer

CPU = torch.device("cpu")
ROOM = room_scene(4, pinhole(160, 120))
MOVED = Sim3(scale=0.5, rotation=SE3.exp(np.array([0.2, -0.4, 0.1]), np.zeros(3)).rotation, translation=np.ones(3))


def task(poses: str = "given") -> HeldOutTask:
    """Views 0, 2 and 3 of the room as inputs, view 1 held back."""
    inputs = [ROOM.keyframes[i] for i in (0, 2, 3)]
    return HeldOutTask(
        scene="room", protocol="test", keyframes=tuple(replace(k, id=i) for i, k in enumerate(inputs)),
        truth=tuple(posed(k.frame) for k in inputs), depths=(None,) * 3, tests=(ROOM.keyframes[1].frame,),
        test_names=("1",), input_names=("0", "2", "3"), metric_scale=True, poses=poses,
    )  # fmt: skip


def aligned(to_map: Sim3) -> AlignedViews:
    """The inputs with exact depth, in a world of their own."""
    views = []
    for i, place in enumerate((0, 2, 3)):
        frame, depth = ROOM.keyframes[place].frame, to_map.scale * torch.from_numpy(ROOM.depths[place]).float()
        views.append(
            PointMap(
                rgb=frame.rgb(), depth=depth, confidence=torch.ones_like(depth), valid=depth > 0,
                provenance=Provenance.OBSERVED.where(depth > 0), camera=frame.camera,
                world_from_cam=to_map.apply_pose(posed(frame)), keyframe_id=i,
            )
        )  # fmt: skip
    return AlignedViews(views=tuple(views), metric_scale=False, scale_source=None, backend="test")


def test_cameras_may_be_found_from_larger_inputs_than_the_map_is_made_of() -> None:
    large = task()
    shrunk = tuple(replace(k, frame=shrunken_frame(k.frame, 80)) for k in large.keyframes)
    sizes_seen = []

    class Spy(MultiviewBackend):
        def reconstruct(self, keyframes: Sequence[Keyframe], *rest: Any, **named: Any) -> AlignedViews:
            sizes_seen.extend(k.frame.camera.size for k in keyframes)
            return super().reconstruct(keyframes, *rest, **named)

    small = replace(large, keyframes=shrunk, originals=large.keyframes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reconx_ros.pipeline.reconstructor.choose_pointmap", lambda *_: Spy())
        found = _mapped(small, ReconxConfig(), StageRecorder(CPU), Job(stage="test")).views
    assert sizes_seen == [(160, 120)] * 3
    assert [v.camera for v in found.views] == [k.frame.camera for k in shrunk]
    levels = (found.views[0].rgb - shrunk[0].frame.rgb()).abs() * 255
    assert levels.max() <= 1


def test_the_similarity_of_the_input_poses_carries_the_test_poses() -> None:
    unposed = task("none")
    found = map_from_truth(unposed, aligned(MOVED))
    assert found.scale == pytest.approx(0.5)
    (pose,) = (found.apply_pose(posed(frame)) for frame in unposed.tests)
    assert pose.distance_to(MOVED.apply_pose(posed(unposed.tests[0]))) < 1e-9
    assert map_from_truth(task("given"), aligned(Sim3.identity())).scale == 1
    alone = replace(aligned(MOVED), views=aligned(MOVED).views[:1])
    with pytest.raises(ReconstructionError, match="found poses of 1 inputs cannot be aligned"):
        map_from_truth(unposed, alone)


def test_a_warped_input_is_nearly_the_truth_where_its_depth_is() -> None:
    unposed = task("none")
    frame = unposed.tests[0]
    warped = WarpedNearest(unposed, aligned(MOVED), fill_holes=True)
    picture = warped.picture(frame.camera, posed(frame), MOVED.apply_pose(posed(frame)))
    nearest = unposed.keyframes[nearest_inputs(unposed, posed(frame))[0]].frame.rgb_u8
    assert psnr(picture, frame.rgb_u8) > psnr(nearest, frame.rgb_u8) + 4
    black = WarpedNearest(unposed, aligned(MOVED), fill_holes=False)
    holes = black.picture(frame.camera, posed(frame), MOVED.apply_pose(posed(frame)))
    assert (holes == 0).all(axis=-1).sum() > 10 > (picture == 0).all(axis=-1).sum()


def test_sparse_points_lie_on_the_surfaces() -> None:
    found = sparse_points(task().keyframes, aligned(MOVED))
    assert len(found.points) > 100 and found.rgb.min() >= 0 and found.rgb.max() <= 1
    frame, depth = task().keyframes[0].frame, ROOM.depths[0]
    camera, points = frame.camera, MOVED.inverse().apply(found.points)
    points = posed(frame).inverse().apply(points)
    u = np.rint(points[:, 0] / points[:, 2] * camera.fx + camera.cx).astype(int)
    v = np.rint(points[:, 1] / points[:, 2] * camera.fy + camera.cy).astype(int)
    on = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height) & (points[:, 2] > 0)
    error = np.abs(points[on, 2] / depth[v[on], u[on]] - 1)
    assert on.mean() > 0.5 and np.median(error) < 0.02


def test_too_few_points_are_refused() -> None:
    grey = np.full((120, 160, 3), 90, np.uint8)
    blank = [replace(k, frame=replace(k.frame, rgb_u8=grey)) for k in task().keyframes]
    with pytest.raises(ReconstructionError, match=f"0 sparse points .* expected at least {MIN_POINTS}"):
        sparse_points(blank, aligned(MOVED))


def test_first_balls_reach_to_their_neighbours() -> None:
    points = sparse_points(task().keyframes, aligned(MOVED))
    grid = np.stack(np.meshgrid([0.0, 1], [0.0, 1], [0.0, 1]), axis=-1).reshape(-1, 3)
    scene = gaussians_from_points(replace(points, points=grid, rgb=np.zeros((8, 3))), 1)
    torch.testing.assert_close(scene.log_scales.exp(), torch.ones(8, 3))
    assert float(scene.logit_opacities[0].sigmoid()) == pytest.approx(0.1) and scene.sh_degree == 1


def test_densification_adds_where_pictures_pull_and_drops_the_transparent() -> None:
    from splatting_scenes import sequence_of, wall_views

    views = wall_views()
    settings = SplattingConfig(max_gaussians=200, max_size=40)
    scene = scene_from(random_gaussians(60))
    scene.logit_opacities[:10] = -12.0
    grown = _densified(scene, sequence_of(views), settings, select_rasterizer(settings, CPU), CPU, seed=0)
    assert 50 < len(grown) <= 200 and float(grown.logit_opacities.sigmoid().min()) > 0.005
    full = replace(settings, max_gaussians=50)
    assert len(_densified(scene, sequence_of(views), full, select_rasterizer(full, CPU), CPU, seed=0)) == 50


def test_halves_of_a_split_gaussian_lie_within_it() -> None:
    scene = scene_from(random_gaussians(2000))
    halves = _scattered(scene, 0)
    torch.testing.assert_close(halves.log_scales.exp() * 1.6, scene.log_scales.exp())
    distance = (halves.means - scene.means).norm(dim=-1) / scene.log_scales.exp().norm(dim=-1)
    assert float(distance.square().mean()) == pytest.approx(1, abs=0.1)


def test_an_optimised_test_pose_is_found_again() -> None:
    scene = scene_from(random_gaussians(400, seed=3))
    config = SplattingConfig()
    rasterizer = select_rasterizer(config, CPU)
    camera, true = pinhole(64, 48), SE3.exp(np.array([0.02, -0.03, 0.01]), np.array([0.05, 0.0, 0.1]))
    (picture,) = render_scene(scene, [(camera, true)], rasterizer=rasterizer, device=CPU)
    frame = Frame(rgb_u8=picture.rgb_u8, camera=camera)
    start = true @ SE3.exp(np.radians([0.8, -0.6, 0.5]), np.array([0.02, -0.02, 0.03]))
    found = optimised_pose(scene, frame, start, config, rasterizer=rasterizer, device=CPU)
    assert found.angle_to(true) < 0.2 * start.angle_to(true)
    assert found.distance_to(true) < 0.3 * start.distance_to(true)
    again = optimised_pose(scene, frame, true, config, rasterizer=rasterizer, device=CPU, steps=5)
    assert again.distance_to(true) < 2e-3, "a pose that is right stays"
