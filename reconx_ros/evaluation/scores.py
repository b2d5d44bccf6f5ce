"""Figures of one picture against the truth, and their mean over the held-out views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reconx_ros.core import InvalidInputError, check_shape
from reconx_ros.evaluation import metrics
from reconx_ros.evaluation.layout import ViewScore
from reconx_ros.evaluation.visibility import Observed
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.lpips import Lpips, resident_lpips
from reconx_ros.weights.cache import ModelCache


def load_judge(config: SplattingConfig, models: ModelCache | None = None) -> tuple[Lpips | None, str]:
    """LPIPS as a judge, whatever its weight in the loss is, and its net and normalisation in words.

    Raises:
        WeightsError, InvalidInputError: as ``load_lpips``.
    """
    if not (config.lpips_trunk and config.lpips_heads):
        return None, "unavailable: splatting.lpips_trunk and splatting.lpips_heads name no weights"
    judge = resident_lpips(config, models or ModelCache())
    return judge, "LPIPS 0.1, VGG16 with linear heads, pictures in [-1, 1]"


def score_picture(
    picture_u8: np.ndarray,
    truth_u8: np.ndarray,
    observed: Observed | None = None,
    judge: Lpips | None = None,
    filled: float | None = None,
) -> ViewScore:
    """All figures of one picture.

    Args:
        picture_u8, truth_u8: [H, W, 3] uint8.
        observed: which pixels some input saw; None where nothing tells.
        judge: LPIPS; None without weights.
        filled: share of the pixels that are not empty; None for a method whose pictures have no empty ones.

    Raises:
        InvalidInputError: when sizes differ, or a side is too short for SSIM or LPIPS.
    """
    check_shape("picture", picture_u8, *truth_u8.shape)
    compared = metrics.ComparedPicture(
        picture_u8=picture_u8, truth_u8=truth_u8, observed=observed, judge=judge, filled=filled
    )
    return {metric.name: metric.score(compared) for metric in metrics.METRICS}


def mean_scores(views: Sequence[ViewScore]) -> dict[str, float | None]:
    """Mean over the views of each figure, of those views that have it; None where none has.

    PSNR is averaged in dB, as pixelSplat and its successors do; one perfect picture makes the mean infinite.

    Raises:
        InvalidInputError: without views.
    """
    if not views:
        raise InvalidInputError("no pictures were scored, expected at least one")
    means: dict[str, float | None] = {}
    for metric in metrics.METRICS:
        values = [value for value in (v.get(metric.name) for v in views) if value is not None]
        means[metric.name] = float(np.mean(values)) if values else None
    return means
