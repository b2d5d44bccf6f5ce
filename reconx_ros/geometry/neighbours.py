"""Exact nearest neighbours in point clouds."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import InvalidInputError, check_shape

_EXACT_TREE = 4  # cvflann::FLANN_INDEX_KDTREE_SINGLE: one k-d tree, searched until the answer is certain
_LEAF_POINTS = 10
_UNLIMITED = -1


def nearest_distances(queries: np.ndarray, points: np.ndarray, count: int = 1) -> np.ndarray:
    """Distances [Q, count] in float64 from each query to its nearest points, the nearest first.

    Args:
        queries: [Q, 3].
        points: [P, 3], at least ``count``.
        count: how many neighbours.

    Raises:
        InvalidInputError: for other shapes, or fewer points than neighbours.
    """
    import cv2

    check_shape("queries", queries, "Q", 3)
    check_shape("points", points, "P", 3)
    if not 1 <= count <= len(points):
        raise InvalidInputError(f"{count} neighbours were asked for, expected 1 to {len(points)}, the points there are")
    if not len(queries):
        return np.zeros((0, count))
    middle = points.mean(axis=0)  # the search is in float32
    tree = cv2.flann.Index(
        (points - middle).astype(np.float32), {"algorithm": _EXACT_TREE, "leaf_max_size": _LEAF_POINTS}
    )
    index, _ = tree.knnSearch((queries - middle).astype(np.float32), count, params={"checks": _UNLIMITED})
    return np.sort(np.linalg.norm(queries[:, None] - points[index], axis=-1), axis=1)
