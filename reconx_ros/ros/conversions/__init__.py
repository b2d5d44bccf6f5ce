"""Between messages and the library's types: images, clouds, cameras, poses, markers. Nothing here needs a node."""

from reconx_ros.io.ingest.calibration import rectifier_from_info
from reconx_ros.io.ingest.pixels import (
    depth_from_compressed,
    depth_from_image,
    image_view,
    rgb_from_compressed,
    rgb_from_image,
)
from reconx_ros.io.ingest.stamped import ns_from_stamp, se3_from_pose, se3_from_transform
from reconx_ros.ros.conversions.cameras import camera_info_msg, pinhole_from_info
from reconx_ros.ros.conversions.clouds import CLOUD_DTYPE, cloud_from_msg, cloud_msg
from reconx_ros.ros.conversions.images import byte_array, image_msg
from reconx_ros.ros.conversions.markers import frustum_markers
from reconx_ros.ros.conversions.poses import (
    header_msg,
    path_msg,
    pose_msg,
    time_msg,
    transform_msg,
)

__all__ = [
    "CLOUD_DTYPE",
    "byte_array",
    "camera_info_msg",
    "cloud_from_msg",
    "cloud_msg",
    "depth_from_compressed",
    "depth_from_image",
    "frustum_markers",
    "header_msg",
    "image_msg",
    "image_view",
    "ns_from_stamp",
    "path_msg",
    "pinhole_from_info",
    "pose_msg",
    "rectifier_from_info",
    "rgb_from_compressed",
    "rgb_from_image",
    "se3_from_pose",
    "se3_from_transform",
    "time_msg",
    "transform_msg",
]
