"""Poses and exposure of the views, refined together with the scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from splatting_scenes import sequence_of, wall_views

from reconx_ros.core import SE3, GaussianScene, ViewSequence
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.corrections import ViewCorrections
from reconx_ros.splatting.fit import FitResult, fit
from reconx_ros.splatting.init import initial_scene
from reconx_ros.splatting.select import select_rasterizer
from reconx_ros.splatting.targets import training_views

CPU = torch.device("cpu")
FROZEN = SplattingConfig(
    steps=150, max_gaussians=1500, lr_position=0, lr_rotation=0, lr_scale=0, lr_opacity=0, lr_color=0,
    weight_ssim=0.0, lr_pose=4e-3, lr_exposure=2e-2,
)  # fmt: skip


def corrections(config: SplattingConfig, inputs: int = 3) -> tuple[ViewCorrections, list]:
    views = training_views(sequence_of(wall_views(), inputs=inputs), config, CPU)
    return ViewCorrections(views, config, extent=3.0), views


def test_nothing_is_corrected_before_the_first_step() -> None:
    made, views = corrections(replace(FROZEN, refine_poses=True, refine_exposure=True))
    for i, view in enumerate(views):
        assert torch.allclose(made.cam_from_world(i, view), view.cam_from_world, atol=1e-6)
        assert torch.equal(made.exposed(i, view, view.target.rgb), view.target.rgb)
        assert made.report(i, view).moved < 1e-6 and made.report(i, view).turned_deg < 1e-4


def test_what_all_views_share_is_no_correction() -> None:
    made, views = corrections(replace(FROZEN, refine_poses=True, refine_exposure=True))
    with torch.no_grad():
        for _, leaf in made.leaves:
            leaf += torch.tensor([0.3, -0.2, 0.1])
    for i, view in enumerate(views):
        assert torch.allclose(made.cam_from_world(i, view), view.cam_from_world, atol=1e-5)
        assert torch.allclose(made.exposed(i, view, view.target.rgb), view.target.rgb, atol=1e-6)


def test_a_camera_turns_about_its_own_centre() -> None:
    made, views = corrections(replace(FROZEN, refine_poses=True))
    with torch.no_grad():
        made.leaves[0][1][1] += torch.tensor([0.0, 0.3, 0.0])
    report = made.report(1, views[1])
    assert report.turned_deg == pytest.approx(np.degrees(0.2), rel=1e-3)  # a third of it is shared
    assert report.moved < 1e-6


def test_exposure_of_made_views_is_left_alone() -> None:
    made, views = corrections(replace(FROZEN, refine_exposure=True), inputs=2)
    with torch.no_grad():
        made.leaves[0][1][0] += 0.2
    assert not torch.equal(made.exposed(0, views[0], views[0].target.rgb), views[0].target.rgb)
    assert torch.equal(made.exposed(2, views[2], views[2].target.rgb), views[2].target.rgb)


@pytest.fixture(scope="module")
def wall() -> GaussianScene:
    """The wall, fitted to true poses and colours."""
    config = SplattingConfig(steps=150, max_gaussians=1500)
    views = wall_views(width=64, height=48)
    rasterizer = select_rasterizer(config, CPU)
    return fit(initial_scene(views, config), sequence_of(views), config, rasterizer=rasterizer, device=CPU).scene


def run(scene: GaussianScene, sequence: ViewSequence, config: SplattingConfig) -> FitResult:
    return fit(scene, sequence, config, rasterizer=select_rasterizer(config, CPU), device=CPU)


def test_wrong_poses_are_found_again(wall: GaussianScene) -> None:
    truth = sequence_of(wall_views(width=64, height=48))
    slips = [np.array([0.02, -0.01, 0.0]), np.array([-0.015, 0.02, 0.0]), np.array([-0.005, -0.01, 0.0])]  # sum is 0
    wrong = [
        replace(v, world_from_cam=SE3(rotation=v.world_from_cam.rotation, translation=v.world_from_cam.translation + s))
        for v, s in zip(truth.views, slips, strict=True)
    ]
    out = run(wall, replace(truth, views=tuple(wrong)), replace(FROZEN, refine_poses=True))
    assert len(out.corrections) == 3

    def spread(poses: list[SE3]) -> float:
        """Error of image positions at the wall, which a turn and a move can share between them."""
        point = np.array([0.1, 0.0, 3.0])
        pairs = zip(poses, truth.views, strict=True)
        return max(
            float(np.linalg.norm(p.inverse().apply(point) - v.world_from_cam.inverse().apply(point))) for p, v in pairs
        )

    before = spread([v.world_from_cam for v in wrong])
    assert spread([c.world_from_cam for c in out.corrections]) < 0.35 * before
    assert all(c.gain == (1, 1, 1) and c.moved > 0 for c in out.corrections)


def test_wrong_exposure_is_found_again(wall: GaussianScene) -> None:
    truth = sequence_of(wall_views(width=64, height=48))
    gains = (1.2, 1.0, 1 / 1.2)
    views = tuple(replace(v, rgb=v.rgb * g) for v, g in zip(truth.views, gains, strict=True))
    plain = run(wall, replace(truth, views=views), FROZEN)
    out = run(wall, replace(truth, views=views), replace(FROZEN, refine_exposure=True))
    assert plain.psnr_inputs is not None and out.psnr_inputs is not None
    assert out.psnr_inputs > plain.psnr_inputs + 6 and plain.corrections == ()
    found = [np.mean(c.gain) * 0.5 + np.mean(c.bias) for c in out.corrections]  # what mid-grey becomes
    assert found == pytest.approx([0.5 * g for g in gains], rel=0.05)
