"""Stage 1 on posed frames: accuracy on scenes with exact depth, laws, bad inputs, and recorded data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, ball, look_at, pinhole, plane, render, room, room_scene

from reconx_ros.core import (
    SE3,
    AlignedViews,
    CancelledError,
    CancelToken,
    Frame,
    InsufficientParallaxError,
    InvalidInputError,
    Job,
    Keyframe,
    PinholeCamera,
    ReconstructionError,
    ReconxError,
)
from reconx_ros.pointmap.backends.multiview import MultiviewBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.registry import registry
from reconx_ros.pointmap.stereo.settings import MultiviewSettings

CPU = torch.device("cpu")
SMALL = PointmapConfig(max_size=128).with_own(MultiviewSettings(planes=64))


def reconstruct(keyframes: list[Keyframe], config: PointmapConfig = SMALL, job: Job | None = None) -> AlignedViews:
    return MultiviewBackend().reconstruct(keyframes, config, device=CPU, job=job or Job())


def moved(keyframes: list[Keyframe], move: SE3, scale: float = 1.0) -> list[Keyframe]:
    out = []
    for keyframe in keyframes:
        pose = keyframe.frame.world_from_cam
        assert pose is not None
        pose = move @ SE3(rotation=pose.rotation, translation=scale * pose.translation)
        out.append(replace(keyframe, frame=replace(keyframe.frame, world_from_cam=pose)))
    return out


def errors(views: AlignedViews, depths: list[np.ndarray], threshold: float = 0.5) -> tuple[np.ndarray, float]:
    """Relative errors of confident pixels, and the share of pixels with a true depth that are confident."""
    found, confident, known = [], 0, 0
    for view, truth in zip(views.views, depths, strict=True):
        exists = np.isfinite(truth) & (truth > 0)
        chosen = exists & (view.confidence.numpy() >= threshold)
        found.append(np.abs(view.depth.numpy()[chosen] / truth[chosen] - 1))
        confident, known = confident + int(chosen.sum()), known + int(exists.sum())
    return np.concatenate(found), confident / known


@pytest.fixture(scope="module")
def scene() -> Scene:
    return room_scene(4, pinhole(128, 96), noise=2.0)


@pytest.fixture(scope="module")
def result(scene: Scene) -> AlignedViews:
    return reconstruct(scene.keyframes)


def test_a_room_is_found_with_confidence_that_keeps_its_word(scene: Scene, result: AlignedViews) -> None:
    error, share = errors(result, scene.depths)
    assert np.median(error) < 0.005
    assert (error < 0.02).mean() > 0.9
    assert share > 0.6
    assert result.metric_scale and result.scale_source == "poses" and result.backend == "multiview"


def test_what_is_not_valid_has_no_confidence(result: AlignedViews) -> None:
    for view in result.views:
        assert not view.confidence[~view.valid].any()
        assert bool(torch.isfinite(view.depth).all()) and float(view.depth.min()) > 0


def test_more_confident_pixels_are_more_often_right(scene: Scene, result: AlignedViews) -> None:
    sure, _ = errors(result, scene.depths, 0.8)
    everything, _ = errors(result, scene.depths, 0.01)
    assert (sure < 0.02).mean() >= (everything < 0.02).mean()


def test_two_views_of_a_ball_before_a_wall() -> None:
    camera = pinhole(128, 96)
    hits = [plane((0, 0, 1), 3.0), ball((0.1, 0.0, 2.0), 0.4)]
    poses = [look_at((x, 0.0, 0.0), (0.05, 0.0, 2.5), up=(0, -1, 0)) for x in (-0.15, 0.15)]
    pair = render(hits, [camera] * 2, poses, noise=1.0)
    error, share = errors(reconstruct(pair.keyframes), pair.depths)
    assert np.median(error) < 0.005 and (error < 0.02).mean() > 0.9
    assert share > 0.5


def test_a_rigid_move_of_the_world_changes_nothing(scene: Scene, result: AlignedViews) -> None:
    move = SE3.exp(np.array([0.4, 1.0, -0.7]), np.array([1000.0, -400.0, 30.0]))
    there = reconstruct(moved(scene.keyframes, move))
    for here, view in zip(result.views, there.views, strict=True):
        both = here.valid & view.valid
        assert float((here.valid == view.valid).float().mean()) > 0.98
        assert float((here.depth / view.depth - 1).abs()[both].quantile(0.98)) < 1e-3


def test_scaling_the_world_scales_depth(scene: Scene, result: AlignedViews) -> None:
    for scale in (1e-3, 1e3):
        scaled = reconstruct(moved(scene.keyframes, SE3.identity(), scale))
        assert scaled.scale_source == "poses"
        for here, view in zip(result.views, scaled.views, strict=True):
            both = here.valid & view.valid
            assert float((here.valid == view.valid).float().mean()) > 0.98
            assert float((scale * here.depth / view.depth - 1).abs()[both].quantile(0.98)) < 1e-3


def test_the_order_of_keyframes_does_not_matter(scene: Scene, result: AlignedViews) -> None:
    turned = reconstruct(scene.keyframes[::-1])
    assert [v.keyframe_id for v in turned.views] == [3, 2, 1, 0]
    for here, view in zip(result.views, turned.views[::-1], strict=True):
        both = here.valid & view.valid
        assert float((here.valid == view.valid).float().mean()) > 0.98
        assert float((here.depth / view.depth - 1).abs()[both].quantile(0.98)) < 1e-3


def test_exposure_does_not_matter(scene: Scene, result: AlignedViews) -> None:
    darker = [
        replace(k, frame=replace(k.frame, rgb_u8=(k.frame.rgb_u8 * (1.0 - 0.12 * i)).astype(np.uint8)))
        for i, k in enumerate(scene.keyframes)
    ]
    error, share = errors(reconstruct(darker), scene.depths)
    assert np.median(error) < 0.005 and share > 0.55


def test_cameras_may_differ() -> None:
    cameras = [pinhole(128, 96), pinhole(100, 80, 1.1), pinhole(144, 96, 0.8)]
    poses = [look_at((-1.8, -0.3 + 0.2 * i, 1.1), (1.0, 0.0, 0.8)) for i in range(3)]
    mixed = render(room(), cameras, poses, noise=1.0)
    result = reconstruct(mixed.keyframes, replace(SMALL, max_size=144))
    assert [tuple(v.depth.shape) for v in result.views] == [(96, 128), (80, 100), (96, 144)]
    error, share = errors(result, mixed.depths)
    assert np.median(error) < 0.005 and share > 0.4


def test_images_are_shrunk_to_the_working_size(scene: Scene) -> None:
    result = reconstruct(scene.keyframes[:2], replace(SMALL, max_size=64).with_own(MultiviewSettings(planes=32)))
    view = result.views[0]
    assert view.depth.shape == (48, 64) and view.camera == scene.keyframes[0].frame.camera.scaled_to(64, 48)


def test_a_view_of_something_else_gets_nothing_and_a_warning(scene: Scene, result: AlignedViews) -> None:
    away = render(room(), [pinhole(128, 96)], [look_at((-1.8, -0.7, 1.1), (-2.5, -2.0, 1.1))])
    stranger = replace(away.keyframes[0], id=77)
    views = reconstruct([*scene.keyframes, stranger])
    assert not views.views[-1].valid.any()
    assert views.warnings == ("no depth was found for keyframe 77: it shares too little with the others",)
    error, _ = errors(
        AlignedViews(views=views.views[:4], metric_scale=True, scale_source=None, backend=""), scene.depths
    )
    assert np.median(error) < 0.005


def test_depth_limits_are_kept(scene: Scene) -> None:
    result = reconstruct(scene.keyframes, replace(SMALL, min_depth=1.0, max_depth=6.0))
    error, share = errors(result, scene.depths)
    assert np.median(error) < 0.005 and share > 0.6


def without_pose(keyframe: Keyframe) -> Keyframe:
    return replace(keyframe, frame=replace(keyframe.frame, world_from_cam=None))


def painted(keyframe: Keyframe, grey: int) -> Keyframe:
    return replace(keyframe, frame=replace(keyframe.frame, rgb_u8=np.full_like(keyframe.frame.rgb_u8, grey)))


def test_bad_inputs_are_refused_in_one_sentence(scene: Scene) -> None:
    frames = scene.keyframes
    cases: list[tuple[list[Keyframe], PointmapConfig, type[ReconxError], str]] = [
        (frames[:1], SMALL, InvalidInputError, "got 1 keyframe"),
        ([frames[0], without_pose(frames[1])], SMALL, InvalidInputError, "keyframe 1 has no pose"),
        ([frames[0], frames[0]], SMALL, InsufficientParallaxError, "same place"),
        (frames, replace(SMALL, min_depth=4.0, max_depth=2.0), InvalidInputError, "min_depth is 4 and max_depth 2"),
        ([painted(k, 0) for k in frames], SMALL, ReconstructionError, "too little texture"),
        ([painted(k, 128) for k in frames], SMALL, ReconstructionError, "too little texture"),
    ]
    for keyframes, config, kind, text in cases:
        with pytest.raises(kind, match=text):
            reconstruct(keyframes, config)


def test_a_robot_that_turns_on_the_spot_is_told_to_move() -> None:
    eyes = [(-1.0 + 1e-4 * i, 0.0, 1.2) for i in range(3)]
    poses = [look_at(eye, (2.0, -0.3 + 0.3 * i, 1.0)) for i, eye in enumerate(eyes)]
    spin = render(room(), [pinhole(128, 96)] * 3, poses, noise=1.0)
    with pytest.raises(InsufficientParallaxError, match=r"deg of parallax.*move the camera sideways"):
        reconstruct(spin.keyframes)


def test_images_that_show_nothing_in_common_are_refused(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    noise = [
        replace(k, frame=replace(k.frame, rgb_u8=rng.integers(0, 255, k.frame.rgb_u8.shape, dtype=np.uint8)))
        for k in scene.keyframes
    ]
    try:
        views = reconstruct(noise)
    except ReconxError:
        return
    assert sum(int((v.confidence >= 0.5).sum()) for v in views.views) < 200


def test_progress_rises_and_cancelling_stops_early(scene: Scene) -> None:
    token, seen = CancelToken(), []

    def watch(stage: str, fraction: float, message: str) -> None:
        del stage, message
        seen.append(fraction)
        if fraction > 0.3:
            token.cancel()

    with pytest.raises(CancelledError):
        reconstruct(scene.keyframes, job=Job(on_progress=watch, token=token))
    assert seen == sorted(seen) and 0.3 < seen[-1] < 0.6 and len(seen) > 5


def test_the_registry_knows_the_backend() -> None:
    assert registry()["multiview"].missing() is None
    assert registry()["multiview"].load_class() is MultiviewBackend


@pytest.mark.gpu
def test_a_gpu_gives_the_same_depth(scene: Scene, result: AlignedViews) -> None:
    device = torch.device("cuda")
    there = MultiviewBackend().reconstruct(scene.keyframes, SMALL, device=device, job=Job())
    for here, view in zip(result.views, there.views, strict=True):
        both = here.valid & view.valid
        assert view.depth.device.type == "cpu"
        assert float((here.valid == view.valid).float().mean()) > 0.97
        assert float((here.depth / view.depth - 1).abs()[both].quantile(0.95)) < 2e-3


def recorded(folder: Path, indices: tuple[int, ...], pose: str) -> Scene:
    """Frames of a recorded scene without their depth, and the depth on the working grid of 320 x 213 pixels."""
    cv2 = pytest.importorskip("cv2")
    listed = json.loads((folder / "cameras.json").read_text())["images"]
    keyframes, depths = [], []
    for i in indices:
        entry = listed[i]
        rgb = cv2.cvtColor(cv2.imread(str(folder / entry["file"])), cv2.COLOR_BGR2RGB)
        camera = PinholeCamera.from_corner_origin(*(entry[k] for k in ("width", "height", "fx", "fy", "cx", "cy")))
        frame = Frame(rgb_u8=rgb, camera=camera, world_from_cam=SE3.from_matrix(np.array(entry[pose])))
        keyframes.append(Keyframe(id=i, frame=frame, sharpness=1.0))
        depth = cv2.imread(str(folder / entry["depth"]), cv2.IMREAD_UNCHANGED) / 1000.0
        depths.append(cv2.resize(depth, (320, 213), interpolation=cv2.INTER_NEAREST))
    return Scene(keyframes=keyframes, depths=depths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("indices", "pose", "median", "share"),
    [
        ((3, 6, 17, 20, 30, 37), "c2w", 0.02, 0.22),  # few views, wide apart
        ((2, 4, 6, 8, 10, 12), "c2w", 0.02, 0.45),  # a walk along the table
        ((2, 4, 6, 8, 10, 12), "c2w_dataset", 0.03, 0.30),  # the tracker's own poses
    ],
)
def test_a_recorded_kitchen(
    reconx_data: Path, indices: tuple[int, ...], pose: str, median: float, share: float
) -> None:
    kitchen = recorded(reconx_data / "hololens_kitchen_table", indices, pose)
    result = reconstruct(kitchen.keyframes, PointmapConfig())
    error, found = errors(result, kitchen.depths)
    assert np.median(error) < median
    assert found > share


def test_what_too_few_views_confirm_is_kept_but_not_sure(scene: Scene, result: AlignedViews) -> None:
    strict = reconstruct(scene.keyframes, SMALL.with_own(MultiviewSettings(planes=64, min_consistent=3)))
    more = 0
    for ours, theirs in zip(result.views, strict.views, strict=True):
        lost = (ours.confidence >= 0.5) & (theirs.confidence < 0.5) & theirs.valid
        more += int(lost.sum())
        assert float(theirs.confidence[lost].max()) <= 0.4
    assert more > 50
