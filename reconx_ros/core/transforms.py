"""Rigid and similarity transforms, immutable, float64.

A transform is named ``a_from_b`` and maps coordinates in frame b to frame a, so that names cancel:
``world_from_cam @ cam_from_lidar`` is ``world_from_lidar`` and ``points_world = world_from_cam.apply(points_cam)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reconx_ros.core.checks import check_finite, check_shape
from reconx_ros.core.errors import InvalidInputError

_ORTHONORMAL_TOLERANCE = 1e-4


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array, dtype=np.float64)
    array.setflags(write=False)
    return array


def rotation_from_quaternion_wxyz(quaternion_wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of a quaternion (w, x, y, z) of any non-zero length.

    Raises:
        InvalidInputError: for a quaternion that is not finite or (nearly) zero.
    """
    q = np.asarray(quaternion_wxyz, dtype=np.float64)
    check_shape("quaternion_wxyz", q, 4)
    norm = float(np.linalg.norm(q))
    if not np.isfinite(norm) or norm < 1e-9:
        raise InvalidInputError(f"quaternion (w, x, y, z) = {q.tolist()} has no direction, expected a non-zero length")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_wxyz_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation matrix [3, 3] (Shepperd's method, stable everywhere)."""
    r = np.asarray(rotation, dtype=np.float64)
    diagonal = np.diag(r)
    choices = np.array([r.trace(), *diagonal])
    k = int(np.argmax(choices))
    if k == 0:
        q = np.array([1 + r.trace(), r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    else:
        i = k - 1
        j, m = (i + 1) % 3, (i + 2) % 3
        q = np.empty(4)
        q[0] = r[m, j] - r[j, m]
        q[1 + i] = 1 + r[i, i] - r[j, j] - r[m, m]
        q[1 + j] = r[j, i] + r[i, j]
        q[1 + m] = r[m, i] + r[i, m]
    q /= np.linalg.norm(q)
    return q if q[0] >= 0 else -q


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotations [..., 3, 3] nearest to matrices [..., 3, 3]; of a covariance, what turns points best (Kabsch)."""
    u, _, vt = np.linalg.svd(matrix)
    return _proper(u, vt)


def _proper(u: np.ndarray, vt: np.ndarray) -> np.ndarray:
    sign = np.ones(u.shape[:-1])
    sign[..., 2] = np.sign(np.linalg.det(u @ vt))
    rotation: np.ndarray = (u * sign[..., None, :]) @ vt
    return rotation


def rotation_exp(rotation_vector: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of an axis-angle vector [3] in radians (Rodrigues)."""
    v = np.asarray(rotation_vector, dtype=np.float64)
    angle = float(np.linalg.norm(v))
    k = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    if angle < 1e-8:
        return np.eye(3) + k + 0.5 * k @ k
    return np.eye(3) + np.sin(angle) / angle * k + (1 - np.cos(angle)) / angle**2 * k @ k


def rotation_log(rotation: np.ndarray) -> np.ndarray:
    """Axis-angle vector [3] in radians, length in [0, pi], of a rotation matrix [3, 3]."""
    q = quaternion_wxyz_from_rotation(rotation)
    sine = float(np.linalg.norm(q[1:]))
    if sine < 1e-12:
        return 2.0 * q[1:]
    return 2.0 * np.arctan2(sine, q[0]) / sine * q[1:]


def _refuse_last_row(matrix: np.ndarray) -> None:
    row = matrix[3].tolist()
    if np.allclose(matrix[:, 3], [0, 0, 0, 1], atol=1e-6):
        raise InvalidInputError(
            f"transform matrix has its translation {row[:3]} in the last row (column-major), expected it in the last "
            "column (row-major)"
        )
    raise InvalidInputError(f"transform matrix has last row {row}, expected [0, 0, 0, 1]")


@dataclass(frozen=True, kw_only=True)
class SE3:
    """Rigid transform a_from_b: ``x_a = rotation @ x_b + translation``.

    Attributes:
        rotation: [3, 3] proper orthonormal matrix.
        translation: [3] metres (or scene units where the scale is unknown), in frame a.

    Raises:
        InvalidInputError: at birth, when not finite or not a rotation.
    """

    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rotation", _frozen(self.rotation))
        object.__setattr__(self, "translation", _frozen(self.translation))
        check_shape("rotation", self.rotation, 3, 3)
        check_shape("translation", self.translation, 3)
        check_finite("rotation", self.rotation)
        check_finite("translation", self.translation)
        error = float(np.abs(self.rotation @ self.rotation.T - np.eye(3)).max())
        if error > _ORTHONORMAL_TOLERANCE or np.linalg.det(self.rotation) < 0:
            raise InvalidInputError(
                f"rotation is not a proper rotation (R R^T differs from identity by {error:.2g}, "
                f"determinant {np.linalg.det(self.rotation):.3f}), expected an orthonormal matrix of determinant 1"
            )

    @classmethod
    def identity(cls) -> SE3:
        """The transform that changes nothing."""
        return cls(rotation=np.eye(3), translation=np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> SE3:
        """From a homogeneous matrix [4, 4]; a slightly non-orthonormal rotation is projected to the nearest one.

        Raises:
            InvalidInputError: for another shape, NaN, a matrix written by columns, or one that is no rotation, of
                which a mirrored one (determinant -1) is told apart.
        """
        m = np.asarray(matrix, dtype=np.float64)
        check_shape("transform matrix", m, 4, 4)
        check_finite("transform matrix", m)
        if not np.allclose(m[3], [0, 0, 0, 1], atol=1e-6):
            _refuse_last_row(m)
        u, s, vt = np.linalg.svd(m[:3, :3])
        if np.abs(s - 1).max() > 1e-2:
            raise InvalidInputError(f"transform matrix has singular values {s.round(4).tolist()}, expected a rotation")
        if np.linalg.det(u @ vt) < 0:
            raise InvalidInputError(
                "transform matrix is left-handed (determinant -1, expected 1): one of its axes is mirrored"
            )
        return cls(rotation=u @ vt, translation=m[:3, 3])

    @classmethod
    def from_quaternion_xyzw(cls, translation: np.ndarray, quaternion_xyzw: np.ndarray) -> SE3:
        """From a ROS pose: translation [3] and quaternion (x, y, z, w)."""
        x, y, z, w = np.asarray(quaternion_xyzw, dtype=np.float64)
        return cls(rotation=rotation_from_quaternion_wxyz(np.array([w, x, y, z])), translation=translation)

    @classmethod
    def exp(cls, rotation_vector: np.ndarray, translation: np.ndarray) -> SE3:
        """From an axis-angle vector [3] (radians) and a translation [3]; not the twist exponential."""
        return cls(rotation=rotation_exp(rotation_vector), translation=translation)

    @property
    def matrix(self) -> np.ndarray:
        """Homogeneous matrix [4, 4]."""
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = self.rotation, self.translation
        return m

    @property
    def quaternion_wxyz(self) -> np.ndarray:
        """Unit quaternion (w, x, y, z), w >= 0."""
        return quaternion_wxyz_from_rotation(self.rotation)

    @property
    def quaternion_xyzw(self) -> np.ndarray:
        """Unit quaternion in ROS order (x, y, z, w), w >= 0."""
        w, x, y, z = self.quaternion_wxyz
        return np.array([x, y, z, w])

    def inverse(self) -> SE3:
        """b_from_a."""
        return SE3(rotation=self.rotation.T, translation=-self.rotation.T @ self.translation)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Map points [..., 3] of frame b to frame a."""
        return np.asarray(points) @ self.rotation.T + self.translation

    def __matmul__(self, other: SE3) -> SE3:
        rotation = nearest_rotation(self.rotation @ other.rotation)
        return SE3(rotation=rotation, translation=self.rotation @ other.translation + self.translation)

    def angle_to(self, other: SE3) -> float:
        """Rotation angle in radians between this transform's rotation and another's."""
        return float(np.linalg.norm(rotation_log(self.rotation.T @ other.rotation)))

    def distance_to(self, other: SE3) -> float:
        """Distance between the two origins, in the transform's unit."""
        return float(np.linalg.norm(self.translation - other.translation))

    def interpolate(self, other: SE3, fraction: float) -> SE3:
        """Linear translation and shortest-arc slerp, as tf2 does it; fraction 0 is self, 1 is other."""
        delta = rotation_log(self.rotation.T @ other.rotation)
        rotation = self.rotation @ rotation_exp(fraction * delta)
        return SE3(rotation=rotation, translation=(1 - fraction) * self.translation + fraction * other.translation)


@dataclass(frozen=True, kw_only=True)
class Sim3:
    """Similarity a_from_b: ``x_a = scale * rotation @ x_b + translation``. Scales geometry; never goes through TF.

    Attributes:
        scale: positive factor.
        rotation: [3, 3] proper orthonormal matrix.
        translation: [3] in frame a.
    """

    scale: float
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3]

    def __post_init__(self) -> None:
        rigid = SE3(rotation=self.rotation, translation=self.translation)
        object.__setattr__(self, "rotation", rigid.rotation)
        object.__setattr__(self, "translation", rigid.translation)
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InvalidInputError(f"scale is {self.scale}, expected a finite positive number")

    @classmethod
    def identity(cls) -> Sim3:
        """The similarity that changes nothing."""
        return cls(scale=1.0, rotation=np.eye(3), translation=np.zeros(3))

    def inverse(self) -> Sim3:
        """b_from_a."""
        rotation = self.rotation.T
        return Sim3(scale=1 / self.scale, rotation=rotation, translation=-rotation @ self.translation / self.scale)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Map points [..., 3] of frame b to frame a."""
        return self.scale * np.asarray(points) @ self.rotation.T + self.translation

    def apply_pose(self, b_from_cam: SE3) -> SE3:
        """Move a camera pose along: the rotation turns, the centre moves and scales."""
        return SE3(rotation=self.rotation @ b_from_cam.rotation, translation=self.apply(b_from_cam.translation))

    def __matmul__(self, other: Sim3) -> Sim3:
        return Sim3(
            scale=self.scale * other.scale,
            rotation=self.rotation @ other.rotation,
            translation=self.apply(other.translation),
        )
