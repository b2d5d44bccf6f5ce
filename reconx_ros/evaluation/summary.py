"""Runs put together: mean and spread over seeds, mean over scenes, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from reconx_ros.evaluation import metrics
from reconx_ros.evaluation.layout import MethodResult, Run, SummaryRow

ALL_SCENES = "mean"


def summarise(runs: Sequence[Run]) -> tuple[SummaryRow, ...]:
    """One row per scene, setting and method over its seeds; then the mean over scenes that all have the method."""
    rows = []
    for _, group in _grouped(runs, lambda r: (r.setting.scene, r.setting.views, r.setting.poses)):
        seeds = list(group)
        keys = dict.fromkeys(m.key for run in seeds for m in run.methods)
        rows += [_over_seeds(seeds, key) for key in keys]
    return (*rows, *_over_scenes(rows))


def _grouped(runs: Sequence[Run], key: Callable[[Run], tuple[str, int, str]]) -> Iterable[tuple[Any, Iterable[Run]]]:
    order = {k: i for i, k in reversed(list(enumerate(map(key, runs))))}
    return groupby(sorted(runs, key=lambda r: order[key(r)]), key=key)


def _over_seeds(runs: Sequence[Run], key: str) -> SummaryRow:
    found = [m for run in runs for m in run.methods if m.key == key]
    good = [m for m in found if m.status == "ok"]
    bad = next((m for m in found if m.status != "ok"), None)
    first, setting = found[0], runs[0].setting
    return SummaryRow(
        scene=setting.scene, views=setting.views, poses=setting.poses, protocol=first.protocol, key=key,
        title=first.title, kind=first.kind, seeds=len(good), mean=_means([m.mean for m in good]),
        spread=_spreads(good), status=bad.status if bad else "ok", message=bad.message if bad else "",
    )  # fmt: skip


def _means(tables: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    names = dict.fromkeys(n for t in tables for n in t)
    return {n: _mean([t.get(n) for t in tables]) for n in names}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _spreads(methods: Sequence[MethodResult]) -> dict[str, float | None]:
    """Sample standard deviations; empty for fewer than two seeds."""
    if len(methods) < 2:
        return {}
    spreads: dict[str, float | None] = {}
    for name in methods[0].mean:
        known = [v for v in (m.mean.get(name) for m in methods) if v is not None and math.isfinite(v)]
        spreads[name] = float(np.std(known, ddof=1)) if len(known) >= 2 else None
    return spreads


def _over_scenes(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Means over scenes; a method that some scene lacks has none, for it would be a mean over other scenes."""
    out = []
    for views, poses in dict.fromkeys((r.views, r.poses) for r in rows):
        here = [r for r in rows if (r.views, r.poses) == (views, poses)]
        scenes = dict.fromkeys(r.scene for r in here)
        if len(scenes) < 2:
            continue
        for key in dict.fromkeys(r.key for r in here):
            own = [r for r in here if r.key == key and r.seeds]
            if len(own) == len(scenes):
                seeds = min(r.seeds for r in own)
                means = _means([r.mean for r in own])
                out.append(SummaryRow(
                    scene=ALL_SCENES, views=views, poses=poses, protocol=own[0].protocol, key=key,
                    title=own[0].title, kind=own[0].kind, seeds=seeds, mean=means, spread={},
                ))  # fmt: skip
    return out


def markdown(rows: Sequence[SummaryRow]) -> str:
    """A table per number of views and kind of poses: the headlines, one column per method, one line per scene."""
    parts = []
    for views, poses in dict.fromkeys((r.views, r.poses) for r in rows):
        here = [r for r in rows if (r.views, r.poses) == (views, poses)]
        parts.append(f"### {views} views, poses {poses}\n\n{_table(here)}")
    return "\n".join(parts)


def _table(rows: Sequence[SummaryRow]) -> str:
    titles = {r.key: r.title for r in rows}
    lines = [f"| scene | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    for scene in dict.fromkeys(r.scene for r in rows):
        found = {r.key: r for r in rows if r.scene == scene}
        name = f"**{scene}**" if scene == ALL_SCENES else scene
        lines.append(f"| {name} | {' | '.join(cell(found.get(key)) for key in titles)} |")
    return "\n".join(lines) + "\n"


def cell(row: SummaryRow | None) -> str:
    """As "21.55 / 0.727", with the spread of the first where there are seeds; the status where a figure is missing."""
    if row is None:
        return "-"
    said: list[str] = []
    for metric in metrics.headlines():
        value, spread = row.mean.get(metric.name), row.spread.get(metric.name)
        if value is None:
            return row.status
        told = "" if spread is None or said else f" ± {metric.written(spread)}"
        said.append(f"{metric.written(value)}{told}")
    return " / ".join(said)
