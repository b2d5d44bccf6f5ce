"""Metric scale of up-to-scale geometry from poses and depth; what does not agree is refused, with its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, pinhole, room_scene

from reconx_ros.core import (
    SE3,
    AlignedViews,
    InvalidInputError,
    Keyframe,
    PointMap,
    Provenance,
    ScaleEstimate,
    Sim3,
    WeightsError,
)
from reconx_ros.core.transforms import rotation_exp
from reconx_ros.geometry.projection import pointmap_world
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.inputs import usable_keyframes
from reconx_ros.pointmap.scale import (
    in_given_frame,
    robust_log_ratio,
    scale_to_metric,
    transformed,
    weighted_median,
    with_pose_unit,
)

CONFIG = PointmapConfig()
# From the true world, in metres, to the world that images alone could have given.
LOST = Sim3(scale=0.37, rotation=rotation_exp(np.array([0.3, 2.0, -0.4])), translation=np.array([4.0, -1.0, 2.0]))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return room_scene(5, pinhole(64, 48))


def true_views(scene: Scene) -> AlignedViews:
    views = []
    for keyframe, depth in zip(scene.keyframes, scene.depths, strict=True):
        pose = keyframe.frame.world_from_cam
        assert pose is not None
        views.append(
            PointMap(
                rgb=keyframe.frame.rgb(),
                depth=torch.from_numpy(depth).float(),
                confidence=torch.full((48, 64), 0.8),
                valid=torch.ones(48, 64, dtype=torch.bool),
                provenance=torch.ones(48, 64, dtype=torch.uint8),
                camera=keyframe.frame.camera,
                world_from_cam=pose,
                keyframe_id=keyframe.id,
            )
        )
    return AlignedViews(views=tuple(views), metric_scale=False, scale_source=None, backend="test")


def lost_views(scene: Scene, *, distort: float = 0.0) -> AlignedViews:
    """The truth in another world; ``distort`` bends depth by a random factor per pixel."""
    views = true_views(scene)
    rng = torch.Generator().manual_seed(0)
    bent = [
        replace(v, depth=v.depth * torch.exp(distort * torch.randn(48, 64, generator=rng)))
        for v in (transformed(v, LOST) for v in views.views)
    ]
    return replace(views, views=tuple(bent))


def changed(keyframes: Sequence[Keyframe], change: Callable[[int, Keyframe], dict]) -> list[Keyframe]:
    return [replace(k, frame=replace(k.frame, **change(i, k))) for i, k in enumerate(keyframes)]


def unposed(scene: Scene) -> list[Keyframe]:
    return changed(scene.keyframes, lambda i, k: {"world_from_cam": None})


def with_depth(scene: Scene, change: Callable[[np.ndarray], np.ndarray] = lambda d: d) -> list[Keyframe]:
    return changed(
        scene.keyframes,
        lambda i, k: {"world_from_cam": None, "depth_m": change(scene.depths[i]).astype(np.float32)},
    )


def with_positions(scene: Scene, change: Callable[[int, np.ndarray], np.ndarray]) -> list[Keyframe]:
    def moved(i: int, k: Keyframe) -> dict:
        pose = k.frame.world_from_cam
        return {"world_from_cam": SE3(rotation=pose.rotation, translation=change(i, pose.translation))}

    return changed(scene.keyframes, moved)


def assert_back_in_the_true_world(found: AlignedViews, scene: Scene, atol: float = 1e-4) -> None:
    for view, true in zip(found.views, true_views(scene).views, strict=True):
        np.testing.assert_allclose(pointmap_world(view).numpy(), pointmap_world(true).numpy(), atol=atol)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_poses_bring_geometry_back_to_their_frame_in_metres(scene: Scene, count: int) -> None:
    part = Scene(keyframes=scene.keyframes[:count], depths=scene.depths[:count])
    found = scale_to_metric(lost_views(part), part.keyframes, CONFIG)
    assert found.metric_scale and found.scale_source == "poses" and not found.warnings
    assert found.scale is not None and found.scale.factor == pytest.approx(1 / LOST.scale, rel=1e-6)
    assert found.scale.spread < 1e-9 and found.scale.inliers == 1.0 and found.scale.count == count
    assert_back_in_the_true_world(found, part)


def test_sensor_depth_tells_the_scale_and_leaves_the_world_where_it_is(scene: Scene) -> None:
    lost = lost_views(scene)
    found = scale_to_metric(lost, with_depth(scene), CONFIG)
    assert found.metric_scale and found.scale_source == "depth"
    assert found.scale is not None and found.scale.factor == pytest.approx(1 / LOST.scale, rel=1e-5)
    for view, depth, before in zip(found.views, scene.depths, lost.views, strict=True):
        np.testing.assert_allclose(view.depth.numpy(), depth, rtol=1e-5)
        np.testing.assert_allclose(view.world_from_cam.translation * LOST.scale, before.world_from_cam.translation)
        np.testing.assert_array_equal(view.world_from_cam.rotation, before.world_from_cam.rotation)


def test_holes_and_a_third_of_wrong_depths_do_not_move_the_scale(scene: Scene) -> None:
    rng = np.random.default_rng(0)

    def damaged(depth: np.ndarray) -> np.ndarray:
        noisy = depth * np.exp(0.02 * rng.standard_normal(depth.shape))
        kind = rng.uniform(size=depth.shape)
        noisy = np.where(kind < 0.3, 0.4 * depth, noisy)  # flying pixels, all to one side
        noisy = np.where(kind > 0.7, 0.0, noisy)
        noisy[:5], noisy[5:8], noisy[8] = np.nan, np.inf, -1
        return noisy

    found = scale_to_metric(lost_views(scene), with_depth(scene, damaged), CONFIG)
    assert found.scale is not None and found.metric_scale
    assert found.scale.factor == pytest.approx(1 / LOST.scale, rel=0.005)
    assert 0.5 < found.scale.inliers < 0.65


@pytest.mark.parametrize("factor", [1e-3, 0.7, 1e3])
def test_the_factor_is_inverse_to_the_unit_of_the_geometry(scene: Scene, factor: float) -> None:
    lost = lost_views(scene, distort=0.03)
    other = Sim3(scale=factor, rotation=np.eye(3), translation=np.zeros(3))
    again = replace(lost, views=tuple(transformed(v, other) for v in lost.views))
    a, b = (scale_to_metric(v, with_depth(scene), CONFIG) for v in (lost, again))
    assert a.scale is not None and b.scale is not None
    assert b.scale.factor * factor == pytest.approx(a.scale.factor, rel=1e-5)
    assert b.scale.spread == pytest.approx(a.scale.spread, rel=1e-3) == pytest.approx(0.03, rel=0.1)
    torch.testing.assert_close(a.views[0].depth, b.views[0].depth, rtol=1e-5, atol=0)


def test_what_projects_where_does_not_change(scene: Scene) -> None:
    lost = lost_views(scene)
    found = scale_to_metric(lost, scene.keyframes, CONFIG)
    for before, after in ((lost.views[0], lost.views[3]), (found.views[0], found.views[3])):
        points = pointmap_world(before).double().numpy()
        seen = after.world_from_cam.inverse().apply(points)
        uv = seen[..., :2] / seen[..., 2:]
        if before is lost.views[0]:
            first = uv
    np.testing.assert_allclose(uv, first, atol=1e-5)


def test_one_jump_of_the_odometry_is_left_out(scene: Scene) -> None:
    jumped = with_positions(scene, lambda i, p: p + np.array([4.0, 1.0, 0.0]) * (i == 3))
    found = scale_to_metric(lost_views(scene), jumped, CONFIG)
    assert found.metric_scale and found.scale is not None and found.scale.inliers == 0.8
    assert_back_in_the_true_world(found, scene)


def test_poses_that_disagree_are_refused_with_figures_and_depth_is_asked_next(scene: Scene) -> None:
    rng = np.random.default_rng(3)
    random = with_positions(scene, lambda i, p: rng.normal(size=3))
    lost = lost_views(scene)
    refused = scale_to_metric(lost, random, CONFIG)
    assert not refused.metric_scale and refused.scale_source is None and refused.scale is None
    assert refused.views == lost.views
    assert "disagree with the images" in refused.warnings[0] and "expected at most" in refused.warnings[0]
    both = changed(random, lambda i, k: {"depth_m": scene.depths[i].astype(np.float32)})
    found = scale_to_metric(lost, both, CONFIG)
    assert found.scale_source == "depth" and found.warnings == refused.warnings


def test_positions_that_disagree_are_refused_with_figures(scene: Scene) -> None:
    places = [k.frame.world_from_cam.translation for k in scene.keyframes]
    mixed = with_positions(scene, lambda i, p: places[(0, 2, 1, 4, 3)[i]])
    refused = scale_to_metric(lost_views(scene), mixed, CONFIG)
    assert not refused.metric_scale
    assert "given positions disagree with the images" in refused.warnings[0] and "of 5 cameras" in refused.warnings[0]


def test_degenerate_positions_are_refused(scene: Scene) -> None:
    lost = lost_views(scene)
    still = with_positions(scene, lambda i, p: np.array([1.0, 2.0, 3.0]))
    assert "spread over 0 m only" in scale_to_metric(lost, still, CONFIG).warnings[0]
    jitter = with_positions(scene, lambda i, p: 0.001 * p)
    assert not scale_to_metric(lost, jitter, CONFIG).metric_scale
    one = [scene.keyframes[0], *unposed(scene)[1:]]
    assert scale_to_metric(lost, one, CONFIG) is lost or not scale_to_metric(lost, one, CONFIG).metric_scale
    explicit = scale_to_metric(lost, one, replace(CONFIG, scale="poses"))
    assert explicit.warnings == ("1 keyframe has a pose, a scale from poses needs at least 2",)


def test_a_wrong_optical_frame_is_noticed_and_positions_still_serve(scene: Scene) -> None:
    # The axes of the robot's body instead of those of the camera: x forward, y left, z up.
    optical_from_body = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    rng = np.random.default_rng(5)
    spread = with_positions(scene, lambda i, p: p + 0.3 * rng.normal(size=3))
    truth = Scene(keyframes=spread, depths=scene.depths)
    turned = changed(
        spread,
        lambda i, k: {
            "world_from_cam": SE3(
                rotation=k.frame.world_from_cam.rotation @ optical_from_body,
                translation=k.frame.world_from_cam.translation,
            )
        },
    )
    found = scale_to_metric(lost_views(truth), turned, CONFIG)
    assert found.metric_scale and "given orientations differ by 120 deg" in found.warnings[0]
    assert_back_in_the_true_world(found, truth, atol=1e-3)


def test_depth_of_another_scene_is_refused(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    found = scale_to_metric(lost_views(scene), with_depth(scene, lambda d: rng.uniform(0.5, 5, d.shape)), CONFIG)
    assert not found.metric_scale and "relative spread of" in found.warnings[0]
    sparse = scale_to_metric(lost_views(scene), with_depth(scene, lambda d: d * (np.arange(64) == 7)[None] * 0), CONFIG)
    assert "0 pixels have both sensor depth" in sparse.warnings[0]


def test_what_is_metric_or_lies_in_the_given_frame_is_left_alone(scene: Scene) -> None:
    posed = changed(scene.keyframes, lambda i, k: {"depth_m": 2 * scene.depths[i].astype(np.float32)})
    metric = replace(true_views(scene), metric_scale=True, scale_source="poses")
    assert scale_to_metric(metric, posed, CONFIG) is metric
    other_unit = true_views(scene)
    assert in_given_frame(other_unit, posed) and not in_given_frame(lost_views(scene), posed)
    assert scale_to_metric(other_unit, posed, CONFIG, metric_poses=False) is other_unit
    asked = scale_to_metric(other_unit, posed, replace(CONFIG, scale="depth"), metric_poses=False)
    assert asked.metric_scale and asked.scale is not None and asked.scale.factor == pytest.approx(2, rel=1e-5)
    assert scale_to_metric(lost_views(scene), posed, replace(CONFIG, scale="none")).scale is None


def test_metric_poses_are_used_even_where_the_geometry_lies_nearly_in_their_frame(scene: Scene) -> None:
    middle = np.mean([k.frame.world_from_cam.translation for k in scene.keyframes], axis=0)
    off = Sim3(scale=1.02, rotation=np.eye(3), translation=-0.02 * middle)
    near = replace(true_views(scene), views=tuple(transformed(v, off) for v in true_views(scene).views))
    assert in_given_frame(near, scene.keyframes)
    found = scale_to_metric(near, scene.keyframes, CONFIG)
    assert found.metric_scale and found.scale is not None and found.scale.factor == pytest.approx(1 / 1.02, rel=1e-6)


def test_poses_in_another_unit_place_the_geometry_but_are_not_called_metres(scene: Scene) -> None:
    found = scale_to_metric(lost_views(scene), scene.keyframes, CONFIG, metric_poses=False)
    assert not found.metric_scale and found.scale_source is None
    assert found.scale is not None and found.scale.source == "poses"
    assert_back_in_the_true_world(found, scene)


def test_views_in_the_unit_of_the_poses_are_metric_where_these_are(scene: Scene) -> None:
    swept = replace(true_views(scene), metric_scale=True, scale_source="poses")
    sensed = replace(swept, scale_source="depth")
    assert with_pose_unit(swept, metric_poses=True) is swept
    assert with_pose_unit(sensed, metric_poses=False) is sensed
    other = with_pose_unit(swept, metric_poses=False)
    assert not other.metric_scale and other.scale_source is None


def test_without_a_source_nothing_is_claimed(scene: Scene) -> None:
    lost = lost_views(scene)
    found = scale_to_metric(lost, unposed(scene), CONFIG)
    assert (found.metric_scale, found.scale_source, found.scale, found.warnings) == (False, None, None, ())
    unused = scale_to_metric(lost, usable_keyframes(with_depth(scene), replace(CONFIG, use_depth=False)), CONFIG)
    assert not unused.metric_scale
    assert usable_keyframes(with_depth(scene), CONFIG)[0].frame.depth_m is not None
    with pytest.raises(WeightsError, match="metric_network is empty"):
        scale_to_metric(lost, unposed(scene), replace(CONFIG, scale="network"))


def test_views_may_be_fewer_than_keyframes_and_in_another_order(scene: Scene) -> None:
    lost = lost_views(scene)
    part = replace(lost, views=(lost.views[4], lost.views[0], lost.views[2]))
    found = scale_to_metric(part, scene.keyframes, CONFIG)
    assert found.metric_scale and [v.keyframe_id for v in found.views] == [4, 0, 2]
    np.testing.assert_allclose(found.views[1].depth.numpy(), scene.depths[0], rtol=1e-5)


def test_weighted_median_and_log_ratio_by_hand() -> None:
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.ones(3)) == 2
    assert weighted_median(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4)) == 2.5
    assert weighted_median(np.array([1.0, 2.0, 10.0]), np.array([1.0, 1.0, 3.0])) == 10
    assert robust_log_ratio(np.full(9, 0.7)) == pytest.approx((0.7, 0))
    values = np.concatenate([0.05 * np.random.default_rng(0).standard_normal(4000) + 1, np.full(800, 4.0)])
    centre, spread = robust_log_ratio(values)
    assert centre == pytest.approx(1, abs=0.005) and 0.05 < spread < 0.07


def test_a_scale_is_positive() -> None:
    with pytest.raises(InvalidInputError, match="scale factor is 0"):
        ScaleEstimate(factor=0.0, spread=0.0, inliers=1.0, source="poses", count=3)


def test_real_depth_tells_the_scale_of_geometry_that_lost_it(reconx_data: Path) -> None:
    """Sensor depth of half of the frames against the geometry of all, whose poses are refined."""
    from reconx_ros.io.scenes import read_split

    inputs, _ = read_split(reconx_data / "hololens_kitchen_table", "3", max_size=128)
    keyframes = [Keyframe(id=i, frame=f, sharpness=1.0) for i, f in enumerate(inputs.frames)]
    views = []
    for keyframe in keyframes:
        depth = torch.from_numpy(keyframe.frame.depth_m.copy())
        view = PointMap(
            rgb=keyframe.frame.rgb(),
            depth=torch.where(depth > 0, depth, 1.0),
            confidence=(depth > 0).float(),
            valid=depth > 0,
            provenance=Provenance.OBSERVED.where(depth > 0),
            camera=keyframe.frame.camera,
            world_from_cam=keyframe.frame.world_from_cam,
            keyframe_id=keyframe.id,
        )
        views.append(transformed(view, LOST))
    lost = AlignedViews(views=tuple(views), metric_scale=False, scale_source=None, backend="test")
    for source in ("poses", "depth"):
        found = scale_to_metric(lost, keyframes, replace(CONFIG, scale=source))
        assert found.scale is not None and found.scale.factor == pytest.approx(1 / LOST.scale, rel=1e-4)
