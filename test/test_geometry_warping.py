"""Resampling, projection between views and epipolar geometry, against slow readable twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.geometry.epipolar import epipolar_distance_px, fundamental_matrix, triangulation_angles_deg
from reconx_ros.geometry.projection import backproject, camera_rays, project, transform_points
from reconx_ros.geometry.resize import area_weights, resize_area, resize_nearest
from reconx_ros.geometry.warping import inside, ray_projection, sample

SMALL = PinholeCamera(width=7, height=5, fx=6.0, fy=5.5, cx=3.2, cy=1.9)
OTHER = PinholeCamera(width=9, height=6, fx=8.0, fy=8.5, cx=4.1, cy=2.4)


def random_pose(seed: int, size: float = 0.3) -> SE3:
    rng = np.random.default_rng(seed)
    return SE3.exp(size * rng.standard_normal(3), size * rng.standard_normal(3))


def slow_area_row(row: np.ndarray, size: int) -> np.ndarray:
    """Integral of a piecewise constant row over each output pixel, by fine sampling of its exact borders."""
    edges = np.concatenate([[0.0], np.cumsum(row)])
    borders = np.linspace(0, len(row), size + 1)
    return np.diff(np.interp(borders, np.arange(len(row) + 1), edges)) * size / len(row)


@given(size_in=st.integers(1, 40), size_out=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_area_weights_integrate_exactly(size_in: int, size_out: int, seed: int) -> None:
    row = np.random.default_rng(seed).random(size_in).astype(np.float32)
    fast = area_weights(size_in, size_out) @ torch.from_numpy(row)
    np.testing.assert_allclose(fast.numpy(), slow_area_row(row, size_out), atol=2e-6)


@pytest.mark.parametrize(("width", "height", "tolerance_px"), [(27, 12, 1e-3), (32, 20, 0.2)])
def test_resizing_agrees_with_the_resized_camera(width: int, height: int, tolerance_px: float) -> None:
    camera = PinholeCamera(width=54, height=36, fx=50.0, fy=50.0, cx=27.1, cy=16.7)
    small = camera.scaled_to(width, height)
    slopes = camera_rays(camera)[..., :2]
    resized = resize_area(slopes, width, height)
    error_px = (resized - camera_rays(small)[..., :2]).abs().max() * camera.fx
    assert float(error_px) < tolerance_px  # of the large image; a whole ratio is exact


def test_resizing_refuses_an_empty_size() -> None:
    with pytest.raises(InvalidInputError, match="from 4 to 0 pixels"):
        resize_area(torch.zeros(4, 4, 3), 0, 4)


@given(width=st.integers(1, 20), height=st.integers(1, 20))
@settings(max_examples=30)
def test_nearest_resizing_invents_no_value(width: int, height: int) -> None:
    values = torch.arange(12.0 * 9).reshape(9, 12) ** 2
    out = resize_nearest(values, width, height)
    assert out.shape == (height, width)
    assert set(out.reshape(-1).tolist()) <= set(values.reshape(-1).tolist())


@given(seed=st.integers(0, 200), inverse=st.floats(0.05, 2.0))
@settings(max_examples=40)
def test_ray_projection_equals_back_projection_and_projection(seed: int, inverse: float) -> None:
    pose = random_pose(seed)
    depth = torch.full((5, 7), 1 / inverse)
    uv, z = project(transform_points(pose, backproject(depth, SMALL)), OTHER)
    fast_uv, ratio = ray_projection(SMALL, OTHER, pose)(torch.full((1, 1, 1), inverse))
    front = z > 0.05
    torch.testing.assert_close(ratio[0] / inverse, z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast_uv[:, 0].permute(1, 2, 0)[front], uv[front], atol=2e-3, rtol=1e-3)


def test_scaling_the_world_scales_inverse_depth() -> None:
    pose = random_pose(3)
    doubled = SE3(rotation=pose.rotation, translation=2 * pose.translation)
    uv, _ = ray_projection(SMALL, OTHER, pose)(torch.full((1, 1, 1), 0.5))
    uv_doubled, _ = ray_projection(SMALL, OTHER, doubled)(torch.full((1, 1, 1), 0.25))
    torch.testing.assert_close(uv, uv_doubled)


def slow_bilinear(image: np.ndarray, u: float, v: float) -> float:
    height, width = image.shape
    u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    x, y = min(int(u), width - 2), min(int(v), height - 2)
    a, b = u - x, v - y
    top = (1 - a) * image[y, x] + a * image[y, x + 1]
    return float((1 - b) * top + b * ((1 - a) * image[y + 1, x] + a * image[y + 1, x + 1]))


def test_sampling_equals_a_slow_bilinear_mean() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((6, 9)).astype(np.float32)
    uv = np.stack([rng.uniform(-1, 10, (4, 5)), rng.uniform(-1, 7, (4, 5))]).astype(np.float32)
    fast = sample(torch.from_numpy(image)[None], torch.from_numpy(uv))[0].numpy()
    slow = np.vectorize(lambda u, v: slow_bilinear(image, u, v))(uv[0], uv[1])
    np.testing.assert_allclose(fast, slow, atol=1e-5)


def test_inside_spans_half_a_pixel_beyond_the_outer_centres() -> None:
    u = torch.tensor([[-0.6, -0.4, 8.4, 8.6]])
    uv = torch.stack([u, torch.zeros_like(u)])
    assert inside(uv, torch.ones_like(u), 9, 6).tolist() == [[False, True, True, False]]
    assert not inside(uv, -torch.ones_like(u), 9, 6).any()


@given(seed=st.integers(0, 200))
@settings(max_examples=30)
def test_projections_of_one_point_lie_on_epipolar_lines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (20, 3)) + np.array([0, 0, 4])
    a_from_b = random_pose(seed)
    uv_b, _ = project(torch.from_numpy(points), SMALL)
    uv_a, _ = project(torch.from_numpy(a_from_b.apply(points)), OTHER)
    matrix = fundamental_matrix(OTHER, SMALL, a_from_b)
    assert epipolar_distance_px(matrix, uv_a.numpy(), uv_b.numpy()).max() < 1e-6


def test_distance_to_a_horizontal_epipolar_line_is_the_vertical_offset() -> None:
    sideways = SE3(rotation=np.eye(3), translation=np.array([1.0, 0, 0]))
    matrix = fundamental_matrix(SMALL, SMALL, sideways)
    distance = epipolar_distance_px(matrix, np.array([[5.0, 2.5]]), np.array([[1.0, 1.0]]))
    np.testing.assert_allclose(distance, [1.5])


def test_there_is_no_epipolar_geometry_without_a_baseline() -> None:
    assert not fundamental_matrix(SMALL, OTHER, SE3.identity()).any()


@given(seed=st.integers(0, 50))
@settings(max_examples=20)
def test_triangulation_angle_is_the_same_from_any_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, a, b = rng.standard_normal((4, 3)), 3 * rng.standard_normal(3), 3 * rng.standard_normal(3)
    move = random_pose(seed + 1, 1.0)
    here = triangulation_angles_deg(torch.from_numpy(points), a, b)
    there = triangulation_angles_deg(torch.from_numpy(move.apply(points)), move.apply(a), move.apply(b))
    torch.testing.assert_close(here, there, atol=1e-8, rtol=1e-8)
    dot = (
        ((a - points) * (b - points)).sum(-1)
        / np.linalg.norm(a - points, axis=-1)
        / np.linalg.norm(b - points, axis=-1)
    )
    np.testing.assert_allclose(here.numpy(), np.degrees(np.arccos(dot)), atol=1e-5)
