"""Pinhole cameras to sensor_msgs/CameraInfo, and what a request's CameraInfo names.

Calibrations of real cameras are read by ``reconx_ros.io.ingest.calibration``, for bags and nodes alike.
"""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from reconx_ros.core import PinholeCamera
from reconx_ros.io.guards import check_size


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
