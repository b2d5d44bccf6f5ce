"""From a lens with distortion to an ideal pinhole camera: the numbers of a ROS CameraInfo, without ROS.

Distortion models are those of ``sensor_msgs/distortion_models.hpp``: ``plumb_bob`` (k1 k2 p1 p2 [k3]),
``rational_polynomial`` (k1 k2 p1 p2 k3 k4 k5 k6, up to OpenCV's 14) and ``equidistant`` (k1..k4, fisheye: without
coefficients r = f theta). Trailing zeros beyond a model's own count are accepted. The pinhole camera chosen shows only
pixels that the lens saw, so that no black border is ever taken for an observation, and no ray farther than 60 degrees
from the axis, where a pinhole image would be stretched beyond use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reconx_ros.core import InvalidInputError, PinholeCamera

_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (4, 5, 8, 12, 14), "equidistant": (4,)}
_FISHEYE = "equidistant"
_ALIASES = {"fisheye": "equidistant", "kannala_brandt": "equidistant", "radtan": "plumb_bob", "none": "", "pinhole": ""}
_MAX_TANGENT = 3.0**0.5  # 60 degrees from the optical axis
_MAX_ZOOM_OUT = 4.0
_ZOOM_STEP = 0.005


@dataclass(frozen=True, kw_only=True, eq=False)
class Rectifier:
    """Turns images of one calibrated lens into images of an ideal pinhole camera. Make it with ``make_rectifier``.

    Attributes:
        camera: intrinsics of the rectified images, pixel-centre origin.
        changes: False when the lens had no distortion, so that images pass untouched.
    """

    camera: PinholeCamera
    changes: bool
    _maps: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)  # source u, v [H, W] each

    def image(self, image: np.ndarray, name: str = "image") -> np.ndarray:
        """Rectified image [H, W, C] (bilinear); the same object when nothing changes.

        Raises:
            InvalidInputError: when the image is not of the calibrated size.
        """
        import cv2

        self._check_size(name, image)
        if self._maps is None:
            return image
        return cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def depth(self, depth_m: np.ndarray, name: str = "depth") -> np.ndarray:
        """Rectified depth [H, W] (nearest, so that near and far never mix); the same object when nothing changes.

        Raises:
            InvalidInputError: when the depth map is not of the calibrated size.
        """
        import cv2

        self._check_size(name, depth_m)
        if self._maps is None:
            return depth_m
        return cv2.remap(depth_m, *self._maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)

    def _check_size(self, name: str, array: np.ndarray) -> None:
        height, width = array.shape[:2]
        if (width, height) != self.camera.size:
            wanted = f"{self.camera.width}x{self.camera.height}"
            raise InvalidInputError(f"{name} is {width}x{height}, expected {wanted} as its camera_info says")


def make_rectifier(
    width: int,
    height: int,
    k: Sequence[float] | np.ndarray,
    distortion_model: str = "",
    d: Sequence[float] | np.ndarray = (),
    *,
    p: Sequence[float] | np.ndarray | None = None,
) -> Rectifier:
    """Rectifier of a CameraInfo; costs two maps when there is distortion, so keep it as long as the numbers stay.

    Args:
        width, height: image size in pixels.
        k: intrinsic matrix, 9 numbers row-major (pixel (0, 0) is the centre of the first pixel).
        distortion_model: as in CameraInfo; may be empty when ``d`` is empty or zero.
        d: distortion coefficients; those of a fisheye may be 0 or left out, which leaves an ideal fisheye.
        p: projection matrix, 12 numbers row-major, given only when the images are rectified already (``image_rect``):
            then its left 3x3 part is the camera and k and d are ignored.

    Raises:
        InvalidInputError: for an unknown model, a wrong number of coefficients, or a focal length that is zero (an
            uncalibrated camera) or not finite.
    """
    if p is not None:
        matrix = _matrix("projection matrix P", p, 3, 4)
        return Rectifier(camera=_pinhole(width, height, matrix, "P"), changes=False)
    matrix = _matrix("camera matrix K", k, 3, 3)
    camera = _pinhole(width, height, matrix, "K")
    coefficients = np.asarray(d, dtype=np.float64).reshape(-1)
    model, coefficients = _checked_model(distortion_model, coefficients)
    if not model:
        return Rectifier(camera=camera, changes=False)
    return _undistorting(camera, model, coefficients)


def is_fisheye(distortion_model: str) -> bool:
    """Whether a distortion model is that of a fisheye, which bends straight lines even without coefficients."""
    return _ALIASES.get(distortion_model.lower(), distortion_model.lower()) == _FISHEYE


def _undistorting(camera: PinholeCamera, model: str, coefficients: np.ndarray) -> Rectifier:
    import cv2

    ideal = _largest_view_inside(camera, model, coefficients)
    build = cv2.fisheye.initUndistortRectifyMap if model == "equidistant" else cv2.initUndistortRectifyMap
    maps = build(camera.matrix, coefficients, np.eye(3), ideal.matrix, ideal.size, cv2.CV_32FC1)
    return Rectifier(camera=ideal, changes=True, _maps=(maps[0], maps[1]))


def _largest_view_inside(camera: PinholeCamera, model: str, coefficients: np.ndarray) -> PinholeCamera:
    """The widest zoom of the camera about its pivot whose whole image border the lens saw.

    The zoom grows step by step from a narrow view: beyond some angle a distortion polynomial folds back into the image,
    so that the first failure counts.
    """
    pivot = _pivot(camera)
    centre = _undistorted(pivot, camera, model, coefficients)
    rays = _border_rays(camera, pivot)  # [n, 2] from the pivot, at z = 1
    best = None
    for zoom_out in np.arange(_ZOOM_STEP, _MAX_ZOOM_OUT, _ZOOM_STEP):
        view = centre + zoom_out * rays
        if float(np.linalg.norm(view, axis=-1).max()) > _MAX_TANGENT:
            break
        if not _inside(_distorted(view, camera, model, coefficients), camera):
            break
        best = float(zoom_out)
    if best is None:
        raise InvalidInputError(f"distortion {coefficients.tolist()} ({model}) leaves no pinhole view of the image")
    fx, fy = camera.fx / best, camera.fy / best
    cx, cy = pivot - centre * [fx, fy]
    return replace(camera, fx=fx, fy=fy, cx=float(cx), cy=float(cy))


def _pivot(camera: PinholeCamera) -> np.ndarray:
    """The pixel [2] whose ray stays: the principal point, or the image's centre where that is far from it.

    The second is the case of a region of interest, a window on the sensor that may not even hold the principal point.
    """
    size, principal = np.array(camera.size, np.float64), np.array([camera.cx, camera.cy])
    middle = (size - 1) / 2
    return principal if (np.abs(principal - middle) < size / 4).all() else middle


def _undistorted(pixel: np.ndarray, camera: PinholeCamera, model: str, coefficients: np.ndarray) -> np.ndarray:
    """Ray [2] (x, y at z = 1) that falls into a pixel [2] of the lens."""
    import cv2

    if (pixel == [camera.cx, camera.cy]).all():
        return np.zeros(2)
    if model == "equidistant":
        return cv2.fisheye.undistortPoints(pixel.reshape(1, 1, 2), camera.matrix, coefficients).reshape(2)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
    same = np.eye(3)
    points = cv2.undistortPointsIter(pixel.reshape(1, 1, 2), camera.matrix, coefficients, same, same, criteria)
    return np.asarray(points, dtype=np.float64).reshape(2)


def _border_rays(camera: PinholeCamera, pivot: np.ndarray) -> np.ndarray:
    w, h = camera.width - 1.0, camera.height - 1.0
    x, y = np.linspace(0, w, 65), np.linspace(0, h, 65)
    sides = [(x, 0 * x), (x, 0 * x + h), (0 * y, y), (0 * y + w, y)]
    u, v = np.concatenate([np.stack(side) for side in sides], axis=-1)
    return np.stack([(u - pivot[0]) / camera.fx, (v - pivot[1]) / camera.fy], axis=-1)


def _distorted(rays: np.ndarray, camera: PinholeCamera, model: str, coefficients: np.ndarray) -> np.ndarray:
    """Pixels [n, 2] of the lens where rays [n, 2] (x, y at z = 1) fall."""
    import cv2

    if model == "equidistant":
        return cv2.fisheye.distortPoints(rays[:, None], camera.matrix, coefficients)[:, 0]
    points = np.concatenate([rays, np.ones_like(rays[:, :1])], axis=-1)
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, coefficients)[0][:, 0]


def _inside(uv: np.ndarray, camera: PinholeCamera) -> bool:
    return bool(((uv >= -0.01) & (uv <= [camera.width - 0.99, camera.height - 0.99])).all())


def _pinhole(width: int, height: int, matrix: np.ndarray, name: str) -> PinholeCamera:
    for axis, focal in (("fx", matrix[0, 0]), ("fy", matrix[1, 1])):
        if not (np.isfinite(focal) and focal > 0):
            raise InvalidInputError(
                f"camera_info {name} has {axis} = {focal}, expected a calibrated camera ({axis} > 0)"
            )
    return PinholeCamera(
        width=int(width),
        height=int(height),
        fx=float(matrix[0, 0]),
        fy=float(matrix[1, 1]),
        cx=float(matrix[0, 2]),
        cy=float(matrix[1, 2]),
    )


def _matrix(name: str, values: Sequence[float] | np.ndarray, rows: int, columns: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size != rows * columns:
        raise InvalidInputError(f"camera_info {name} has {array.size} numbers, expected {rows * columns}")
    return array.reshape(rows, columns)


def _checked_model(name: str, given: np.ndarray) -> tuple[str, np.ndarray]:
    """The model, empty where nothing is bent, and as many coefficients as it has."""
    if not np.isfinite(given).all():
        raise InvalidInputError(f"camera_info distortion is {given.tolist()}, expected finite numbers")
    model = _ALIASES.get(name.lower(), name.lower())
    if not given.any():
        return (model, np.zeros(4)) if model == _FISHEYE else ("", given)
    if model not in _COEFFICIENTS:
        known = ", ".join(_COEFFICIENTS)
        raise InvalidInputError(f"camera_info distortion model is '{name}', expected one of {known}")
    counts = _COEFFICIENTS[model]
    if given.size in counts:
        return model, given
    own = np.trim_zeros(given, "b")
    if given.size < counts[0] or own.size > counts[-1]:
        wanted = " or ".join(str(n) for n in counts)
        raise InvalidInputError(
            f"camera_info has {given.size} {model} coefficients, expected {wanted}, or zeros beyond: {given.tolist()}"
        )
    count = next(n for n in counts if n >= own.size)
    return model, np.pad(given, (0, max(0, count - given.size)))[:count]
