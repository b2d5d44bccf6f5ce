"""What pictures are scored by: one row per figure. Files, tables, report and command line are made from these rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from reconx_ros.core.figures import Figure
from reconx_ros.evaluation.images import psnr, ssim, ssim_map
from reconx_ros.evaluation.layout import ViewScore
from reconx_ros.evaluation.visibility import Observed
from reconx_ros.splatting.lpips import Lpips


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedPicture:
    """A picture beside the truth, and what is known of its pixels.

    Attributes:
        picture_u8, truth_u8: [H, W, 3] uint8.
        observed: which pixels some input saw; None where nothing tells.
        judge: LPIPS; None without weights.
        filled: share of the pixels that are not empty; None for a method whose pictures have no empty ones.
    """

    picture_u8: np.ndarray  # [H, W, 3]
    truth_u8: np.ndarray  # [H, W, 3]
    observed: Observed | None = None
    judge: Lpips | None = None
    filled: float | None = None

    @cached_property
    def picture(self) -> np.ndarray:
        """The picture [H, W, 3] in [0, 1]."""
        return self.picture_u8 / 255.0

    @cached_property
    def truth(self) -> np.ndarray:
        """The truth [H, W, 3] in [0, 1]."""
        return self.truth_u8 / 255.0

    @cached_property
    def similarity(self) -> np.ndarray:
        """SSIM of every pixel and channel [H, W, 3]."""
        return ssim_map(self.picture, self.truth)

    def part(self, *, seen: bool) -> np.ndarray | None:
        """Mask [H, W] of the pixels that some input saw, or of those that none did; None where there are none."""
        if self.observed is None:
            return None
        mask = self.observed.seen if seen else self.observed.unseen
        return mask if bool(mask.any()) else None


@dataclass(frozen=True, kw_only=True)
class Metric(Figure):
    """One figure of a picture, and of a method as the mean over its pictures: a column of metrics.csv.

    Attributes:
        score: the figure of one picture; None where it does not exist.
        headline: whether it stands in the tables of scenes against methods; the first headline ranks methods.
        brief: how a line of the command line says it; "" leaves it out, None says title, figure and unit.
    """

    score: Callable[[ComparedPicture], float | None]
    headline: bool = False
    brief: str | None = None

    def said(self, value: float) -> str:
        """The figure in a line of words; empty where lines leave it out."""
        if self.brief is not None:
            return self.brief.format(value)
        return f"{self.title} {self.written(value)}{f' {self.unit}' if self.unit else ''}"


def _psnr_of_part(compared: ComparedPicture, *, seen: bool) -> float | None:
    mask = compared.part(seen=seen)
    return None if mask is None else psnr(compared.picture_u8, compared.truth_u8, mask)


def _ssim_of_part(compared: ComparedPicture, *, seen: bool) -> float | None:
    mask = compared.part(seen=seen)
    return None if mask is None else float(compared.similarity[mask].mean())


@torch.no_grad()
def _lpips(compared: ComparedPicture) -> float | None:
    if compared.judge is None:
        return None
    picture, truth = (torch.from_numpy(image).float() for image in (compared.picture, compared.truth))
    return float(compared.judge.distance(picture, truth))


METRICS = (
    Metric(
        name="psnr",
        title="PSNR",
        score=lambda c: psnr(c.picture_u8, c.truth_u8),
        unit="dB",
        digits=2,
        headline=True,
        brief="{:.2f} dB",
    ),
    Metric(name="ssim", title="SSIM", score=lambda c: ssim(c.picture, c.truth), headline=True),
    Metric(name="lpips", title="LPIPS", score=_lpips, higher_is_better=False),
    Metric(
        name="psnr_observed",
        title="PSNR where seen",
        score=lambda c: _psnr_of_part(c, seen=True),
        digits=2,
        brief="observed {:.2f}",
    ),
    Metric(
        name="psnr_unobserved",
        title="PSNR where unseen",
        score=lambda c: _psnr_of_part(c, seen=False),
        digits=2,
        brief="unobserved {:.2f}",
    ),
    Metric(name="ssim_observed", title="SSIM where seen", score=lambda c: _ssim_of_part(c, seen=True), brief=""),
    Metric(name="ssim_unobserved", title="SSIM where unseen", score=lambda c: _ssim_of_part(c, seen=False), brief=""),
    Metric(name="filled", title="Filled", score=lambda c: c.filled, unit="%", digits=0, factor=100.0, brief=""),
)


def headlines() -> tuple[Metric, ...]:
    """The metrics of the tables of scenes against methods; the first ranks methods."""
    return tuple(metric for metric in METRICS if metric.headline)


def figure(scores: ViewScore, name: str) -> float:
    """A figure of a picture or of a mean; NaN where it does not exist."""
    value = scores.get(name)
    return math.nan if value is None else float(value)


def in_words(scores: ViewScore, between: str = ", ", *, headlines_only: bool = False) -> str:
    """The figures that exist and that lines of words name."""
    chosen = headlines() if headlines_only else METRICS
    said = [metric.said(value) for metric in chosen if (value := scores.get(metric.name)) is not None]
    return between.join(words for words in said if words)
