"""First Gaussians from pointmaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from splatting_scenes import pinhole, wall_views

from reconx_ros.core import SE3, AlignedViews, PointMap, Provenance, ReconstructionError
from reconx_ros.geometry.projection import pointmap_world
from reconx_ros.geometry.rotations import rotations_from_quaternions_wxyz
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.harmonics import sh_from_rgb
from reconx_ros.splatting.init import gaussians_from_pointmaps, initial_scene, random_gaussians
from reconx_ros.splatting.render import render_scene
from reconx_ros.splatting.surface import frames_on_normals, pixel_normals

CPU = torch.device("cpu")


def single(views: AlignedViews) -> AlignedViews:
    return replace(views, views=views.views[:1])


def test_one_gaussian_per_pixel_within_the_budget() -> None:
    views = single(wall_views())
    scene = gaussians_from_pointmaps(views, SplattingConfig(sh_degree=2))
    view = views.views[0]
    assert len(scene) == 40 * 32 and scene.sh_degree == 2
    assert torch.allclose(scene.means, pointmap_world(view).reshape(-1, 3))
    assert torch.allclose(scene.sh[:, 0], sh_from_rgb(view.rgb.reshape(-1, 3))) and not bool(scene.sh[:, 1:].any())
    assert bool((scene.provenance == Provenance.OBSERVED).all()) and bool((scene.keyframe_ids == 10).all())
    assert torch.allclose(scene.confidence, torch.full((40 * 32,), 0.9))


def test_the_first_picture_already_looks_like_the_input() -> None:
    views = single(wall_views())
    view = views.views[0]
    scene = gaussians_from_pointmaps(views, SplattingConfig())
    picture = render_scene(scene, [(view.camera, view.world_from_cam)], rasterizer=ReferenceRasterizer(), device=CPU)[0]
    inner = (slice(3, -3), slice(3, -3))
    assert np.abs(picture.rgb_u8 / 255 - view.rgb.numpy())[inner].mean() < 0.1
    assert np.abs(picture.depth / view.depth.numpy() - 1)[inner].max() < 0.02
    assert picture.alpha[inner].min() > 0.7


@pytest.mark.parametrize("budget", [1, 7, 100, 500, 3000])
def test_budget_is_kept_and_nearly_used(budget: int) -> None:
    scene = gaussians_from_pointmaps(wall_views(), SplattingConfig(max_gaussians=budget))
    assert len(scene) <= budget
    assert len(scene) >= min(0.6 * budget, 40 * 32)


def test_thinning_covers_evenly_and_prefers_confident_pixels() -> None:
    views = single(wall_views())
    confidence = torch.full((32, 40), 0.3)
    confidence[1::4, 2::4] = 0.8
    views = replace(views, views=(replace(views.views[0], confidence=confidence),))
    scene = gaussians_from_pointmaps(views, SplattingConfig(max_gaussians=80))
    assert float((scene.confidence == 0.8).float().mean()) > 0.9
    points = pointmap_world(views.views[0]).reshape(-1, 3)
    to_nearest = torch.cdist(points, scene.means).amin(dim=-1)
    assert float(to_nearest.max()) < 4 * 1.5 * 3.5 / (0.9 * 40)  # cells of 4 px, at 3.5 m


def test_discs_lie_on_the_surface() -> None:
    scene = gaussians_from_pointmaps(single(wall_views(slant=0.5)), SplattingConfig())
    axes = rotations_from_quaternions_wxyz(scene.quats_wxyz)
    normal = torch.tensor([-0.5, 0.0, 1.0]) / 1.25**0.5
    assert float((axes[:, :, 2] @ normal).abs().min()) > 0.999
    assert float((scene.log_scales[:, 2] - scene.log_scales[:, :2].amin(dim=-1)).max()) < 0


def test_frames_are_proper_rotations_for_any_normal() -> None:
    g = torch.Generator().manual_seed(1)
    normals, viewing = (torch.nn.functional.normalize(torch.randn(200, 3, generator=g), dim=-1) for _ in range(2))
    viewing[:50] = normals[:50]  # seen head-on: no slope
    normals[50:56] = torch.cat([torch.eye(3), -torch.eye(3)])
    axes = rotations_from_quaternions_wxyz(frames_on_normals(normals, viewing))
    assert torch.allclose(axes.mT @ axes, torch.eye(3).expand(200, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(200), atol=1e-5)
    assert torch.allclose(axes[:, :, 2], normals, atol=1e-5)


def test_normals_face_the_camera_and_survive_holes() -> None:
    view = wall_views(slant=0.5).views[0]
    valid = torch.rand(32, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    depth = torch.where(valid, view.depth, 0.0)
    holes = replace(view, valid=valid, provenance=Provenance.OBSERVED.where(valid), depth=depth, confidence=valid * 0.9)
    normals, cosines = pixel_normals(holes)
    expected = torch.tensor([0.5, 0.0, -1.0]) / 1.25**0.5
    agree = (normals @ expected)[valid] > 0.999
    assert float(agree.float().mean()) > 0.5  # a lone pixel knows no more than its viewing ray
    assert bool(torch.isfinite(normals).all()) and float(cosines.min()) >= 0 and float(cosines.max()) <= 1


def test_scaling_the_world_scales_the_gaussians() -> None:
    views = wall_views()
    big = []
    for v in views.views:
        pose = SE3(rotation=v.world_from_cam.rotation, translation=10 * v.world_from_cam.translation)
        big.append(replace(v, depth=10 * v.depth, world_from_cam=pose))
    small, large = (
        gaussians_from_pointmaps(x, SplattingConfig(max_gaussians=500))
        for x in (views, replace(views, views=tuple(big)))
    )
    assert torch.allclose(10 * small.means, large.means, rtol=1e-4, atol=1e-4)
    assert torch.allclose(small.log_scales + np.log(10), large.log_scales, atol=1e-3)


def test_one_pixel_pointmap() -> None:
    view = PointMap(
        rgb=torch.full((1, 1, 3), 0.5),
        depth=torch.full((1, 1), 2.0),
        confidence=torch.ones(1, 1),
        valid=torch.ones(1, 1, dtype=torch.bool),
        provenance=torch.ones(1, 1, dtype=torch.uint8),
        camera=pinhole(1, 1),
        world_from_cam=SE3.identity(),
        keyframe_id=0,
    )
    views = AlignedViews(views=(view,), metric_scale=True, scale_source=None, backend="test")
    scene = gaussians_from_pointmaps(views, SplattingConfig())
    assert len(scene) == 1 and bool(torch.isfinite(scene.log_scales).all() & torch.isfinite(scene.quats_wxyz).all())


def test_no_valid_pixel_is_one_sentence() -> None:
    views = wall_views(confidence=0.0)
    with pytest.raises(ReconstructionError, match="no pointmap has a valid pixel of positive confidence"):
        initial_scene(views, SplattingConfig())
    nothing = torch.zeros(32, 40, dtype=torch.bool)
    blind = replace(views, views=tuple(replace(v, valid=nothing, provenance=nothing.byte()) for v in views.views))
    for use in (True, False):
        with pytest.raises(ReconstructionError, match="no pointmap has a valid pixel"):
            initial_scene(blind, SplattingConfig(use_pointmap_init=use))


def test_random_start_fills_the_box_and_follows_the_seed() -> None:
    views, config = wall_views(), SplattingConfig(max_gaussians=300, use_pointmap_init=False)
    scene = initial_scene(views, config, seed=1)
    assert len(scene) == 300 and float(scene.confidence.max()) == 0
    points = torch.cat([pointmap_world(v).reshape(-1, 3) for v in views.views])
    assert float(scene.means[:, 2].min()) < 1.0 and float(scene.means[:, 2].max()) <= float(points[:, 2].max())
    assert torch.equal(scene.means, random_gaussians(views, config, seed=1).means)
    assert not torch.equal(scene.means, random_gaussians(views, config, seed=2).means)


def test_pixels_without_depth_get_a_guess_of_low_confidence() -> None:
    views = wall_views(count=1)
    view = views.views[0]
    hole = torch.zeros_like(view.valid)
    hole[8:20, 10:30] = True
    holed = replace(
        view,
        valid=~hole,
        provenance=Provenance.OBSERVED.where(~hole),
        confidence=torch.where(hole, 0.0, view.confidence),
        depth=torch.where(hole, 9.0, view.depth),
    )
    config = SplattingConfig(max_gaussians=5000, fill_unsure=True, fill_confidence=0.2)
    filled = gaussians_from_pointmaps(replace(views, views=(holed,)), config)
    assert len(filled) == view.valid.numel()
    guesses = (filled.confidence - 0.2).abs() < 1e-6
    assert int(guesses.sum()) == int(hole.sum())
    truth = gaussians_from_pointmaps(views, config)
    assert torch.allclose(filled.means[guesses], truth.means[guesses], atol=0.05)
    left = gaussians_from_pointmaps(replace(views, views=(holed,)), replace(config, fill_unsure=False))
    assert len(left) == int((~hole).sum())
