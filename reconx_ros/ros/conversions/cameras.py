"""sensor_msgs/CameraInfo to and from pinhole cameras; binning and region of interest are honoured (REP-104).

K, D, P, width and height are those of the whole sensor. The region of interest is a window on it in unbinned pixels,
binning then joins ``binning_x`` by ``binning_y`` of the window's pixels to one of the image.
"""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from reconx_ros.core import InvalidInputError, PinholeCamera
from reconx_ros.io.rectify import Rectifier, make_rectifier
from reconx_ros.jobs.encoding import check_size


def camera_info_msg(camera: PinholeCamera, header: Header) -> CameraInfo:
    """The camera as an undistorted, rectified CameraInfo (k, r and p filled, plumb_bob with zeros)."""
    info = CameraInfo(header=header, width=int(camera.width), height=int(camera.height))
    info.distortion_model = "plumb_bob"
    info.d = [0.0] * 5
    k = camera.matrix
    info.k = [float(v) for v in k.reshape(-1)]
    info.r = [float(v) for v in np.eye(3).reshape(-1)]
    info.p = [float(v) for v in np.hstack([k, np.zeros((3, 1))]).reshape(-1)]
    return info


def calibrated_key(info: CameraInfo) -> tuple[object, ...]:
    """The numbers of a CameraInfo that decide how images are rectified: equal keys share a rectifier."""
    roi = info.roi
    return (
        int(info.width),
        int(info.height),
        str(info.distortion_model),
        tuple(info.d),
        tuple(info.k),
        tuple(info.p),
        int(info.binning_x),
        int(info.binning_y),
        (int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height), bool(roi.do_rectify)),
    )


def rectifier_from_info(info: CameraInfo, *, rectified: bool = False) -> Rectifier:
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


def image_size_from_info(info: CameraInfo) -> tuple[int, int]:
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


def _check_region_of_rectified(info: CameraInfo) -> None:
    """Refuse what cannot be known: where a window on the lens lies in its rectified image."""
    if info.roi.do_rectify and any(info.d):
        raise InvalidInputError(
            "camera_info has a region of interest with do_rectify for images that are rectified already, expected the "
            "raw images (ros.rectified false), or do_rectify false and the window in rectified pixels"
        )


def _windowed(info: CameraInfo, *matrices: np.ndarray) -> tuple[int, int]:
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


def pinhole_from_info(info: CameraInfo) -> PinholeCamera:
    """The pinhole camera that a request names: its K, or its P where K is empty; distortion is ignored.

    Raises:
        InvalidInputError: for an absurd size or a focal length that is zero or not finite.
    """
    check_size("camera_info", int(info.width), int(info.height))
    k = info.k if float(info.k[0]) != 0.0 else np.array(info.p).reshape(3, 4)[:, :3].reshape(-1)
    return PinholeCamera(
        width=int(info.width),
        height=int(info.height),
        fx=float(k[0]),
        fy=float(k[4]),
        cx=float(k[2]),
        cy=float(k[5]),
    )
