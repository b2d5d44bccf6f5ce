"""How far to trust a depth: an estimate of the chance that it is within 2 % of the truth."""

from __future__ import annotations

import torch

from reconx_ros.pointmap.stereo.consistency import ViewAgreement

TRUSTED_ERROR = 0.02  # relative depth error that confidence speaks about
LIKELY_TRUST = 0.4  # factor on pixels that fewer views confirm than are needed to be sure
_PRIOR_RIGHT = 0.2  # pseudo-witnesses before any view is asked
_PRIOR_WRONG = 0.2
_SILENCE_WEIGHT = 0.35  # a view that tells another surface: mostly occlusion or a failed match of its own
_DENIAL_WEIGHT = 0.35  # on top, when it looks through the point
_MARGIN_HALF = 0.015  # cost margin to the next best depth at which trust is halved
_MATCH_SIGMA_PX = 0.15  # accuracy of a match, in pixels


def witness_trust(told: ViewAgreement) -> torch.Tensor:
    """Trust [H, W] from the other views: mean of a Beta posterior whose witnesses agree or contradict.

    Weights were fitted by eye to ray-cast rooms and to real RGB-D (share of pixels within 2 % and 5 % by the number of
    views that agree and that do not).
    """
    right = told.agrees + _PRIOR_RIGHT
    against = _SILENCE_WEIGHT * (told.sees - told.agrees) + _DENIAL_WEIGHT * told.denies
    return right / (right + against + _PRIOR_WRONG)


def precision_trust(angle_deg: torch.Tensor, focal_px: float) -> torch.Tensor:
    """Chance [H, W] that triangulation noise stays below TRUSTED_ERROR, for a Gaussian match error.

    A depth error of one per cent moves the match by ``focal * tan(angle) / 100`` pixels.
    """
    pixels = TRUSTED_ERROR * focal_px * torch.tan(torch.deg2rad(angle_deg.clamp(0, 60)))
    return torch.erf(pixels / (_MATCH_SIGMA_PX * 2**0.5))


def confidence(told: ViewAgreement, margin: torch.Tensor, focal_px: float) -> torch.Tensor:
    """Confidence [H, W] in [0, 1] of a depth map.

    Args:
        told: what the other views say.
        margin: [H, W] cost margin to the next best depth (``Choice.margin``): uniqueness and texture.
        focal_px: focal length on this grid.
    """
    unique = margin / (margin + _MARGIN_HALF)
    return (witness_trust(told) * unique * precision_trust(told.angle_deg, focal_px)).clamp(0, 1)
