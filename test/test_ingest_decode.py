"""Pixels and lenses: the ingest against a slow decoder, over everything that messages may differ in."""

from __future__ import annotations

import math
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from bag_maker import camera_info, compressed, depth_image, image
from slow_decoder import depth_at, lens_pixel, rgb_at

from reconx_ros.core import InvalidInputError
from reconx_ros.io.images import encode_depth_png, encode_jpeg, encode_png
from reconx_ros.io.ingest.calibration import rectifier_from_info
from reconx_ros.io.ingest.encodings import RGB_ENCODINGS
from reconx_ros.io.ingest.pixels import depth_from_msg, rgb_from_msg
from reconx_ros.io.rectify import Rectifier

DRAWS = 1000
LENSES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("plumb_bob", ()),
    ("", (0.0, 0.0, 0.0, 0.0, 0.0)),
    ("plumb_bob", (-0.2, 0.05, 0.001, -0.002)),
    ("plumb_bob", (-0.1, 0.02, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0)),
    ("rational_polynomial", (0.1, 0.02, 0.001, 0.0, 0.01, 0.15, 0.03, 0.0)),
    ("rational_polynomial", (-0.1, 0.02, 0.001, 0.0, 0.01)),
    ("equidistant", (0.01, -0.002, 0.0, 0.0)),
    ("equidistant", (0.01, -0.002, 0.0, 0.0, 0.0)),
    ("equidistant", ()),
    ("fisheye", (0.0, 0.0, 0.0, 0.0)),
)


def smooth(width: int, height: int, random: np.random.Generator) -> np.ndarray:
    """RGB [H, W, 3] float in [20, 235] that changes little between neighbours."""
    v, u = np.mgrid[:height, :width]
    slope = random.uniform(-1.5, 1.5, (3, 2))
    return np.clip(128 + slope[:, 0] * (u - width / 2)[..., None] + slope[:, 1] * (v - height / 2)[..., None], 20, 235)


def buffer_of(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """The values [rows, ...] that a driver would send for a picture."""
    wide = encoding.endswith("16")
    if encoding.startswith("bayer"):
        channel = np.array(["rgb".index(c) for c in encoding[6:10]]).reshape(2, 2)
        which = np.tile(channel, (rgb.shape[0] // 2, rgb.shape[1] // 2))
        values = np.take_along_axis(rgb, which[..., None], axis=-1)[..., 0]
    elif encoding in ("uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"):
        return _yuv(rgb, encoding)
    elif encoding in ("mono8", "mono16", "8UC1"):
        values = rgb[..., 1]
    else:
        order = {"8UC3": "bgr", "8UC4": "bgra"}.get(encoding) or encoding.rstrip("0168")
        values = np.concatenate([rgb, np.full_like(rgb[..., :1], 77)], -1)[..., ["rgba".index(c) for c in order]]
    return np.round(values * 257).astype(np.uint16) if wide else np.round(values).astype(np.uint8)


def _yuv(rgb: np.ndarray, encoding: str) -> np.ndarray:
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    y, u, v = 16 + 219 * luma, 128 + 224 * (b - luma) / 1.772, 128 + 224 * (r - luma) / 1.402
    y, u, v = (np.round(c).astype(np.uint8) for c in (y, u, v))
    if encoding.startswith("nv"):
        chroma = np.stack([u, v] if encoding == "nv12" else [v, u], axis=-1)[::2, ::2]
        return np.concatenate([y, chroma.reshape(len(chroma), -1)])
    chroma = np.where(np.arange(y.shape[1]) % 2 == 0, u, np.roll(v, 1, axis=1))
    return np.stack([chroma, y] if encoding in ("uyvy", "yuv422") else [y, chroma], axis=-1)


def stored(values: np.ndarray, encoding: str, size: tuple[int, int], *, padding: int, big: bool, stepless: bool) -> Any:
    """The image message; ``padding`` bytes behind each row but the last, step 0 where there is none and it is asked."""
    rows = [row.astype(row.dtype.newbyteorder(">" if big else "<")).tobytes() for row in values]
    data = (b"\xa5" * padding).join(rows)
    step = 0 if stepless and not padding else len(rows[0]) + padding
    return image(1, size, data, encoding, step, big=big)


def drawn_info(random: np.random.Generator, size: tuple[int, int]) -> tuple[Any, bool]:
    """A calibration whose images have that size, and whether they are rectified already."""
    binning = int(random.choice([0, 1, 2, 3]))
    b = max(1, binning)
    window = (size[0] * b, size[1] * b)
    offset = (int(random.integers(0, 9)), int(random.integers(0, 9))) if random.random() < 0.5 else (0, 0)
    full = (window[0] + offset[0] + 3, window[1] + offset[1] + 5) if any(offset) else window
    roi = (*offset, *window) if any(offset) else (0, 0, 0, 0)
    model, d = LENSES[int(random.integers(len(LENSES)))]
    focal = float(random.uniform(0.9, 1.4)) * full[0]
    info = camera_info(
        1, size=full, focal=focal, centre=((full[0] - 1) / 2 + 1.3, (full[1] - 1) / 2 - 0.7), model=model, d=d,
        p_focal=0.9 * focal, binning=binning, roi=roi,
    )  # fmt: skip
    return info, bool(random.random() < 0.2)


def interpolated(msg: Any, u: float, v: float) -> np.ndarray:
    """Colour at a place between pixels."""
    left, top = math.floor(u), math.floor(v)
    total = np.zeros(3)
    for x, y in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - abs(u - x)) * (1 - abs(v - y))
        total += weight * np.array(rgb_at(msg, x, y)) if weight > 0 else 0
    return total


def test_a_thousand_draws_of_encoding_byte_order_padding_lens_binning_and_window() -> None:
    random = np.random.default_rng(0)
    lenses = [_drawn_lens(random) for _ in range(100)]
    compared = 0
    for draw in range(DRAWS):
        encoding = RGB_ENCODINGS[draw % len(RGB_ENCODINGS)]
        size, info, rectified, rectifier = lenses[int(random.integers(len(lenses)))]
        values = buffer_of(smooth(*size, random), encoding)
        big, padding = bool(random.random() < 0.5), int(random.choice([0, 0, 2, 14]))
        msg = stored(values, encoding, size, padding=padding, big=big, stepless=bool(random.random() < 0.3))
        got = rectifier.image(rgb_from_msg(msg))
        camera, what = rectifier.camera, (draw, encoding, big, padding, info.distortion_model, info.d, rectified)
        assert got.shape == (size[1], size[0], 3) and got.dtype == np.uint8, what
        for _ in range(4):
            u, v = int(random.integers(3, size[0] - 3)), int(random.integers(3, size[1] - 3))
            place = lens_pixel(info, (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, rectified=rectified)
            if 2 <= place[0] <= size[0] - 4 and 2 <= place[1] <= size[1] - 4:
                compared += 1
                assert np.abs(got[v, u] - interpolated(msg, *place)).max() < 3.0, (what, u, v, place)
    assert compared > 2 * DRAWS


def _drawn_lens(random: np.random.Generator) -> tuple[tuple[int, int], Any, bool, Rectifier]:
    size = (int(2 * random.integers(8, 15)), int(2 * random.integers(8, 15)))
    info, rectified = drawn_info(random, size)
    return size, info, rectified, rectifier_from_info(info, rectified=rectified)


def test_depth_of_every_encoding_byte_order_and_padding() -> None:
    random = np.random.default_rng(1)
    odd = {"16UC1": [0, 1, 65534, 65535], "mono16": [0, 65535], "32FC1": [math.nan, math.inf, -1.0, 0.0, 65535.0]}
    for draw in range(200):
        encoding = ("16UC1", "mono16", "32FC1")[draw % 3]
        size = (int(random.integers(1, 9)), int(random.integers(1, 9)))
        values = random.uniform(0.3, 9.0, (size[1], size[0])).astype(np.float32)
        values = values if encoding == "32FC1" else np.round(values * 1000).astype(np.uint16)
        values.flat[:: int(random.integers(1, 4))] = random.choice(odd[encoding])
        big, padding = bool(random.random() < 0.5), int(random.choice([0, 3, 8]))
        msg = stored(values, encoding, size, padding=padding, big=big, stepless=bool(random.random() < 0.5))
        slow = [[depth_at(msg, u, v) for u in range(size[0])] for v in range(size[1])]
        np.testing.assert_allclose(depth_from_msg(msg), slow, rtol=1e-6, equal_nan=True)


# Compressed -----------------------------------------------------------------------------------------------------


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF tag that says how people should turn it."""
    tag = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + jpeg[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_compressed_image_is_taken_as_it_is_stored(orientation: int) -> None:
    jpeg = encode_jpeg(np.round(smooth(32, 20, np.random.default_rng(2))).astype(np.uint8), 95)
    plain = rgb_from_msg(compressed(1, jpeg, "jpeg"))
    np.testing.assert_array_equal(rgb_from_msg(compressed(1, with_orientation(jpeg, orientation), "jpeg")), plain)
    assert plain.shape == (20, 32, 3)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_compressed_mosaic_is_debayered_as_a_raw_one(order: str, bits: int) -> None:
    encoding = f"bayer_{order}{bits}"
    values = buffer_of(smooth(24, 16, np.random.default_rng(3)), encoding)
    raw = rgb_from_msg(stored(values, encoding, (24, 16), padding=0, big=False, stepless=False))
    png = bytes(cv2.imencode(".png", values)[1])
    np.testing.assert_array_equal(rgb_from_msg(compressed(1, png, f"{encoding}; png compressed {encoding}")), raw)


def test_a_mosaic_that_was_debayered_before_it_was_compressed_stays_so() -> None:
    rgb = np.round(smooth(24, 16, np.random.default_rng(4))).astype(np.uint8)
    png = encode_png(rgb)
    np.testing.assert_array_equal(rgb_from_msg(compressed(1, png, "bayer_rggb8; png compressed bgr8")), rgb)


def test_compressed_pictures_of_sixteen_bits_and_of_one_channel() -> None:
    rgb = np.round(smooth(24, 16, np.random.default_rng(5))).astype(np.uint8)
    wide = bytes(cv2.imencode(".png", rgb[..., ::-1].astype(np.uint16) * 257)[1])
    np.testing.assert_array_equal(rgb_from_msg(compressed(1, wide, "rgb16; png compressed bgr16")), rgb)
    grey = bytes(cv2.imencode(".png", rgb[..., 0])[1])
    np.testing.assert_array_equal(rgb_from_msg(compressed(1, grey, "mono8; png compressed ")), rgb[..., [0, 0, 0]])


def test_holes_of_compressed_depth() -> None:
    depth = np.array([[0.0, 1.5, 65.535, 2.0]], np.float32)
    for data, kind in (
        (bytes(12) + encode_depth_png(depth), "16UC1; compressedDepth png"),
        (encode_depth_png(depth), "16UC1; png compressed "),
    ):
        np.testing.assert_allclose(depth_from_msg(compressed(1, data, kind)), [[np.nan, 1.5, np.nan, 2.0]], rtol=1e-6)


# Distortion -----------------------------------------------------------------------------------------------------

FIVE = (-0.03, 0.035, -0.0001, -0.0001, -0.012)


def test_trailing_zeros_change_nothing() -> None:
    five, eight = (rectifier_from_info(camera_info(1, d=d)) for d in (FIVE, (*FIVE, 0.0, 0.0, 0.0)))
    assert five.camera == eight.camera and five.changes
    rational = rectifier_from_info(camera_info(1, model="rational_polynomial", d=FIVE))
    assert rational.camera.fx == pytest.approx(five.camera.fx)


def test_coefficients_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="8 plumb_bob coefficients, expected 4 or 5, or zeros beyond"):
        rectifier_from_info(camera_info(1, d=(*FIVE, 0.0, 0.01, 0.0)))
    with pytest.raises(InvalidInputError, match="5 equidistant coefficients"):
        rectifier_from_info(camera_info(1, model="equidistant", d=(0.01, 0.0, 0.0, 0.0, 0.2)))


@pytest.mark.parametrize("d", [(), (0.0,) * 4, (0.0,) * 5])
def test_a_fisheye_without_coefficients_is_still_a_fisheye(d: tuple[float, ...]) -> None:
    rectifier = rectifier_from_info(camera_info(1, model="equidistant", d=d))
    assert rectifier.changes
    msg = depth_image(1, np.full((36, 48), 2.0, np.float32))
    assert rectifier.depth(depth_from_msg(msg)).shape == (36, 48)
