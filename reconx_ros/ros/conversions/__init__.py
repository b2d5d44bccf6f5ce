"""Between messages and the library's types: images, clouds, cameras, poses, markers. Nothing here needs a node."""

from reconx_ros.ros.conversions.cameras import camera_info_msg, pinhole_of_info, rectifier_of_info
from reconx_ros.ros.conversions.clouds import CLOUD_DTYPE, cloud_msg, cloud_of
from reconx_ros.ros.conversions.images import (
    byte_array,
    depth_of_compressed,
    depth_of_image,
    image_msg,
    image_view,
    rgb_of_compressed,
    rgb_of_image,
)
from reconx_ros.ros.conversions.markers import frustum_markers
from reconx_ros.ros.conversions.poses import (
    header_msg,
    path_msg,
    pose_msg,
    se3_of_pose,
    se3_of_transform,
    stamp_ns_of,
    time_msg,
    transform_msg,
)

__all__ = [
    "CLOUD_DTYPE",
    "byte_array",
    "camera_info_msg",
    "cloud_msg",
    "cloud_of",
    "depth_of_compressed",
    "depth_of_image",
    "frustum_markers",
    "header_msg",
    "image_msg",
    "image_view",
    "path_msg",
    "pinhole_of_info",
    "pose_msg",
    "rectifier_of_info",
    "rgb_of_compressed",
    "rgb_of_image",
    "se3_of_pose",
    "se3_of_transform",
    "stamp_ns_of",
    "time_msg",
    "transform_msg",
]
