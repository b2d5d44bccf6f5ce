"""Frames out of a ROS 2 bag, without ROS: images, camera_info, depth and transforms put together.

Two passes: the first reads transforms and calibrations of the whole bag, so that a frame never waits for its transform;
the second decodes images. Images with lens distortion are rectified. Depth must be registered to the colour image (the
``aligned_depth`` or ``depth_registered`` topics of the usual drivers).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, ReconxError
from reconx_ros.geometry.tf_tree import TransformBuffer, TransformError
from reconx_ros.io.bag_decode import Decoder, decoded_depth, decoded_image, stamp_ns
from reconx_ros.io.bag_messages import BagMessage
from reconx_ros.io.bags import BagReader, open_bag
from reconx_ros.io.rectify import Rectifier, make_rectifier

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_TF_TYPE = "tf2_msgs/msg/TFMessage"
_FOREVER_NS = 1 << 62
_MAX_WAITING = 16


@dataclass(frozen=True, kw_only=True)
class BagTopics:
    """Which topics make a frame; None where there is none.

    Attributes:
        image: colour images, raw or compressed.
        camera_info: their calibration.
        depth: depth images on the same grid, raw or compressedDepth.
    """

    image: str
    camera_info: str
    depth: str | None = None


@dataclass
class BagSummary:
    """What happened while frames were read; complete after the last one.

    Attributes:
        topics: what was read.
        frames: how many frames were given.
        without_pose, without_depth: how many of them lack a pose or depth.
        skipped: how many images could not be decoded.
        first_errors: the first sentence of each kind of trouble.
        problem: what could not be read of the bag, as one sentence.
    """

    topics: BagTopics
    frames: int = 0
    without_pose: int = 0
    without_depth: int = 0
    skipped: int = 0
    first_errors: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    def note(self, kind: str, sentence: str) -> None:
        """Keep the first sentence of a kind of trouble."""
        self.first_errors.setdefault(kind, sentence)

    def warnings(self) -> tuple[str, ...]:
        """Sentences for a report."""
        counts = {"pose": self.without_pose, "depth": self.without_depth, "image": self.skipped}
        told = [f"{counts[kind]} frames: {text}" for kind, text in self.first_errors.items()]
        return (*([self.problem] if self.problem else []), *told)


class BagFrames:
    """Frames of an open bag, decoded one at a time.

    Args:
        reader: the bag; stays open as long as frames are read.
        topics: which topics to use; None finds them (``find_topics``).
        map_frame: frame that poses refer to; None takes "map", "odom" or "world", whichever is there first, else the
            root above the camera.
        use_depth: pair images with depth where there is any.
        max_depth_offset_ns: largest difference of the stamps of an image and its depth, nanoseconds.

    Raises:
        InvalidInputError: when the bag has no image or no camera_info topic, or the camera cannot be used.
    """

    def __init__(
        self,
        reader: BagReader,
        *,
        topics: BagTopics | None = None,
        map_frame: str | None = None,
        use_depth: bool = True,
        max_depth_offset_ns: int = 20_000_000,
    ) -> None:
        self._reader = reader
        self._decode = Decoder()
        topics = topics or find_topics(reader)
        self.topics = topics if use_depth else replace(topics, depth=None)
        self.transforms = TransformBuffer(history_ns=_FOREVER_NS)
        self._map_frame = map_frame
        self._max_depth_offset_ns = max_depth_offset_ns
        self._info: Any = None
        self._scan()
        self.rectifier = self._make_rectifier()
        self.summary = BagSummary(topics=self.topics)

    def __iter__(self) -> Iterator[Frame]:
        """Frames by rising stamp of recording; also updates ``summary``.

        Frames without a transform at their stamp have no pose; images that cannot be decoded are skipped and counted.
        """
        self.summary = BagSummary(topics=self.topics)
        for image, depth in self._pairs():
            frame = self._frame(image, depth)
            if frame is not None:
                self.summary.frames += 1
                yield frame
        self.summary.problem = self._reader.problem

    def _scan(self) -> None:
        wanted = {t.name for t in self._reader.topics_of_type(_TF_TYPE)} | {self.topics.camera_info}
        for message in self._reader.messages(wanted):
            content = self._decode(message)
            if message.type == _TF_TYPE:
                _add_transforms(self.transforms, content, static=message.topic.endswith("tf_static"))
            elif self._info is None:
                self._info = content

    def _make_rectifier(self) -> Rectifier:
        if self._info is None:
            raise InvalidInputError(f"topic {self.topics.camera_info} of bag {self._reader.path} has no message")
        rectified = self.topics.image.split("/image_rect")[0] != self.topics.image
        info = self._info
        return make_rectifier(
            info.width, info.height, info.k, info.distortion_model, info.d, p=info.p if rectified else None
        )

    def _pairs(self) -> Iterator[tuple[BagMessage, BagMessage | None]]:
        """Images, each with the depth nearest in time. Both are compared by the stamps in their headers."""
        names = {self.topics.image} | ({self.topics.depth} if self.topics.depth else set())
        images: deque[tuple[int, BagMessage]] = deque()
        depths: deque[tuple[int, BagMessage]] = deque()
        for message in self._reader.messages(names):
            (images if message.topic == self.topics.image else depths).append((stamp_ns(message), message))
            while images and (self.topics.depth is None or self._is_due(images[0][0], depths, len(images))):
                yield self._paired(images.popleft(), depths)
        while images:
            yield self._paired(images.popleft(), depths)

    def _is_due(self, stamp: int, depths: deque[tuple[int, BagMessage]], waiting: int) -> bool:
        return waiting > _MAX_WAITING or (bool(depths) and depths[-1][0] >= stamp)

    def _paired(
        self, image: tuple[int, BagMessage], depths: deque[tuple[int, BagMessage]]
    ) -> tuple[BagMessage, BagMessage | None]:
        while len(depths) > 1 and abs(depths[1][0] - image[0]) <= abs(depths[0][0] - image[0]):
            depths.popleft()
        near = depths and abs(depths[0][0] - image[0]) <= self._max_depth_offset_ns
        return image[1], depths[0][1] if near else None

    def _frame(self, image: BagMessage, depth: BagMessage | None) -> Frame | None:
        try:
            content = self._decode(image)
            rgb = self.rectifier.image(decoded_image(content, image.topic), f"image of {image.topic}")
        except ReconxError as err:
            self.summary.skipped += 1
            self.summary.note("image", str(err))
            return None
        stamp = stamp_ns(image)
        return Frame(
            rgb_u8=rgb,
            camera=self.rectifier.camera,
            stamp_ns=stamp,
            world_from_cam=self._pose(content.header.frame_id, stamp),
            depth_m=self._depth(depth, content.header.frame_id),
        )

    def _depth(self, message: BagMessage | None, optical_frame: str) -> np.ndarray | None:
        if self.topics.depth is None:
            return None
        try:
            if message is None:
                raise InvalidInputError(f"no depth of {self.topics.depth} lies near the stamp of the image")
            content = self._decode(message)
            if content.header.frame_id != optical_frame:
                where = f"frame '{content.header.frame_id}', expected '{optical_frame}': use the registered depth topic"
                raise InvalidInputError(f"depth of {message.topic} is in {where}")
            return self.rectifier.depth(decoded_depth(content, message.topic), f"depth of {message.topic}")
        except ReconxError as err:
            self.summary.without_depth += 1
            self.summary.note("depth", str(err))
            return None

    def _pose(self, optical_frame: str, stamp: int) -> SE3 | None:
        try:
            return self.transforms.lookup(self._map(optical_frame), optical_frame, stamp)
        except TransformError as err:
            self.summary.without_pose += 1
            self.summary.note("pose", str(err))
            return None

    def _map(self, optical_frame: str) -> str:
        if self._map_frame is not None:
            return self._map_frame
        known = self.transforms.frames()
        usual = [name for name in ("map", "odom", "world") if name in known]
        if usual:
            return usual[0]
        root = optical_frame
        while (parent := self.transforms.parent_frame(root)) is not None:
            root = parent
        return root


def read_bag_frames(path: Path | str, **options: Any) -> tuple[list[Frame], BagSummary]:
    """All frames of a bag at once, and what happened; options as ``BagFrames``.

    Raises:
        StorageError, InvalidInputError: as ``open_bag`` and ``BagFrames``.
    """
    with open_bag(path) as reader:
        frames = BagFrames(reader, **options)
        return list(frames), frames.summary


def find_topics(reader: BagReader) -> BagTopics:
    """The topics of the first colour camera: an image topic that is not depth, with a camera_info beside it.

    Raises:
        InvalidInputError: when there is no such pair; the message names what the bag holds.
    """
    images = [t.name for t in reader.topics_of_type(*IMAGE_TYPES)]
    infos = [t.name for t in reader.topics_of_type(_INFO_TYPE)]
    colour = [name for name in images if not _is_depth(name)]
    depth = [name for name in images if _is_depth(name)]
    for name in sorted(colour, key=_colour_rank):
        info = _beside(name, infos)
        if info is not None:
            return BagTopics(image=name, camera_info=info, depth=min(depth, key=_depth_rank) if depth else None)
    held = ", ".join(sorted(reader.topics)) or "none"
    raise InvalidInputError(
        f"bag {reader.path} has no image topic with a camera_info beside it, its topics are: {held}"
    )


def _is_depth(name: str) -> bool:
    return "depth" in name.lower() or "disparity" in name.lower()


def _colour_rank(name: str) -> tuple[bool, bool, str]:
    lower = name.lower()
    return "color" not in lower and "rgb" not in lower and "image" not in lower, "infra" in lower, name


def _depth_rank(name: str) -> tuple[bool, str]:
    return "aligned" not in name and "registered" not in name, name


def _beside(image: str, infos: list[str]) -> str | None:
    """The camera_info in the nearest enclosing namespace of an image topic, not that of a depth camera."""
    folder = image.rpartition("/")[0]
    while True:
        if f"{folder}/camera_info" in infos:
            return f"{folder}/camera_info"
        if not folder:
            return None
        folder = folder.rpartition("/")[0]


def _add_transforms(buffer: TransformBuffer, content: Any, *, static: bool) -> None:
    for item in content.transforms:
        t, q = item.transform.translation, item.transform.rotation
        stamp = item.header.stamp.sec * 1_000_000_000 + item.header.stamp.nanosec
        try:
            pose = SE3.from_quaternion_xyzw(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))
            buffer.set_transform(item.header.frame_id, item.child_frame_id, stamp, pose, static=static)
        except ReconxError:
            continue  # tf2 drops transforms with NaN, zero quaternions or missing names, too
