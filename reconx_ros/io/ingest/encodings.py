"""The encodings of sensor_msgs/Image: how their bytes are laid out, and how they become RGB through OpenCV.

Names are those of ``sensor_msgs/image_encodings.hpp``, with ``nv12`` beside its ``nv21``. ``bayer_rggb8`` names the
colours of the first two rows, where OpenCV's constants name those of the pixels (1, 1), (1, 2): rggb is its BG. YUV is
that of video cameras (ITU-R BT.601, luma 16 to 235), as in cv_bridge. Values of 16 bits fill their range and lose the
lower eight. Channels without a name (``8UC3``) are BGR, as OpenCV has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from reconx_ros.core import InvalidInputError

_BAYER_TO_RGB = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_YUV_TO_RGB = {
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUYV,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUYV,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
}
_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "8UC4": cv2.COLOR_BGRA2RGB,
    "bgr16": cv2.COLOR_BGR2RGB,
    "rgba16": cv2.COLOR_RGBA2RGB,
    "bgra16": cv2.COLOR_BGRA2RGB,
    "mono16": cv2.COLOR_GRAY2RGB,
    **_YUV_TO_RGB,
    **{f"bayer_{order}{bits}": code for bits in (8, 16) for order, code in _BAYER_TO_RGB.items()},
}
_CHROMA_ROWS_BELOW = ("nv12", "nv21")
RGB_ENCODINGS = ("rgb8", "rgb16", *_TO_RGB)
DEPTH_ENCODINGS = ("32FC1", "16UC1", "mono16")


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """How an encoding lies in memory.

    Attributes:
        code: numpy type of one value, without byte order.
        channels: values of one pixel; 1 for a Bayer mosaic and for the rows of nv12 and nv21.
        even: sides that must be even, of "width" and "height".
    """

    code: str
    channels: int = 1
    even: tuple[str, ...] = ()

    def rows(self, encoding: str, height: int) -> int:
        """Rows of the buffer: nv12 and nv21 keep their colours in half as many rows below the picture."""
        return height + height // 2 if encoding in _CHROMA_ROWS_BELOW else height


def _layouts() -> dict[str, PixelLayout]:
    colours = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1}
    return {
        **{f"{name}8": PixelLayout(code="u1", channels=channels) for name, channels in colours.items()},
        **{f"{name}16": PixelLayout(code="u2", channels=channels) for name, channels in colours.items()},
        **{f"bayer_{order}8": PixelLayout(code="u1", even=("width", "height")) for order in _BAYER_TO_RGB},
        **{f"bayer_{order}16": PixelLayout(code="u2", even=("width", "height")) for order in _BAYER_TO_RGB},
        **{name: PixelLayout(code="u1", channels=2, even=("width",)) for name in _YUV_TO_RGB},
        **{name: PixelLayout(code="u1", even=("width", "height")) for name in _CHROMA_ROWS_BELOW},
        **{f"8UC{channels}": PixelLayout(code="u1", channels=channels) for channels in (1, 3, 4)},
        "16UC1": PixelLayout(code="u2"),
        "32FC1": PixelLayout(code="f4"),
    }


LAYOUTS = _layouts()


def layout_from_encoding(encoding: str, width: int, height: int) -> PixelLayout:
    """The layout of an encoding.

    Raises:
        InvalidInputError: for an encoding that is not known, or an odd size where pixels share their colour.
    """
    layout = LAYOUTS.get(encoding)
    if layout is None:
        raise InvalidInputError(f"image encoding is '{encoding}', expected one of {', '.join(LAYOUTS)}")
    if ("width" in layout.even and width % 2) or ("height" in layout.even and height % 2):
        sides = " and ".join(layout.even)
        raise InvalidInputError(f"image size is {width}x{height}, expected an even {sides} for {encoding}")
    return layout


def to_rgb(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """RGB [H, W, 3] uint8 of the pixels of an image message, as ``image_view`` gives them.

    Raises:
        InvalidInputError: for an encoding that is no picture.
    """
    if encoding not in RGB_ENCODINGS:
        raise InvalidInputError(f"image encoding is '{encoding}', expected one of {', '.join(RGB_ENCODINGS)}")
    if encoding == "rgb8":
        return pixels
    if pixels.dtype.itemsize == 2:
        native = np.ascontiguousarray(pixels, dtype=np.uint16)
        pixels = cv2.convertScaleAbs(native, alpha=1 / 257)
    if encoding == "rgb16":
        return pixels
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), _TO_RGB[encoding]))
