"""Scaling and cropping as pixelSplat prepares pictures."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from reconx_ros.core import Frame, InvalidInputError, PinholeCamera
from reconx_ros.geometry.resize import resize_bicubic, resize_lanczos
from reconx_ros.io.covering import covering_camera, covering_crop

# (height, width) before and after, and the CRC-32 of noise scaled so by an implementation of Pillow's filter in numpy.
LANCZOS = [
    ((360, 640), (256, 455), 3908096581),
    ((37, 91), (20, 33), 3273794433),
    ((20, 30), (41, 77), 4089745161),
    ((48, 64), (48, 20), 589811224),
    ((5, 7), (1, 1), 777526853),
]


@pytest.mark.parametrize(("old", "new", "crc"), LANCZOS)
def test_scaling_gives_the_recorded_pixels(old: tuple[int, int], new: tuple[int, int], crc: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    assert zlib.crc32(resize_lanczos(image, new[1], new[0]).tobytes()) == crc


def test_enlarging_gives_the_recorded_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert zlib.crc32(resize_bicubic(image, 77, 41).tobytes()) == 1343394183


def test_flat_pictures_stay_flat() -> None:
    image = np.full((30, 50, 3), 201, np.uint8)
    assert (resize_lanczos(image, 17, 23) == 201).all()
    assert (resize_lanczos(image[::2], 50, 15) == image[::2]).all()


def test_crop_of_a_realestate_picture() -> None:
    """640x360 becomes 455x256 (360 to 256, 455.1 rounded), of which columns 99 to 354 stay."""
    camera = PinholeCamera.from_corner_origin(640, 360, 500.0, 500.0, 320.0, 180.0)
    rgb = np.random.default_rng(1).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    frame = covering_crop(Frame(rgb_u8=rgb, camera=camera, depth_m=np.ones((360, 640), np.float32)), (256, 256))
    assert np.array_equal(frame.rgb_u8, resize_lanczos(rgb, 455, 256)[:, 99:355])
    assert frame.camera == covering_camera(camera, (256, 256)) and (frame.depth_m == 1).all()
    assert frame.camera.fx == pytest.approx(500 * 455 / 640) and frame.camera.fy == pytest.approx(500 * 256 / 360)
    assert frame.camera.cx + 0.5 == pytest.approx(227.5 - 99) and frame.camera.cy + 0.5 == pytest.approx(128)


@pytest.mark.parametrize("size", [(256, 256), (64, 100), (100, 36)])
def test_what_a_pixel_shows_stays_where_its_ray_points(size: tuple[int, int]) -> None:
    """A picture whose colours are smooth functions of the ray: the cropped picture is drawn by the cropped camera."""
    camera = PinholeCamera(width=403, height=301, fx=300.0, fy=310.0, cx=190.0, cy=155.0)
    drawn = covering_crop(Frame(rgb_u8=ramps(camera), camera=camera), size)
    expected = ramps(drawn.camera)
    assert np.abs(drawn.rgb_u8[4:-4, 4:-4].astype(int) - expected[4:-4, 4:-4]).max() <= 1


def ramps(camera: PinholeCamera) -> np.ndarray:
    v, u = np.mgrid[: camera.height, : camera.width]
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    return np.rint(np.stack([128 + 150 * x, 128 + 150 * y, 128 + 80 * (x + y)], axis=-1)).clip(0, 255).astype(np.uint8)


def test_mistakes() -> None:
    frame = Frame(
        rgb_u8=np.zeros((100, 100, 3), np.uint8),
        camera=PinholeCamera(width=100, height=100, fx=90, fy=90, cx=49.5, cy=49.5),
    )
    with pytest.raises(InvalidInputError, match="picture is 100x100, expected at least 256x256"):
        covering_crop(frame, (256, 256))
    with pytest.raises(InvalidInputError, match="float32"):
        resize_lanczos(np.zeros((4, 4, 3), np.float32), 2, 2)
