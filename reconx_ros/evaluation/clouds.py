"""How well a cloud covers and hits the true surface (Knapitsch et al., "Tanks and Temples", SIGGRAPH 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, check_shape
from reconx_ros.core.checks import check_finite
from reconx_ros.geometry.neighbours import nearest_distances

THRESHOLDS_M = (0.01, 0.02, 0.05)
_VOXEL_M = 0.005  # clouds are thinned to one point per voxel, so that close surfaces do not count more


def truth_cloud(views: Iterable[tuple[np.ndarray, PinholeCamera, SE3]]) -> np.ndarray:
    """World points [P, 3] of depth maps at given poses, one per 5 mm voxel.

    Args:
        views: (depth [H, W] in metres, 0 or NaN where unknown, camera of that grid, world_from_cam).
    """
    clouds = [np.zeros((0, 3))]
    for depth_m, camera, world_from_cam in views:
        row, column = np.nonzero(np.nan_to_num(depth_m) > 0)
        z = depth_m[row, column].astype(np.float64)
        points = np.stack([(column - camera.cx) / camera.fx * z, (row - camera.cy) / camera.fy * z, z], axis=-1)
        clouds.append(thinned(world_from_cam.apply(points)))
    return thinned(np.concatenate(clouds))


def thinned(points: np.ndarray, voxel: float = _VOXEL_M) -> np.ndarray:
    """One of the points [P, 3] of each voxel."""
    if not len(points):
        return points
    _, first = np.unique(np.floor(points / voxel).astype(np.int64), axis=0, return_index=True)
    out: np.ndarray = points[np.sort(first)]
    return out


def cloud_errors(points_m: np.ndarray, truth_m: np.ndarray) -> dict[str, Any]:
    """Accuracy, completeness and F-score of a cloud.

    Precision is the share of its points that lie within a threshold of the truth, recall the share of the truth that
    lies within the threshold of it; the F-score is their harmonic mean. Accuracy and completeness are the mean
    distances of both directions.

    Args:
        points_m: [P, 3] in metres, in the world of the truth; thinned to 5 mm here.
        truth_m: [Q, 3].

    Returns:
        points, truth_points; accuracy_m, completeness_m and their medians; per threshold of 1, 2 and 5 cm
        precision_1cm, recall_1cm, f_1cm and so on. Without points recall and F-score are 0 and the distances and
        precision are None.

    Raises:
        InvalidInputError: for points that are not [P, 3] or not finite, or an empty truth.
    """
    for name, values in (("cloud", points_m), ("truth cloud", truth_m)):
        check_shape(name, values, "P", 3)
        check_finite(name, values)
    if not len(truth_m):
        raise InvalidInputError("truth cloud has no points, expected at least one")
    points, truth = thinned(np.asarray(points_m, np.float64)), np.asarray(truth_m, np.float64)
    figures: dict[str, Any] = {"points": len(points), "truth_points": len(truth)}
    there = nearest_distances(points, truth)[:, 0]
    back = nearest_distances(truth, points)[:, 0] if len(points) else np.full(len(truth), np.inf)
    for name, distances in (("accuracy", there), ("completeness", back)):
        known = len(distances) > 0 and bool(np.isfinite(distances).all())
        figures[f"{name}_m"] = float(distances.mean()) if known else None
        figures[f"{name}_median_m"] = float(np.median(distances)) if known else None
    for threshold in THRESHOLDS_M:
        figures.update(_at(there, back, threshold))
    return figures


def _at(there: np.ndarray, back: np.ndarray, threshold_m: float) -> dict[str, float | None]:
    precision = float((there <= threshold_m).mean()) if len(there) else None
    recall = float((back <= threshold_m).mean())
    total = (precision or 0.0) + recall
    name = f"{100 * threshold_m:g}cm"
    return {
        f"precision_{name}": precision,
        f"recall_{name}": recall,
        f"f_{name}": 2 * (precision or 0.0) * recall / total if total > 0 else 0.0,
    }
