"""Plans of clips: which pictures, which cameras, which frames, without any network."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage2_scenes import CAMERA, circle_views, room_views

from reconx_ros.core import SE3, InvalidInputError, Trajectory
from reconx_ros.diffusion.clips.plan import ClipPlan, GeneratedRef, KeyframeRef, chain_clips, orbit_clips, plan_clips
from reconx_ros.diffusion.clips.trajectory import continued, screw_pose
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.geometry.paths import poses_between, poses_within, smooth_path


def same(a: SE3, b: SE3, tolerance: float = 1e-9) -> bool:
    return a.distance_to(b) < tolerance and a.angle_to(b) < tolerance


def degrees_on_circle(pose: SE3) -> float:
    return float(np.rad2deg(np.arctan2(pose.translation[0], -pose.translation[2])) % 360)


def vectors(size: float) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.floats(-size, size), min_size=3, max_size=3).map(np.array)


# Motion ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(vectors(1.5), vectors(3.0), vectors(1.5), vectors(3.0), st.floats(0.1, 2.5))
def test_a_screw_passes_its_ends_and_is_even(
    turn_a: np.ndarray, at_a: np.ndarray, turn_b: np.ndarray, at_b: np.ndarray, fraction: float
) -> None:
    a = SE3.exp(turn_a, at_a)
    b = a @ SE3.exp(0.8 * turn_b, at_b)
    assert same(screw_pose(a, b, 0.0), a, 1e-7)
    assert same(screw_pose(a, b, 1.0), b, 1e-7)
    step = screw_pose(a, b, fraction / 2)
    assert same(a @ (a.inverse() @ step) @ (a.inverse() @ step), screw_pose(a, b, fraction), 1e-6)


def test_a_screw_stays_on_the_circle_and_a_straight_line_straight() -> None:
    a, b = (v.world_from_cam for v in circle_views((0, 40)).views)
    for fraction in (0.3, 0.5, 1.7, 9.0):
        pose = screw_pose(a, b, fraction)
        assert np.linalg.norm(pose.translation) == pytest.approx(2.0)
        assert degrees_on_circle(pose) == pytest.approx(40 * fraction % 360, abs=1e-6)
    ahead = SE3.exp(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    assert np.allclose(screw_pose(SE3.identity(), ahead, 2.5).translation, [2.5, 5.0, 7.5])


def test_a_move_goes_on_as_it_was() -> None:
    a, b = (v.world_from_cam for v in circle_views((0, 15)).views)
    assert [round(degrees_on_circle(p)) for p in continued(a, b, 3)] == [30, 45, 60]
    assert continued(a, b, 0) == []


def test_poses_within_one_segment_are_those_between_all() -> None:
    path = smooth_path([v.world_from_cam for v in circle_views((0, 30)).views], 1.0)
    for mine, theirs in zip(poses_within(path, 0, 4, 1.0), poses_between(path, 4, 1.0), strict=True):
        assert same(mine, theirs)
    with pytest.raises(InvalidInputError, match="-1"):
        poses_within(path, 0, -1, 1.0)


# Chains ----------------------------------------------------------------------------------------------------------


def test_keyframes_are_chained_in_order_of_a_path() -> None:
    views = circle_views((30, 0, 20, 10))
    clips = plan_clips(views, DiffusionConfig(), CAMERA, 6)
    assert [(c.first, c.second) for c in clips] == [
        (KeyframeRef(a), KeyframeRef(b)) for a, b in itertools.pairwise((0, 2, 3, 1))
    ]
    for clip in clips:
        assert len(clip) == 6 and clip.second_frame == 5 and clip.kept == (1, 2, 3, 4)
        assert clip.known == {0: clip.first, 5: clip.second}
        for frame, ref in clip.known.items():
            assert isinstance(ref, KeyframeRef)
            assert same(clip.trajectory.world_from_cams[frame], views.views[ref.view].world_from_cam)
        turned = np.diff([degrees_on_circle(p) for p in clip.trajectory.world_from_cams])
        assert np.allclose(turned, turned.mean(), atol=0.05)


def test_frames_beyond_the_last_keyframe_go_on() -> None:
    config = DiffusionConfig(path="beyond", beyond_share=0.25)
    first, last = plan_clips(circle_views((0, 20, 40)), config, CAMERA, 9)
    assert first.second_frame == 8
    assert (
        last.second_frame == 6
        and last.kept == (1, 2, 3, 4, 5, 7, 8)
        and last.known == {0: KeyframeRef(1), 6: KeyframeRef(2)}
    )
    angles = [degrees_on_circle(p) for p in last.trajectory.world_from_cams]
    assert angles[0] == pytest.approx(20) and angles[6] == pytest.approx(40)
    assert np.allclose(np.diff(angles), 20 / 6, atol=0.1)
    with pytest.raises(InvalidInputError, match="has none before it"):
        plan_clips(circle_views((0, 20)), DiffusionConfig(path="beyond", beyond_share=0.9), CAMERA, 4)


# Full circle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [4, 5, 16, 32])
@pytest.mark.parametrize("turn", [17.0, 47.3, 90.0, 140.0])
def test_an_orbit_covers_the_circle_once_without_a_gap(frames: int, turn: float) -> None:
    views = circle_views((0, turn))
    clips = orbit_clips(views, CAMERA, frames)
    kept = [p for c in clips for p in (c.trajectory.world_from_cams[k] for k in c.kept)]
    angles = np.array([degrees_on_circle(p) for p in kept])
    angles = np.sort(np.concatenate([angles, [0.0, turn, 360.0]]))
    step = turn / ((frames - 1) // 2 + 1)
    assert np.diff(angles).max() <= step * 1.001
    assert np.diff(angles).min() > 0.2 * step
    assert all(np.linalg.norm(p.translation) == pytest.approx(2.0, abs=1e-6) for p in kept)


def test_windows_slide_by_one_interpolated_and_one_extrapolated_frame() -> None:
    clips = orbit_clips(circle_views((0, 30)), CAMERA, 16)
    assert clips[0].known == {0: KeyframeRef(0), 8: KeyframeRef(1)}
    for k, (before, clip) in enumerate(itertools.pairwise(clips[:-1])):
        assert clip.known == {0: GeneratedRef(k, 7), 8: GeneratedRef(k, 15)}
        assert 0 < 7 < before.second_frame < 15
        for frame, ref in clip.known.items():
            assert same(clip.trajectory.world_from_cams[frame], before.trajectory.world_from_cams[ref.frame], 1e-7)
    last = clips[-1]
    assert last.second == KeyframeRef(0) and last.second_frame == 15
    assert isinstance(last.first, GeneratedRef) and last.first.clip == len(clips) - 2
    assert same(last.trajectory.world_from_cams[0], clips[-2].trajectory.world_from_cams[last.first.frame], 1e-7)
    assert same(last.trajectory.world_from_cams[-1], circle_views((0,)).views[0].world_from_cam)


def test_an_orbit_that_rises_still_closes() -> None:
    views = circle_views((0, 40))
    b = views.views[1].world_from_cam
    raised = SE3(rotation=b.rotation, translation=b.translation + np.array([0, 0.1, 0]))
    object.__setattr__(views.views[1], "world_from_cam", raised)
    poses = orbit_clips(views, CAMERA, 8)[-1].trajectory.world_from_cams
    heights = np.array([p.translation[1] for p in poses])
    assert heights[0] > 0.4 and heights[-1] == pytest.approx(0)
    assert np.abs(np.diff(heights)).max() < 0.25


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angles", "frames", "path", "message"),
    [
        ((0,), 8, "between", "at least 2 keyframes to go between, got 1"),
        ((0, 10), 2, "between", "clips have 2 frames, expected at least 3"),
        ((0, 10, 20), 8, "orbit", "turn between 2 keyframes, got 3"),
        ((0, 10), 3, "orbit", "path 'orbit' needs at least 4"),
        ((0, 1), 8, "orbit", "differ by a turn of 1.0 degrees"),
        ((0, 0), 8, "orbit", "differ by a turn of 0.0 degrees"),
        ((0, 170), 8, "orbit", "differ by a turn of 170.0 degrees"),
        ((0, 3), 4, "orbit", "more than 64 clips of 4 frames"),
    ],
)
def test_refuses(angles: tuple[float, ...], frames: int, path: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        plan_clips(circle_views(angles), DiffusionConfig(path=path), CAMERA, frames)


def test_identical_keyframes_make_a_clip_that_stands_still() -> None:
    (clip,) = chain_clips(circle_views((5, 5)), CAMERA, 5)
    assert all(same(p, clip.trajectory.world_from_cams[0]) for p in clip.trajectory.world_from_cams)


def test_a_plan_whose_frames_have_no_place_is_refused() -> None:
    poses = Trajectory(camera=CAMERA, world_from_cams=tuple(v.world_from_cam for v in room_views(3).views))
    for place, kept in ((0, ()), (3, ()), (2, (3,))):
        with pytest.raises(InvalidInputError, match=r"frame [03]"):
            ClipPlan(first=KeyframeRef(0), second=KeyframeRef(1), second_frame=place, trajectory=poses, kept=kept)
