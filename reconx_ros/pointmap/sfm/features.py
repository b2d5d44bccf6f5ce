"""Features of an image: SIFT keypoints with square-rooted descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reconx_ros.core import Frame, InvalidInputError, Keyframe, PinholeCamera

MAX_FEATURES = 8000
_MAX_SIDE = 1280  # px; larger images are shrunk first
_CONTRAST = 0.004  # a tenth of the usual threshold: indoor walls and renderings have low contrast
_EDGE = 12.0
_MIN_SPREAD = 2.0  # grey levels; an image below is black or constant


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Keypoints of one image, the strongest first.

    Attributes:
        uv: [N, 2] float64 pixels on the grid of ``camera``.
        rays: [N, 2] float64 the same on the plane z = 1.
        descriptors: [N, 128] float32 of unit length; their inner product is a Hellinger kernel.
        camera: intrinsics of the image.
    """

    uv: np.ndarray  # [N, 2]
    rays: np.ndarray  # [N, 2]
    descriptors: np.ndarray  # [N, 128]
    camera: PinholeCamera

    def __len__(self) -> int:
        return len(self.uv)


def normalised_rays(uv: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """Pixels [..., 2] on the plane z = 1 of a camera."""
    return (uv - np.array([camera.cx, camera.cy])) / np.array([camera.fx, camera.fy])


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
        return _features(np.zeros((0, 2)), np.zeros((0, 128), np.float32), frame.camera)
    grey, zoom = shrunken_grey(frame, _MAX_SIDE)
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=_CONTRAST, edgeThreshold=_EDGE)
    points, descriptors = sift.detectAndCompute(grey, None)
    if len(points) == 0:
        return _features(np.zeros((0, 2)), np.zeros((0, 128), np.float32), frame.camera)
    table = np.array([(-p.response, p.pt[0], p.pt[1], p.angle) for p in points])
    order = np.lexsort(table.T[::-1])[:max_features]
    uv = (table[order, 1:3] + 0.5) * zoom - 0.5
    return _features(uv, root_descriptors(descriptors[order]), frame.camera)


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


def _features(uv: np.ndarray, descriptors: np.ndarray, camera: PinholeCamera) -> Features:
    return Features(uv=uv, rays=normalised_rays(uv, camera), descriptors=descriptors, camera=camera)
