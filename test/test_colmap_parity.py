"""Models of and for COLMAP's own library, where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.io.colmap import ColmapView, read_colmap, write_colmap
from reconx_ros.io.lens import Lens

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")

POINTS = np.random.default_rng(0).uniform([-0.4, -0.3, 1.0], [0.4, 0.3, 2.0], (50, 3))
CAMERA = PinholeCamera(width=640, height=480, fx=501.25, fy=503.1, cx=318.5, cy=241.1)


def our_pixels(view: ColmapView) -> np.ndarray:
    """Pixels [n, 2] of POINTS (camera frame) in the stored picture, from its corner as COLMAP counts."""
    import cv2

    c, d = view.camera, np.array(view.distortion or np.zeros(4))
    if view.distortion_model == "equidistant":
        pixels = cv2.fisheye.projectPoints(POINTS[:, None], np.zeros(3), np.zeros(3), c.matrix, d)[0]
    else:
        pixels = cv2.projectPoints(POINTS, np.zeros(3), np.zeros(3), c.matrix, d)[0]
    return pixels.reshape(-1, 2) + 0.5


def test_pycolmap_reads_what_we_write(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    views = [
        ColmapView(camera=CAMERA, world_from_cam=SE3.exp(rng.normal(size=3), rng.normal(size=3)), name=f"{k}.jpg")
        for k in range(4)
    ]
    for binary in (True, False):
        folder = tmp_path / str(binary)
        write_colmap(folder, views, binary=binary)
        model = pycolmap.Reconstruction(str(folder))
        found = {image.name: image for image in model.images.values()}
        for view in views:
            image = found[view.name]
            pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
            matrix = view.world_from_cam.inverse().matrix[:3]
            np.testing.assert_allclose(np.asarray(pose.matrix()), matrix, atol=1e-9)
            pixels = np.asarray(model.cameras[image.camera_id].img_from_cam(POINTS))
            np.testing.assert_allclose(pixels, our_pixels(view), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        ("SIMPLE_PINHOLE", [500, 320, 240]),
        ("PINHOLE", [500, 510, 320, 240]),
        ("SIMPLE_RADIAL", [500, 320, 240, 0.1]),
        ("RADIAL", [500, 320, 240, 0.1, -0.05]),
        ("OPENCV", [500, 510, 320, 240, 0.1, -0.05, 0.003, -0.002]),
        ("OPENCV_FISHEYE", [500, 510, 320, 240, 0.02, -0.01, 0.003, -0.002]),
        ("FULL_OPENCV", [500, 510, 320, 240, 0.3, -0.1, 0.003, 0.001, 0.02, 0.6, -0.08, 0.01]),
        ("SIMPLE_RADIAL_FISHEYE", [500, 320, 240, 0.05]),
        ("RADIAL_FISHEYE", [500, 320, 240, 0.05, -0.02]),
    ],
)
def test_we_read_lenses_as_pycolmap_does(tmp_path: Path, model: str, numbers: list[float]) -> None:
    line = " ".join(map(str, [1, model, 640, 480, *numbers]))
    (tmp_path / "cameras.txt").write_text(line + "\n")
    (tmp_path / "images.txt").write_text("1 0.8 0 0.48 0.36 1 2 3 1 a.jpg\n\n")
    (tmp_path / "points3D.txt").write_text("")
    theirs = pycolmap.Reconstruction(str(tmp_path))
    binary = tmp_path / "binary"
    binary.mkdir()
    theirs.write_binary(str(binary))
    for folder in (tmp_path, binary):
        (view,) = read_colmap(folder)
        pixels = np.asarray(theirs.cameras[1].img_from_cam(POINTS))
        np.testing.assert_allclose(our_pixels(view), pixels, atol=1e-6)
        image = theirs.images[1]
        pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
        np.testing.assert_allclose(view.world_from_cam.inverse().matrix[:3], np.asarray(pose.matrix()), atol=1e-9)
        assert isinstance(view.lens, Lens)
