"""Stage 1's last step: every pixel that a camera saw gets a depth, and every depth says how it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from reconx_ros.core import AlignedViews, Job, PointMap, Provenance
from reconx_ros.pointmap.completion.base import DepthCompleter, Guess
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.guided import GuidedDepth, guided_depth

_GUESS_SHARE = 0.5  # of the progress


def completed(
    views: AlignedViews, completer: DepthCompleter, config: PointmapConfig, *, device: torch.device, job: Job
) -> AlignedViews:
    """Views with a depth at every pixel.

    What stage 1 measured stays as it is. Where it was not sure, the completer guesses; a second look of the stereo
    matching around the guess measures some of these pixels (OBSERVED, with the confidence of stereo); the others are
    INFERRED, and their confidence is the chance that they are within 5 % of the truth.

    Args:
        views: stage 1's result.
        completer: who guesses.
        config: the stage's settings.
        device: where torch computes.
        job: progress and cancellation.

    Raises:
        WeightsError: for weights that are missing or damaged.
        CancelledError: when the job was cancelled.
    """
    measured = any(bool(view.valid.any()) for view in views.views)
    guesses = completer.complete(views.views, config, device=device, job=job.part(0.0, _GUESS_SHARE))
    looks = _second_look(views.views, guesses, config, device, job.part(_GUESS_SHARE, 1.0))
    found = [_merged(v, g, look) for v, g, look in zip(views.views, guesses, looks, strict=True)]
    if measured:
        return replace(views, views=tuple(found))
    note = "no pixel was measured: depth is guessed from the pictures alone, and its unit is arbitrary"
    return replace(views, views=tuple(found), metric_scale=False, scale_source=None, warnings=(*views.warnings, note))


def _second_look(
    views: Sequence[PointMap], guesses: Sequence[Guess], config: PointmapConfig, device: torch.device, job: Job
) -> list[GuidedDepth | None]:
    """Only where stage 1 matched pictures: beside a depth sensor there is nothing to look for."""
    if len(views) < 2 or any(view.evidence is None for view in views):
        return [None] * len(views)
    depths, scales, sure = ([getattr(g, name) for g in guesses] for name in ("depth", "scale", "certainty"))
    return list(guided_depth(views, depths, scales, sure, config, device=device, job=job))


def _merged(view: PointMap, guess: Guess, look: GuidedDepth | None) -> PointMap:
    depth, confidence, known = view.depth, view.confidence, view.valid
    if look is not None:
        depth = torch.where(look.measured, look.depth, depth)
        confidence = torch.where(look.measured, look.confidence, confidence)
        known = known | look.measured
    usable = torch.isfinite(guess.depth) & (guess.depth > 0)
    inferred = usable & ~known
    provenance = torch.where(known & ~view.valid, int(Provenance.OBSERVED), view.provenance)
    return replace(
        view,
        depth=torch.where(inferred, guess.depth, depth),
        confidence=torch.where(inferred, guess.certainty.clamp(0, 1), confidence),
        valid=known | usable,
        provenance=torch.where(inferred, int(Provenance.INFERRED), provenance).to(torch.uint8),
        guessed=inferred,
    )


def without_guesses(views: AlignedViews) -> AlignedViews:
    """The views as stage 1 and its second look know them: pixels whose depth was guessed are empty.

    Pictures are made from these: a guess that is off by a few per cent is good for a map, and tears a picture.
    """
    return replace(views, views=tuple(_without_guesses(view) for view in views.views))


def _without_guesses(view: PointMap) -> PointMap:
    if view.guessed is None:
        return view
    kept = ~view.guessed
    return replace(
        view,
        confidence=view.confidence * kept,
        valid=view.valid & kept,
        provenance=torch.where(kept, view.provenance, int(Provenance.NONE)).to(torch.uint8),
        guessed=None,
    )
