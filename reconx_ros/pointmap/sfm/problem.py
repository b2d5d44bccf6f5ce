"""What a bundle adjustment is about: cameras, points, observations, priors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.core.checks import check_shape


def cross_matrices(vectors: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] with ``cross_matrices(a) @ b = a x b``."""
    x, y, z = np.moveaxis(np.asarray(vectors), -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


@dataclass(frozen=True, kw_only=True)
class PosePrior:
    """What is believed about one camera before looking at the images.

    Attributes:
        camera: index.
        world_from_cam: believed pose.
        rotation_sigma_rad: standard deviation of each component of the rotation error.
        position_sigma: of each component of the position error, world units.
    """

    camera: int
    world_from_cam: SE3
    rotation_sigma_rad: float
    position_sigma: float


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleProblem:
    """V cameras, P points, O observations.

    Attributes:
        cameras: V intrinsics; their focal lengths are scaled by exp(log_focals[focal_group]).
        cam_from_worlds: V poses.
        points: [P, 3] float64, world.
        camera_index, point_index: [O] which camera sees which point.
        uv: [O, 2] float64 pixels.
        weights: [O] >= 0; of the robust loss.
        fixed_cameras: indices of cameras that keep their pose.
        pose_priors: beliefs about poses.
        focal_group: [V] index into log_focals; -1 where the focal length is known.
        log_focals, prior_log_focals: [G] present and believed factors, as logarithms.
        focal_sigma: standard deviation of log_focals about the belief; 0 for no belief.
    """

    cameras: tuple[PinholeCamera, ...]
    cam_from_worlds: tuple[SE3, ...]
    points: np.ndarray  # [P, 3]
    camera_index: np.ndarray  # [O]
    point_index: np.ndarray  # [O]
    uv: np.ndarray  # [O, 2]
    weights: np.ndarray  # [O]
    fixed_cameras: tuple[int, ...] = ()
    pose_priors: tuple[PosePrior, ...] = ()
    focal_group: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [V]
    log_focals: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [G]
    prior_log_focals: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [G]
    focal_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.focal_group.size == 0:
            object.__setattr__(self, "focal_group", np.full(len(self.cameras), -1))
        if self.prior_log_focals.size != self.log_focals.size:
            object.__setattr__(self, "prior_log_focals", np.zeros(self.log_focals.size))
        dims = check_shape("bundle points", self.points, "P", 3)
        dims = check_shape("bundle uv", self.uv, "O", 2, dims=dims)
        for name in ("camera_index", "point_index", "weights"):
            check_shape(f"bundle {name}", getattr(self, name), "O", dims=dims)

    def focals_px(self) -> np.ndarray:
        """(fx, fy) [V, 2] of all cameras as they are now."""
        given = np.array([[c.fx, c.fy] for c in self.cameras])
        factors = np.append(np.exp(self.log_focals), 1.0)[self.focal_group]
        return given * factors[:, None]


def camera_coordinates(problem: BundleProblem) -> tuple[np.ndarray, np.ndarray]:
    """The observed points in their cameras' frames [O, 3], and the cameras' rotations [O, 3, 3]."""
    rotations = np.stack([p.rotation for p in problem.cam_from_worlds])[problem.camera_index]
    translations = np.stack([p.translation for p in problem.cam_from_worlds])[problem.camera_index]
    points = problem.points[problem.point_index]
    return np.einsum("oij,oj->oi", rotations, points) + translations, rotations


def residuals_px(problem: BundleProblem) -> tuple[np.ndarray, np.ndarray]:
    """Reprojection errors [O, 2] in pixels (projected less observed) and depths [O]."""
    points_cam, _ = camera_coordinates(problem)
    depth = points_cam[:, 2]
    safe = np.where(np.abs(depth) < 1e-12, 1e-12, depth)
    middle = np.array([[c.cx, c.cy] for c in problem.cameras])[problem.camera_index]
    focal = problem.focals_px()[problem.camera_index]
    return focal * points_cam[:, :2] / safe[:, None] + middle - problem.uv, depth
