"""Figures of one picture against the truth, and their mean over the held-out views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch

from reconx_ros.core import InvalidInputError, check_shape
from reconx_ros.evaluation.images import psnr, ssim, ssim_map
from reconx_ros.evaluation.layout import ViewScore
from reconx_ros.evaluation.visibility import Observed
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.lpips import Lpips, resident_lpips
from reconx_ros.weights.cache import ModelCache

FIGURES = tuple(f.name for f in fields(ViewScore))


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
    picture_u8: np.ndarray, truth_u8: np.ndarray, observed: Observed | None = None, judge: Lpips | None = None
) -> ViewScore:
    """All figures of one picture.

    Args:
        picture_u8, truth_u8: [H, W, 3] uint8.
        observed: which pixels some input saw; None where nothing tells.
        judge: LPIPS; None without weights.

    Raises:
        InvalidInputError: when sizes differ, or a side is too short for SSIM or LPIPS.
    """
    check_shape("picture", picture_u8, *truth_u8.shape)
    image, truth = picture_u8 / 255.0, truth_u8 / 255.0
    parts = {} if observed is None else _parts(picture_u8, truth_u8, observed)
    return ViewScore(
        psnr=psnr(picture_u8, truth_u8), ssim=ssim(image, truth), lpips=_lpips(image, truth, judge), **parts
    )


def _parts(picture_u8: np.ndarray, truth_u8: np.ndarray, observed: Observed) -> dict[str, float | None]:
    """Figures of the observed and the unobserved pixels; None for a part without pixels."""
    similarity = ssim_map(picture_u8 / 255.0, truth_u8 / 255.0)
    out: dict[str, float | None] = {}
    for name, mask in (("observed", observed.seen), ("unobserved", observed.unseen)):
        there = bool(mask.any())
        out[f"psnr_{name}"] = psnr(picture_u8, truth_u8, mask) if there else None
        out[f"ssim_{name}"] = float(similarity[mask].mean()) if there else None
    return out


@torch.no_grad()
def _lpips(image: np.ndarray, truth: np.ndarray, judge: Lpips | None) -> float | None:
    if judge is None:
        return None
    return float(judge.distance(torch.from_numpy(image).float(), torch.from_numpy(truth).float()))


def mean_scores(views: Sequence[ViewScore]) -> dict[str, float | None]:
    """Mean over the views of each figure, of those views that have it; None where none has.

    PSNR is averaged in dB, as pixelSplat and its successors do; one perfect picture makes the mean infinite.

    Raises:
        InvalidInputError: without views.
    """
    if not views:
        raise InvalidInputError("no pictures were scored, expected at least one")
    means: dict[str, float | None] = {}
    for name in FIGURES:
        values = [value for value in (getattr(v, name) for v in views) if value is not None]
        means[name] = float(np.mean(values)) if values else None
    return means
