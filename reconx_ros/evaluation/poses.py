"""Errors of camera poses against a reference.

Absolute and relative trajectory errors follow Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems"
(IROS 2012, sec. IV); pairwise errors and the area under their curve follow Sarlin et al., "SuperGlue" (CVPR 2020, sec.
5.2); R_err and T_err follow SpatialCrafter (arXiv 2505.11992). Poses are world_from_cam, in the same order in both
lists; an estimate that is missing is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, Sim3
from reconx_ros.geometry.umeyama import align_poses

AUC_THRESHOLDS_DEG = (5.0, 10.0, 20.0)
_NO_BASELINE = 1e-9  # relative to the largest coordinate: two cameras at the same place


@dataclass(frozen=True, kw_only=True, eq=False)
class AbsoluteErrors:
    """Errors of the registered cameras after an alignment.

    Attributes:
        position: [N] distance between the centres, in the unit of the reference.
        rotation_deg: [N] angle between the orientations.
        truth_from_estimate: the alignment; its scale is the unit of the estimate in the reference's.
    """

    position: np.ndarray  # [N]
    rotation_deg: np.ndarray  # [N]
    truth_from_estimate: Sim3

    @property
    def ate(self) -> float:
        """Absolute trajectory error: root mean square of the position errors."""
        return float(np.sqrt(np.mean(self.position**2)))


@dataclass(frozen=True, kw_only=True, eq=False)
class PairErrors:
    """Errors of the relative poses of pairs of cameras; infinite for a pair that is not registered.

    Attributes:
        rotation_deg: [P] angle between the relative rotations.
        direction_deg: [P] angle between the directions of the relative translations, in the first camera's frame; NaN
            where the reference cameras share one place.
    """

    rotation_deg: np.ndarray  # [P]
    direction_deg: np.ndarray  # [P]

    @property
    def worst_deg(self) -> np.ndarray:
        """The larger of both errors of every pair [P]; a direction that does not exist does not count."""
        return np.fmax(self.rotation_deg, self.direction_deg)


def absolute_errors(
    estimate: Sequence[SE3 | None], truth: Sequence[SE3], *, align: str = "sim3", centres_only: bool = False
) -> AbsoluteErrors:
    """Position and rotation errors of the registered cameras after the best alignment.

    Args:
        estimate, truth: world_from_cam; an estimate may be None.
        align: "sim3", "se3" (unit kept) or "none".
        centres_only: align by the centres alone, as benchmarks do for long trajectories; the default uses the
            orientations too, so that two cameras, and cameras on a line, can be aligned.

    Raises:
        InvalidInputError: for lists of other lengths, fewer than two registered cameras (one without alignment), or
            centres that do not determine the alignment.
    """
    given, true = _registered(estimate, truth)
    least = 1 if align == "none" else 2
    if len(given) < least:
        raise InvalidInputError(f"{len(given)} of {len(truth)} cameras are registered, expected at least {least}")
    if align not in ("sim3", "se3", "none"):
        raise InvalidInputError(f"alignment is '{align}', expected sim3, se3 or none")
    moved = Sim3.identity()
    if align != "none":
        moved = align_poses(true, given, with_scale=align == "sim3", orientations=not centres_only)
    aligned = [moved.apply_pose(pose) for pose in given]
    return AbsoluteErrors(
        position=np.array([a.distance_to(t) for a, t in zip(aligned, true, strict=True)]),
        rotation_deg=np.array([np.degrees(a.angle_to(t)) for a, t in zip(aligned, true, strict=True)]),
        truth_from_estimate=moved,
    )


def relative_pose_errors(
    estimate: Sequence[SE3], truth: Sequence[SE3], *, step: int = 1, with_scale: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Relative pose error over a fixed step: the motion that is left of the true motion after the estimated one.

    ``E_i = (Q_i^-1 Q_{i+step})^-1 (P_i^-1 P_{i+step})`` with the reference Q and the estimate P.

    Args:
        estimate, truth: world_from_cam of T > step frames.
        step: frames between the two ends of a motion.
        with_scale: scale the estimate by the best similarity first.

    Returns:
        (translation [T - step] in the reference's unit, rotation [T - step] in degrees).

    Raises:
        InvalidInputError: for lists of other lengths, or too few frames.
    """
    _registered(estimate, truth)
    if not 1 <= step < len(truth):
        raise InvalidInputError(f"step is {step} with {len(truth)} frames, expected 1 to {len(truth) - 1}")
    moved = align_poses(truth, estimate) if with_scale else Sim3.identity()
    poses = [moved.apply_pose(p) for p in estimate]
    left = [
        (truth[i].inverse() @ truth[i + step]).inverse() @ (poses[i].inverse() @ poses[i + step])
        for i in range(len(truth) - step)
    ]
    still = SE3.identity()
    return (
        np.array([np.linalg.norm(e.translation) for e in left]),
        np.array([np.degrees(still.angle_to(e)) for e in left]),
    )


def pair_errors(estimate: Sequence[SE3 | None], truth: Sequence[SE3], *, sign_free: bool = False) -> PairErrors:
    """Errors of the relative pose of every pair of cameras i < j; blind to a similarity of either world.

    Args:
        estimate, truth: world_from_cam; an estimate may be None.
        sign_free: take a direction and its opposite as the same, as benchmarks of essential matrices do (SuperGlue,
            VGGT). The default does not: a camera that moved the other way is wrong.

    Raises:
        InvalidInputError: for lists of other lengths.
    """
    _registered(estimate, truth)
    size = max([1e-300, *(float(np.abs(t.translation).max()) for t in truth)])
    rotation, direction = [], []
    for i, j in combinations(range(len(truth)), 2):
        wanted = truth[i].inverse() @ truth[j]
        first, second = estimate[i], estimate[j]
        if first is None or second is None:
            rotation.append(np.inf)
            direction.append(np.inf)
            continue
        got = first.inverse() @ second
        rotation.append(np.degrees(got.angle_to(wanted)))
        there = np.linalg.norm(wanted.translation) > _NO_BASELINE * size
        angle = _angle_deg(got.translation, wanted.translation) if there else np.nan
        direction.append(min(angle, 180 - angle) if sign_free and there else angle)
    return PairErrors(rotation_deg=np.array(rotation), direction_deg=np.array(direction))


def pose_auc(errors_deg: np.ndarray, thresholds_deg: Sequence[float] = AUC_THRESHOLDS_DEG) -> dict[float, float]:
    """Area under the curve of recall over error, up to each threshold, in [0, 1] (SuperGlue, CVPR 2020).

    The curve is the piecewise linear one through (error_k, k / P) of the sorted errors, from (0, 0). Papers that name
    the same figure after VGGT count errors in bins of one degree: ``binned_auc``.

    Args:
        errors_deg: [P]; infinite where there is no estimate.
        thresholds_deg: upper ends.
    """
    errors = np.sort(np.asarray(errors_deg, np.float64))
    if not len(errors):
        return dict.fromkeys(thresholds_deg, float("nan"))
    errors = np.concatenate([[0.0], errors])
    recall = np.arange(len(errors)) / (len(errors) - 1)
    areas = {}
    for threshold in thresholds_deg:
        last = int(np.searchsorted(errors, threshold))
        x = np.concatenate([errors[:last], [threshold]])
        y = np.concatenate([recall[:last], recall[last - 1 : last]])
        areas[threshold] = float(np.sum(0.5 * (y[1:] + y[:-1]) * np.diff(x)) / threshold)
    return areas


def binned_auc(errors_deg: np.ndarray, threshold_deg: int) -> float:
    """Mean over 1, 2, ... ``threshold_deg`` of the share of errors below that many degrees, as VGGT (CVPR 2025)."""
    errors = np.asarray(errors_deg, np.float64)
    if not len(errors):
        return float("nan")
    return float(np.mean([(errors < bound).mean() for bound in range(1, threshold_deg + 1)]))


def spatialcrafter_errors(estimate: Sequence[SE3], truth: Sequence[SE3]) -> tuple[float, float]:
    """SpatialCrafter's (R_err in radians, T_err): sums over frames of errors relative to frame 0.

    R_err sums ``arccos((tr(R_est R_true^T) - 1) / 2)``, T_err sums ``|T_true - T_est|``; translations are those of the
    poses in frame 0, each list divided by its distance to the farthest frame.

    Raises:
        InvalidInputError: for lists of other lengths, fewer than two frames, or a camera that never moves.
    """
    _registered(estimate, truth)
    turns, moves = [], []
    for poses in (estimate, truth):
        relative = [poses[0].inverse() @ p for p in poses] if len(poses) >= 2 else []
        way = np.array([p.translation for p in relative])
        farthest = float(np.linalg.norm(way, axis=-1).max()) if relative else 0.0
        if farthest <= 0:
            raise InvalidInputError(f"{len(poses)} frames move by {farthest:g}, expected at least two places")
        turns.append(relative)
        moves.append(way / farthest)
    rotation = sum(a.angle_to(b) for a, b in zip(*turns, strict=True))
    return float(rotation), float(np.linalg.norm(moves[0] - moves[1], axis=-1).sum())


def pose_figures(estimate: Sequence[SE3 | None], truth: Sequence[SE3]) -> dict[str, float]:
    """All errors of a list of cameras as plain figures; missing cameras lower "registered" and the areas.

    Returns:
        registered (share). With at least two registered cameras at different places: ate (after a similarity), scale
        (of the reference over the estimate), rpe_translation (root mean square over neighbours in the list, after the
        similarity) and rpe_rotation_deg, rotation_deg and direction_deg (median and max over pairs of registered
        cameras), auc_5, auc_10, auc_20 and auc_30_binned over all pairs, r_err and t_err of SpatialCrafter over the
        registered cameras. Lengths are in the reference's unit.

    Raises:
        InvalidInputError: for lists of other lengths.
    """
    found, true = _registered(estimate, truth)
    figures = {"registered": len(found) / max(len(truth), 1)}
    try:
        absolute = absolute_errors(found, true)
        figures.update(ate=absolute.ate, scale=absolute.truth_from_estimate.scale)
    except InvalidInputError:
        return figures
    moves, turns = relative_pose_errors(found, true, with_scale=True)
    pairs, joined = pair_errors(estimate, truth), pair_errors(found, true)
    ways = joined.direction_deg[np.isfinite(joined.direction_deg)]
    figures.update(
        rpe_translation=float(np.sqrt(np.mean(moves**2))),
        rpe_rotation_deg=float(np.sqrt(np.mean(turns**2))),
        rotation_deg_median=float(np.median(joined.rotation_deg)),
        rotation_deg_max=float(joined.rotation_deg.max()),
        direction_deg_median=float(np.median(ways)) if len(ways) else float("nan"),
        direction_deg_max=float(ways.max()) if len(ways) else float("nan"),
    )
    figures.update({f"auc_{t:g}": area for t, area in pose_auc(pairs.worst_deg).items()})
    figures["auc_30_binned"] = binned_auc(pairs.worst_deg, 30)
    figures["r_err"], figures["t_err"] = spatialcrafter_errors(found, true)
    return figures


def _registered(estimate: Sequence[SE3 | None], truth: Sequence[SE3]) -> tuple[list[SE3], list[SE3]]:
    if len(estimate) != len(truth):
        raise InvalidInputError(f"{len(estimate)} estimated poses for {len(truth)} true ones, expected as many")
    pairs = [(e, t) for e, t in zip(estimate, truth, strict=True) if e is not None]
    return [e for e, _ in pairs], [t for _, t in pairs]


def _angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between two vectors, accurate for small ones (Kahan); 180 for a vector without a direction."""
    length_a, length_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if length_a == 0 or length_b == 0:
        return 180.0
    u, v = a / length_a, b / length_b
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))))
