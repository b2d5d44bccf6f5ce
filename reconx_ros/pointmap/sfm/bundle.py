"""Robust bundle adjustment: Levenberg-Marquardt on SE(3) with the points eliminated by their Schur complement.

Triggs, McLauchlan, Hartley and Fitzgibbon, "Bundle adjustment - a modern synthesis" (1999), sections 4 to 6. Made for
up to about a hundred cameras: the reduced camera system is dense. Everything is float64 and deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from reconx_ros.core import SE3
from reconx_ros.core.transforms import rotation_exp, rotation_log
from reconx_ros.pointmap.sfm.problem import (
    BundleProblem,
    PosePrior,
    camera_coordinates,
    cross_matrices,
    residuals_px,
)

_MIN_DAMPING, _MAX_DAMPING = 1e-12, 1e9
_CHUNK = 4096  # points whose blocks are held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleResult:
    """Outcome of an adjustment.

    Attributes:
        problem: the input with cameras, points and log focal lengths moved.
        cost: robust cost, in squared pixels (priors included), half of the sum.
        iterations: accepted steps.
    """

    problem: BundleProblem
    cost: float
    iterations: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _System:
    """Normal equations before elimination; D = 6 V + G.

    Attributes:
        camera_hessian: [D, D]. camera_gradient: [D].
        point_hessian: [P, 3, 3]. point_gradient: [P, 3].
        cross: [O, 3, C] per observation: point by (its camera's 6, its focal length's 1) columns.
        columns: [O, C] where they belong; -1 for none.
    """

    camera_hessian: np.ndarray
    camera_gradient: np.ndarray
    point_hessian: np.ndarray
    point_gradient: np.ndarray
    cross: np.ndarray
    columns: np.ndarray
    order: np.ndarray = field()  # [O] observations sorted by point
    starts: np.ndarray = field()  # [P + 1] first of each point in that order


def cauchy(squared_px: np.ndarray, scale_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Cauchy loss and weight [...] of squared residuals: rho = s^2 log(1 + r^2 / s^2), weight = rho'(r^2)."""
    ratio = squared_px / scale_px**2
    return scale_px**2 * np.log1p(ratio), 1 / (1 + ratio)


def robust_cost(problem: BundleProblem, scale_px: float) -> float:
    """What ``adjust`` minimises; infinite where a point lies behind a camera that sees it."""
    error, depth = residuals_px(problem)
    if not bool((depth > 0).all()) or not bool(np.isfinite(error).all()):
        return float("inf")
    loss, _ = cauchy((error * error).sum(axis=-1), scale_px)
    total = float((problem.weights * loss).sum())
    total += sum(float((_prior_residual(problem, p)[0] ** 2).sum()) for p in problem.pose_priors)
    sigma = problem.focal_sigma
    if sigma > 0:
        total += float((((problem.log_focals - problem.prior_log_focals) / sigma) ** 2).sum())
    return 0.5 * total


def adjust(
    problem: BundleProblem, *, scale_px: float = 1.0, iterations: int = 30, tolerance: float = 1e-7
) -> BundleResult:
    """Move cameras and points so that the robust reprojection error and the priors are least.

    Args:
        problem: start; ``fixed_cameras`` do not move.
        scale_px: residual at which the Cauchy loss begins to doubt an observation.
        iterations: most accepted steps.
        tolerance: relative decrease of the cost below which it stops.

    Returns:
        The best state found; never worse than the start.
    """
    cost, damping, accepted = robust_cost(problem, scale_px), 1e-4, 0
    if not np.isfinite(cost):
        return BundleResult(problem=problem, cost=cost, iterations=0)
    while accepted < iterations:
        system = _normal_equations(problem, scale_px)
        better = None
        while better is None and damping < _MAX_DAMPING:
            moved = _step(problem, system, damping)
            new_cost = robust_cost(moved, scale_px) if moved is not None else float("inf")
            if new_cost < cost:
                better = moved
            else:
                damping *= 8
        if better is None:
            break
        gain, problem, cost, accepted = (cost - new_cost) / max(cost, 1e-300), better, new_cost, accepted + 1
        damping = max(damping / 8, _MIN_DAMPING)
        if gain < tolerance:
            break
    return BundleResult(problem=problem, cost=cost, iterations=accepted)


def _prior_residual(problem: BundleProblem, prior: PosePrior) -> tuple[np.ndarray, np.ndarray]:
    """Residual [6] (rotation, centre; each over its sigma) and its Jacobian [6, 6] by the camera's step."""
    pose = problem.cam_from_worlds[prior.camera]
    rotation, translation = pose.rotation, pose.translation
    turn = rotation_log(rotation @ prior.world_from_cam.rotation)
    away = -rotation.T @ translation - prior.world_from_cam.translation
    jacobian = np.zeros((6, 6))
    jacobian[:3, :3] = (np.eye(3) - 0.5 * cross_matrices(turn)) / prior.rotation_sigma_rad
    jacobian[3:, 3:] = -rotation.T / prior.position_sigma
    return np.concatenate([turn / prior.rotation_sigma_rad, away / prior.position_sigma]), jacobian


def _jacobians(problem: BundleProblem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals [O, 2], Jacobians by (camera step, log focal) [O, 2, 7] and by the point [O, 2, 3]."""
    error, _ = residuals_px(problem)
    points_cam, rotations = camera_coordinates(problem)
    focal = problem.focals_px()[problem.camera_index]  # [O, 2]
    x, y, z = points_cam.T
    zero = np.zeros_like(z)
    by_point_cam = np.stack(
        [
            np.stack([focal[:, 0] / z, zero, -focal[:, 0] * x / z**2], axis=-1),
            np.stack([zero, focal[:, 1] / z, -focal[:, 1] * y / z**2], axis=-1),
        ],
        axis=1,
    )  # [O, 2, 3]
    by_camera = np.concatenate(
        [
            -by_point_cam @ cross_matrices(points_cam),
            by_point_cam,
            np.stack([focal[:, 0] * x / z, focal[:, 1] * y / z], axis=-1)[..., None],
        ],
        axis=-1,
    )
    return error, by_camera, by_point_cam @ rotations


def _columns(problem: BundleProblem) -> np.ndarray:
    """Columns [O, 7] of each observation's parameters in the reduced system; -1 for what is held."""
    base = 6 * problem.camera_index[:, None] + np.arange(6)
    held = np.isin(problem.camera_index, problem.fixed_cameras)
    base[held] = -1
    group = problem.focal_group[problem.camera_index]
    focal = np.where(group >= 0, 6 * len(problem.cam_from_worlds) + group, -1)
    return np.concatenate([base, focal[:, None]], axis=1)


def _normal_equations(problem: BundleProblem, scale_px: float) -> _System:
    error, by_camera, by_point = _jacobians(problem)
    _, weight = cauchy((error * error).sum(axis=-1), scale_px)
    weight = (weight * problem.weights)[:, None, None]
    count = len(problem.points)
    size = 6 * len(problem.cam_from_worlds) + len(problem.log_focals)
    columns = _columns(problem)
    by_camera = np.where(columns[:, None, :] >= 0, by_camera, 0.0)
    rows = np.where(columns >= 0, columns, size)  # a spare last row takes what is held
    hessian, gradient = np.zeros((size + 1, size + 1)), np.zeros(size + 1)
    block = by_camera.transpose(0, 2, 1) @ (weight * by_camera)
    np.add.at(hessian, (rows[:, :, None], rows[:, None, :]), block)
    weighted = weight[..., 0] * error
    np.add.at(gradient, rows, np.einsum("oij,oi->oj", by_camera, weighted))
    hessian, gradient = hessian[:size, :size], gradient[:size]
    _add_priors(problem, hessian, gradient)
    order = np.argsort(problem.point_index, kind="stable")
    starts = np.searchsorted(problem.point_index[order], np.arange(count + 1))
    point_hessian, point_gradient = np.zeros((count, 3, 3)), np.zeros((count, 3))
    np.add.at(point_hessian, problem.point_index, by_point.transpose(0, 2, 1) @ (weight * by_point))
    np.add.at(point_gradient, problem.point_index, np.einsum("oij,oi->oj", by_point, weighted))
    return _System(
        camera_hessian=hessian, camera_gradient=gradient, point_hessian=point_hessian, point_gradient=point_gradient,
        cross=by_point.transpose(0, 2, 1) @ (weight * by_camera), columns=rows, order=order, starts=starts,
    )  # fmt: skip


def _add_priors(problem: BundleProblem, hessian: np.ndarray, gradient: np.ndarray) -> None:
    for prior in problem.pose_priors:
        if prior.camera in problem.fixed_cameras:
            continue
        error, jacobian = _prior_residual(problem, prior)
        own = slice(6 * prior.camera, 6 * prior.camera + 6)
        hessian[own, own] += jacobian.T @ jacobian
        gradient[own] += jacobian.T @ error
    if problem.focal_sigma > 0:
        focal = np.arange(6 * len(problem.cam_from_worlds), len(gradient))
        hessian[focal, focal] += 1 / problem.focal_sigma**2
        gradient[focal] += (problem.log_focals - problem.prior_log_focals) / problem.focal_sigma**2


def _reduced(system: _System, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Camera system [D, D], [D] after the points are eliminated; ``inverse`` [P, 3, 3] of their damped blocks."""
    hessian, gradient = system.camera_hessian.copy(), system.camera_gradient.copy()
    size, count = len(gradient), len(inverse)
    root = np.linalg.cholesky(inverse)  # inverse = root root^T
    for first in range(0, count, _CHUNK):
        last = min(first + _CHUNK, count)
        mine = system.order[system.starts[first] : system.starts[last]]
        dense = np.zeros((last - first, 3, size + 1))
        point = np.repeat(np.arange(last - first), np.diff(system.starts[first : last + 1]))
        np.add.at(
            dense, (point[:, None, None], np.arange(3)[:, None], system.columns[mine][:, None, :]), system.cross[mine]
        )
        half = (root[first:last].transpose(0, 2, 1) @ dense[..., :size]).reshape(-1, size)
        pull = (root[first:last].transpose(0, 2, 1) @ system.point_gradient[first:last, :, None]).reshape(-1)
        hessian -= half.T @ half
        gradient -= half.T @ pull
    return hessian, gradient


def _step(problem: BundleProblem, system: _System, damping: float) -> BundleProblem | None:
    """The problem after one damped step; None where the system cannot be solved."""
    eye = np.eye(3) * (1e-12 + damping * np.einsum("pii->pi", system.point_hessian)[:, :, None])
    try:
        inverse = np.linalg.inv(system.point_hessian + eye)
        hessian, gradient = _reduced(system, inverse)
        diagonal = np.diag(system.camera_hessian)
        hessian[np.diag_indices_from(hessian)] += np.where(diagonal > 0, damping * diagonal + 1e-12, 1.0)
        step = -np.linalg.solve(hessian, gradient)
    except np.linalg.LinAlgError:
        return None
    if not bool(np.isfinite(step).all()):
        return None
    return _moved(problem, system, inverse, step)


def _moved(problem: BundleProblem, system: _System, inverse: np.ndarray, step: np.ndarray) -> BundleProblem:
    along = np.append(step, 0.0)[system.columns]  # [O, 7]
    pulled = system.point_gradient.copy()
    np.add.at(pulled, problem.point_index, np.einsum("oij,oj->oi", system.cross, along))
    points = problem.points - np.einsum("pij,pj->pi", inverse, pulled)
    cameras = 6 * len(problem.cam_from_worlds)
    poses = tuple(
        _exp(step[6 * k : 6 * k + 6]) @ pose if bool(step[6 * k : 6 * k + 6].any()) else pose
        for k, pose in enumerate(problem.cam_from_worlds)
    )
    return replace(problem, points=points, cam_from_worlds=poses, log_focals=problem.log_focals + step[cameras:])


def _exp(step: np.ndarray) -> SE3:
    return SE3(rotation=rotation_exp(step[:3]), translation=step[3:])
