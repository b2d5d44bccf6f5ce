"""Focal length and pose from pointmaps: recorded values, exact cases, outliers, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import parity
import pytest
import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.geometry.focal import median_focal, weiszfeld_focal
from reconx_ros.geometry.pnp import grid_pixels, solve_pnp, solve_pnp_unknown_focal
from reconx_ros.geometry.projection import backproject
from reconx_ros.geometry.umeyama import umeyama

CAMERA = PinholeCamera(width=40, height=30, fx=47.0, fy=47.0, cx=20.0, cy=15.0)
POSE = SE3.exp(np.array([0.1, -0.3, 0.2]), np.array([0.5, -0.2, 0.4]))


@pytest.fixture
def points() -> torch.Tensor:
    depth = 2 + torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
    return backproject(depth, CAMERA)


@pytest.mark.parametrize("path", parity.recorded("focal length and pose"))
def test_recorded_focal_lengths_poses_and_registration(path: Path) -> None:
    data = np.load(path)
    maps = torch.from_numpy(data["pts3d"])
    np.testing.assert_allclose([weiszfeld_focal(m) for m in maps], data["focal_weiszfeld"], rtol=1e-6)
    np.testing.assert_allclose([median_focal(m) for m in maps], data["focal_median"], rtol=1e-6)
    clipped = [weiszfeld_focal(m, relative_range=(0.5, 1.0)) for m in maps]
    np.testing.assert_allclose(clipped, data["focal_weiszfeld_clipped"], rtol=1e-6)

    height, width = maps.shape[1:3]
    camera = PinholeCamera(width=width, height=height, fx=70.0, fy=70.0, cx=width / 2, cy=height / 2)
    mask = (data["conf2"][0] > 1.5).ravel()
    world, pixels = data["pts3d_in_other_view"][0].reshape(-1, 3)[mask], grid_pixels(camera)[mask]
    found, guessed = solve_pnp(world, pixels, camera), solve_pnp_unknown_focal(world, pixels, camera)
    assert found is not None and guessed is not None
    np.testing.assert_allclose(found.world_from_cam.matrix, data["pnp_f70_pose"], atol=1e-5)
    np.testing.assert_allclose(guessed.world_from_cam.matrix, data["pnp_nofocal_pose"], atol=1e-5)
    assert guessed.camera.fx == pytest.approx(float(data["pnp_nofocal_focal"]))

    target = data["gt_world"][data["pairs"][0][0]].reshape(-1, 3)
    fitted = umeyama(target, data["pts3d"][0].reshape(-1, 3), weights=data["conf1"][0].ravel())
    assert fitted.scale == pytest.approx(float(data["reg_s"]), rel=1e-5)
    np.testing.assert_allclose(fitted.rotation, data["reg_R"], atol=1e-5)
    np.testing.assert_allclose(fitted.translation, data["reg_T"], atol=1e-5)


def test_focal_length_of_exact_and_of_spoilt_points(points: torch.Tensor) -> None:
    assert weiszfeld_focal(points) == pytest.approx(47, rel=1e-5)
    assert median_focal(points) == pytest.approx(47, rel=1e-5)
    spoilt = points.clone()
    spoilt[::4, ::4, 0] *= 3
    spoilt[1, 1], spoilt[2, 2, 2] = torch.nan, 0
    assert weiszfeld_focal(spoilt) == pytest.approx(47, rel=2e-3)
    shifted = backproject(points[..., 2], PinholeCamera(width=40, height=30, fx=47, fy=47, cx=12, cy=18))
    assert weiszfeld_focal(shifted, (12, 18)) == pytest.approx(47, rel=1e-5)


def test_a_map_without_any_direction_has_no_median() -> None:
    with pytest.raises(InvalidInputError, match="none of 24 focal votes"):
        median_focal(torch.full((3, 4, 3), torch.nan))


def test_pose_and_focal_length_with_a_third_of_wrong_points(points: torch.Tensor) -> None:
    world = POSE.apply(points.reshape(-1, 3).double().numpy())
    rng = np.random.default_rng(0)
    world[::3] += rng.normal(size=world[::3].shape)
    world[1] = np.nan
    found = solve_pnp(world, grid_pixels(CAMERA), CAMERA, threshold_px=0.5, iterations=300)
    assert found is not None
    assert found.world_from_cam.angle_to(POSE) < 2e-3 and found.world_from_cam.distance_to(POSE) < 5e-3
    assert not found.inliers[1] and found.inliers.mean() > 0.6
    guessed = solve_pnp_unknown_focal(world, grid_pixels(CAMERA), CAMERA, threshold_px=0.5)
    assert guessed is not None and guessed.camera.fx == pytest.approx(47, rel=0.1)


def test_inliers_lie_before_the_camera(points: torch.Tensor) -> None:
    world = -points.reshape(-1, 3).double().numpy()
    found = solve_pnp(world, grid_pixels(CAMERA), CAMERA)
    if found is not None:
        assert (found.world_from_cam.inverse().apply(world)[found.inliers, 2] > 0).all()


def test_too_few_points_have_no_pose() -> None:
    assert solve_pnp(np.eye(3), np.eye(3)[:, :2], CAMERA) is None
    assert solve_pnp_unknown_focal(np.full((9, 3), np.nan), np.zeros((9, 2)), CAMERA) is None
