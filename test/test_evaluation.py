"""Scores on hand-worked cases: a perfect estimate scores perfectly, a shifted one does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, PointMap
from reconx_ros.evaluation.depth import depth_statistics, relative_depth_errors
from reconx_ros.evaluation.images import psnr, ssim

CAMERA = PinholeCamera(width=8, height=6, fx=10.0, fy=10.0, cx=3.5, cy=2.5)
POSE = SE3.exp(np.array([0.1, -0.3, 0.2]), np.array([1.0, 2.0, 3.0]))
DEPTH = np.linspace(1.0, 3.0, 48, dtype=np.float32).reshape(6, 8)


def pointmap(depth: np.ndarray, confidence: float = 1.0) -> PointMap:
    return PointMap(
        rgb=torch.zeros(6, 8, 3),
        depth=torch.from_numpy(depth),
        confidence=torch.full((6, 8), confidence),
        valid=torch.ones(6, 8, dtype=torch.bool),
        provenance=torch.ones(6, 8, dtype=torch.uint8),
        camera=CAMERA,
        world_from_cam=POSE,
        keyframe_id=4,
    )


def test_a_perfect_depth_has_no_error_and_a_scaled_one_has_its_scale() -> None:
    assert relative_depth_errors(pointmap(DEPTH), DEPTH, min_confidence=0.5).max() == 0.0
    errors = relative_depth_errors(pointmap(DEPTH * 1.03), DEPTH, min_confidence=0.5)
    np.testing.assert_allclose(errors, 0.03, atol=1e-6)
    statistics = depth_statistics(errors)
    assert statistics["median"] == pytest.approx(0.03, abs=1e-6)
    assert (statistics["within_2pct"], statistics["within_5pct"], statistics["count"]) == (0.0, 1.0, 48)


def test_unsure_pixels_and_pixels_without_truth_do_not_count() -> None:
    assert not len(relative_depth_errors(pointmap(DEPTH, 0.4), DEPTH, min_confidence=0.5))
    truth = DEPTH.copy()
    truth[0] = 0.0
    truth[1] = np.nan
    assert len(relative_depth_errors(pointmap(DEPTH), truth, min_confidence=0.5)) == 32
    assert np.isnan(depth_statistics(np.zeros(0))["median"])


def test_truth_of_twice_the_size_is_sampled_where_the_pixel_is() -> None:
    doubled = DEPTH.repeat(2, 0).repeat(2, 1)
    assert relative_depth_errors(pointmap(DEPTH), doubled, min_confidence=0.5).max() == 0.0


def test_psnr_of_equal_images_is_infinite_and_of_a_known_offset_is_known() -> None:
    image = np.full((6, 8, 3), 100, np.uint8)
    assert psnr(image, image) == np.inf
    assert psnr(image, image + np.uint8(10)) == pytest.approx(20 * np.log10(255 / 10))
    mask = np.zeros((6, 8), bool)
    assert np.isnan(psnr(image, image, mask))
    with pytest.raises(InvalidInputError, match="image has shape"):
        psnr(image, image[:5])


@pytest.mark.parametrize("shape", [(11, 11, 3), (24, 40, 3), (33, 17, 1)])
def test_ssim_equals_scikit_image(shape: tuple[int, int, int]) -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    rng = np.random.default_rng(0)
    truth = rng.random(shape)
    for image in (rng.random(shape), np.clip(truth + 0.05 * rng.standard_normal(shape), 0, 1), 1 - truth):
        expected = skimage.structural_similarity(
            truth, image, win_size=11, gaussian_weights=True, channel_axis=-1, data_range=1.0
        )
        assert ssim(image, truth) == pytest.approx(expected, abs=1e-6)
    assert ssim(truth, truth) == pytest.approx(1.0) and ssim(np.roll(truth, 1, axis=1), truth) < 0.9


def test_ssim_needs_a_window() -> None:
    with pytest.raises(InvalidInputError, match="10x20, expected at least 11"):
        ssim(np.zeros((20, 10, 3)), np.zeros((20, 10, 3)))
