"""Depth images of a bag as a measure for maps: each with its own camera_info and its own place at its own stamp."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, ReconxError
from reconx_ros.io.bag_choice import BagTopics
from reconx_ros.io.bag_decode import Decoder, stamp_ns
from reconx_ros.io.bag_poses import whole_transforms
from reconx_ros.io.bags import BagReader
from reconx_ros.io.ingest.camera_input import Calibrations
from reconx_ros.io.ingest.pixels import depth_from_msg
from reconx_ros.io.ingest.settings import IngestSettings
from reconx_ros.io.ingest.stamped import ns_from_stamp


@dataclass(frozen=True, kw_only=True, eq=False)
class SensorDepth:
    """One depth image and where it was taken.

    Attributes:
        stamp_ns: from its header.
        depth_m: [H, W] float32, NaN where nothing was measured.
        camera: its own camera, without distortion.
        map_from_depth: its place at its stamp.
    """

    stamp_ns: int
    depth_m: np.ndarray
    camera: PinholeCamera
    map_from_depth: SE3


class BagDepth:
    """The depth images of a bag's camera.

    Args:
        reader: open bag.
        topics: as chosen; ``depth`` must be there.
        settings: the parameters that the map was made with.

    Attributes:
        problem: why the newest depth image that was asked for could not be given; empty when it could.
    """

    def __init__(self, reader: BagReader, topics: BagTopics, settings: IngestSettings) -> None:
        self._reader, self._topics, self._settings = reader, topics, settings
        self._decode = Decoder()
        self._buffer = whole_transforms(reader, topics, settings.pose_source)
        self.problem = ""

    def stamps_ns(self) -> tuple[int, ...]:
        """The stamps of all depth images, rising."""
        assert self._topics.depth is not None
        return tuple(sorted({stamp_ns(m) for m in self._reader.messages({self._topics.depth})}))

    def map_from_camera(self, stamp: int) -> SE3:
        """Where the bag's transforms place the image's camera.

        Raises:
            TransformError: where they do not say.
        """
        return self._buffer.lookup(self._settings.map_frame, self._image_frame(), stamp)

    def images(self, stamps: Collection[int]) -> Iterator[SensorDepth]:
        """The depth images of these stamps whose place and calibration are known."""
        assert self._topics.depth is not None
        infos = self._infos()
        for message in self._reader.messages({self._topics.depth}):
            if stamp_ns(message) not in stamps:
                continue
            try:
                yield self._image(self._decode(message), infos)
            except ReconxError as error:
                self.problem = str(error)

    def _image(self, msg: Any, infos: list[Any]) -> SensorDepth:
        stamp, depth = ns_from_stamp(msg.header.stamp), depth_from_msg(msg)
        size = (depth.shape[1], depth.shape[0])
        lens = Calibrations("", self._info_topic())
        if not infos:
            raise InvalidInputError(f"no camera_info of the depth on {self._info_topic()}")
        nearest = min(infos, key=lambda m: abs(ns_from_stamp(m.header.stamp) - stamp))
        rectifier = lens.rectifier(nearest, size, rectified=self._settings.rectified)
        frame = str(msg.header.frame_id) or self._image_frame()
        if self._settings.optical_frame and frame.lstrip("/") == self._topics.frame:
            frame = self._settings.optical_frame
        return SensorDepth(
            stamp_ns=stamp,
            depth_m=rectifier.depth(depth),
            camera=rectifier.camera,
            map_from_depth=self._buffer.lookup(self._settings.map_frame, frame, stamp),
        )

    def _info_topic(self) -> str:
        return self._topics.depth_info or self._topics.camera_info

    def _infos(self) -> list[Any]:
        return [self._decode(m) for m in self._reader.messages({self._info_topic()})]

    def _image_frame(self) -> str:
        return self._settings.optical_frame or self._topics.frame
