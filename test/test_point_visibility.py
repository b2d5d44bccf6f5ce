"""Which points of a cloud a camera sees."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.geometry.point_visibility import visible_points

CAMERA = PinholeCamera(width=64, height=48, fx=50.0, fy=50.0, cx=31.5, cy=23.5)


def wall(depth: float, half: float, step: float = 0.02) -> np.ndarray:
    side = np.arange(-half, half, step)
    x, y = np.meshgrid(side, side)
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, depth)], axis=-1)


def test_a_wall_hides_what_is_behind_it_and_nothing_beside_it() -> None:
    near, far = wall(1.0, 0.2), wall(2.0, 1.0)
    cloud = np.concatenate([near, far])
    index, pixels = visible_points(cloud, cloud, CAMERA, SE3.identity())
    seen = np.zeros(len(cloud), bool)
    seen[index] = True
    assert seen[: len(near)].all()
    behind = (np.abs(far[:, :2]) < 0.35).all(axis=1)
    beside = (np.abs(far[:, :2]) > 0.45).any(axis=1) & (np.abs(far[:, 0]) < 1.2) & (np.abs(far[:, 1]) < 0.9)
    assert not seen[len(near) :][behind].any() and seen[len(near) :][beside].all()
    expected = cloud[index, :2] / cloud[index, 2:] * 50.0 + (31.5, 23.5)
    assert np.abs(pixels - expected).max() < 1e-9


def test_points_behind_the_camera_or_beside_its_picture_are_not_seen() -> None:
    points = np.array([[0.0, 0.0, -1.0], [5.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert visible_points(points, points, CAMERA, SE3.identity())[0].tolist() == [3]


def test_a_camera_that_moves_with_the_cloud_sees_the_same() -> None:
    cloud = np.concatenate([wall(1.0, 0.2, 0.05), wall(2.0, 1.0, 0.05)])
    move = SE3.exp(np.array([5.0, -3.0, 2.0]), np.array([0.3, -1.0, 0.5]))
    here, there = (
        visible_points(p, p, CAMERA, pose) for p, pose in ((cloud, SE3.identity()), (move.apply(cloud), move))
    )
    assert np.array_equal(here[0], there[0]) and np.abs(here[1] - there[1]).max() < 1e-9


def test_an_empty_cloud_shows_nothing() -> None:
    index, pixels = visible_points(np.zeros((0, 3)), np.zeros((0, 3)), CAMERA, SE3.identity())
    assert index.shape == (0,) and pixels.shape == (0, 2)
