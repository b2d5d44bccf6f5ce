"""Rotations, one at a time in float64 and many at once in torch: round trips, and scipy's as the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from reconx_ros.core import InvalidInputError
from reconx_ros.core.transforms import (
    nearest_rotation,
    quaternion_wxyz_from_rotation,
    rotation_exp,
    rotation_from_quaternion_wxyz,
    rotation_log,
)
from reconx_ros.geometry.rotations import (
    quaternions_wxyz_from_rotations,
    rotations_exp,
    rotations_from_quaternions_wxyz,
)
from reconx_ros.geometry.umeyama import rigid_fit, umeyama

ANGLES = [0.0, 1e-12, 1e-9, 9.9e-9, 1e-6, 9.9e-4, 1.01e-3, 0.3, 1.5, 3.1, np.pi - 1e-7, np.pi]
AXES = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1], [2, -1, 0.5], [-0.1, 3, 1], [1, 1, 1]], np.float64)
VECTORS = np.concatenate([a * AXES / np.linalg.norm(AXES, axis=1)[:, None] for a in ANGLES])
ROTATIONS = Rotation.from_rotvec(VECTORS).as_matrix()


def wxyz(rotation: Rotation) -> np.ndarray:
    return np.roll(rotation.as_quat(), 1, axis=-1)


def same_turn(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether unit quaternions are equal up to their sign."""
    return bool(np.abs(np.abs((a * b).sum(axis=-1)) - 1).max() < 1e-12)


@pytest.mark.parametrize("vector", VECTORS)
def test_single_rotations_are_scipys_and_round_trip(vector: np.ndarray) -> None:
    expected, rotation = Rotation.from_rotvec(vector), rotation_exp(vector)
    np.testing.assert_allclose(rotation, expected.as_matrix(), rtol=0, atol=1e-14)
    quaternion = quaternion_wxyz_from_rotation(rotation)
    assert quaternion[0] >= 0 and same_turn(quaternion, wxyz(expected))
    np.testing.assert_allclose(rotation_from_quaternion_wxyz(-3 * quaternion), rotation, rtol=0, atol=1e-14)
    logarithm = rotation_log(rotation)
    np.testing.assert_allclose(rotation_exp(logarithm), rotation, rtol=0, atol=1e-14)
    if np.linalg.norm(vector) < np.pi - 1e-9:
        np.testing.assert_allclose(logarithm, vector, rtol=1e-9, atol=1e-15)


def test_many_rotations_are_scipys_and_round_trip() -> None:
    rotations = rotations_exp(torch.from_numpy(VECTORS))
    np.testing.assert_allclose(rotations, ROTATIONS, rtol=0, atol=1e-12)
    quaternions = quaternions_wxyz_from_rotations(rotations)
    assert same_turn(quaternions.numpy(), wxyz(Rotation.from_matrix(ROTATIONS)))
    np.testing.assert_allclose(rotations_from_quaternions_wxyz(-7 * quaternions), ROTATIONS, rtol=0, atol=1e-12)


def test_leading_dimensions_are_kept() -> None:
    shape = (len(ANGLES), len(AXES))
    rotations = rotations_exp(torch.from_numpy(VECTORS).reshape(*shape, 3))
    np.testing.assert_allclose(rotations.reshape(-1, 3, 3), ROTATIONS, rtol=0, atol=1e-12)
    quaternions = quaternions_wxyz_from_rotations(rotations.reshape(-1, 3, 3)).reshape(*shape, 4)
    np.testing.assert_allclose(rotations_from_quaternions_wxyz(quaternions), rotations, rtol=0, atol=1e-12)
    np.testing.assert_allclose(nearest_rotation(rotations.numpy()), rotations, rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.7])
def test_the_exponential_has_the_right_slope(angle: float) -> None:
    vector = torch.tensor([angle, -0.5 * angle, 0.2 * angle], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotations_exp, (vector,), eps=1e-7, atol=1e-6)


def test_the_nearest_rotation_is_proper_and_no_other_is_nearer() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(40, 3, 3))  # half of them mirror
    nearest = nearest_rotation(matrices)
    np.testing.assert_allclose(np.linalg.det(nearest), 1, atol=1e-12)
    np.testing.assert_allclose(nearest @ nearest.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (40, 3, 3)), atol=1e-12)
    away = np.linalg.norm(matrices - nearest, axis=(1, 2))
    for other in Rotation.random(300, random_state=0).as_matrix():
        assert (away <= np.linalg.norm(matrices - other, axis=(1, 2)) + 1e-12).all()


def test_the_nearest_rotation_to_a_covariance_turns_points_best() -> None:
    rng = np.random.default_rng(1)
    points, turn = rng.normal(size=(20, 3)), ROTATIONS[21]
    targets = points @ turn.T + 0.1 * rng.normal(size=(20, 3))
    expected, _ = Rotation.align_vectors(targets, points)
    np.testing.assert_allclose(nearest_rotation(targets.T @ points), expected.as_matrix(), atol=1e-12)


def test_a_rigid_fit_is_umeyamas_and_takes_what_is_almost_a_line() -> None:
    rng = np.random.default_rng(2)
    points, turn, shift = rng.normal(size=(30, 3)), ROTATIONS[33], np.array([3.0, -2.0, 0.5])
    targets = points @ turn.T + shift + 0.01 * rng.normal(size=(30, 3))
    fitted, checked = rigid_fit(targets, points), umeyama(targets, points, with_scale=False)
    np.testing.assert_allclose(fitted.matrix[:3], np.c_[checked.rotation, checked.translation], atol=1e-12)
    thin = points * [100.0, 1.0, 1.0]
    with pytest.raises(InvalidInputError, match="do not lie on one line"):
        umeyama(thin, thin)
    np.testing.assert_allclose(rigid_fit(thin @ turn.T + shift, thin).matrix[:3], np.c_[turn, shift], atol=1e-9)
