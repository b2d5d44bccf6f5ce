"""Least-squares similarity between point sets, robust to outliers, and between sets of camera poses.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, Sim3, check_finite, check_shape
from reconx_ros.core.transforms import nearest_rotation

COLLINEAR_RATIO = 0.02  # second over first singular value of the centred points, below which they form a line
_MAX_SAMPLES = 500
_REFINEMENTS = 20


def centred_spread(points: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Singular values [3], falling, of centred points [P, 3], as root-mean-square lengths along the principal axes."""
    weights = np.ones(len(points)) if weights is None else weights
    share = weights / weights.sum()
    centred = points - share @ points
    return np.linalg.svd(np.sqrt(share)[:, None] * centred, compute_uv=False)[:3]


def umeyama(
    points_a: np.ndarray, points_b: np.ndarray, *, weights: np.ndarray | None = None, with_scale: bool = True
) -> Sim3:
    """The similarity a_from_b that minimises the weighted sum of ``|a - a_from_b(b)|^2`` (Umeyama 1991, eq. 40-42).

    Args:
        points_a, points_b: [P, 3] corresponding points, at least three.
        weights: [P] >= 0; equal ones when None.
        with_scale: False fixes the scale at 1 (a rigid fit).

    Raises:
        InvalidInputError: for shapes that differ, values that are not finite, fewer than three points, or points that
            all lie on one line or at one place: their rotation is not determined.
    """
    a, b, w = _checked(points_a, points_b, weights)
    for name, points in (("points_a", a), ("points_b", b)):
        first, second = centred_spread(points, w)[:2] if (w > 0).sum() >= 2 else (0.0, 0.0)
        if len(points) < 3 or second <= COLLINEAR_RATIO * first or first <= 1e-12 * max(1.0, np.abs(points).max()):
            raise InvalidInputError(
                f"{name} holds {len(points)} points with a spread of {first:.3g} along and {second:.3g} across, "
                "expected at least three that do not lie on one line"
            )
    return _fit(a, b, w, np.zeros((3, 3)), with_scale)


def rigid_fit(points_a: np.ndarray, points_b: np.ndarray) -> SE3:
    """As ``umeyama`` with scale 1 and equal weights, also where points huddle so near a line that it would refuse.

    Raises:
        InvalidInputError: for shapes that differ, no points, or values that are not finite.
    """
    a, b, w = _checked(points_a, points_b, None)
    found = _fit(a, b, w, np.zeros((3, 3)), with_scale=False)
    return SE3(rotation=found.rotation, translation=found.translation)


def robust_umeyama(
    points_a: np.ndarray, points_b: np.ndarray, *, threshold: float, with_scale: bool = True, seed: int = 0
) -> tuple[Sim3, np.ndarray]:
    """Umeyama's fit with wrong correspondences: triples are tried, the best is refined by reweighting.

    Args:
        points_a, points_b: [P, 3] corresponding points.
        threshold: distance in frame a up to which a point agrees.
        with_scale: as ``umeyama``.
        seed: of the choice of triples, where there are too many to try all.

    Returns:
        (a_from_b, inliers [P] bool).

    Raises:
        InvalidInputError: as ``umeyama``, and when no three points determine a similarity.
    """
    a, b, _ = _checked(points_a, points_b, None)
    umeyama(a, b, with_scale=with_scale)  # refuses what no triple could repair

    def fit(weights: np.ndarray) -> Sim3 | None:
        try:
            return umeyama(a[weights > 0], b[weights > 0], weights=weights[weights > 0], with_scale=with_scale)
        except InvalidInputError:
            return None

    return _consensus(fit, lambda s: np.linalg.norm(s.apply(b) - a, axis=1), len(a), 3, threshold, seed)


def align_poses(
    a_from_cams: Sequence[SE3],
    b_from_cams: Sequence[SE3],
    *,
    with_scale: bool = True,
    weights: np.ndarray | None = None,
    orientations: bool = True,
) -> Sim3:
    """The similarity a_from_b between two sets of poses of the same cameras, from centres and orientations.

    The rotation maximises the trace of ``R^T (C / e^2 + mean_i A_i B_i^T)``: C is the covariance of the centres, e^2
    their variance, A_i and B_i the orientations. It is determined for two cameras, and for cameras on a line. Scale and
    translation come from the centres alone.

    Args:
        a_from_cams, b_from_cams: poses of the same V >= 2 cameras.
        with_scale: False fixes the scale at 1.
        weights: [V] >= 0; equal ones when None.
        orientations: False uses centres alone, as ``umeyama``.

    Raises:
        InvalidInputError: for other lengths, fewer than two cameras, or centres that all coincide.
    """
    a, b, w = _checked(_centres(a_from_cams), _centres(b_from_cams), weights)
    if not orientations:
        return umeyama(a, b, weights=w, with_scale=with_scale)
    size_a, size_b = (float(np.linalg.norm(centred_spread(p, w))) for p in (a, b))
    if (w > 0).sum() < 2 or min(size_a, size_b) <= 1e-12 * max(1.0, float(np.abs(a).max()), float(np.abs(b).max())):
        raise InvalidInputError(
            f"{int((w > 0).sum())} camera centres spread over {size_a:.3g} and {size_b:.3g}, "
            "expected at least two different centres"
        )
    turns = np.stack([p.rotation @ q.rotation.T for p, q in zip(a_from_cams, b_from_cams, strict=True)])  # [V, 3, 3]
    mean_turn = np.einsum("v,vij->ij", w / w.sum(), turns)
    return _fit(a, b, w, size_a * size_b * mean_turn, with_scale)


def robust_align_poses(
    a_from_cams: Sequence[SE3],
    b_from_cams: Sequence[SE3],
    *,
    threshold: float,
    orientations: bool = True,
    seed: int = 0,
) -> tuple[Sim3, np.ndarray]:
    """``align_poses`` with wrong poses among them: pairs are tried, the best is refined by reweighting.

    Args:
        a_from_cams, b_from_cams: poses of the same V >= 2 cameras.
        threshold: distance in frame a between a camera's two centres up to which it agrees.
        orientations: as ``align_poses``; without them, triples are tried.
        seed: of the choice of samples, where there are too many to try all.

    Returns:
        (a_from_b, inliers [V] bool).

    Raises:
        InvalidInputError: as ``align_poses``.
    """
    a, b = _centres(a_from_cams), _centres(b_from_cams)
    if not orientations:
        return robust_umeyama(a, b, threshold=threshold, seed=seed)
    align_poses(a_from_cams, b_from_cams)

    def fit(weights: np.ndarray) -> Sim3 | None:
        try:
            return align_poses(a_from_cams, b_from_cams, weights=weights)
        except InvalidInputError:
            return None

    return _consensus(fit, lambda s: np.linalg.norm(s.apply(b) - a, axis=1), len(a), 2, threshold, seed)


def _centres(poses: Sequence[SE3]) -> np.ndarray:
    return np.stack([p.translation for p in poses]) if poses else np.zeros((0, 3))


def _checked(
    points_a: np.ndarray, points_b: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = np.asarray(points_a, np.float64), np.asarray(points_b, np.float64)
    dims = check_shape("points_a", a, "P", 3)
    check_shape("points_b", b, "P", 3, dims=dims)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, np.float64)
    check_shape("weights", w, "P", dims=dims)
    for name, value in (("points_a", a), ("points_b", b), ("weights", w)):
        check_finite(name, value)
    if len(w) and (w.min() < 0 or w.sum() <= 0):
        raise InvalidInputError(
            f"weights range from {w.min():.3g} to {w.max():.3g}, expected some positive, none below 0"
        )
    return a, b, w


def _fit(a: np.ndarray, b: np.ndarray, w: np.ndarray, prior: np.ndarray, with_scale: bool) -> Sim3:
    """Closed form with an addition ``prior`` [3, 3] to the covariance that determines the rotation."""
    share = w / w.sum()
    mean_a, mean_b = share @ a, share @ b
    centred_a, centred_b = a - mean_a, b - mean_b
    covariance = np.einsum("p,pi,pj->ij", share, centred_a, centred_b)
    rotation = nearest_rotation(covariance + prior)
    along = float(np.trace(rotation.T @ covariance))
    scale = along / float(share @ (centred_b**2).sum(axis=1)) if with_scale else 1.0
    if not scale > 0:
        raise InvalidInputError(f"the best scale between the point sets is {scale:.3g}, expected a positive one")
    return Sim3(scale=scale, rotation=rotation, translation=mean_a - scale * rotation @ mean_b)


def _consensus(
    fit: Callable[[np.ndarray], Sim3 | None],
    residuals: Callable[[Sim3], np.ndarray],
    count: int,
    sample_size: int,
    threshold: float,
    seed: int,
) -> tuple[Sim3, np.ndarray]:
    """MSAC over minimal samples (Torr and Zisserman 2000), then Tukey reweighting of what the best sample explains."""
    if not threshold > 0:
        raise InvalidInputError(f"threshold is {threshold}, expected a positive distance")
    best: Sim3 | None = None
    lowest = np.inf
    for sample in _samples(count, sample_size, seed):
        candidate = fit(np.isin(np.arange(count), sample).astype(np.float64))
        if candidate is None:
            continue
        cost = float(np.minimum(residuals(candidate) ** 2, threshold**2).sum())
        if cost < lowest:
            best, lowest = candidate, cost
    if best is None:
        raise InvalidInputError(
            f"no {sample_size} of the {count} correspondences determine a similarity, expected some"
        )
    for _ in range(_REFINEMENTS):
        weights = np.clip(1 - (residuals(best) / (3 * threshold)) ** 2, 0, None) ** 2
        refined = fit(weights)
        if refined is None:
            break
        best = refined
    return best, residuals(best) <= threshold


def _samples(count: int, size: int, seed: int) -> list[tuple[int, ...]]:
    if math.comb(count, size) <= _MAX_SAMPLES:
        return list(combinations(range(count), size))
    rng = np.random.default_rng(seed)
    return [tuple(rng.choice(count, size, replace=False).tolist()) for _ in range(_MAX_SAMPLES)]
