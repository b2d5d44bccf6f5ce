"""Generators with a video model, here a stub: what they hand on, how frames are judged, what they refuse."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stage2_scenes import CAMERA, SIZE, StubModel, aligned, circle_views, generator_of, room_pose, room_view, room_views

from reconx_ros.core import (
    AlignedViews,
    CancelledError,
    CancelToken,
    DoesNotFitError,
    InsufficientParallaxError,
    InvalidInputError,
    Job,
    PinholeCamera,
    PointMap,
    Provenance,
    ReconstructionError,
    Trajectory,
    ViewSequence,
)
from reconx_ros.diffusion.base import FrameGeometry, InBetweenView, UsesEstimator
from reconx_ros.diffusion.clips.judge import colour_agreement, confidence_by_renders
from reconx_ros.diffusion.clips.pictures import picture_through, render_path, shared_camera, surfaces_from_views
from reconx_ros.diffusion.clips.run import memory_errors, scene_points
from reconx_ros.diffusion.clips.trajectory import plan_trajectory
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.registry import registry
from reconx_ros.geometry.resize import resize_area
from reconx_ros.weights.cache import ModelCache, module_bytes
from reconx_ros.weights.resolve import resolve

CPU = torch.device("cpu")


def run(model: Any, views: AlignedViews, estimator: Any = None, job: Job | None = None, **options: Any) -> ViewSequence:
    config = DiffusionConfig(**{"width": SIZE, "height": SIZE, **options})
    path = (
        plan_trajectory(views, 3, max_size=SIZE)
        if len(views.views) > 1
        else Trajectory(camera=CAMERA, world_from_cams=())
    )
    return generator_of(model, estimator).generate(views, path, config, device=CPU, job=job or Job())


def made(sequence: ViewSequence) -> list[Any]:
    return [v for v in sequence.views if not v.is_input]


# What is handed on -----------------------------------------------------------------------------------------------


def test_keyframes_come_first_and_made_frames_are_flagged() -> None:
    views, model = room_views(3), StubModel()
    sequence = run(model, views)
    assert sequence.backend == "stub" and sequence.generates and sequence.warnings == ("made by a stub",)
    assert [v.is_input for v in sequence.views] == [True] * 3 + [False] * 6
    for view, keyframe in zip(sequence.views, views.views, strict=False):
        assert torch.equal(view.rgb, keyframe.rgb) and bool((view.provenance == int(Provenance.OBSERVED)).all())
    for view in made(sequence):
        assert bool((view.provenance == int(Provenance.GENERATED)).all())
        assert view.camera.size == (SIZE, SIZE) and view.depth is not None
        assert float(view.confidence.min()) > 0 and float(view.confidence.max()) < 1
    for request, k in zip(model.requests, range(2), strict=True):
        assert torch.equal(request.first, views.views[k].rgb) and torch.equal(request.second, views.views[k + 1].rgb)
        assert request.seed == k and request.target is None and request.points_cam is not None


def test_points_are_told_in_the_frame_of_the_first_camera() -> None:
    told = []
    for _ in range(2):
        model = StubModel()
        run(model, room_views(2), structure_points=500)
        told.append(model.requests[0].points_cam)
    assert told[0] is not None and told[0].shape == (500, 3)
    assert float(told[0][:, 2].min()) > 0  # both keyframes look the same way
    assert torch.equal(told[0], told[1])


def test_an_orbit_hands_generated_frames_on_bit_for_bit() -> None:
    model = StubModel()
    sequence = run(model, circle_views((0, 60)), path="orbit", clip_frames=6)
    assert len(model.requests) > 2
    before, after = model.requests[0], model.requests[1]
    share = 2 / before.second_frame
    assert torch.equal(after.first, (1 - torch.tensor(share)) * before.first + torch.tensor(share) * before.second)
    assert torch.equal(model.requests[-1].second, circle_views((0, 60)).views[0].rgb)
    places = [v.world_from_cam.translation for v in sequence.views]
    gaps = [np.linalg.norm(a - b) for a in places for b in places]
    assert sorted(gaps)[len(places)] > 0.1  # no place twice


def test_renders_guide_only_when_asked() -> None:
    model = StubModel()
    run(model, room_views(2), render_guidance=1.0)
    target = model.requests[0].target
    assert target is not None and (target.start, target.end) == (1.0, 0.0)
    assert target.rgb.shape == (5, SIZE, SIZE, 3)
    assert bool(target.explained[0].all()) and bool(target.explained[4].all())
    assert torch.equal(target.rgb[4], model.requests[0].second)


def test_explained_pixels_stay_observed_where_the_configuration_says_so() -> None:
    views = room_views(2)
    for view in made(run(StubModel(), views, observed_confidence=0.6)):
        render = render_path(
            surfaces_from_views(views, 0.3, CPU), Trajectory(camera=view.camera, world_from_cams=(view.world_from_cam,))
        )[0]
        observed = view.provenance == int(Provenance.OBSERVED)
        assert torch.equal(observed, render.hit & (render.confidence >= 0.6)) and 0.3 < observed.float().mean() < 1
        assert torch.equal(view.rgb[observed], render.rgb[observed])
        assert torch.equal(view.confidence[observed], render.confidence[observed])


# Confidence ------------------------------------------------------------------------------------------------------


def test_true_frames_are_trusted_and_false_ones_are_not() -> None:
    views, pose = room_views(2), room_pose(0.5)
    path = Trajectory(camera=CAMERA, world_from_cams=(pose,))
    render = render_path(surfaces_from_views(views, 0.3, CPU), path)[0]
    true = room_view(pose).rgb
    false = true.roll(20, 1)
    sure = confidence_by_renders(true, render, 0.5)
    unsure = confidence_by_renders(false, render, 0.5)
    assert sure[render.hit].mean() > 0.6 > 0.3 > unsure[render.hit].mean()
    half = torch.cat([true[:, :32], false[:, 32:]], dim=1)
    mixed = confidence_by_renders(half, render, 0.5)
    assert mixed[:, :28].mean() > 2 * mixed[:, 36:].mean()
    assert bool((colour_agreement(true, render)[~render.hit] == 0).all())


def test_without_surfaces_only_the_prior_is_left() -> None:
    path = Trajectory(camera=CAMERA, world_from_cams=(room_pose(0),))
    nothing = render_path([], path)[0]
    assert torch.equal(confidence_by_renders(torch.rand(SIZE, SIZE, 3), nothing, 0.4), torch.full((SIZE, SIZE), 0.4))


def test_recorded_frames_are_trusted_at_their_own_pose_only(reconx_data: Path) -> None:
    from reconx_ros.io.scenes import read_scene

    names = [f"images/{k:04d}.jpg" for k in (6, 7, 8)]
    maps = []
    for k, frame in enumerate(read_scene(reconx_data / "hololens_kitchen_table", names=names, max_size=270).frames):
        assert frame.depth_m is not None and frame.world_from_cam is not None
        depth = torch.from_numpy(frame.depth_m)
        maps.append(
            PointMap(
                rgb=frame.rgb(), depth=depth, confidence=(depth > 0).float(), valid=depth > 0,
                provenance=Provenance.OBSERVED.where(depth > 0), camera=frame.camera,
                world_from_cam=frame.world_from_cam, keyframe_id=k,
            )
        )  # fmt: skip
    before, middle, after = maps
    path = Trajectory(camera=middle.camera, world_from_cams=(middle.world_from_cam,))
    render = render_path(surfaces_from_views(aligned(before, after), 0.3, CPU), path)[0]
    trust = [float(confidence_by_renders(p.rgb, render, 0.5)[render.hit].mean()) for p in (middle, before, after)]
    assert trust[0] > 0.3 and trust[0] > 2 * max(trust[1:])


class Estimator:
    """Stands in for stage 1: moves every frame by a known step and knows a depth in its left half."""

    def __init__(self, *, missing: int = 0, error: Exception | None = None) -> None:
        self.calls: list[tuple[int, bool]] = []
        self._missing, self._error = missing, error

    def __call__(
        self, known: AlignedViews, frames: Sequence[InBetweenView], *, find_poses: bool, device: torch.device, job: Job
    ) -> Sequence[FrameGeometry | None]:
        self.calls.append((len(frames), find_poses))
        if self._error is not None:
            raise self._error
        depth = torch.zeros(SIZE, SIZE)
        depth[:, :32] = 2.0
        pose = room_pose(0.25)
        told = [
            FrameGeometry(
                world_from_cam=pose if find_poses else f.world_from_cam, depth=depth, confidence=0.8 * (depth > 0)
            )
            for f in frames
        ]
        return [None if k < self._missing else g for k, g in enumerate(told)]


def test_stage_1_places_the_frames_of_models_that_are_not_told_the_path() -> None:
    estimator = Estimator()
    sequence = run(StubModel(told_path=False), room_views(2), estimator)
    assert estimator.calls == [(3, True)]
    for view in made(sequence):
        assert view.world_from_cam is not None and view.world_from_cam.distance_to(room_pose(0.25)) == 0
        assert torch.equal(view.depth > 0, torch.arange(SIZE)[None].expand(SIZE, -1) < 32)
        assert torch.allclose(view.confidence, torch.where(view.depth > 0, 0.8, 0.4))
    assert sequence.warnings == ("made by a stub",)


def test_stage_1_judges_frames_on_the_planned_path_when_asked() -> None:
    estimator = Estimator()
    run(StubModel(), room_views(2), estimator)
    assert estimator.calls == []
    sequence = run(StubModel(), room_views(2), estimator, check="stage1")
    assert estimator.calls == [(3, False)]
    assert bool((made(sequence)[0].confidence[:, :32] == 0.8).all())


@pytest.mark.parametrize(
    ("estimator", "warning"),
    [
        (None, "stage 1 was not at hand .*: poses of in-between views are those of the planned path, not measured"),
        (Estimator(missing=2), "could not join 2 of 3 in-between views .* planned path, not measured"),
        (
            Estimator(error=InsufficientParallaxError("no parallax")),
            r"cannot use the in-between views \(no parallax\): poses",
        ),
    ],
)
def test_planned_poses_that_were_not_measured_are_said(estimator: Any, warning: str) -> None:
    sequence = run(StubModel(told_path=False), room_views(2), estimator, observed_confidence=0.1)
    assert re.search(warning, sequence.warnings[-1])
    view = made(sequence)[0]
    assert bool((view.provenance == int(Provenance.GENERATED)).all())  # nothing is pasted at a guessed pose


def test_cancelling_stage_1_cancels() -> None:
    with pytest.raises(CancelledError):
        run(StubModel(told_path=False), room_views(2), Estimator(error=CancelledError("stop")))


# Pictures --------------------------------------------------------------------------------------------------------


def test_the_shared_camera_is_the_middle_crop() -> None:
    wide = PinholeCamera(width=96, height=64, fx=80.0, fy=80.0, cx=47.5, cy=31.5)
    view = room_view(room_pose(0), camera=wide)
    camera = shared_camera([view, view], 32, 32)
    assert camera.size == (32, 32) and camera.fx == camera.fy == pytest.approx(40.0)
    assert (camera.cx, camera.cy) == (pytest.approx(15.5), pytest.approx(15.5))
    picture = picture_through(view, camera)
    assert (picture - resize_area(view.rgb[:, 16:80], 32, 32)).abs().max() < 1e-5
    assert torch.equal(picture_through(view, wide), view.rgb)


def test_the_shared_camera_sees_what_all_see() -> None:
    left = PinholeCamera(width=64, height=64, fx=60.0, fy=60.0, cx=20.0, cy=31.5)
    right = PinholeCamera(width=80, height=64, fx=70.0, fy=70.0, cx=50.0, cy=31.5)
    a, b = room_view(room_pose(0), camera=left), room_view(room_pose(0), camera=right)
    camera = shared_camera([a, b], 32, 32)
    for source in (left, right):
        assert (-0.5 - camera.cx) / camera.fx >= (-0.5 - source.cx) / source.fx - 1e-9
        assert (31.5 - camera.cx) / camera.fx <= (source.width - 0.5 - source.cx) / source.fx + 1e-9
    seen, also = picture_through(a, camera), picture_through(b, camera)
    assert (seen - also).abs().mean() < 0.5 * (seen - also.roll(1, 1)).abs().mean()
    away = PinholeCamera(width=64, height=64, fx=60.0, fy=60.0, cx=-100.0, cy=31.5)
    with pytest.raises(InvalidInputError, match="no field of view in common"):
        shared_camera([a, room_view(room_pose(0), camera=away)], 32, 32)


# Bad input and failures ------------------------------------------------------------------------------------------


def test_one_keyframe_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InvalidInputError, match="at least 2 keyframes to go between, got 1"):
        run(None, room_views(1))


def test_two_identical_keyframes_go_through() -> None:
    view = room_view(room_pose(0))
    frames = made(run(StubModel(), aligned(view, replace(view, keyframe_id=1))))
    assert len(frames) == 3 and all(torch.allclose(f.rgb, view.rgb, atol=1e-6) for f in frames)


def test_without_sure_points_there_is_no_structure_and_it_is_said() -> None:
    model = StubModel()
    sequence = run(model, room_views(2, confidence=0.1))
    assert model.requests[0].points_cam is None
    assert "no point of the scene has a confidence of 0.3" in sequence.warnings[0]
    assert bool((made(sequence)[0].confidence == 0.5).all())
    assert len(scene_points(room_views(2, confidence=0.1), 0.3, 100, 0)) == 0


def test_nan_in_a_frame_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"generated frame has \d+ values that are NaN"):
        run(StubModel(nan=True), room_views(2))


def test_progress_rises_and_a_cancelled_job_stops() -> None:
    seen: list[float] = []
    run(StubModel(), room_views(3), job=Job(on_progress=lambda _, share, __: seen.append(share)))
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1
    token, model = CancelToken(), StubModel()
    job = Job(token=token, on_progress=lambda _, __, text: token.cancel() if "clip 1 of 2, fading" in text else None)
    with pytest.raises(CancelledError):
        run(model, room_views(3), job=job)
    assert len(model.requests) == 1


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
    DoesNotFitError("32 frames of 512x320 need 9 GB"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_out_of_memory_is_one_sentence_or_a_warp(error: BaseException) -> None:
    with pytest.raises(ReconstructionError, match=r"ran out of memory: take fewer frames|9 GB"):
        run(StubModel(error=error), room_views(2))
    sequence = run(StubModel(error=error), room_views(2), fallback="warp")
    assert sequence.backend == "warp" and not sequence.generates and len(made(sequence)) == 3
    assert sequence.warnings[0].startswith("views are made by 'warp' instead of 'stub' (diffusion.fallback): ")


def test_memory_that_other_models_hold_is_given_to_the_video_model(tmp_path: Path) -> None:
    class Tight(StubModel):
        def fill(self, request: Any, config: DiffusionConfig, job: Job) -> Any:
            if models.keys:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().fill(request, config, job)

    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    source, models = resolve(str(tmp_path / "a.safetensors"), setting="test"), ModelCache()
    options = {"dtype": torch.float32, "device": CPU, "size": module_bytes}
    models.get([source], "another stage's network", lambda: torch.nn.Linear(2, 2), **options)
    views, config = room_views(2), DiffusionConfig(width=SIZE, height=SIZE)
    path = plan_trajectory(views, 3, max_size=SIZE)
    sequence = generator_of(Tight(), models=models).generate(views, path, config, device=CPU, job=Job())
    assert sequence.backend == "stub" and models.keys == ()


def test_other_errors_are_not_hidden_by_the_fallback() -> None:
    for error in (RuntimeError("a bug"), InvalidInputError("bad weights")):
        with pytest.raises(type(error), match=str(error)):
            run(StubModel(error=error), room_views(2), fallback="warp")
    with pytest.raises(RuntimeError, match="a bug"), memory_errors("it"):
        raise RuntimeError("a bug")


def test_frames_of_another_shape_are_refused() -> None:
    class Short(StubModel):
        def fill(self, request: Any, config: DiffusionConfig, job: Job) -> Any:
            whole = super().fill(request, config, job)
            return replace(whole, frames=whole.frames[1:])

    with pytest.raises(InvalidInputError, match="frames of the video model has shape"):
        run(Short(), room_views(2))


def test_every_registered_video_model_can_be_given_an_estimator() -> None:
    for name in ("reconx", "diffusers_flf2v_wan", "diffusers_flf2v_ltx"):
        info = registry()[name]
        generator = info.load_class()()
        assert generator.name == name and isinstance(generator, UsesEstimator)
        assert isinstance(generator.with_estimator(Estimator()), type(generator))
        assert info.licence_weights and "weights" in info.needs
    assert not isinstance(registry()["warp"].load_class()(), UsesEstimator)
