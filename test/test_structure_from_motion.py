"""Frames without poses: cameras against exact truth, laws, and inputs that must be refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, look_at, pinhole, plane, render, room

from reconx_ros.core import (
    SE3,
    CancelledError,
    CancelToken,
    InsufficientParallaxError,
    InvalidInputError,
    Job,
    Keyframe,
    ReconstructionError,
    ReconxError,
)
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.selection import choose_pointmap
from reconx_ros.pointmap.backends.structure_from_motion import StructureFromMotionBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.sfm.recover import RecoveredCameras, recover_cameras
from reconx_ros.pointmap.stereo.settings import MultiviewSettings

CAMERA = pinhole(200, 150)


def arc(views: int) -> list[SE3]:
    """Cameras beside each other that look into the room."""
    return [
        look_at((-1.8 + 0.02 * i, -0.5 + 0.2 * i, 1.1 + 0.03 * (i % 2)), (1.0, 0.08 * i, 0.8)) for i in range(views)
    ]


def unposed(keyframes: list[Keyframe]) -> list[Keyframe]:
    return [replace(k, frame=replace(k.frame, world_from_cam=None)) for k in keyframes]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render(room(), [CAMERA] * 6, arc(6), noise=1.5)


@pytest.fixture(scope="module")
def found(scene: Scene) -> RecoveredCameras:
    return recover_cameras(unposed(scene.keyframes), Job())


def pair_errors_deg(found: RecoveredCameras, keyframes: list[Keyframe]) -> tuple[float, float]:
    """Worst errors in degrees of relative rotation and of the direction of relative translation."""
    true = {k.id: k.frame.world_from_cam for k in keyframes}
    turns, swings = [0.0], [0.0]
    for a, b in combinations(sorted(found.world_from_cam), 2):
        ours = found.world_from_cam[a].inverse() @ found.world_from_cam[b]
        theirs = true[a].inverse() @ true[b]
        turns.append(math.degrees(ours.angle_to(theirs)))
        u, v = (p.translation / np.linalg.norm(p.translation) for p in (ours, theirs))
        swings.append(math.degrees(math.acos(min(1.0, float(u @ v)))))
    return max(turns), max(swings)


def test_six_views(scene: Scene, found: RecoveredCameras) -> None:
    assert len(found.world_from_cam) == 6 and found.left_out == ()
    turn, swing = pair_errors_deg(found, scene.keyframes)
    assert turn < 0.5 and swing < 2.0
    assert found.held_out_share > 0.8


@pytest.mark.parametrize("views", [2, 3])
def test_few_views(scene: Scene, views: int) -> None:
    found = recover_cameras(unposed(scene.keyframes[: 2 * views : 2]), Job())
    turn, swing = pair_errors_deg(found, scene.keyframes)
    assert len(found.world_from_cam) == views
    assert turn < 0.7 and swing < 3.0


def test_the_order_of_images_and_their_poses_do_not_matter(scene: Scene) -> None:
    once = recover_cameras(unposed(scene.keyframes[:3]), Job())
    again = recover_cameras([scene.keyframes[i] for i in (2, 0, 1)], Job())  # with poses, which are not looked at
    assert set(once.world_from_cam) == {0, 1, 2}
    for key, pose in once.world_from_cam.items():
        assert np.array_equal(again.world_from_cam[key].matrix, pose.matrix)


def test_the_backend_gives_depth_up_to_scale(scene: Scene) -> None:
    config = PointmapConfig(max_size=128).with_own(MultiviewSettings(planes=48))
    keyframes = unposed(scene.keyframes[:3])
    result = StructureFromMotionBackend().reconstruct(keyframes, config, device=torch.device("cpu"), job=Job())
    assert not result.metric_scale and result.scale_source is None and result.backend == "structure_from_motion"
    assert [v.keyframe_id for v in result.views] == [0, 1, 2]
    ratios = []
    for view, truth in zip(result.views, scene.depths, strict=False):
        rows = (np.arange(view.camera.height) + 0.5) * truth.shape[0] / view.camera.height
        columns = (np.arange(view.camera.width) + 0.5) * truth.shape[1] / view.camera.width
        exact = truth[np.ix_(rows.astype(int), columns.astype(int))]
        sure = (view.confidence >= 0.5).numpy() & np.isfinite(exact)
        ratios.append(view.depth.numpy()[sure] / exact[sure])
    ratio = np.concatenate(ratios)
    assert (np.abs(ratio / np.median(ratio) - 1) < 0.03).mean() > 0.8


def test_auto_takes_it_when_a_pose_is_missing(scene: Scene) -> None:
    mixed = [scene.keyframes[0], *unposed(scene.keyframes[1:3])]
    assert choose_pointmap(ReconxConfig(), mixed).name == "structure_from_motion"
    assert choose_pointmap(ReconxConfig(), scene.keyframes).name == "multiview"


def test_a_guessed_focal_length_is_corrected(scene: Scene) -> None:
    guess = replace(CAMERA, fx=1.15 * CAMERA.fx, fy=1.15 * CAMERA.fy)
    keyframes = [
        replace(k, frame=replace(k.frame, camera=guess, focal_uncertainty=0.3)) for k in unposed(scene.keyframes[1:])
    ]
    found = recover_cameras(keyframes, Job())
    assert found.cameras[1].fx == pytest.approx(CAMERA.fx, rel=0.07)
    assert len(found.cameras) == 5 and len({found.cameras[i].fx for i in found.cameras}) == 1
    assert pair_errors_deg(found, scene.keyframes)[0] < 1.5


def test_images_of_different_sizes_and_cameras() -> None:
    cameras = [pinhole(240, 180), pinhole(200, 160, 1.1), pinhole(180, 240, 1.2)]
    mixed = render(room(), cameras, arc(3), noise=1.0)
    found = recover_cameras(unposed(mixed.keyframes), Job())
    turn, swing = pair_errors_deg(found, mixed.keyframes)
    assert len(found.world_from_cam) >= 2
    assert turn < 1.0 and swing < 4.0


def test_an_image_of_another_place_is_named(scene: Scene) -> None:
    other = render(room(), [CAMERA], [look_at((1.5, 1.0, 1.2), (-2.5, -1.5, 1.2))]).keyframes[0]
    black = replace(other, id=8, frame=replace(other.frame, rgb_u8=np.zeros_like(other.frame.rgb_u8)))
    keyframes = unposed([*scene.keyframes[:4:2], replace(other, id=7), black])
    config = PointmapConfig(max_size=96).with_own(MultiviewSettings(planes=32))
    result = StructureFromMotionBackend().reconstruct(keyframes, config, device=torch.device("cpu"), job=Job())
    assert [v.keyframe_id for v in result.views] == [0, 2]
    (words,) = (w for w in result.warnings if "could not be joined" in w)
    assert words.startswith("2 of 4 keyframes") and "keyframe 7, 8" in words


def turned(count: int) -> list[Keyframe]:
    """A camera that only turns."""
    poses = [look_at((-1.8, -0.5, 1.1), (1.0, -0.3 + 0.25 * i, 0.8)) for i in range(count)]
    return unposed(render(room(), [pinhole(160, 120)] * count, poses, noise=1.0).keyframes)


def noise_images(count: int) -> list[Keyframe]:
    rng = np.random.default_rng(0)
    made = unposed(render([plane((1, 0, 0), 2.5)], [pinhole(120, 90)] * count, arc(count)).keyframes)
    return [
        replace(k, frame=replace(k.frame, rgb_u8=rng.integers(0, 255, k.frame.rgb_u8.shape, np.uint8))) for k in made
    ]


@pytest.mark.parametrize("count", [2, 3])
def test_pure_rotation_is_refused(count: int) -> None:
    with pytest.raises(InsufficientParallaxError, match="sideways"):
        recover_cameras(turned(count), Job())


def test_identical_images_are_refused(scene: Scene) -> None:
    same = [replace(scene.keyframes[0], id=k) for k in range(3)]
    with pytest.raises(InsufficientParallaxError, match="sideways"):
        recover_cameras(unposed(same), Job())


def test_noise_and_black_images_are_refused(scene: Scene) -> None:
    with pytest.raises(ReconstructionError, match="overlap"):
        recover_cameras(noise_images(2), Job())
    first = scene.keyframes[0]
    black = replace(first, id=1, frame=replace(first.frame, rgb_u8=np.zeros_like(first.frame.rgb_u8)))
    with pytest.raises(ReconstructionError, match="keyframe 1 is blank"):
        recover_cameras(unposed([first, black]), Job())


def test_a_mirrored_image_is_refused(scene: Scene) -> None:
    first = scene.keyframes[0]
    mirrored = np.ascontiguousarray(first.frame.rgb_u8[:, ::-1])
    pair = [first, replace(first, id=1, frame=replace(first.frame, rgb_u8=mirrored))]
    with pytest.raises(ReconxError):
        recover_cameras(unposed(pair), Job())


def test_a_scene_that_repeats_itself_is_refused_or_right() -> None:
    """Both images hold the same picture twice, side by side: each half of one matches each half of the other."""
    made = render(room(), [pinhole(160, 180)] * 2, arc(2), noise=1.0).keyframes
    camera = pinhole(320, 180)
    pair = [
        replace(k, frame=replace(k.frame, rgb_u8=np.concatenate([k.frame.rgb_u8] * 2, axis=1), camera=camera))
        for k in unposed(made)
    ]
    with pytest.raises(ReconxError):
        recover_cameras(pair, Job())


def test_one_image_and_tiny_images(scene: Scene) -> None:
    with pytest.raises(InvalidInputError, match="at least 2"):
        StructureFromMotionBackend().reconstruct(
            unposed(scene.keyframes[:1]), PointmapConfig(), device=torch.device("cpu"), job=Job()
        )
    tiny = render(room(), [pinhole(12, 10)] * 2, arc(2)).keyframes
    with pytest.raises(InvalidInputError, match="12x10"):
        recover_cameras(unposed(tiny), Job())


def test_it_can_be_cancelled(scene: Scene) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        recover_cameras(unposed(scene.keyframes), Job(token=token))
