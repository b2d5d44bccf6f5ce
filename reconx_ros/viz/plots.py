"""Plots for our pages, as SVG that takes the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from reconx_ros.viz.page_parts import text

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 10, 24
_COLOURS = 6
_SHAPES = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z",
    "M-3.2-3.2h6.4v6.4h-6.4z",
    "M0-4.2L4 3.2H-4z",
    "M0-4.6L4.6 0L0 4.6L-4.6 0z",
    "M0 4.2L4-3.2H-4z",
    "M-4-1.2h2.8V-4h2.4v2.8H4v2.4H1.2V4h-2.4V1.2H-4z",
)

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """What one kind of mark shows.

    Attributes:
        name: in the key.
        points: (x, y), finite.
        notes: a text per point, shown when the pointer rests on it; may be empty.
    """

    name: str
    points: Sequence[Point]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Values to places on the paper."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def scatter(title: str, series: Sequence[Series], *, x_from: float | None = None) -> str:
    """Marks on a grid, each series in its colour and shape; "" without points.

    Args:
        title: says what both axes are, with units.
        series: at most six are told apart.
        x_from: where the x axis begins at the latest.
    """
    return _plot(title, series, joined=False, x_from=x_from)


def lines(
    title: str,
    series: Sequence[Series],
    *,
    events: Sequence[tuple[float, str]] = (),
    y_range: tuple[float, float] | None = None,
) -> str:
    """Points joined in order; "" without points.

    Args:
        title: says what both axes are, with units.
        series: as ``scatter``.
        events: x and what happened there, drawn as upright lines.
        y_range: what the y axis covers; found from the points when None.
    """
    return _plot(title, series, joined=True, events=events, y_range=y_range)


def stepped(points: Sequence[Point]) -> list[Point]:
    """Points of a value that stays until the next one is known, for ``lines``."""
    held = [(x, y) for (_, y), (x, _) in pairwise(points)]
    return [p for pair in zip(points, held, strict=False) for p in pair] + list(points[-1:])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, about ``count`` steps; never fewer than two."""
    span = high - low if high > low else max(abs(high), 1.0)
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def _plot(
    title: str,
    series: Sequence[Series],
    *,
    joined: bool,
    x_from: float | None = None,
    events: Sequence[tuple[float, str]] = (),
    y_range: tuple[float, float] | None = None,
) -> str:
    points = [point for s in series for point in s.points]
    if not points:
        return ""
    xs = [x for x, _ in points] + [x for x, _ in events] + ([] if x_from is None else [x_from])
    ys = [y for _, y in points] if y_range is None else list(y_range)
    scale = _Scale(x_ticks=ticks(min(xs), max(xs)), y_ticks=ticks(min(ys), max(ys)))
    marks = "".join(_marks(s, k % _COLOURS, scale, joined) for k, s in enumerate(series))
    upright = "".join(_event(x, what, scale) for x, what in events)
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">'
    return (
        f'<div class="plot"><h3>{text(title)}</h3>{_key([s.name for s in series], joined)}{drawing}{_grid(scale)}'
        f"{upright}{marks}</svg></div>"
    )


def _grid(scale: _Scale) -> str:
    x_end, y_end = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    rows = [
        f'<line class="grid" x1="{_LEFT}" x2="{x_end}" y1="{scale.y(v):.1f}" y2="{scale.y(v):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{scale.y(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in scale.y_ticks
    ]
    columns = [
        f'<line class="grid" x1="{scale.x(v):.1f}" x2="{scale.x(v):.1f}" y1="{y_end}" y2="{y_end + 4}"/>'
        f'<text x="{min(scale.x(v), x_end - 4):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{v:g}</text>'
        for v in scale.x_ticks
    ]
    return "".join(rows + columns)


def _marks(series: Series, style: int, scale: _Scale, joined: bool) -> str:
    places = [(scale.x(x), scale.y(y)) for x, y in series.points]
    drawn = ""
    if joined and len(places) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        drawn = f'<path class="line" d="M{path}"/>'
    if not joined or len(places) == 1:
        notes = [f"<title>{text(note)}</title>" for note in series.notes] or [""] * len(places)
        drawn += "".join(
            f'<path class="mark" d="{_SHAPES[style]}" transform="translate({x:.1f} {y:.1f})">{note}</path>'
            for (x, y), note in zip(places, notes, strict=True)
        )
    return f'<g class="s{style}">{drawn}</g>'


def _event(x: float, what: str, scale: _Scale) -> str:
    ends = f'x1="{scale.x(x):.1f}" x2="{scale.x(x):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
    return f'<line class="event" {ends}><title>{text(what)}</title></line>'


def _key(names: Sequence[str], joined: bool) -> str:
    if len(names) < 2:
        return ""
    shapes = ["M-6-1.2h12v2.4h-12z"] * len(names) if joined else [_SHAPES[k % _COLOURS] for k in range(len(names))]
    items = "".join(
        f'<li class="s{k % _COLOURS}"><svg viewBox="-6 -6 12 12"><path d="{shape}" fill="currentColor"/></svg>'
        f"<span>{text(name)}</span></li>"
        for k, (name, shape) in enumerate(zip(names, shapes, strict=True))
    )
    return f'<ul class="key">{items}</ul>'
