"""What went right and what went wrong in a run, in sentences made from its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reconx_ros.evaluation.layout import MethodResult, Run, TestView, ViewScore
from reconx_ros.evaluation.live_record import LiveRecord, live_record
from reconx_ros.evaluation.metrics import figure

GOOD, BAD, INFO = "good", "bad", "info"
_TIE_DB = 0.1
_FILLED, _COVERED = 0.98, 0.7
_NEARLY_ALL = 0.98  # of a picture's pixels


def findings(run: Run) -> list[tuple[str, str]]:
    """Pairs of kind ("good", "bad" or "info") and sentence, the most telling first."""
    if run.status != "ok" or not run.methods:
        return [(BAD, f"No result ({run.status}): {run.message or 'no method ran'}")]
    ours, others = run.methods[0], [m for m in run.methods[1:] if m.status == "ok" and m.kind == "baseline"]
    if ours.status != "ok":
        return [(BAD, f"{ours.title} gave no pictures ({ours.status}): {ours.message}"), *_absent(run)]
    said = [*_against(ours, others), *_lost_views(run, ours, others), *_worst(run, ours)]
    said += [*_unseen(run, ours), *_with_distance(run, ours), *_holes(ours), *_geometry(run), *_live(run)]
    said += [*_absent(run), *((INFO, f"The method warns: {w}") for w in run.warnings)]
    return [(kind, sentence[:1].upper() + sentence[1:]) for kind, sentence in said]


def _psnr(scores: ViewScore) -> float:
    return figure(scores, "psnr")


def best_method(methods: Sequence[MethodResult]) -> MethodResult | None:
    """The method with the highest mean PSNR; None without one that has a figure."""
    known = [m for m in methods if not math.isnan(_psnr(m.mean))]
    return max(known, key=lambda m: _psnr(m.mean)) if known else None


def _against(ours: MethodResult, others: Sequence[MethodResult]) -> list[tuple[str, str]]:
    best, mine = best_method(others), _psnr(ours.mean)
    if math.isinf(mine):
        return [(GOOD, f"{ours.title} drew all {len(ours.views)} withheld pictures exactly.")]
    scored = f"{ours.title} reaches {mine:.1f} dB on the mean of {len(ours.views)} withheld pictures"
    if best is None:
        return [(INFO, f"{scored}; no baseline ran beside it.")]
    gap = mine - _psnr(best.mean)
    beside = f"the best baseline, {best.title}, {_psnr(best.mean):.1f} dB"
    if gap > _TIE_DB:
        return [(GOOD, f"{scored}: {gap:.1f} dB above {beside}.")]
    if gap < -_TIE_DB:
        return [(BAD, f"{scored}: {-gap:.1f} dB below {beside}.")]
    return [(BAD, f"{scored}, no better than {beside}.")]


def _lost_views(run: Run, ours: MethodResult, others: Sequence[MethodResult]) -> list[tuple[str, str]]:
    """Pictures on which a baseline did better."""
    lost = [
        Path(test.image).name
        for k, test in enumerate(run.tests)
        if any(k < len(m.views) and _psnr(m.views[k]) > _psnr(ours.views[k]) + _TIE_DB for m in others)
    ]
    if not lost:
        return []
    return [(BAD, f"A baseline is better on {len(lost)} of {len(run.tests)} pictures: {_listed(lost)}.")]


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _worst(run: Run, ours: MethodResult) -> list[tuple[str, str]]:
    if len(ours.views) < 2:
        return []
    psnr = [_psnr(score) for score in ours.views]
    k = psnr.index(min(psnr))
    test = run.tests[k]
    if math.isinf(psnr[k]):
        return []
    return [(INFO, f"The worst picture is {Path(test.image).name} with {psnr[k]:.1f} dB: {place(test)}.")]


def place(test: TestView) -> str:
    """Where a withheld picture was taken, in words."""
    far = "" if test.distance_relative is None else f"{test.distance_relative:.2f} input spacings and "
    said = f"{far}{test.angle_deg:.0f}° away from the nearest input"
    if test.observed_share is None:
        return said
    unseen = 100 * (1 - test.observed_share)
    if test.judged_share >= _NEARLY_ALL:
        return (
            f"{said}, {unseen:.0f} % of it was seen by no input" if unseen >= 1 else f"{said}, an input saw all of it"
        )
    part = f"no input saw {unseen:.0f} % of these" if unseen >= 1 else "an input saw all of these"
    return f"{said}; depth tells who saw {100 * test.judged_share:.0f} % of its pixels, and {part}"


def _unseen(run: Run, ours: MethodResult) -> list[tuple[str, str]]:
    """Where the error lies: on surface that some input saw, where none looked, or where no depth tells."""
    seen, unseen = figure(ours.mean, "psnr_observed"), figure(ours.mean, "psnr_unobserved")
    if not (math.isfinite(seen) and math.isfinite(unseen)):
        return []
    both = f"{seen:.1f} dB where an input saw the surface, {unseen:.1f} dB where none did"
    inside, outside, untold = _error_shares(run, ours)
    if untold >= max(inside, outside):
        judged = float(np.mean([test.judged_share for test in run.tests]))
        where = f"where no depth tells whether an input looked ({100 * (1 - judged):.0f} % of the pixels)"
        return [(INFO, f"{100 * untold:.0f} % of the squared error lies {where}; of the rest: {both}.")]
    if outside >= inside:
        return [(INFO, f"{100 * outside:.0f} % of the squared error lies where no input looked: {both}.")]
    return [(BAD, f"{100 * inside:.0f} % of the squared error lies on surface that an input saw: {both}.")]


def _error_shares(run: Run, ours: MethodResult) -> tuple[float, float, float]:
    """Shares of the squared error of all pictures: on observed pixels, on unobserved ones, where nothing tells."""
    inside = outside = total = 0.0
    for test, score in zip(run.tests, ours.views, strict=True):
        share = test.observed_share or 0.0
        inside += test.judged_share * share * _squared_error(score.get("psnr_observed"))
        outside += test.judged_share * (1 - share) * _squared_error(score.get("psnr_unobserved"))
        total += _squared_error(score.get("psnr"))
    if not total:
        return 0.0, 0.0, 0.0
    return inside / total, outside / total, max(total - inside - outside, 0.0) / total


def _squared_error(psnr: float | None) -> float:
    return 0.0 if psnr is None else 10.0 ** (-psnr / 10)


def _with_distance(run: Run, ours: MethodResult) -> list[tuple[str, str]]:
    pairs = [
        (test.distance_relative, psnr)
        for test, score in zip(run.tests, ours.views, strict=True)
        if test.distance_relative is not None and math.isfinite(psnr := _psnr(score))
    ]
    if len(pairs) < 6:
        return []
    x, y = np.array(pairs, float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return []
    correlation, slope = float(np.corrcoef(x, y)[0, 1]), float(np.polyfit(x, y, 1)[0])
    if correlation > -0.5:
        return []
    return [(INFO, f"Pictures get worse with distance from the inputs: {-slope:.1f} dB per mean input spacing.")]


def _holes(ours: MethodResult) -> list[tuple[str, str]]:
    filled = figure(ours.mean, "filled")
    if math.isnan(filled) or filled >= _FILLED:
        return []
    return [(BAD, f"{100 * (1 - filled):.0f} % of the pixels stay empty: the map has nothing there.")]


def _geometry(run: Run) -> list[tuple[str, str]]:
    said = []
    if run.matchers:
        said.append((INFO, f"The input cameras come from matches of {' and '.join(run.matchers)}."))
    median = run.depth.get("median")
    if median is not None:
        kind = GOOD if median < 0.03 else BAD
        said.append((kind, f"Depth of stage 1 differs from the sensor by {100 * float(median):.1f} % (median)."))
    if not run.metric_scale:
        said.append((INFO, "Lengths are not metres: the scale of this scene is unknown."))
    return said


def _live(run: Run) -> list[tuple[str, str]]:
    record = live_record(run.live)
    return [] if record is None else _live_sentences(record)


def _live_sentences(record: LiveRecord) -> list[tuple[str, str]]:
    said = []
    if record.coverage:
        last = record.coverage[-1][1]
        words = f"The finished map explains {100 * last:.0f} % of what the camera saw last."
        said.append((GOOD if last >= _COVERED else BAD, words))
    if record.clouds:
        waits = np.array([wait for _, wait in record.clouds])
        spread = f", {waits.min():.1f} to {waits.max():.1f} s" if len(waits) > 1 else ""
        said.append((INFO, f"A cloud arrived {np.median(waits):.1f} s after its newest image (median{spread})."))
        if record.clouds[0][0] > record.length_s / record.rate:
            said.append(
                (BAD, f"The first map came {record.clouds[0][0]:.0f} s after the first image: the bag was over.")
            )
    dropped = sum(record.frames_dropped.values())
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in record.frames_dropped.items())
        said.append((BAD, f"The node did not use {dropped} frames: {reasons}."))
    missing = sum(record.not_drawn.values())
    if missing:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in record.not_drawn.items())
        said.append((BAD, f"{missing} withheld pictures could not be drawn ({reasons})."))
    return said


def _absent(run: Run) -> list[tuple[str, str]]:
    """Methods without pictures, and why."""
    return [
        (INFO, f"{m.title}: {'not available' if m.status == 'unavailable' else m.status}, {m.message}.")
        for m in run.methods[1:]
        if m.status != "ok"
    ]
