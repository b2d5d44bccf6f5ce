"""Ray maps and epipolar masks against plain geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, Trajectory
from reconx_ros.diffusion.network.camera_condition import CameraEncoder, epipolar_masks, plucker_rays
from reconx_ros.geometry.projection import project, transform_points

CAMERA = PinholeCamera(width=64, height=32, fx=50.0, fy=48.0, cx=31.0, cy=16.0)


def path(count: int = 3, seed: int = 0) -> Trajectory:
    random = np.random.default_rng(seed)
    poses = [SE3.exp(0.1 * random.standard_normal(3), 0.4 * random.standard_normal(3)) for _ in range(count)]
    return Trajectory(camera=CAMERA, world_from_cams=tuple(poses))


def test_rays_are_plucker_lines_in_the_first_frame() -> None:
    trajectory = path()
    rays = plucker_rays(trajectory)
    moment, direction = rays[:, :3], rays[:, 3:]
    assert rays.shape == (3, 6, 32, 64)
    assert torch.allclose(direction.norm(dim=1), torch.ones(3, 32, 64), atol=1e-6)
    assert float((moment * direction).sum(dim=1).abs().max()) < 1e-6
    assert float(moment[0].abs().max()) == 0  # the first camera's centre is the origin
    point_cam = torch.tensor([0.2, -0.1, 2.0])
    uv, _ = project(point_cam, CAMERA)
    u, v = uv.round().long().tolist()
    pixel = torch.tensor([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, 1.0]) * 2.0
    first_from_cam = trajectory.world_from_cams[0].inverse() @ trajectory.world_from_cams[2]
    on_ray = transform_points(first_from_cam, pixel)
    expected = torch.linalg.cross(on_ray, direction[2, :, v, u])
    assert torch.allclose(moment[2, :, v, u], expected, atol=1e-5)


def test_rays_do_not_depend_on_the_world_and_follow_the_unit_of_length() -> None:
    trajectory = path()
    other = SE3.exp(np.array([0.3, 1.0, -0.2]), np.array([5.0, -3.0, 1.0]))
    moved = Trajectory(camera=CAMERA, world_from_cams=tuple(other @ p for p in trajectory.world_from_cams))
    assert torch.allclose(plucker_rays(moved), plucker_rays(trajectory), atol=1e-5)
    halved = plucker_rays(trajectory, length=2.0)
    assert torch.allclose(2 * halved[:, :3], plucker_rays(trajectory)[:, :3], atol=1e-6)
    with pytest.raises(InvalidInputError, match="unit of camera centres is 0"):
        plucker_rays(trajectory, length=0.0)


def test_a_point_seen_by_both_frames_lies_in_the_mask() -> None:
    trajectory = path()
    mask = epipolar_masks(trajectory, (0, 2), (0,))[0]
    assert mask.shape == (1, 3 * 4 * 8, 2, 4 * 8)
    assert 0.1 < float(mask[0, 32:64].float().mean()) < 0.9
    grid, hits = CAMERA.scaled_to(8, 4), 0
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) * 2 + torch.tensor([-1.0, -1.0, 2.0])
    cells = []
    for pose in trajectory.world_from_cams:
        uv, z = project(transform_points(pose.inverse(), points), grid)
        col, row = uv.round().long().unbind(-1)
        inside = (z > 0) & (col >= 0) & (col < 8) & (row >= 0) & (row < 4)
        cells.append(torch.where(inside, row * 8 + col, -1))
    for asking, answering in zip(cells[1].tolist(), cells[2].tolist(), strict=True):
        if asking >= 0 and answering >= 0:
            hits += 1
            assert bool(mask[0, 32 + asking, 1, answering])
    assert hits > 20


def test_frames_with_one_centre_see_everything() -> None:
    trajectory = path(2)
    assert bool(epipolar_masks(trajectory, (0,), (0,))[0][0, :32].all())
    with pytest.raises(InvalidInputError, match="reference frame is 2"):
        epipolar_masks(trajectory, (2,), (0,))
    with pytest.raises(InvalidInputError, match="threshold is 0"):
        epipolar_masks(trajectory, (0,), (0,), 0.0)


def test_encoder_starts_at_zero_at_every_level() -> None:
    features = CameraEncoder(8, (16, 32))(torch.randn(3, 6, 32, 64))
    assert [tuple(f.shape) for f in features] == [(3, 16, 4, 8), (3, 32, 2, 4)]
    assert all(bool((f == 0).all()) for f in features)
