"""Rectification of lenses with distortion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from reconx_ros.core import InvalidInputError, PinholeCamera
from reconx_ros.io.rectify import make_rectifier

W, H = 160, 120
K = (110.0, 0, 79.5, 0, 112.0, 60.2, 0, 0, 1)
LENSES = {
    "plumb_bob": (-0.28, 0.07, 0.001, -0.0005, 0.0),
    "rational_polynomial": (0.3, -0.1, 0.0003, 0.0001, 0.02, 0.6, -0.08, 0.01),
    "equidistant": (-0.01, 0.02, -0.01, 0.002),
}


def scene_value(rays: np.ndarray) -> np.ndarray:
    """A smooth pattern on directions [..., 2] at z = 1, so that any camera can be drawn exactly."""
    x, y = rays[..., 0], rays[..., 1]
    return (120 + 60 * np.sin(4 * x) * np.cos(3 * y) + 40 * x).astype(np.float32)


def pinhole_rays(camera: PinholeCamera) -> np.ndarray:
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy], axis=-1)


def lens_picture(model: str) -> np.ndarray:
    """What the distorted lens sees, by inverting its distortion pixel by pixel."""
    u, v = np.meshgrid(np.arange(W, dtype=np.float64), np.arange(H, dtype=np.float64))
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    matrix, d = np.array(K).reshape(3, 3), np.array(LENSES[model])
    if model == "equidistant":
        rays = cv2.fisheye.undistortPoints(pixels, matrix, d)
    else:
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-10)
        rays = cv2.undistortPointsIter(pixels, matrix, d, None, None, criteria)
    return scene_value(rays.reshape(H, W, 2))


@pytest.mark.parametrize("model", LENSES)
def test_rectified_picture_is_what_the_pinhole_camera_would_see(model: str) -> None:
    rectifier = make_rectifier(W, H, K, model, LENSES[model])
    assert rectifier.changes
    got = rectifier.image(lens_picture(model))
    expected = scene_value(pinhole_rays(rectifier.camera))
    assert np.abs(got - expected).max() < 1.5
    assert np.abs(got - expected).mean() < 0.1


@pytest.mark.parametrize("model", LENSES)
def test_no_pixel_of_the_rectified_picture_lies_outside_the_lens(model: str) -> None:
    rectifier = make_rectifier(W, H, K, model, LENSES[model])
    depth = rectifier.depth(np.ones((H, W), np.float32))
    assert (depth == 1).all()


@pytest.mark.parametrize("d", [(), (0.0, 0.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("model", ["", "plumb_bob", "something_new"])
def test_no_distortion_keeps_the_image_itself(model: str, d: tuple[float, ...]) -> None:
    rectifier = make_rectifier(W, H, K, model, d)
    image = np.zeros((H, W, 3), np.uint8)
    depth = np.zeros((H, W), np.float32)
    assert rectifier.image(image) is image
    assert rectifier.depth(depth) is depth
    assert not rectifier.changes
    assert np.allclose(rectifier.camera.matrix, np.array(K).reshape(3, 3))


def test_images_that_are_rectified_already_use_p() -> None:
    p = (100.0, 0, 80.0, 0, 0, 101.0, 60.0, 0, 0, 0, 1, 0)
    rectifier = make_rectifier(W, H, K, "plumb_bob", LENSES["plumb_bob"], p=p)
    assert not rectifier.changes
    assert (rectifier.camera.fx, rectifier.camera.cy) == (100.0, 60.0)


def test_a_very_wide_lens_is_cut_at_sixty_degrees() -> None:
    k = (50.0, 0, 79.5, 0, 50.0, 59.5, 0, 0, 1)
    camera = make_rectifier(W, H, k, "equidistant", (0.01, 0.0, 0.0, 0.0)).camera
    corner = np.hypot((camera.width / 2) / camera.fx, (camera.height / 2) / camera.fy)
    assert np.degrees(np.arctan(corner)) < 61


def test_depth_is_never_mixed() -> None:
    depth = np.ones((H, W), np.float32)
    depth[:, W // 2 :] = 5
    out = make_rectifier(W, H, K, "plumb_bob", LENSES["plumb_bob"]).depth(depth)
    assert set(np.unique(out)) == {1.0, 5.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distortion_model": "woodscape"}, "distortion model is 'woodscape'"),
        ({"k": (0.0,) * 9}, "fx = 0.0"),
        ({"k": (float("nan"), *K[1:])}, "fx = nan"),
        ({"k": K[:6]}, "6 numbers, expected 9"),
        ({"d": (0.1, 0.2, 0.3)}, "3 plumb_bob coefficients, expected 4 or 5"),
        ({"d": (0.1, float("inf"), 0, 0, 0)}, "finite"),
        ({"width": 0}, "0x120"),
    ],
)
def test_a_camera_info_that_cannot_be_used_is_one_sentence(change: dict[str, object], message: str) -> None:
    good = {"width": W, "height": H, "k": K, "distortion_model": "plumb_bob", "d": LENSES["plumb_bob"]}
    with pytest.raises(InvalidInputError, match=message) as caught:
        make_rectifier(**{**good, **change})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="image is 80x60, expected 160x120"):
        make_rectifier(W, H, K).image(np.zeros((60, 80, 3), np.uint8))
