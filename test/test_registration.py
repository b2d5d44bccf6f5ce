"""Depth of one camera as another sees it."""

from __future__ import annotations

import numpy as np
import pytest

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.io.ingest.registration import registered_depth, resampled_depth

COLOUR = PinholeCamera(width=64, height=48, fx=60, fy=60, cx=31.5, cy=23.5)
BESIDE = SE3.exp(np.array([0.02, -0.03, 0.01]), np.array([0.05, -0.01, 0.02]))


def plane_depth(camera: PinholeCamera, normal: np.ndarray, distance: float) -> np.ndarray:
    """z-depth of the plane n . x = d."""
    v, u = np.mgrid[: camera.height, : camera.width]
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u, float)], -1)
    return (distance / (rays @ normal)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_a_plane_stays_the_plane(scale: float) -> None:
    depth_camera = PinholeCamera(
        width=round(64 * scale), height=round(48 * scale), fx=50 * scale, fy=50 * scale, cx=30 * scale, cy=25 * scale
    )
    normal = np.array([0.2, -0.1, 0.97])
    seen = registered_depth(plane_depth(depth_camera, normal, 2.0), depth_camera, COLOUR, BESIDE)
    moved = BESIDE.rotation @ normal
    expected = plane_depth(COLOUR, moved, 2.0 + float(moved @ BESIDE.translation))
    known = np.isfinite(seen)
    assert known.mean() > 0.85 and known[8:-8, 12:-8].mean() > 0.99  # without cracks
    np.testing.assert_allclose(seen[known], expected[known], rtol=0.01)


def test_the_nearest_counts_and_nothing_shines_through() -> None:
    depth = np.full((48, 64), 4.0, np.float32)
    depth[10:40, 20:44] = 1.0
    seen = registered_depth(depth, COLOUR, COLOUR, SE3.exp(np.zeros(3), np.array([0.1, 0.0, 0.0])))
    assert (seen[12:38, 28:48] == 1.0).all()  # the box, six pixels to the right
    assert np.isnan(seen[20, 22:25]).all() and seen[20, 10] == 4.0  # what it hid stays unknown


def test_slowly_and_readably_it_is_the_same() -> None:
    random = np.random.default_rng(0)
    depth = random.uniform(1, 3, (48, 64)).astype(np.float32)
    depth[random.random((48, 64)) < 0.3] = np.nan
    slow = np.full((48, 64), np.inf)
    for v, u in np.argwhere(np.isfinite(depth)):
        point = np.array([(u - 31.5) / 60, (v - 23.5) / 60, 1.0]) * depth[v, u]
        x, y, z = BESIDE.apply(point[None])[0]
        column, row = round(x / z * 60 + 31.5), round(y / z * 60 + 23.5)
        if 0 <= column < 64 and 0 <= row < 48:
            slow[row, column] = min(slow[row, column], z)
    seen = registered_depth(depth, COLOUR, COLOUR, BESIDE)
    hit = np.isfinite(slow)
    assert (np.abs(seen[hit] - slow[hit]) < 1e-4).mean() > 0.9  # the rest are cracks between surfaces, closed
    assert (seen[hit] <= slow[hit] + 1e-4).all()


def test_the_same_lens_on_a_coarser_grid_is_sampled_nearest() -> None:
    half = PinholeCamera(width=32, height=24, fx=30, fy=30, cx=15.5, cy=11.5)
    values = np.arange(32 * 24, dtype=np.float32).reshape(24, 32) + 1
    values[3, 3] = np.nan
    np.testing.assert_array_equal(resampled_depth(values, half, COLOUR), values.repeat(2, 0).repeat(2, 1))


def test_beyond_a_narrower_view_nothing_is_known() -> None:
    narrow = PinholeCamera(width=32, height=24, fx=60, fy=60, cx=15.5, cy=11.5)
    seen = resampled_depth(np.ones((24, 32), np.float32), narrow, COLOUR)
    assert np.isfinite(seen).sum() == 24 * 32 and np.isfinite(seen[12:36, 16:48]).all()
