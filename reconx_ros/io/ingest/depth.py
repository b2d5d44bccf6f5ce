"""The depth that belongs to an image, on the image's own pixels: as it is, resampled or registered; else refused."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.geometry.resize import resize_nearest
from reconx_ros.geometry.tf_tree import TransformError
from reconx_ros.io.ingest.calibration import lens_key
from reconx_ros.io.ingest.camera_input import CameraInput
from reconx_ros.io.ingest.frames import BodyFrames, Transforms
from reconx_ros.io.ingest.pixels import depth_from_msg, size_from_msg
from reconx_ros.io.ingest.registration import registered_depth, resampled_depth
from reconx_ros.io.ingest.settings import IngestSettings
from reconx_ros.io.rectify import Rectifier

_STILL = 1e-6  # metres, and entries of the rotation


class PairedImage(Protocol):
    """An image with the depth found for it; messages with the fields of their .msg files.

    Attributes:
        camera: whose image it is.
        msg, stamp_ns: the image.
        info: the image's calibration.
        depth: the depth image.
        depth_info: the depth's calibration; None where none has come.
    """

    camera: CameraInput
    msg: Any
    stamp_ns: int
    info: Any
    depth: Any
    depth_info: Any


def depth_on_image(
    pair: PairedImage, rectifier: Rectifier, settings: IngestSettings, transforms: Transforms, bodies: BodyFrames
) -> np.ndarray:
    """Depth on the pixels of the rectified image: [H, W] float32 metres, NaN where nothing was measured.

    Depth in the image's frame is taken as it is where its camera_info is the image's or has not come, a smaller copy of
    the image's grid is enlarged by nearest neighbour, another grid resampled. Depth in another frame is registered with
    the transform between the two.

    Raises:
        InvalidInputError: for depth that cannot be decoded or whose place is not known.
    """
    depth, camera = depth_from_msg(pair.depth), pair.camera
    place = _image_from_depth(pair, settings, transforms, bodies)
    if place is None and _same_lens(pair, rectified=settings.rectified):
        width, height = size_from_msg(pair.msg)
        return np.ascontiguousarray(rectifier.depth(_enlarged(depth, width, height, camera.depth_topic)))
    size = (depth.shape[1], depth.shape[0])
    try:
        lens = camera.depth_lens.rectifier(pair.depth_info, size, rectified=settings.rectified)
    except InvalidInputError as error:
        raise InvalidInputError(f"depth of {camera.depth_topic}: {error}") from None
    straight = lens.depth(depth)
    if place is None:
        return resampled_depth(straight, lens.camera, rectifier.camera)
    return registered_depth(straight, lens.camera, rectifier.camera, place)


def _same_lens(pair: PairedImage, *, rectified: bool) -> bool:
    info = pair.depth_info
    return info is None or lens_key(info, rectified=rectified) == lens_key(pair.info, rectified=rectified)


def _enlarged(depth: np.ndarray, width: int, height: int, topic: str) -> np.ndarray:
    """Depth of the image's size; of another one if it is the same grid, coarser or finer."""
    rows, columns = depth.shape
    if (columns, rows) == (width, height):
        return depth
    if columns * height != rows * width:
        raise InvalidInputError(
            f"depth of {topic} is {columns}x{rows} in the frame of its {width}x{height} image, expected the same "
            "proportions, or a camera_info of its own"
        )
    return resize_nearest(depth, width, height)


def _image_from_depth(
    pair: PairedImage, settings: IngestSettings, transforms: Transforms, bodies: BodyFrames
) -> SE3 | None:
    """The transform from the depth's camera to the image's; None where they are in one place."""
    topic, info = pair.camera.depth_topic, pair.depth_info
    header = str(pair.msg.header.frame_id)
    image = settings.optical_frame or header
    depth = str(pair.depth.header.frame_id) or (str(info.header.frame_id) if info is not None else "") or header
    if depth.lstrip("/") in {header.lstrip("/"), image.lstrip("/")}:
        return None
    cure = "use the registered depth topic"
    if info is None:
        raise InvalidInputError(
            f"depth of {topic} is in frame '{depth}', its image in '{image}', and no camera_info of the depth has come "
            f"on {pair.camera.depth_lens.topic}: remap that, or {cure}"
        )
    complaint = bodies.complaint(f"depth of {topic}", depth, cure)
    if complaint:
        raise InvalidInputError(complaint)
    try:
        place = transforms.lookup(image, depth, pair.stamp_ns)
    except TransformError as error:
        where = f"depth of {topic} is in frame '{depth}', its image in '{image}'"
        raise InvalidInputError(f"{where}, and it cannot be registered: {error}; {cure}") from None
    still = np.abs(place.matrix - np.eye(4)).max() < _STILL
    return None if still else place
