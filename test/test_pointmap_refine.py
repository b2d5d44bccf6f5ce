"""Refinement of noisy poses: it helps where poses are noisy, keeps the frame, and leaves good poses alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, look_at, pinhole, render, room

from reconx_ros.core import SE3, InvalidInputError, Job, Keyframe
from reconx_ros.geometry.umeyama import rigid_fit
from reconx_ros.pointmap.backends.multiview import MultiviewBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.sfm.refine import _frame_points, refine_poses
from reconx_ros.pointmap.stereo.settings import MultiviewSettings

CONFIG = PointmapConfig()


@pytest.fixture(scope="module")
def scene() -> Scene:
    poses = [look_at((-1.8, -0.4 + 0.2 * i, 1.1 + 0.05 * (i % 2)), (1.0, 0.06 * i, 0.8)) for i in range(4)]
    return render(room(), [pinhole(200, 150)] * 4, poses, noise=1.5)


def pose_of(keyframe: Keyframe) -> SE3:
    assert keyframe.frame.world_from_cam is not None
    return keyframe.frame.world_from_cam


def with_pose(keyframe: Keyframe, pose: SE3) -> Keyframe:
    return replace(keyframe, frame=replace(keyframe.frame, world_from_cam=pose))


def noisy(keyframes: list[Keyframe], turn_deg: float = 0.6, move: float = 0.02, seed: int = 0) -> list[Keyframe]:
    rng = np.random.default_rng(seed)
    return [
        with_pose(k, pose_of(k) @ SE3.exp(rng.normal(0, math.radians(turn_deg), 3), rng.normal(0, move, 3)))
        for k in keyframes
    ]


def errors(poses: list[SE3], truth: list[SE3]) -> tuple[float, float]:
    """Mean errors of positions and rotations (degrees) after the best rigid fit."""
    move = rigid_fit(_frame_points(truth, 2.0), _frame_points(poses, 2.0))
    fitted = [move @ p for p in poses]
    moved = np.mean([a.distance_to(b) for a, b in zip(fitted, truth, strict=True)])
    return float(moved), math.degrees(np.mean([a.angle_to(b) for a, b in zip(fitted, truth, strict=True)]))


def test_noise_is_at_least_halved_and_the_frame_kept(scene: Scene) -> None:
    truth = [pose_of(k) for k in scene.keyframes]
    given = noisy(scene.keyframes)
    result = refine_poses(given, CONFIG, Job())
    before, after = errors([pose_of(k) for k in given], truth), errors(list(result.world_from_cams), truth)
    assert after[0] < 0.5 * before[0] and after[1] < 0.5 * before[1]
    assert result.after_px < 0.6 * result.before_px
    assert [c.keyframe_id for c in result.corrections] == [0, 1, 2, 3]
    for c, a, b in zip(result.corrections, given, result.world_from_cams, strict=True):
        assert c.moved == pytest.approx(pose_of(a).distance_to(b))
    centres = [[p.translation for p in poses] for poses in ([pose_of(k) for k in given], result.world_from_cams)]
    assert np.mean(centres[0], axis=0) == pytest.approx(np.mean(centres[1], axis=0), abs=0.01)


def test_a_moved_and_scaled_world_gives_the_same_correction(scene: Scene) -> None:
    given = noisy(scene.keyframes)
    here = refine_poses(given, CONFIG, Job()).world_from_cams
    move, scale = SE3.exp(np.array([0.4, 1.0, -0.7]), np.array([100.0, -40.0, 3.0])), 50.0

    def there(pose: SE3) -> SE3:
        return move @ SE3(rotation=pose.rotation, translation=scale * pose.translation)

    found = refine_poses([with_pose(k, there(pose_of(k))) for k in given], CONFIG, Job()).world_from_cams
    for a, b in zip(here, found, strict=True):
        assert there(a).angle_to(b) < 2e-4
        assert there(a).distance_to(b) < 2e-3 * scale


def test_good_poses_are_left_alone(scene: Scene) -> None:
    result = refine_poses(scene.keyframes, CONFIG, Job())
    assert result.corrections == () and result.warnings == ()
    assert all(p is pose_of(k) for p, k in zip(result.world_from_cams, scene.keyframes, strict=True))


def test_too_few_matches_keep_the_priors_and_say_so(scene: Scene) -> None:
    blank = [replace(k, frame=replace(k.frame, rgb_u8=np.full_like(k.frame.rgb_u8, 90))) for k in scene.keyframes]
    result = refine_poses(blank, CONFIG, Job())
    assert result.corrections == () and "too few matches" in result.warnings[0]
    assert all(p is pose_of(k) for p, k in zip(result.world_from_cams, blank, strict=True))


def test_poses_that_the_images_deny_are_kept_with_a_warning_or_without_use(scene: Scene) -> None:
    wrong = noisy(scene.keyframes, turn_deg=12.0, move=0.5)
    result = refine_poses(wrong, CONFIG, Job())
    assert result.corrections == () and result.warnings
    assert all(p is pose_of(k) for p, k in zip(result.world_from_cams, wrong, strict=True))


def test_the_backend_refines_when_told_to(scene: Scene) -> None:
    given = noisy(scene.keyframes[:3], turn_deg=0.4, move=0.01, seed=2)
    config = PointmapConfig(max_size=96, refine_poses=True).with_own(MultiviewSettings(planes=32))
    cpu = torch.device("cpu")
    on = MultiviewBackend().reconstruct(given, config, device=cpu, job=Job())
    assert len(on.pose_corrections) == 3
    exact = replace(config, refine_poses=False)
    off = MultiviewBackend().reconstruct(scene.keyframes[:3], exact, device=cpu, job=Job())
    assert off.pose_corrections == ()
    for view, keyframe, correction in zip(on.views, given, on.pose_corrections, strict=True):
        assert view.world_from_cam.distance_to(pose_of(keyframe)) == pytest.approx(correction.moved)
    assert all(v.world_from_cam is pose_of(k) for v, k in zip(off.views, scene.keyframes, strict=False))


def test_a_missing_pose_is_named(scene: Scene) -> None:
    first = scene.keyframes[0]
    without = replace(first, frame=replace(first.frame, world_from_cam=None))
    with pytest.raises(InvalidInputError, match="keyframe 0 has no pose"):
        refine_poses([without, *scene.keyframes[1:]], CONFIG, Job())
