"""Stage 1 asked about in-between views, here true pictures of a room: poses, depth and trust in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pointmap_scenes import look_at, pinhole
from stage2_scenes import aligned, room_view

from reconx_ros.core import SE3, InvalidInputError, Job
from reconx_ros.diffusion.base import InBetweenView
from reconx_ros.pipeline.frame_estimator import Stage1Estimator
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.settings import MultiviewSettings

CPU = torch.device("cpu")
CAMERA = pinhole(240, 180)
SMALL = PointmapConfig(max_size=120).with_own(MultiviewSettings(planes=48))


def pose(k: float) -> SE3:
    return look_at((-1.8, -0.6 + 0.25 * k, 1.1 + 0.04 * k), (1.0, 0.05 * k, 0.8))


def frame(k: float, planned: SE3 | None = None) -> InBetweenView:
    return InBetweenView(rgb=room_view(pose(k), camera=CAMERA).rgb, camera=CAMERA, world_from_cam=planned or pose(k))


def test_true_frames_agree_on_one_geometry_and_false_ones_do_not() -> None:
    known = aligned(*(room_view(pose(k), k, camera=CAMERA) for k in (0, 2)))
    true = frame(1)
    false = InBetweenView(rgb=true.rgb.flip(1), camera=CAMERA, world_from_cam=pose(1))
    estimate = Stage1Estimator(SMALL)
    trust = []
    for made in (true, false):
        (found,) = estimate(known, [made], find_poses=False, device=CPU, job=Job())
        assert found is not None and found.world_from_cam is made.world_from_cam
        assert found.depth.shape == found.confidence.shape == (180, 240)
        trust.append(float(found.confidence.mean()))
        if made is true:
            depth = room_view(pose(1), camera=CAMERA).depth
            sure = found.confidence > 0.5
            error = ((found.depth - depth).abs() / depth)[sure]
            assert sure.float().mean() > 0.3 and float(error.median()) < 0.02
    assert trust[0] > 3 * trust[1]


def test_poses_are_found_in_the_known_world() -> None:
    known = aligned(*(room_view(pose(k), k, camera=CAMERA) for k in (0, 2)))
    wrong = SE3(rotation=pose(1).rotation, translation=pose(1).translation + np.array([0.3, 0.0, 0.2]))
    estimate = Stage1Estimator(SMALL)
    told = estimate(known, [frame(1, wrong), frame(1.5, wrong)], find_poses=True, device=CPU, job=Job())
    for found, k in zip(told, (1, 1.5), strict=True):
        assert found is not None
        assert found.world_from_cam.distance_to(pose(k)) < 0.02
        assert found.world_from_cam.angle_to(pose(k)) < np.deg2rad(0.5)
        depth = room_view(pose(k), camera=CAMERA).depth
        sure = found.confidence > 0.5
        assert float(((found.depth - depth).abs() / depth)[sure].median()) < 0.05


@pytest.mark.slow
def test_frames_of_something_else_are_not_joined() -> None:
    known = aligned(*(room_view(pose(k), k, camera=CAMERA) for k in (0, 1, 2)))
    noise = torch.rand(180, 240, 3, generator=torch.Generator().manual_seed(0))
    other = InBetweenView(rgb=noise, camera=CAMERA, world_from_cam=pose(0.5))
    told = Stage1Estimator(SMALL)(known, [other], find_poses=True, device=CPU, job=Job())
    assert list(told) == [None]


def test_one_place_for_both_keyframes_says_nothing_about_a_scale() -> None:
    from reconx_ros.pipeline.frame_estimator import _in_known_world

    view = room_view(pose(0), camera=CAMERA)
    known = aligned(view, view)
    with pytest.raises(InvalidInputError, match="expected at least two different centres"):
        _in_known_world(known, {0: view, 1: room_view(pose(1), camera=CAMERA)})
