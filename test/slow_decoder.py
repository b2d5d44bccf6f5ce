"""A decoder of images that is slow and easy to read: one pixel at a time, from the definitions."""

from __future__ import annotations

import math
import struct
from typing import Any

_CHANNELS = {"rgb": "rgb", "bgr": "bgr", "rgba": "rgba", "bgra": "bgra"}


def rgb_at(msg: Any, u: int, v: int) -> tuple[float, float, float]:
    """Colour of a pixel of a raw image in [0, 255]; Bayer only for pixels that are not on the border."""
    name = msg.encoding
    if name.startswith("bayer"):
        return _bayer(msg, u, v)
    if name in ("uyvy", "yuv422", "yuyv", "yuv422_yuy2"):
        luma, chroma = (1, 0) if name in ("uyvy", "yuv422") else (0, 1)
        pair = u - u % 2
        return _from_yuv(*(_value(msg, *at, 2) for at in ((u, v, luma), (pair, v, chroma), (pair + 1, v, chroma))))
    if name in ("nv12", "nv21"):
        row, column, first = int(msg.height) + v // 2, u - u % 2, 0 if name == "nv12" else 1
        chroma = [_value(msg, column + k, row, 0, 1) for k in (first, 1 - first)]
        return _from_yuv(_value(msg, u, v, 0, 1), *chroma)
    bits = 16 if name.endswith("16") else 8
    scale = 257 if bits == 16 else 1
    if name.startswith(("mono", "8UC1")):
        grey = _value(msg, u, v, 0, 1, bits) / scale
        return grey, grey, grey
    order = {"8UC3": "bgr", "8UC4": "bgra"}.get(name) or name.removesuffix(str(bits))
    values = {c: _value(msg, u, v, k, len(order), bits) / scale for k, c in enumerate(order)}
    return values["r"], values["g"], values["b"]


def depth_at(msg: Any, u: int, v: int) -> float:
    """Depth of a pixel in metres; NaN where nothing was measured."""
    if msg.encoding == "32FC1":
        value = struct.unpack(">f" if msg.is_bigendian else "<f", _bytes(msg, u, v, 4))[0]
    else:
        count = struct.unpack(">H" if msg.is_bigendian else "<H", _bytes(msg, u, v, 2))[0]
        value = math.nan if count in (0, 65535) else count / 1000
    return value if 0 < value < 1e4 else math.nan


def _step(msg: Any, pixel_bytes: int) -> int:
    return int(msg.step) or int(msg.width) * pixel_bytes


def _bytes(msg: Any, u: int, v: int, size: int) -> bytes:
    start = v * _step(msg, size) + u * size
    return bytes(msg.data[start : start + size])


def _value(msg: Any, u: int, v: int, channel: int, channels: int, bits: int = 8) -> int:
    size = bits // 8
    start = v * _step(msg, channels * size) + (u * channels + channel) * size
    raw = [int(b) for b in msg.data[start : start + size]]
    if size == 1:
        return raw[0]
    return raw[0] * 256 + raw[1] if msg.is_bigendian else raw[1] * 256 + raw[0]


def _from_yuv(y: int, u: int, v: int) -> tuple[float, float, float]:
    """ITU-R BT.601, luma 16 to 235."""
    luma, blue, red = (y - 16) / 219, (u - 128) / 224 * 1.772, (v - 128) / 224 * 1.402
    r, b = luma + red, luma + blue
    g = (luma - 0.299 * r - 0.114 * b) / 0.587
    return tuple(min(max(255 * c, 0.0), 255.0) for c in (r, g, b))  # type: ignore[return-value]


def _bayer(msg: Any, u: int, v: int) -> tuple[float, float, float]:
    """Each colour is the mean of its nearest samples around the pixel."""
    order, bits = msg.encoding.removeprefix("bayer_")[:4], 16 if msg.encoding.endswith("16") else 8

    def colour(x: int, y: int) -> str:
        return str(order[2 * (y % 2) + x % 2])

    def mean(name: str) -> float:
        for reach in ([(0, 0)], [(1, 0), (-1, 0), (0, 1), (0, -1)], [(1, 1), (-1, 1), (1, -1), (-1, -1)]):
            found = [(u + x, v + y) for x, y in reach if colour(u + x, v + y) == name]
            if found:
                return sum(_value(msg, x, y, 0, 1, bits) for x, y in found) / len(found) / (257 if bits == 16 else 1)
        raise AssertionError(name)

    return mean("r"), mean("g"), mean("b")


def lens_pixel(info: Any, x: float, y: float, *, rectified: bool) -> tuple[float, float]:
    """Where a ray (x, y, 1) falls in the image of a camera_info: distorted, windowed, binned."""
    if rectified:
        fx, cx, fy, cy = (float(info.p[k]) for k in (0, 2, 5, 6))
    else:
        fx, cx, fy, cy = (float(info.k[k]) for k in (0, 2, 4, 5))
        x, y = _distorted(info.distortion_model, [float(v) for v in info.d], x, y)
    u, v = fx * x + cx - info.roi.x_offset, fy * y + cy - info.roi.y_offset
    bx, by = max(1, info.binning_x), max(1, info.binning_y)
    return (u + 0.5) / bx - 0.5, (v + 0.5) / by - 0.5


def _distorted(model: str, d: list[float], x: float, y: float) -> tuple[float, float]:
    r = math.hypot(x, y)
    if model in ("equidistant", "fisheye"):
        k = (d + [0.0] * 4)[:4]
        theta = math.atan(r)
        bent = theta * (1 + sum(c * theta ** (2 * n + 2) for n, c in enumerate(k)))
        return (x * bent / r, y * bent / r) if r > 1e-9 else (x, y)
    k1, k2, p1, p2, k3, k4, k5, k6 = (d + [0.0] * 8)[:8]
    bent = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    return (
        x * bent + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * bent + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )
