"""Which features of two images are the same point: mutually nearest descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reconx_ros.pointmap.sfm.features import Features

MAX_RATIO = 0.9  # of the distances to the nearest and the second nearest descriptor
_HELD_OUT = 5  # one match in so many is held out
_CHUNK = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Candidate matches of images a and b, the most distinctive first.

    Attributes:
        index: [M, 2] feature of a, feature of b.
        ratio: [M] distance to the best over distance to the second best descriptor.
    """

    index: np.ndarray  # [M, 2]
    ratio: np.ndarray  # [M]

    def __len__(self) -> int:
        return len(self.index)

    def select(self, mask: np.ndarray) -> Matches:
        """The matches where mask [M] (bool or indices) says so."""
        return Matches(index=self.index[mask], ratio=self.ratio[mask])


def match(a: Features, b: Features, max_ratio: float = MAX_RATIO) -> Matches:
    """Mutual nearest neighbours that pass Lowe's ratio test in both directions."""
    if len(a) < 2 or len(b) < 2:
        return Matches(index=np.zeros((0, 2), np.int64), ratio=np.zeros(0))
    nearest_b, ratio_a = _nearest(a.descriptors, b.descriptors)
    nearest_a, ratio_b = _nearest(b.descriptors, a.descriptors)
    own = np.arange(len(a))
    ratio = np.maximum(ratio_a, ratio_b[nearest_b])
    keep = (nearest_a[nearest_b] == own) & (ratio < max_ratio)
    return _sorted(own[keep], nearest_b[keep], ratio[keep])


def held_out(matches: Matches) -> np.ndarray:
    """Mask [M] of the matches that no estimation may use: every fifth in order of distinctiveness.

    They tell afterwards whether a geometry is true: chance inliers of a wrong one do not repeat in them.
    """
    return np.arange(len(matches)) % _HELD_OUT == _HELD_OUT // 2


def symmetric_epipolar_px(fundamental: np.ndarray, uv_a: np.ndarray, uv_b: np.ndarray) -> np.ndarray:
    """The larger distance [...] of points uv_a, uv_b [..., 2] from each other's epipolar lines; ``x_b^T F x_a = 0``."""
    f = fundamental
    xa, ya, xb, yb = uv_a[..., 0], uv_a[..., 1], uv_b[..., 0], uv_b[..., 1]
    lb0, lb1, lb2 = (f[k, 0] * xa + f[k, 1] * ya + f[k, 2] for k in range(3))
    la0, la1 = (f[0, k] * xb + f[1, k] * yb + f[2, k] for k in range(2))
    along = np.abs(lb0 * xb + lb1 * yb + lb2)
    least = np.minimum(np.hypot(lb0, lb1), np.hypot(la0, la1))
    return along / np.maximum(least, 1e-12)


def _nearest(queries: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index [N] of the nearest other, and the ratio [N] of the distances to it and to the next."""
    found = [_best_two(queries[k : k + _CHUNK] @ others.T) for k in range(0, len(queries), _CHUNK)]
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _best_two(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(similarity))
    best = similarity.argmax(axis=1)
    top = similarity[rows, best]
    rest = similarity.copy()
    rest[rows, best] = -1.0
    second = rest.max(axis=1)
    return best, np.sqrt(np.maximum(1 - top, 0) / np.maximum(1 - second, 1e-12))


def _sorted(a: np.ndarray, b: np.ndarray, ratio: np.ndarray) -> Matches:
    order = np.argsort(ratio, kind="stable")
    return Matches(index=np.stack([a, b], axis=1)[order], ratio=ratio[order])
