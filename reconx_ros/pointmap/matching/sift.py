"""SIFT keypoints with square-rooted descriptors, and mutually nearest ones as matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from reconx_ros.core import Frame, InvalidInputError, Keyframe, PinholeCamera
from reconx_ros.pointmap.matching.features import Features, Matches

MAX_FEATURES = 8000
MAX_RATIO = 0.9  # of the distances to the nearest and the second nearest descriptor
_MAX_SIDE = 1280  # px; larger images are shrunk first
_CONTRAST = 0.004  # a tenth of the usual threshold: indoor walls and renderings have low contrast
_EDGE = 12.0
_MIN_SPREAD = 2.0  # grey levels; an image below is black or constant
_CHUNK = 2048


class SiftMatcher:
    """SIFT (Lowe, IJCV 2004) as it is: the fastest, for views up to about 30 degrees apart.

    Descriptors are [N, 128] float32 of unit length, whose inner product is a Hellinger kernel.
    """

    name = "sift"
    cost_s = 0.2
    doubtful = False

    def features(
        self, keyframes: Sequence[Keyframe], *, device: torch.device, limit: int | None = None
    ) -> Iterator[Features]:
        """Keypoints of each image, as ``Matcher.features``."""
        del device
        for keyframe in keyframes:
            yield extract(keyframe, limit or MAX_FEATURES)

    def match(self, pairs: Sequence[tuple[Features, Features]], *, device: torch.device) -> Iterator[Matches]:
        """Mutual nearest neighbours of each pair, as ``Matcher.match``."""
        del device
        for a, b in pairs:
            yield match(a, b)


def is_blank(rgb_u8: np.ndarray) -> bool:
    """Whether an image [H, W, 3] is (nearly) constant: a black frame, a covered lens."""
    return float(rgb_u8.astype(np.float32).mean(axis=-1).std()) < _MIN_SPREAD


def extract(keyframe: Keyframe, max_features: int = MAX_FEATURES) -> Features:
    """SIFT (Lowe, IJCV 2004) with square-rooted descriptors (Arandjelovic and Zisserman, CVPR 2012).

    A blank image has no features. The result does not depend on the number of threads.

    Raises:
        InvalidInputError: for an image too small to have any.
    """
    import cv2

    frame = keyframe.frame
    if min(frame.camera.size) < 16:
        width, height = frame.camera.size
        raise InvalidInputError(f"keyframe {keyframe.id} is {width}x{height}, expected at least 16x16 pixels")
    if is_blank(frame.rgb_u8):
        return _none(frame.camera)
    grey, zoom = shrunken_grey(frame, _MAX_SIDE)
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=_CONTRAST, edgeThreshold=_EDGE)
    points, descriptors = sift.detectAndCompute(grey, None)
    if len(points) == 0:
        return _none(frame.camera)
    table = np.array([(-p.response, p.pt[0], p.pt[1], p.angle, p.size) for p in points])
    order = np.lexsort(table[:, 3::-1].T)[:max_features]
    return Features(
        uv=(table[order, 1:3] + 0.5) * zoom - 0.5,
        camera=frame.camera,
        descriptors=root_descriptors(descriptors[order]),
        sizes_px=table[order, 4] * zoom.mean(),
        angles_deg=table[order, 3],
    )


def shrunken_grey(frame: Frame, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey picture [h, w] whose longer side has at most so many pixels, and what its pixels must be scaled by [2]."""
    import cv2

    camera, grey = frame.camera, cv2.cvtColor(frame.rgb_u8, cv2.COLOR_RGB2GRAY)
    small = camera.fitted_to(longest)
    if small.size != camera.size:
        grey = cv2.resize(grey, small.size, interpolation=cv2.INTER_AREA)
    return grey, np.array([camera.width / small.width, camera.height / small.height])


def root_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Square roots [N, 128] of descriptors scaled to a sum of one."""
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9)
    return np.sqrt(descriptors / total).astype(np.float32)


def _none(camera: PinholeCamera) -> Features:
    return Features(uv=np.zeros((0, 2)), camera=camera, descriptors=np.zeros((0, 128), np.float32))


def match(a: Features, b: Features) -> Matches:
    """Mutual nearest neighbours that pass Lowe's ratio test in both directions."""
    if len(a) < 2 or len(b) < 2:
        return Matches.none()
    nearest_b, ratio_a = _nearest(a.descriptors, b.descriptors)
    nearest_a, ratio_b = _nearest(b.descriptors, a.descriptors)
    own = np.arange(len(a))
    ratio = np.maximum(ratio_a, ratio_b[nearest_b])
    keep = (nearest_a[nearest_b] == own) & (ratio < MAX_RATIO)
    return Matches.ordered(np.stack([own[keep], nearest_b[keep]], axis=1), ratio[keep])


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
