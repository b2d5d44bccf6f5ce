"""Pictures of a scene with depth, confidence and provenance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from splatting_scenes import pinhole, random_gaussians, scene_from

from reconx_ros.core import SE3, CancelledError, CancelToken, GaussianScene, InvalidInputError, Job, Trajectory
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.render import render_scene

CPU = torch.device("cpu")
RASTERIZER = ReferenceRasterizer()


def patch(x: float, *, provenance: int, confidence: float, depth: float = 2.0) -> GaussianScene:
    """One opaque, round, wide Gaussian."""
    arguments = random_gaussians(1, bases=1)
    arguments["means"] = torch.tensor([[x, 0.0, depth]])
    arguments["scales"] = torch.full((1, 3), 0.2)
    arguments["opacities"] = torch.tensor([0.995])
    return scene_from(arguments, provenance=provenance, confidence=confidence)


def test_each_pixel_says_where_it_comes_from_and_how_sure_it_is() -> None:
    scene = GaussianScene.concatenate(
        [patch(-0.6, provenance=1, confidence=0.9), patch(0.6, provenance=2, confidence=0.3)]
    )
    view = render_scene(scene, [(pinhole(33, 25), SE3.identity())], rasterizer=RASTERIZER, device=CPU)[0]
    left, right, corner = (12, 7), (12, 25), (0, 0)
    assert [int(view.provenance[p]) for p in (left, right, corner)] == [1, 2, 0]
    assert [float(view.confidence[p]) for p in (left, right, corner)] == pytest.approx([0.9, 0.3, 0.0], abs=0.05)
    assert view.depth[left] == pytest.approx(2.0, rel=1e-3) and view.depth[corner] == 0
    assert view.rgb_u8.dtype == np.uint8 and view.depth.dtype == np.float32 and view.provenance.dtype == np.uint8


def test_generated_in_front_of_observed_is_generated() -> None:
    scene = GaussianScene.concatenate(
        [patch(0.0, provenance=1, confidence=0.9, depth=3.0), patch(0.0, provenance=2, confidence=0.9)]
    )
    view = render_scene(scene, [(pinhole(17, 17), SE3.identity())], rasterizer=RASTERIZER, device=CPU)[0]
    assert view.provenance[8, 8] == 2


def mixed(*shares: tuple[int, float]) -> int:
    """Kind of the middle of a picture where Gaussians of these kinds cover each other, with these shares of alpha."""
    patches, left = [], 1.0
    for i, (kind, share) in enumerate(shares):
        one = patch(0.0, provenance=kind, confidence=0.9, depth=2.0 + 0.1 * i)
        patches.append(replace(one, logit_opacities=torch.logit(torch.tensor([min(share / left, 0.995)]))))
        left -= share
    scene = GaussianScene.concatenate(patches)
    view = render_scene(scene, [(pinhole(17, 17), SE3.identity())], rasterizer=RASTERIZER, device=CPU)[0]
    return int(view.provenance[8, 8])


def test_a_pixel_is_of_the_surest_kind_that_makes_up_most_of_it_with_the_surer_ones() -> None:
    observed, generated, inferred, none = 1, 2, 3, 0
    assert mixed((observed, 0.6), (generated, 0.39)) == observed
    assert mixed((observed, 0.4), (inferred, 0.3), (generated, 0.29)) == inferred
    assert mixed((generated, 0.3), (inferred, 0.3), (observed, 0.39)) == inferred
    assert mixed((observed, 0.2), (inferred, 0.2), (generated, 0.59)) == generated
    assert mixed((observed, 0.2), (inferred, 0.2), (generated, 0.19), (none, 0.4)) == generated  # two pictures of marks
    assert mixed((observed, 0.3), (none, 0.69)) == none
    assert mixed((none, 0.99)) == none


def test_scenes_of_unknown_kind_are_drawn() -> None:
    scene = patch(0.0, provenance=0, confidence=0.0)
    view = render_scene(scene, [(pinhole(17, 17), SE3.identity())], rasterizer=RASTERIZER, device=CPU)[0]
    assert view.depth[8, 8] == pytest.approx(2.0, rel=1e-3) and view.alpha[8, 8] > 0.8 and view.rgb_u8[8, 8].any()
    assert not view.provenance.any() and not view.confidence.any()


def test_background_fills_what_is_empty() -> None:
    nothing = patch(0, provenance=1, confidence=1).select(torch.zeros(1, dtype=torch.bool))
    view = render_scene(
        nothing, [(pinhole(5, 4), SE3.identity())], rasterizer=RASTERIZER, device=CPU, background=(1.0, 0.5, 0.0)
    )[0]
    assert np.array_equal(view.rgb_u8, np.broadcast_to(np.array([255, 128, 0], np.uint8), (4, 5, 3)))
    assert not view.alpha.any() and not view.provenance.any() and not view.confidence.any()


def test_trajectory_and_list_of_cameras_agree() -> None:
    scene = scene_from(random_gaussians(60))
    poses = tuple(SE3.exp(np.zeros(3), np.array([0.1 * i, 0.0, 0.0])) for i in range(3))
    camera = pinhole(20, 16)
    along = render_scene(scene, Trajectory(camera=camera, world_from_cams=poses), rasterizer=RASTERIZER, device=CPU)
    listed = render_scene(scene, [(camera, p) for p in poses], rasterizer=RASTERIZER, device=CPU)
    assert len(along) == 3 and all(np.array_equal(a.rgb_u8, b.rgb_u8) for a, b in zip(along, listed, strict=True))
    assert not np.array_equal(along[0].rgb_u8, along[2].rgb_u8)
    assert render_scene(scene, [], rasterizer=RASTERIZER, device=CPU) == []


def test_progress_and_cancellation() -> None:
    scene, token, seen = scene_from(random_gaussians(5)), CancelToken(), []
    cameras = [(pinhole(4, 4), SE3.identity())] * 4

    def on_progress(stage: str, fraction: float, message: str) -> None:
        seen.append(fraction)
        if fraction >= 0.5:
            token.cancel()

    job = Job(stage="render", on_progress=on_progress, token=token)
    with pytest.raises(CancelledError):
        render_scene(scene, cameras, rasterizer=RASTERIZER, device=CPU, job=job)
    assert seen == [0.0, 0.25, 0.5]


def test_scene_with_nan_is_one_sentence() -> None:
    scene = scene_from(random_gaussians(3))
    broken = replace(scene, log_scales=torch.full_like(scene.log_scales, float("nan")))
    with pytest.raises(InvalidInputError, match="gaussian scales has 9 values that are NaN or infinite"):
        render_scene(broken, [(pinhole(4, 4), SE3.identity())], rasterizer=RASTERIZER, device=CPU)
