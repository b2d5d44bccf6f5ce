"""Voxel thinning of clouds."""

from __future__ import annotations

import math

import numpy as np

from reconx_ros.core import BY_TRUST, InvalidInputError, PointCloud

_LEAST_GROWTH = 1.05


def thin_indices(points: np.ndarray, confidence: np.ndarray, voxel_size: float) -> np.ndarray:
    """Index of the most confident point of every occupied voxel.

    Args:
        points: [P, 3] in any unit.
        confidence: [P]; of equally confident points the first wins.
        voxel_size: edge length in the unit of the points.

    Returns:
        [Q] rising indices, Q <= P.

    Raises:
        InvalidInputError: when voxel_size is not positive and finite.
    """
    if not (np.isfinite(voxel_size) and voxel_size > 0):
        raise InvalidInputError(f"voxel size is {voxel_size}, expected a positive number")
    if not len(points):
        return np.zeros(0, np.int64)
    cells = np.floor(np.asarray(points, np.float64) / voxel_size).astype(np.int64)
    cells -= cells.min(axis=0)
    spans = cells.max(axis=0) + 1
    keys = (cells[:, 0] * spans[1] + cells[:, 1]) * spans[2] + cells[:, 2]
    order = np.lexsort((np.arange(len(keys)), -np.asarray(confidence, np.float64), keys))
    first = np.ones(len(keys), bool)
    first[1:] = keys[order][1:] != keys[order][:-1]
    return np.sort(order[first])


def thin_cloud(cloud: PointCloud, voxel_size: float) -> PointCloud:
    """Keep the surest point of every voxel, in the cloud's order; see ``thin_indices``.

    Of several kinds the surest wins, of one kind the most confident: what was measured never gives way to a guess.
    """
    doubt = np.full(len(cloud), len(BY_TRUST), np.float64)
    for rank, kind in enumerate(BY_TRUST):
        doubt[cloud.provenance == int(kind)] = rank
    return cloud.select(thin_indices(cloud.points, cloud.confidence - 2 * doubt, voxel_size))


def thin_to(cloud: PointCloud, voxel_size: float, max_points: int) -> tuple[PointCloud, float]:
    """``thin_cloud`` with voxels that grow until no more than a number of points are left.

    Args:
        cloud: P points.
        voxel_size: least edge length, in the unit of the points.
        max_points: at least 1.

    Returns:
        The points left and the edge length that was needed.

    Raises:
        InvalidInputError: as ``thin_indices``, or when max_points is less than 1.
    """
    if max_points < 1:
        raise InvalidInputError(f"max_points is {max_points}, expected at least 1")
    thinned = thin_cloud(cloud, voxel_size)
    while len(thinned) > max_points:  # the points of a surface fall with the square of the edge
        voxel_size *= max(math.sqrt(len(thinned) / max_points), _LEAST_GROWTH)
        thinned = thin_cloud(cloud, voxel_size)
    return thinned, voxel_size
