"""RGB-D keyframes straight to pointmaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, cast, pinhole, plane, room_scene

from reconx_ros.core import (
    SE3,
    AlignedViews,
    InvalidInputError,
    Job,
    Keyframe,
    Provenance,
    ReconstructionError,
    ReconxError,
)
from reconx_ros.geometry.projection import pointmap_world
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pipeline.selection import choose_pointmap
from reconx_ros.pointmap.backends.depth_sensor import DepthSensorBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.depth_sensor import (
    SensorAgreement,
    filled_view,
    range_trust,
    sensor_agreement,
    surface_bend,
)
from reconx_ros.pointmap.stereo.settings import DepthSensorSettings, MultiviewSettings

CONFIG = PointmapConfig(max_size=64)


def with_depth(keyframe: Keyframe, depth: np.ndarray | None) -> Keyframe:
    depth = None if depth is None else np.asarray(depth, np.float32)
    return replace(keyframe, frame=replace(keyframe.frame, depth_m=depth))


def reconstruct(keyframes: list[Keyframe], config: PointmapConfig = CONFIG) -> AlignedViews:
    return DepthSensorBackend().reconstruct(keyframes, config, device=torch.device("cpu"), job=Job())


@pytest.fixture(scope="module")
def scene() -> Scene:
    scene = room_scene(2, pinhole(64, 48))
    keyframes = [with_depth(k, d) for k, d in zip(scene.keyframes, scene.depths, strict=True)]
    return Scene(keyframes=keyframes, depths=scene.depths)


def test_depth_comes_out_as_it_went_in(scene: Scene) -> None:
    result = reconstruct(scene.keyframes[:1])
    view = result.views[0]
    np.testing.assert_allclose(view.depth.numpy(), scene.depths[0], rtol=1e-6)
    assert bool(view.valid.all())
    assert result.metric_scale and result.scale_source == "depth"
    assert float((view.confidence > 0.8).float().mean()) > 0.8


def test_points_of_two_views_lie_on_the_same_floor(scene: Scene) -> None:
    for view in reconstruct(scene.keyframes).views:
        height = pointmap_world(view)[..., 2]
        assert float(height.min()) > -1e-4
        assert int((height < 1e-4).sum()) > 300


def test_zero_nan_and_infinity_are_holes(scene: Scene) -> None:
    depth = scene.depths[0].copy()
    depth[3, 4], depth[5, 6], depth[7, 8], depth[9, 10] = 0, np.nan, np.inf, -1
    view = reconstruct([with_depth(scene.keyframes[0], depth)]).views[0]
    assert [tuple(i) for i in (~view.valid).nonzero().tolist()] == [(3, 4), (5, 6), (7, 8), (9, 10)]
    assert not view.confidence[~view.valid].any() and bool(torch.isfinite(view.depth).all())


def test_shrinking_mixes_no_depths_across_an_edge() -> None:
    sharp = room_scene(1, pinhole(96, 72))
    depth = np.where(np.arange(96) < 41, 1.0, 3.0) * np.ones((72, 1))
    view = reconstruct([with_depth(sharp.keyframes[0], depth)], replace(CONFIG, max_size=40)).views[0]
    assert view.depth.shape == (30, 40)
    assert set(view.depth.unique().tolist()) == {1.0, 3.0}
    assert float(view.confidence[15, 16:18].max()) < 0.1 < float(view.confidence[15, 5])


def test_range_limits_apply(scene: Scene) -> None:
    view = reconstruct(scene.keyframes[:1], replace(CONFIG, min_depth=2.0, max_depth=3.5)).views[0]
    assert float(view.depth[view.valid].min()) > 2.0 and float(view.depth[view.valid].max()) <= 3.5
    np.testing.assert_array_equal(view.valid.numpy(), (scene.depths[0] > 2.0) & (scene.depths[0] <= 3.5))


def test_a_slanted_plane_has_no_bend_and_an_edge_has() -> None:
    camera = pinhole(40, 30)
    depth = torch.from_numpy(cast([plane((0.5, 0.2, 1.0), 2.0)], camera, SE3.identity())[1])
    valid = torch.ones_like(depth, dtype=torch.bool)
    assert float(surface_bend(depth, valid)[1:-1, 1:-1].max()) < 1e-6
    depth[:, 20:] += 0.5
    assert float(surface_bend(depth, valid)[5:25, 19:21].min()) > 0.1


def test_trust_falls_with_distance() -> None:
    near, middle, far = range_trust(torch.tensor([1.0, 6.0, 15.0])).tolist()
    assert near > 0.99 and near > middle > far


def test_one_missing_depth_image_costs_one_views_depth(scene: Scene) -> None:
    first, second = scene.keyframes
    found = reconstruct([first, with_depth(second, None)], CONFIG)
    whole = reconstruct([first, second], CONFIG)
    assert torch.equal(found.views[0].depth, whole.views[0].depth) and bool(found.views[0].valid.any())
    assert not bool(found.views[1].valid.any())
    assert any("keyframe 1 has no depth image" in warning for warning in found.warnings)


def test_sensor_depth_is_taken_while_most_keyframes_have_it(scene: Scene) -> None:
    first, second = scene.keyframes
    config = replace(ReconxConfig(), pointmap=CONFIG)
    bare = [with_depth(second, None)]
    assert choose_pointmap(config, [first, second, *bare]).name == "depth_sensor"
    assert choose_pointmap(config, [first, *bare]).name == "multiview"


def test_bad_inputs_are_refused_in_one_sentence(scene: Scene) -> None:
    first, second = scene.keyframes
    no_pose = replace(first, frame=replace(first.frame, world_from_cam=None))
    empty = with_depth(first, np.zeros((48, 64)))
    cases: list[tuple[list[Keyframe], PointmapConfig, type[ReconxError], str]] = [
        ([], CONFIG, InvalidInputError, "no keyframes"),
        (
            [with_depth(first, None), with_depth(second, None)],
            CONFIG,
            InvalidInputError,
            "none of the 2 keyframes has a depth image",
        ),
        ([no_pose], CONFIG, InvalidInputError, "keyframe 0 has no pose"),
        ([empty], CONFIG, ReconstructionError, "none of the 1 depth images"),
    ]
    for keyframes, config, kind, text in cases:
        with pytest.raises(kind, match=text):
            reconstruct(keyframes, config)


def test_depth_that_may_not_be_used_is_not_there(scene: Scene) -> None:
    unused = replace(CONFIG, use_depth=False, backend="depth_sensor")
    with pytest.raises(InvalidInputError, match=r"none of the 2 keyframes has a depth .*expected pointmap\.use_depth"):
        Reconstructor(ReconxConfig(device="cpu", pointmap=unused)).align(scene.keyframes)
    auto = replace(unused, backend="auto").with_own(MultiviewSettings(planes=32))
    assert Reconstructor(ReconxConfig(device="cpu", pointmap=auto)).align(scene.keyframes).scale_source == "poses"


FILL = CONFIG.with_own(DepthSensorSettings(fill_depth=True)).with_own(MultiviewSettings(planes=48))


@pytest.fixture(scope="module")
def holed() -> Scene:
    """Three views, each with a tall hole at another place."""
    scene = room_scene(3, pinhole(64, 48))
    keyframes = []
    for i, (keyframe, depth) in enumerate(zip(scene.keyframes, scene.depths, strict=True)):
        sensed = depth.copy()
        sensed[8:40, 14 + 10 * i : 26 + 10 * i] = 0
        keyframes.append(with_depth(keyframe, sensed))
    return Scene(keyframes=keyframes, depths=scene.depths)


@pytest.fixture(scope="module")
def filled(holed: Scene) -> AlignedViews:
    return reconstruct(holed.keyframes, FILL)


def test_holes_take_the_depth_that_views_agree_on_and_the_rest_stays(holed: Scene, filled: AlignedViews) -> None:
    raw = reconstruct(holed.keyframes)
    assert filled.metric_scale and filled.scale_source == "depth" and not filled.warnings
    errors, confidences, holes = [], [], 0
    for before, after, truth in zip(raw.views, filled.views, holed.depths, strict=True):
        torch.testing.assert_close(after.depth[before.valid], before.depth[before.valid], rtol=0, atol=0)
        torch.testing.assert_close(after.confidence[before.valid], before.confidence[before.valid], rtol=0, atol=0)
        new = after.valid & ~before.valid
        holes += int((~before.valid).sum())
        errors.append((after.depth.numpy() / truth - 1)[new.numpy()])
        confidences.append(after.confidence[new].numpy())
        assert not after.confidence[~after.valid].any()
        assert torch.equal(after.provenance, Provenance.OBSERVED.where(after.valid))  # several views measured the holes
    error, confidence = np.abs(np.concatenate(errors)), np.concatenate(confidences)
    assert len(error) > 0.3 * holes
    assert np.median(error) < 0.02
    sure = confidence >= 0.5
    assert (error[sure] <= 0.02).mean() > confidence[sure].mean() - 0.15


def test_wrong_poses_fill_nothing_and_say_so(holed: Scene) -> None:
    def stretched(keyframe: Keyframe) -> Keyframe:
        pose = keyframe.frame.world_from_cam
        assert pose is not None
        return replace(
            keyframe,
            frame=replace(
                keyframe.frame, world_from_cam=SE3(rotation=pose.rotation, translation=1.3 * pose.translation)
            ),
        )

    wrong = [stretched(k) for k in holed.keyframes]
    result, raw = reconstruct(wrong, FILL), reconstruct(wrong)
    assert "stay open" in result.warnings[0]
    for view, before in zip(result.views, raw.views, strict=True):
        assert torch.equal(view.valid, before.valid)


def test_views_without_parallax_fill_nothing_and_say_so(holed: Scene) -> None:
    still = [with_depth(replace(holed.keyframes[0], id=i), holed.keyframes[0].frame.depth_m) for i in range(2)]
    result = reconstruct(still, FILL)
    assert "stay open" in result.warnings[0] and "same place" in result.warnings[0]
    assert torch.equal(result.views[0].valid, reconstruct(still).views[0].valid)


def test_a_filled_point_that_another_sensor_looks_through_is_dropped(holed: Scene) -> None:
    sensor, other, _ = reconstruct(holed.keyframes).views
    sweep = replace(
        sensor,
        depth=0.5 * sensor.depth,
        valid=torch.ones_like(sensor.valid),
        provenance=sensor.valid.new_ones(sensor.valid.shape).byte(),
    )
    sweep = replace(sweep, confidence=torch.full_like(sweep.depth, 0.9))
    rate = SensorAgreement(share=0.45, expected=0.9, pixels=500)
    alone = filled_view(sensor, sweep, rate, [], 0.02)
    assert bool(alone.valid.all())
    torch.testing.assert_close(alone.confidence[~sensor.valid], torch.full((32 * 12,), 0.45))
    seen_through = filled_view(sensor, sweep, rate, [other], 0.02)
    assert int(seen_through.valid.sum()) < int(alone.valid.sum()) - 100
    assert bool(seen_through.valid[sensor.valid].all())


def test_agreement_counts_sure_pixels_of_both() -> None:
    view = reconstruct(room_with_depth()).views[0]
    same = sensor_agreement(view, view)
    assert same is not None and same.share == 1.0
    farther = sensor_agreement(view, replace(view, depth=1.05 * view.depth))
    assert farther is not None and farther.share == 0.0 and farther.pixels == same.pixels
    nothing = torch.zeros_like(view.valid)
    assert sensor_agreement(view, replace(view, valid=nothing, provenance=nothing.byte())) is None


def room_with_depth() -> list[Keyframe]:
    scene = room_scene(1, pinhole(64, 48))
    return [with_depth(scene.keyframes[0], scene.depths[0])]


def test_one_empty_depth_image_is_a_warning(scene: Scene) -> None:
    result = reconstruct([scene.keyframes[0], with_depth(scene.keyframes[1], np.zeros((48, 64)))])
    assert result.warnings == ("the depth image of keyframe 1 has no usable value",)
    assert not result.views[1].valid.any()
