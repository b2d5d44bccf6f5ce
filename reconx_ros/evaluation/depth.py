"""Depth errors against a sensor or a simulator."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import PointMap, Provenance


def sample_nearest(depth_m: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Depth [H, W] at pixel positions [P]; NaN outside the image and where the sensor saw nothing (0 or NaN)."""
    height, width = depth_m.shape
    column, row = np.round(u).astype(int), np.round(v).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    values = np.full(np.shape(u), np.nan)
    values[inside] = depth_m[row[inside], column[inside]]
    values[~(values > 0)] = np.nan
    return values


def relative_depth_errors(
    view: PointMap, truth_m: np.ndarray, *, min_confidence: float, kind: Provenance | None = None
) -> np.ndarray:
    """|d - d*| / d* of the pixels that ``depth_ratios`` speaks of: [P]."""
    errors: np.ndarray = np.abs(depth_ratios(view, truth_m, min_confidence=min_confidence, kind=kind) - 1)
    return errors


def depth_ratios(
    view: PointMap, truth_m: np.ndarray, *, min_confidence: float, kind: Provenance | None = None
) -> np.ndarray:
    """D / d* of the confident pixels of a pointmap that have a true depth.

    Args:
        view: pointmap; its grid may be smaller than the truth's, which is sampled at the nearest pixel.
        truth_m: [H', W'] z-depth of the same camera, 0 or NaN where unknown.
        min_confidence: pixels below are left out.
        kind: pixels of other kinds are left out; None takes all.

    Returns:
        [P] ratios.
    """
    mask = (view.valid & (view.confidence >= min_confidence)).numpy()
    if kind is not None:
        mask &= view.provenance.numpy() == int(kind)
    rows, columns = np.nonzero(mask)
    scale_u, scale_v = truth_m.shape[1] / view.camera.width, truth_m.shape[0] / view.camera.height
    truth = sample_nearest(truth_m, (columns + 0.5) * scale_u - 0.5, (rows + 0.5) * scale_v - 0.5)
    known = np.isfinite(truth)
    estimate = view.depth.numpy()[mask]
    ratios: np.ndarray = estimate[known] / truth[known]
    return ratios


def depth_statistics(errors: np.ndarray) -> dict[str, float]:
    """Count, mean (abs_rel), median and shares within 2 % and 5 % of relative errors; NaN where there are none."""
    if not len(errors):
        return {"count": 0, "abs_rel": np.nan, "median": np.nan, "within_2pct": np.nan, "within_5pct": np.nan}
    return {
        "count": len(errors),
        "abs_rel": float(errors.mean()),
        "median": float(np.median(errors)),
        "within_2pct": float((errors <= 0.02).mean()),
        "within_5pct": float((errors <= 0.05).mean()),
    }


def ratio_figures(ratios: np.ndarray) -> dict[str, float]:
    """Usual figures of depth ratios d / d* [P] (Eigen et al., NIPS 2014): empty without any pixel.

    Returns:
        pixels, abs_rel (mean |d - d*| / d*), median, within_2pct, within_5pct, bias (median of d / d* - 1), and
        delta_1, delta_2, delta_3 (share with max(d / d*, d* / d) below 1.25, its square and its cube).
    """
    if not len(ratios):
        return {}
    statistics = depth_statistics(np.abs(ratios - 1))
    worse = np.maximum(ratios, 1 / np.maximum(ratios, 1e-12))
    figures = {k: statistics[k] for k in ("abs_rel", "median", "within_2pct", "within_5pct")}
    figures |= {f"delta_{k}": float((worse < 1.25**k).mean()) for k in (1, 2, 3)}
    return {"pixels": len(ratios), **figures, "bias": float(np.median(ratios)) - 1}
