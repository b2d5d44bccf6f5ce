"""Keyframe policy, coverage, trigger and map of the robot's side, on hand-made frames and clouds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, PointCloud, Provenance
from reconx_ros.core.settings import updated
from reconx_ros.io.scenes import shrunken_frame
from reconx_ros.pipeline.config import CoverageConfig, ReconxConfig
from reconx_ros.pipeline.coverage import CoverageModel, CoverageTrigger
from reconx_ros.pipeline.keyframes import image_overlap, sharpness, view_overlap
from reconx_ros.pipeline.mapper import KeyframeMapper

CAMERA = PinholeCamera(width=64, height=48, fx=50.0, fy=50.0, cx=31.5, cy=23.5)
NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: float = 0.0) -> SE3:
    return SE3.exp(np.array([0.0, turn, 0.0]), np.array([x, y, z]))


def frame(at: SE3 | None, rgb: np.ndarray = NOISE, stamp_ns: int = 0) -> Frame:
    return Frame(rgb_u8=rgb, camera=CAMERA, world_from_cam=at, stamp_ns=stamp_ns)


def wall(keyframe_id: int, depth: float = 2.0, confidence: float = 1.0, at: SE3 | None = None) -> PointCloud:
    """One point per pixel of a wall that faces the camera at ``at``."""
    u, v = np.meshgrid(np.arange(64), np.arange(48))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u, float)], -1)
    points = (at or pose()).apply(rays.reshape(-1, 3) * depth).astype(np.float32)
    count = len(points)
    return PointCloud(
        points=points,
        rgb_u8=np.full((count, 3), 128, np.uint8),
        confidence=np.full(count, confidence, np.float32),
        provenance=np.full(count, Provenance.OBSERVED, np.uint8),
        keyframe_ids=np.full(count, keyframe_id, np.uint32),
    )


def test_overlap_is_one_for_the_same_view_and_falls_with_motion() -> None:
    overlaps = [view_overlap(CAMERA, pose(x=x), 2.0) for x in (0.0, 0.3, 0.8, 2.0, 9.0)]
    assert overlaps[0] == 1.0 and overlaps[-1] == 0.0
    assert overlaps == sorted(overlaps, reverse=True)
    assert view_overlap(CAMERA, pose(turn=np.pi), 2.0) == 0.0


def test_overlap_does_not_depend_on_the_unit_of_length() -> None:
    near = view_overlap(CAMERA, pose(x=0.4, turn=0.1), 2.0)
    far = view_overlap(CAMERA, pose(x=40.0, turn=0.1), 200.0)
    assert near == pytest.approx(far)


def test_image_overlap_follows_a_shift_without_poses() -> None:
    wide = np.random.default_rng(1).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    assert image_overlap(wide[:, :64], wide[:, :64]) == pytest.approx(1.0)
    assert image_overlap(wide[:, :64], wide[:, 16:80]) == pytest.approx(0.75, abs=0.05)


def test_sharpness_falls_with_blur_and_is_zero_for_a_flat_image() -> None:
    blurred = NOISE.astype(float)
    for _ in range(3):
        blurred = (blurred + np.roll(blurred, 1, 0) + np.roll(blurred, 1, 1)) / 3
    assert sharpness(NOISE) > 4 * sharpness(blurred.astype(np.uint8))
    assert sharpness(np.full((48, 64, 3), 9, np.uint8)) == 0.0
    assert sharpness(np.zeros((1, 1, 3), np.uint8)) == 0.0


def test_frames_are_kept_when_they_show_something_new() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    kept = [mapper.add_frame(frame(pose(x=x))).kept for x in (0.0, 0.01, 0.05, 0.6, 0.61, 1.2)]
    assert kept == [True, False, False, True, False, True]
    back = mapper.add_frame(frame(pose(x=0.02)))
    assert not back.kept and back.reason == "similar to keyframe 0"
    assert mapper.add_frame(frame(pose(turn=0.5))).kept
    assert mapper.frames_not_kept["similar"] == 4
    assert [k.id for k in mapper.keyframes] == [0, 1, 2, 3]


def test_a_blurred_frame_is_not_kept() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    for x in (0.0, 0.6, 1.2):
        mapper.add_frame(frame(pose(x=x)))
    verdict = mapper.add_frame(frame(pose(x=2.0), rgb=np.full_like(NOISE, 99)))
    assert (verdict.kept, verdict.reason) == (False, "blurred")
    assert mapper.frames_not_kept["blurred"] == 1


def test_what_is_sharp_is_each_cameras_own() -> None:
    mapper, faint = KeyframeMapper(ReconxConfig()), (NOISE // 8).astype(np.uint8)
    assert sharpness(faint) < 0.1 * sharpness(NOISE)
    for x in (0.0, 0.6, 1.2, 1.8):
        assert mapper.add_frame(frame(pose(x=x))).kept
        assert mapper.add_frame(replace(frame(pose(x=x), rgb=faint), camera_name="infrared")).kept


def test_keyframes_of_a_time_to_come_are_forgotten_and_the_map_stays() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    kept = [mapper.add_frame(frame(pose(x=0.6 * i), stamp_ns=i)).keyframe for i in range(4)]
    keyframes = [k for k in kept if k is not None]
    mapper.integrate(wall(keyframes[3].id), {keyframes[3].id: pose(x=1.8)})
    before = len(mapper.cloud())
    assert mapper.forget_after(1) == 2 and [k.frame.stamp_ns for k in mapper.keyframes] == [0, 1]
    assert set(mapper.coverage().per_keyframe) == {k.id for k in mapper.keyframes}
    assert len(mapper.cloud()) == before > 0 and mapper.forget_after(1) == 0
    newest = mapper.add_frame(frame(pose(x=3.0), stamp_ns=2)).keyframe
    assert newest is not None and newest.id == 4  # numbers are never used again: the map names them


def test_frames_without_poses_are_judged_by_their_images() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    wide = np.random.default_rng(2).integers(0, 255, (48, 128, 3), dtype=np.uint8)
    kept = [mapper.add_frame(frame(None, np.ascontiguousarray(wide[:, s : s + 64]))).kept for s in (0, 2, 24)]
    assert kept == [True, False, True]
    with pytest.raises(InvalidInputError, match="0 keyframe with a pose"):
        mapper.job_keyframes()


def test_the_buffer_is_bounded_and_drops_the_most_redundant() -> None:
    mapper = KeyframeMapper(updated(ReconxConfig(), {"keyframes.max_buffer": 3}))
    for x in (0.0, 5.0, 5.5, 10.0):
        assert mapper.add_frame(frame(pose(x=x))).kept
    assert [k.id for k in mapper.keyframes] in ([0, 2, 3], [0, 1, 3])


def test_coverage_is_full_where_it_was_mapped_and_zero_elsewhere() -> None:
    model = CoverageModel(CoverageConfig())
    assert model.view(CAMERA, pose()).fraction == 0.0
    model.set_map(wall(0), {0: pose()})
    here = model.view(CAMERA, pose())
    assert here.fraction == 1.0
    assert model.view(CAMERA, pose(turn=np.pi)).fraction == 0.0
    assert 0.3 < model.view(CAMERA, pose(x=1.0)).fraction < 0.8


def test_coverage_asks_for_a_similar_direction_distance_and_confidence() -> None:
    model = CoverageModel(CoverageConfig())
    model.set_map(wall(0), {0: pose()})
    assert model.view(CAMERA, pose(z=1.7)).fraction == 0.0, "six times nearer than mapped"
    behind = SE3.exp(np.array([0.0, np.pi, 0.0]), np.array([0.0, 0.0, 4.0]))
    assert model.view(CAMERA, behind).fraction == 0.0, "the back of the wall was never seen"
    model.set_map(wall(0, confidence=0.4), {0: pose()})
    assert model.view(CAMERA, pose()).fraction == 0.0


def test_what_lies_behind_a_surface_does_not_count() -> None:
    model = CoverageModel(CoverageConfig())
    far_only = pose(x=0.0)
    both = PointCloud.concatenate([wall(0, depth=4.0), wall(1, depth=1.0, at=pose())])
    model.set_map(both, {0: pose(z=-40.0), 1: pose(z=-40.0)})
    assert model.view(CAMERA, far_only).fraction == 0.0, "the near wall was mapped from far away, and hides the far one"


def test_moving_the_whole_world_changes_no_coverage() -> None:
    move = SE3.exp(np.array([0.3, -0.8, 2.0]), np.array([5.0, -7.0, 1.0]))
    model, moved = CoverageModel(CoverageConfig()), CoverageModel(CoverageConfig())
    model.set_map(wall(0), {0: pose()})
    cloud = wall(0, at=move)
    moved.set_map(cloud, {0: move})
    for view in (pose(), pose(x=0.713), pose(turn=0.417)):
        np.testing.assert_array_equal(
            model.view(CAMERA, view).cells, moved.view(CAMERA, move @ view).cells, err_msg=str(view)
        )


def test_the_trigger_has_hysteresis_and_a_cooldown() -> None:
    config = CoverageConfig(min_keyframes=2, min_new_keyframes=3, cooldown_s=2.0, trigger_below=0.5, rearm_above=0.8)
    trigger = CoverageTrigger(config)
    second = 1_000_000_000
    assert trigger.decide(0.1, 1, 1, 0).reason == "1 of 2 keyframes collected"
    assert trigger.decide(0.1, 2, 2, 0).fire
    trigger.started()
    assert trigger.decide(0.1, 5, 5, 0).reason == "a reconstruction is running"
    trigger.finished(0)
    assert trigger.decide(0.3, 3, 1, 9 * second).reason == "nothing new since the last reconstruction"
    assert trigger.decide(0.3, 5, 3, second).reason == "cooling down for 2 s"
    assert trigger.decide(0.3, 5, 3, 3 * second).fire
    trigger.started()
    trigger.finished(10 * second)
    assert not trigger.decide(0.6, 6, 1, 20 * second).fire
    trigger.decide(0.9, 6, 1, 20 * second)
    assert trigger.decide(0.4, 6, 1, 20 * second).fire, "armed again after coverage was good"


def test_results_replace_their_keyframes_and_leave_the_others() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    for x in (0.0, 0.6):
        mapper.add_frame(frame(pose(x=x)))
    before = mapper.coverage().mean
    first = PointCloud.concatenate([wall(0), wall(1, at=pose(x=0.6))])
    mapper.integrate(first, {0: pose(), 1: pose(x=0.6)})
    assert before == 0.0 and mapper.coverage().mean == 1.0
    mapper.integrate(wall(1, depth=3.0, at=pose(x=0.6)), {1: pose(x=0.6)})
    cloud = mapper.cloud()
    assert len(cloud) == len(first)
    assert set(np.unique(cloud.keyframe_ids)) == {0, 1}
    np.testing.assert_allclose(cloud.points[cloud.keyframe_ids == 1, 2], 3.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("kinds", "left_out"),
    [
        (None, 170),
        (["observed"], 170),
        (["observed", "generated"], 70),
        (["observed", "inferred"], 160),
        (["observed", "inferred", "generated"], 60),
    ],
)
def test_only_chosen_kinds_and_sure_points_are_exported(kinds: list[str] | None, left_out: int) -> None:
    cloud = wall(0)
    cloud.provenance[:100] = Provenance.GENERATED
    cloud.provenance[100:110] = Provenance.INFERRED
    cloud.provenance[110:120] = Provenance.NONE  # of another program: never exported
    cloud.confidence[120:170] = 0.2
    mapper = KeyframeMapper(updated(ReconxConfig(), {} if kinds is None else {"output.kinds": kinds}))
    mapper.integrate(cloud, {0: pose()})
    assert len(mapper.cloud()) == len(cloud) - left_out
    assert len(mapper.full_cloud()) == len(cloud)


@pytest.mark.parametrize("kind", [Provenance.NONE, Provenance.GENERATED, Provenance.INFERRED])
def test_only_measured_points_cover(kind: Provenance) -> None:
    mapper = KeyframeMapper(updated(ReconxConfig(), {"output.kinds": ["observed", "inferred", "generated"]}))
    mapper.add_frame(frame(pose()))
    cloud = wall(0)
    mapper.integrate(cloud, {0: pose()})
    assert mapper.coverage().current == 1.0
    cloud.provenance[:] = kind
    mapper.integrate(cloud, {0: pose()})
    assert mapper.coverage().current == 0.0


def test_a_job_takes_the_new_keyframes_and_what_overlaps_them() -> None:
    mapper = KeyframeMapper(updated(ReconxConfig(), {"keyframes.max_per_job": 3}))
    for x in (0.0, 5.0, 10.0):
        mapper.add_frame(frame(pose(x=x)))
    mapper.job_started(mapper.job_keyframes())
    mapper.job_finished(0, succeeded=True)
    for x in (5.6, 10.6):
        mapper.add_frame(frame(pose(x=x)))
    assert [k.id for k in mapper.job_keyframes()] in ([1, 3, 4], [2, 3, 4])


def test_single_keyframe_is_refused_in_one_sentence() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    mapper.add_frame(frame(pose()))
    with pytest.raises(InvalidInputError, match="1 keyframe with a pose, a reconstruction needs at least 2"):
        mapper.job_keyframes()


def test_reset_forgets_the_map_but_ids_keep_rising() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    mapper.add_frame(frame(pose()))
    mapper.integrate(wall(0), {0: pose()})
    mapper.reset()
    assert not mapper.keyframes and not len(mapper.cloud()) and mapper.coverage().mean == 0.0
    assert mapper.add_frame(frame(pose())).keyframe.id == 1


def test_a_restored_map_covers_as_before() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    mapper.restore(wall(7), {7: pose()})
    assert mapper.add_frame(frame(pose())).keyframe.id == 8
    assert mapper.coverage().current == 1.0


def test_unmapped_views_promise_the_larger_gain() -> None:
    mapper = KeyframeMapper(ReconxConfig())
    mapper.integrate(wall(0), {0: pose()})
    known, unknown = mapper.score_views(CAMERA, [pose(), pose(turn=np.pi)])
    assert known == (0.0, 1.0) and unknown == (1.0, 0.0)


def test_stored_frames_shrink_by_area_and_keep_depth_unmixed() -> None:
    depth = np.where(np.arange(64) < 32, 1.0, 3.0).astype(np.float32) * np.ones((48, 1), np.float32)
    small = shrunken_frame(Frame(rgb_u8=NOISE, camera=CAMERA, depth_m=depth), 32)
    assert small.camera.size == (32, 24)
    expected = NOISE.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small.rgb_u8, expected, atol=0.51)
    assert set(np.unique(small.depth_m)) == {1.0, 3.0}
    assert shrunken_frame(small, 64) is small


def test_with_sensor_depth_keyframes_do_not_hang_on_when_a_map_comes() -> None:
    def kept(*, mapped: bool) -> list[float]:
        mapper = KeyframeMapper(ReconxConfig())
        if mapped:
            mapper.restore(wall(7, depth=0.5), {7: pose()})
        frames = [
            replace(frame(pose(x=0.04 * k), stamp_ns=k), depth_m=np.full((48, 64), 1.5, np.float32)) for k in range(20)
        ]
        return [float(f.world_from_cam.translation[0]) for f in frames if f.world_from_cam and mapper.add_frame(f).kept]

    assert kept(mapped=True) == kept(mapped=False) and len(kept(mapped=True)) > 2
