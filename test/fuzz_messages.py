"""Messages as broken drivers send them: a seeded stream of bad images, calibrations, transforms and bytes."""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from reconx_ros.core import PinholeCamera
from reconx_ros.io.images import encode_compressed_depth, encode_jpeg
from reconx_ros.ros.conversions import camera_info_msg, header_msg, image_msg

HUGE = (2**31, 2**32 - 1, 100_000)
NAN, INF = float("nan"), float("inf")


@dataclass
class Shot:
    """What is published at once: raw messages or bytes, in the order tf, camera_info, depth, image."""

    kind: str
    tf: TFMessage | bytes | None = None
    info: CameraInfo | bytes | None = None
    depth: Any = None
    image: Any = None


class Fuzzer:
    """Makes one broken message after the other, each beside good ones that belong to it.

    Args:
        seed: the same stream for the same seed.
        camera: of the good messages.
        transform: (stamp_ns) -> the good transform.
        compressed: images are JPEG, depth is compressedDepth.
    """

    def __init__(
        self, seed: int, camera: PinholeCamera, transform: Callable[[int], TFMessage], *, compressed: bool
    ) -> None:
        self.random = np.random.default_rng(seed)
        self._camera, self._transform, self._compressed = camera, transform, compressed
        kinds = [self._bad_info, self._bad_tf, self._bad_bytes, self._bad_depth, self._bad_header]
        self._kinds = [*kinds, self._bad_jpeg if compressed else self._bad_image, self._bad_size]

    def shot(self, stamp_ns: int) -> Shot:
        """One broken message with its company, all of one stamp."""
        good = Shot(kind="", tf=self._transform(stamp_ns), info=self._info(stamp_ns), image=self._image(stamp_ns))
        good.depth = self._depth(stamp_ns)
        make = self._kinds[int(self.random.integers(len(self._kinds)))]
        make(good)
        good.kind = f"{make.__name__.removeprefix('_')}: {good.kind}"
        return good

    def _pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    # Good messages --------------------------------------------------------------------------------------------

    def _info(self, stamp_ns: int) -> CameraInfo:
        return camera_info_msg(self._camera, header_msg(stamp_ns, "cam"))

    def _image(self, stamp_ns: int) -> Image | CompressedImage:
        pixels = self.random.integers(0, 255, (self._camera.height, self._camera.width, 3), np.uint8)
        header = header_msg(stamp_ns, "cam")
        if self._compressed:
            return CompressedImage(header=header, format="jpeg", data=array.array("B", encode_jpeg(pixels)))
        return image_msg(pixels, "rgb8", header)

    def _depth(self, stamp_ns: int) -> Image | CompressedImage:
        depth, header = np.full((self._camera.height, self._camera.width), 2.0, np.float32), header_msg(stamp_ns, "cam")
        if self._compressed:
            data = array.array("B", encode_compressed_depth(depth))
            return CompressedImage(header=header, format="16UC1; compressedDepth png", data=data)
        return image_msg(depth, "32FC1", header)

    # Bad ones -------------------------------------------------------------------------------------------------

    def _bad_image(self, shot: Shot) -> None:
        image, row = shot.image, 3 * self._camera.width
        shot.kind = self._pick("step", "short", "encoding", "empty", "bayer", "depth as colour")
        if shot.kind == "step":
            image.step = int(self._pick(1, row - 1, 2**32 - 1, row * 1000))
        elif shot.kind == "short":
            image.data = image.data[: int(self.random.integers(0, len(image.data)))]
        elif shot.kind == "encoding":
            image.encoding = self._pick("", "rgb9", "yuv", "64FC3", "RGB8", "\u00fcber" * 50, "bayer_rgbg8", "32FC1")
        elif shot.kind == "empty":
            image.data = array.array("B")
        elif shot.kind == "bayer":
            image.encoding, image.width = "bayer_rggb16", 63
        else:
            image.encoding = self._pick("32FC1", "16UC1", "8UC1")

    def _bad_jpeg(self, shot: Shot) -> None:
        data = bytearray(shot.image.data)
        shot.kind = self._pick("cut", "flipped", "noise", "empty", "huge", "end only")
        if shot.kind == "cut":
            data = data[: int(self.random.integers(1, len(data) - 3))]
        elif shot.kind == "flipped":
            at = self.random.integers(0, min(600, len(data)), 40)
            for i in at:
                data[int(i)] ^= int(self.random.integers(1, 256))
        elif shot.kind == "noise":
            data = bytearray(self.random.integers(0, 256, 2000, np.uint8).tobytes())
        elif shot.kind == "empty":
            data = bytearray()
        elif shot.kind == "huge":
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = b"\xff\xff\xff\xff"
        else:
            data = data[:2] + data[-2:]
        shot.image.data = array.array("B", bytes(data))
        shot.image.format = self._pick("jpeg", "png", "", "rgb8; jpeg compressed bgr8")

    def _bad_size(self, shot: Shot) -> None:
        shot.kind = "size"
        target = shot.info if self._compressed else self._pick(shot.image, shot.info)
        setattr(target, self._pick("width", "height"), int(self._pick(0, 1, 7, *HUGE)))

    def _bad_header(self, shot: Shot) -> None:
        shot.kind = self._pick("zero stamp", "negative stamp", "future stamp", "no frame", "other frame")
        header = shot.image.header
        if shot.kind == "zero stamp":
            header.stamp.sec = header.stamp.nanosec = 0
        elif shot.kind == "negative stamp":
            header.stamp.sec = -int(self.random.integers(1, 2**31))
        elif shot.kind == "future stamp":
            header.stamp.sec, header.stamp.nanosec = 2**31 - 1, 2**32 - 1
        else:
            header.frame_id = self._pick("", "/") if shot.kind == "no frame" else self._pick("nowhere", "x" * 10_000)

    def _bad_info(self, shot: Shot) -> None:
        info = shot.info
        assert isinstance(info, CameraInfo)
        shot.kind = self._pick("focal", "k", "d count", "d values", "model", "roi", "binning")
        if shot.kind == "focal":
            info.k[int(self._pick(0, 4))] = float(self._pick(0.0, -1.0, NAN, INF))
        elif shot.kind == "k":
            info.k[int(self._pick(2, 5))] = float(self._pick(NAN, INF, -INF))
        elif shot.kind == "d count":
            info.d = [0.1] * int(self._pick(1, 2, 3, 6, 7, 9, 100))
        elif shot.kind == "d values":
            info.d = [float(v) for v in self.random.choice([NAN, INF, 1e300, -1e30], 5)]
        elif shot.kind == "model":
            info.distortion_model, info.d = self._pick("", "omni", "\u00e9" * 500), [0.1] * 5
        elif shot.kind == "roi":
            info.roi.x_offset, info.roi.width = int(self._pick(60, 2**32 - 1)), int(self._pick(60, 2**32 - 1))
        else:
            info.binning_x = int(self._pick(3, 65, 2**32 - 1))

    def _bad_tf(self, shot: Shot) -> None:
        assert isinstance(shot.tf, TFMessage)
        transform = shot.tf.transforms[0].transform
        shot.kind = self._pick("nan", "far", "length", "zero", "names", "itself")
        if shot.kind in ("nan", "far"):
            value = float(self._pick(NAN, INF) if shot.kind == "nan" else self._pick(1e10, 1.7e308))
            setattr(transform.translation, self._pick("x", "y", "z"), value)
        elif shot.kind in ("length", "zero"):
            q, scale = transform.rotation, float(self._pick(2.0, 0.5, NAN, 1e200) if shot.kind == "length" else 0.0)
            q.x, q.y, q.z, q.w = q.x * scale, q.y * scale, q.z * scale, q.w * scale
        elif shot.kind == "names":
            shot.tf.transforms[0].child_frame_id = self._pick("", "/")
        else:
            shot.tf.transforms[0].header.frame_id = "cam"

    def _bad_depth(self, shot: Shot) -> None:
        shot.kind = self._pick("nothing measured", "cut", "encoding")
        if self._compressed:
            data = bytes(shot.depth.data)
            shot.depth.data = array.array("B", data[: int(self.random.integers(0, len(data)))])
            shot.depth.format = self._pick("", "16UC1; compressedDepth rvl", "jpeg", shot.depth.format)
        elif shot.kind == "nothing measured":
            shot.depth.encoding, shot.depth.width = self._pick("rgb8", "16UC3"), 64
        elif shot.kind == "cut":
            shot.depth.data = shot.depth.data[:100]
        else:
            shot.depth.encoding, shot.depth.step = self._pick("64FC1", "", "32FC1"), 3

    def _bad_bytes(self, shot: Shot) -> None:
        """What no library would send: serialised messages that are cut short, or whose lengths lie."""
        shot.kind = self._pick("image", "info", "tf", "depth")
        data = bytearray(serialize_message(getattr(shot, shot.kind)))
        cut = int(self.random.integers(4, min(len(data), 200)))
        if self.random.random() < 0.5:
            data = data[:cut]
        else:
            data[12:16] = self._pick(b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80")
        setattr(shot, shot.kind, bytes(data))
