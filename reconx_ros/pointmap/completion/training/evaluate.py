"""How right completed depth is, and how right it claims to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from reconx_ros.geometry.completion import complete_depth
from reconx_ros.pointmap.completion.inputs import CompletionView, scene_scale
from reconx_ros.pointmap.completion.predict import RIGHT_WITHIN, Prediction, certainty
from reconx_ros.pointmap.completion.training.examples import ExampleView

Predictor = Callable[[Sequence[CompletionView], float], Sequence[Prediction]]
_BINS = 10
_SMOOTH_LOG_SCALE = -1.0  # a smooth guess does not tell pixels apart


class CompletionScores:
    """Scores over many views, pixels that were measured apart from those that were inferred."""

    def __init__(self) -> None:
        self._inferred: list[np.ndarray] = []  # relative errors, signed
        self._claims: list[np.ndarray] = []
        self._measured: list[np.ndarray] = []

    def add(self, view: ExampleView, found: Prediction) -> None:
        """Take in one view with the truth."""
        known = view.truth > 0
        measured = view.given.measured
        depth = torch.where(measured, view.given.depth, found.depth)
        error = (depth / view.truth.clamp_min(1e-6) - 1).numpy()
        inferred = (known & ~measured).numpy()
        self._inferred.append(error[inferred])
        self._claims.append(found.certainty.numpy()[inferred])
        self._measured.append(error[(known & measured).numpy()])

    def measured_median(self) -> float:
        """Median relative error of the depth that was given as measured; infinite where none was."""
        errors = np.abs(np.concatenate([*self._measured, np.zeros(0)]))
        return float(np.median(errors)) if len(errors) else np.inf

    def summary(self) -> dict[str, float]:
        """Medians, shares within 5, 10 and 20 %, and the largest gap between a decile's claim and its truth."""
        inferred = np.abs(np.concatenate(self._inferred or [np.zeros(0)]))
        measured = np.abs(np.concatenate(self._measured or [np.zeros(0)]))
        every = np.concatenate([inferred, measured])
        if not len(inferred):
            return {}
        return {
            "inferred_share": len(inferred) / max(len(every), 1),
            "inferred_median": float(np.median(inferred)),
            **{f"inferred_within_{100 * t:.0f}pct": float((inferred <= t).mean()) for t in (0.05, 0.1, 0.2)},
            "all_within_10pct": float((every <= 0.1).mean()),
            "calibration_gap": max((abs(row["claimed"] - row["right"]) for row in self.deciles()), default=0.0),
        }

    def deciles(self) -> list[dict[str, float]]:
        """By tenths of the claimed chance: mean claim, share that is right, pixels; tenths below 1 % left out."""
        claims = np.concatenate(self._claims or [np.zeros(0)])
        right = np.abs(np.concatenate(self._inferred or [np.zeros(0)])) <= RIGHT_WITHIN
        bins = np.minimum((claims * _BINS).astype(int), _BINS - 1)
        rows = []
        for k in range(_BINS):
            here = bins == k
            if here.sum() >= max(1, 0.01 * len(claims)):
                told = {"claimed": float(claims[here].mean()), "right": float(right[here].mean())}
                rows.append({**told, "pixels": int(here.sum()), "decile": k})
        return rows


def calibration(scores: Iterable[CompletionScores]) -> list[list[float]]:
    """What claimed chances turned out to be: rising knots [claimed, right], for ``LoadedCompletion.calibrated``.

    Each of the given scores counts alike, however many pixels it has, so that no kind of scene outweighs the others.
    Scenes whose measured depth is wrong itself (wrong poses, no parallax) say nothing of the network and are left out.
    """
    sound = [one for one in scores if one.measured_median() <= RIGHT_WITHIN]
    tables = [{row["decile"]: row for row in one.deciles()} for one in sound]
    knots: list[list[float]] = []
    for k in range(_BINS):
        rows = [table[k] for table in tables if k in table]
        if rows:
            claimed, right = (float(np.mean([row[name] for row in rows])) for name in ("claimed", "right"))
            knots.append([claimed, max(right, knots[-1][1]) if knots else right])
    return knots


def smooth_guess(views: Sequence[CompletionView], unit: float) -> list[Prediction]:
    """The best guess without learning, as a baseline: smooth surfaces through what is measured, view by view."""
    found = []
    for view in views:
        known = bool(view.measured.any())
        depth = complete_depth(view.depth, view.confidence, view.rgb) if known else torch.full_like(view.depth, unit)
        log_scale = torch.full_like(depth, _SMOOTH_LOG_SCALE)
        found.append(Prediction(depth=depth, certainty=certainty(log_scale), log_scale=log_scale))
    return found


def scored(predictor: Predictor, examples: Iterable[Sequence[ExampleView]]) -> CompletionScores:
    """Scores of whoever completes depth, over examples that have measurements."""
    scores = CompletionScores()
    for views in examples:
        given = [view.given for view in views]
        unit = scene_scale(given)
        if unit is None:
            continue
        for view, found in zip(views, predictor(given, unit), strict=True):
            scores.add(view, found)
    return scores
