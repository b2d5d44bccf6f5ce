"""Plots of a run: PSNR against distance from the inputs; for bags coverage and waiting over time."""

from __future__ import annotations

import math

from reconx_ros.evaluation.layout import MethodResult, Run
from reconx_ros.evaluation.live_record import LiveRecord, live_record
from reconx_ros.evaluation.metrics import figure
from reconx_ros.viz.plots import Series, lines, scatter, stepped

_SERIES = 5
_LEAST_SPREAD, _LEAST_CLOUDS = 3.0, 3  # per cent, clouds: with less a plot shows nothing


def plots(run: Run) -> str:
    """All plots that the run has figures for."""
    blocks = [_by_distance(run), _by_share(run)]
    record = live_record(run.live)
    if record is not None:
        blocks += [_coverage(record), _waiting(record)]
    drawn = "".join(b for b in blocks if b)
    return f'<div class="columns">{drawn}</div>' if drawn else ""


def _by_distance(run: Run) -> str:
    known = [t.distance_relative is not None for t in run.tests]
    relative = bool(known) and all(known)
    unit = "mean distances between inputs" if relative else ("metres" if run.metric_scale else "units of the scene")
    places = [t.distance_relative if relative else t.distance for t in run.tests]
    return scatter(f"PSNR in dB, by distance from the nearest input in {unit}", _series(run, places), x_from=0.0)


def _by_share(run: Run) -> str:
    shares = [None if t.observed_share is None else 100 * t.observed_share for t in run.tests]
    known = [s for s in shares if s is not None]
    if not known or max(known) - min(known) < _LEAST_SPREAD:
        return ""
    return scatter("PSNR in dB, by the share of the picture that an input saw, %", _series(run, shares))


def _series(run: Run, places: list[float | None]) -> list[Series]:
    shown = [m for m in run.methods if m.status == "ok" and m.kind != "ablation"][:_SERIES]
    made = [_one(m, run, places) for m in shown]
    return [s for s in made if s.points]


def _one(method: MethodResult, run: Run, places: list[float | None]) -> Series:
    rows = [
        ((float(x), psnr), f"{method.title}, {test.image}: {psnr:.1f} dB")
        for test, x, score in zip(run.tests, places, method.views, strict=False)
        if x is not None and math.isfinite(x) and math.isfinite(psnr := figure(score, "psnr"))
    ]
    return Series(name=method.title, points=[point for point, _ in rows], notes=[note for _, note in rows])


def _coverage(record: LiveRecord) -> str:
    points = [(t, 100 * share) for t, share in record.coverage if math.isfinite(share)]
    events = [(t, f"a cloud came at {t:.1f} s") for t, _ in record.clouds]
    over = record.length_s / record.rate
    return lines(
        f"Covered share of what the camera saw, %, over seconds (dashed: a cloud came; end of the bag: {over:.0f} s)",
        [Series(name="coverage", points=stepped(points))],
        events=events,
        y_range=(0, 100),
    )


def _waiting(record: LiveRecord) -> str:
    if len(record.clouds) < _LEAST_CLOUDS:
        return ""
    notes = [f"{wait:.1f} s" for _, wait in record.clouds]
    title = "Seconds from an image to the first cloud with it, by when the cloud came, s"
    return scatter(title, [Series(name="cloud", points=list(record.clouds), notes=notes)], x_from=0.0)
