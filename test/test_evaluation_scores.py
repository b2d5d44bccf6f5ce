"""Figures of pictures, clouds and visibility on cases worked by hand: the truth is perfect, anything else is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.evaluation.clouds import cloud_errors, thinned, truth_cloud
from reconx_ros.evaluation.depth import ratio_figures
from reconx_ros.evaluation.images import psnr, ssim
from reconx_ros.evaluation.poses import pose_figures
from reconx_ros.evaluation.scores import load_judge, mean_scores, score_picture
from reconx_ros.evaluation.visibility import Observed, TrueDepthView, observed_pixels
from reconx_ros.geometry.neighbours import nearest_distances
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.lpips import Lpips, head_shapes, trunk_shapes

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
HALF = Observed(seen=np.arange(32)[None].repeat(24, 0) < 16, unseen=np.arange(32)[None].repeat(24, 0) >= 20)


def test_the_truth_scores_perfectly_and_a_shifted_one_does_not() -> None:
    perfect = score_picture(TRUTH, TRUTH, HALF)
    assert perfect["psnr"] == perfect["psnr_observed"] == perfect["psnr_unobserved"] == math.inf
    assert perfect["ssim"] == pytest.approx(1) == perfect["ssim_observed"] == perfect["ssim_unobserved"]
    shifted = score_picture(np.roll(TRUTH, 1, axis=1), TRUTH, HALF)
    assert shifted["psnr"] < 15 and shifted["ssim"] < 0.5 and shifted["psnr_observed"] < 15
    assert mean_scores([perfect, shifted])["psnr"] == math.inf


def test_observed_and_unobserved_pixels_are_scored_apart() -> None:
    picture = TRUTH.copy()
    picture[:, 20:] = np.where(picture[:, 20:] >= 128, picture[:, 20:] - 16, picture[:, 20:] + 16)
    score = score_picture(picture, TRUTH, HALF)
    assert score["psnr_observed"] == math.inf and score["psnr_unobserved"] == pytest.approx(20 * math.log10(255 / 16))
    assert HALF.share == pytest.approx(16 / 28)
    nothing = Observed(seen=np.zeros((24, 32), bool), unseen=np.ones((24, 32), bool))
    assert score_picture(picture, TRUTH, nothing)["psnr_observed"] is None and nothing.share == 0
    assert score_picture(picture, TRUTH)["psnr_unobserved"] is None


def test_a_mean_is_over_the_views_that_have_the_figure() -> None:
    views = [{"psnr": 10.0, "ssim": 0.2, "psnr_observed": 12.0}, {"psnr": 20.0, "ssim": 0.4}]
    mean = mean_scores(views)
    assert (mean["psnr"], mean["psnr_observed"], mean["lpips"]) == (15.0, 12.0, None)
    with pytest.raises(InvalidInputError, match="no pictures"):
        mean_scores([])


def test_psnr_and_ssim_equal_scikit_image_as_pixelsplat_calls_it() -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    for other in (RNG.integers(0, 256, TRUTH.shape, dtype=np.uint8), 255 - TRUTH, np.roll(TRUTH, 2, axis=0)):
        a, b = TRUTH / 255.0, other / 255.0
        wanted = skimage.structural_similarity(a, b, win_size=11, gaussian_weights=True, channel_axis=2, data_range=1.0)
        assert ssim(b, a) == pytest.approx(wanted, abs=1e-6)
        assert psnr(other, TRUTH) == pytest.approx(skimage.peak_signal_noise_ratio(a, b, data_range=1.0), abs=1e-6)


def test_lpips_is_unavailable_without_weights_and_zero_for_equal_pictures_with_them() -> None:
    judge, text = load_judge(SplattingConfig())
    assert judge is None and text.startswith("unavailable") and score_picture(TRUTH, TRUTH)["lpips"] is None
    generator = torch.Generator().manual_seed(0)
    trunk = {k: 0.1 * torch.randn(s, generator=generator) for k, s in trunk_shapes().items()}
    made = Lpips(trunk, {k: torch.rand(s, generator=generator) for k, s in head_shapes().items()})
    assert score_picture(TRUTH, TRUTH, judge=made)["lpips"] == pytest.approx(0, abs=1e-6)
    assert score_picture(255 - TRUTH, TRUTH, judge=made)["lpips"] > 1e-4


def plane(x: float = 0.0, depth: float = 2.0, width: int = 32) -> TrueDepthView:
    camera = PinholeCamera(width=width, height=24, fx=20.0, fy=20.0, cx=(width - 1) / 2, cy=11.5)
    pose = SE3.exp(np.zeros(3), np.array([x, 0.0, 0.0]))
    return TrueDepthView(depth=np.full((24, width), depth, np.float32), camera=camera, world_from_cam=pose)


def test_what_an_input_sees_is_observed() -> None:
    """A wall at 2 m; a camera moved by 1 m sees it moved by 10 of 32 pixels."""
    seen = observed_pixels(plane(1.0), [plane(0.0)])
    assert seen.seen[:, :22].all() and seen.unseen[:, 22:].all() and not (seen.seen & seen.unseen).any()
    assert observed_pixels(plane(1.0), [plane(0.0), plane(2.0)]).share == 1
    assert observed_pixels(plane(0.0), [plane(0.0)]).share == 1


def test_what_is_hidden_from_an_input_is_unobserved_and_unknown_depth_is_neither() -> None:
    near = plane(0.0)
    near.depth[:, 8:16] = 1.0  # something stands before the wall
    hidden = observed_pixels(plane(0.0), [near])
    assert hidden.unseen[:, 9:15].all() and hidden.seen[:, 16:].all()
    near.depth[:, 8:16] = np.nan
    unknown = observed_pixels(plane(0.0), [near])
    assert not unknown.seen[:, 9:15].any() and not unknown.unseen[:, 9:15].any()
    blind = plane(0.0, depth=0.0)
    assert observed_pixels(blind, [plane()]).share is None


def test_a_true_cloud_is_exact_and_complete() -> None:
    view = plane()
    truth = truth_cloud([(view.depth, view.camera, view.world_from_cam)])
    figures = cloud_errors(truth, truth)
    assert figures["accuracy_m"] == figures["completeness_m"] == 0 and figures["f_1cm"] == figures["f_5cm"] == 1


def test_a_cloud_that_is_off_or_half_is_scored_so() -> None:
    grid = np.stack(np.meshgrid(np.arange(20) * 0.1, np.arange(20) * 0.1, [1.0]), axis=-1).reshape(-1, 3)
    off = cloud_errors(grid + np.array([0, 0, 0.03]), grid)
    assert off["accuracy_m"] == pytest.approx(0.03) and (off["f_2cm"], off["f_5cm"]) == (0, 1)
    half = cloud_errors(grid[grid[:, 0] < 0.95], grid)
    assert (half["precision_1cm"], half["recall_1cm"]) == (1, 0.5) and half["f_1cm"] == pytest.approx(2 / 3)
    assert half["accuracy_m"] == 0 and half["completeness_m"] == pytest.approx(np.mean(np.arange(1, 11) * 0.1) / 2)


def test_an_empty_cloud_has_no_accuracy_and_no_f_score() -> None:
    figures = cloud_errors(np.zeros((0, 3)), np.ones((1, 3)))
    assert figures["accuracy_m"] is None and figures["precision_1cm"] is None and figures["f_5cm"] == 0
    with pytest.raises(InvalidInputError, match="truth cloud has no points"):
        cloud_errors(np.zeros((1, 3)), np.zeros((0, 3)))
    with pytest.raises(InvalidInputError, match="cloud has 1 values"):
        cloud_errors(np.full((1, 3), [0, 0, np.inf]), np.ones((1, 3)))


def test_nearest_neighbours_are_exact() -> None:
    points, queries = RNG.normal(size=(300, 3)) + 100, RNG.normal(size=(50, 3)) + 100
    wanted = np.sort(np.linalg.norm(queries[:, None] - points, axis=-1), axis=1)
    np.testing.assert_allclose(nearest_distances(queries, points, 3), wanted[:, :3], atol=1e-9)
    assert nearest_distances(np.zeros((0, 3)), points).shape == (0, 1)
    with pytest.raises(InvalidInputError, match="4 neighbours were asked for, expected 1 to 3"):
        nearest_distances(queries, points[:3], 4)


def test_thinning_keeps_one_point_per_voxel() -> None:
    points = np.array([[0.001, 0, 0], [0.002, 0, 0], [0.007, 0, 0]])
    np.testing.assert_array_equal(thinned(points), points[[0, 2]])


def test_depth_figures_by_hand() -> None:
    figures = ratio_figures(np.array([1.0, 1.1, 0.5, 1.3]))
    assert figures["abs_rel"] == pytest.approx((0 + 0.1 + 0.5 + 0.3) / 4)
    assert (figures["delta_1"], figures["delta_2"], figures["pixels"]) == (0.5, 0.75, 4)
    assert ratio_figures(np.zeros(0)) == {}


def test_pose_figures_of_a_scaled_world_are_perfect_but_for_the_scale() -> None:
    truth = [SE3.exp(0.2 * RNG.normal(size=3), RNG.normal(size=3)) for _ in range(4)]
    scaled = [SE3(rotation=p.rotation, translation=2 * p.translation) for p in truth]
    figures = pose_figures(scaled, truth)
    assert figures["scale"] == pytest.approx(0.5) and figures["auc_5"] == pytest.approx(1)
    assert max(figures[k] for k in ("ate", "rpe_translation", "rpe_rotation_deg", "r_err", "t_err")) < 1e-6
    missing = pose_figures([*scaled[:3], None], truth)
    assert missing["registered"] == 0.75 and missing["auc_20"] == pytest.approx(0.5)
    assert pose_figures([scaled[0], None, None, None], truth) == {"registered": 0.25}
