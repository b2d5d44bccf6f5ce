"""sensor_msgs/CameraInfo, of rclpy or of a bag, to what makes pinhole images of a lens's images.

Binning and region of interest are honoured (REP-104): K, D, P, width and height are those of the whole sensor. The
region of interest is a window on it in unbinned pixels, binning then joins ``binning_x`` by ``binning_y`` of the
window's pixels to one of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.io.guards import check_size
from reconx_ros.io.rectify import Rectifier, is_fisheye, make_rectifier


def lens_key(info: Any, *, rectified: bool) -> tuple[object, ...]:
    """The numbers of a CameraInfo that decide how images are rectified: equal keys share a rectifier.

    Args:
        info: calibration.
        rectified: whether the images are rectified already, so that P and not K and D counts.
    """
    roi, d = info.roi, np.trim_zeros(np.asarray(info.d, dtype=np.float64), "b")
    return (
        int(info.width),
        int(info.height),
        str(info.distortion_model) if len(d) or is_fisheye(str(info.distortion_model)) else "",
        tuple(d.tolist()),
        tuple(float(v) for v in (info.p if rectified else info.k)),
        max(1, int(info.binning_x)),
        max(1, int(info.binning_y)),
        (int(roi.x_offset), int(roi.y_offset)),
        (int(roi.width) or int(info.width), int(roi.height) or int(info.height), bool(roi.do_rectify)),
        rectified,
    )


def rectifier_from_info(info: Any, *, rectified: bool = False) -> Rectifier:
    """What turns the images of this camera into those of a pinhole camera.

    Args:
        info: calibration of the full sensor; binning and region of interest are applied to it.
        rectified: whether the images are rectified already (``image_rect``); then P is the camera.

    Raises:
        InvalidInputError: for an uncalibrated camera (zero focal length), an unknown distortion model, numbers that are
            not finite, or an absurd size.
    """
    k = np.array(info.k, dtype=np.float64).reshape(3, 3)
    p = np.array(info.p, dtype=np.float64).reshape(3, 4)
    width, height = _windowed(info, k, p[:, :3])
    if rectified:
        _check_region_of_rectified(info)
        return make_rectifier(width, height, k.reshape(-1), p=p.reshape(-1))
    return make_rectifier(width, height, k.reshape(-1), str(info.distortion_model), list(info.d))


def image_size_from_info(info: Any) -> tuple[int, int]:
    """(width, height) of the images that belong to a calibration: the region of interest, binned.

    Raises:
        InvalidInputError: for a region of interest that leaves the sensor, or an empty or absurd size.
    """
    roi, full = info.roi, (int(info.width), int(info.height))
    check_size("camera_info", *full)
    width, height = int(roi.width) or full[0], int(roi.height) or full[1]
    if int(roi.x_offset) + width > full[0] or int(roi.y_offset) + height > full[1]:
        raise InvalidInputError(
            f"camera_info region of interest {width}x{height} at ({roi.x_offset}, {roi.y_offset}) "
            f"leaves the {full[0]}x{full[1]} image, expected it inside"
        )
    width, height = width // max(1, int(info.binning_x)), height // max(1, int(info.binning_y))
    check_size("camera_info image", width, height)
    return width, height


def _check_region_of_rectified(info: Any) -> None:
    """Refuse what cannot be known: where a window on the lens lies in its rectified image."""
    if info.roi.do_rectify and any(info.d):
        raise InvalidInputError(
            "camera_info has a region of interest with do_rectify for images that are rectified already, expected the "
            "raw images (ros.rectified false), or do_rectify false and the window in rectified pixels"
        )


def _windowed(info: Any, *matrices: np.ndarray) -> tuple[int, int]:
    """Apply region of interest and binning to intrinsics in place; returns the image's (width, height)."""
    for matrix in matrices:
        matrix[0, 2] -= int(info.roi.x_offset)
        matrix[1, 2] -= int(info.roi.y_offset)
        _bin_axis(matrix, 0, max(1, int(info.binning_x)))
        _bin_axis(matrix, 1, max(1, int(info.binning_y)))
    return image_size_from_info(info)


def _bin_axis(matrix: np.ndarray, axis: int, binning: int) -> None:
    """Image borders stay image borders: pixel i of the binned image is the mean of binning pixels."""
    matrix[axis, axis] /= binning
    matrix[axis, 2] = (matrix[axis, 2] + 0.5) / binning - 0.5
