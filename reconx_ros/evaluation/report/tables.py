"""Tables of an evaluation: scenes against methods, and the methods of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from reconx_ros.evaluation import metrics
from reconx_ros.evaluation.layout import MethodResult, Metrics, Run, SummaryRow
from reconx_ros.evaluation.metrics import Metric
from reconx_ros.evaluation.summary import ALL_SCENES
from reconx_ros.viz.page_parts import text


def summary_tables(found: Metrics) -> str:
    """Per number of inputs, kind of poses and protocol a table: a row per scene, a column per method."""
    groups: dict[tuple[int, str, str], list[SummaryRow]] = {}
    for row in found.summary:
        groups.setdefault((row.views, row.poses, row.protocol), []).append(row)
    return "".join(_summary_table(key, rows) for key, rows in groups.items())


def _summary_table(key: tuple[int, str, str], rows: Sequence[SummaryRow]) -> str:
    views, poses, protocol = key
    methods = {r.key: r.title for r in rows}
    scenes = list(dict.fromkeys(r.scene for r in rows if r.scene != ALL_SCENES))
    shown = [*scenes, *([ALL_SCENES] if len(scenes) > 1 and any(r.scene == ALL_SCENES for r in rows) else [])]
    cells = {(r.scene, r.key): r for r in rows}
    head = "".join(f'<th class="n">{text(title)}</th>' for title in methods.values())
    body = "".join(_scene_row(scene, [cells.get((scene, m)) for m in methods]) for scene in shown)
    seeds = max((r.seeds for r in rows), default=1)
    spread = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    first, *others = metrics.headlines()
    below = f", below it {', '.join(m.title for m in others)}" if others else ""
    unit = f" in {first.unit}" if first.unit else ""
    return (
        f"<h3>{views} inputs, poses {text(poses)}; test cameras: {text(protocol)}</h3>"
        f'<div class="scroll"><table class="sticky"><tr><th>Scene</th>{head}</tr>{body}</table></div>'
        f'<p class="note">{first.title}{unit}{below}{spread}; the best {first.title} of a scene in bold.</p>'
        f"{_reasons(rows)}"
    )


def _scene_row(scene: str, cells: Sequence[SummaryRow | None]) -> str:
    first = metrics.headlines()[0]
    best = first.best(c.mean.get(first.name) for c in cells if c is not None and c.status == "ok")
    drawn = "".join(_summary_cell(c, best) for c in cells)
    mark = ' class="mean"' if scene == ALL_SCENES else ""
    return f'<tr{mark}><th scope="row">{text("mean of the scenes" if scene == ALL_SCENES else scene)}</th>{drawn}</tr>'


def _summary_cell(row: SummaryRow | None, best: float | None) -> str:
    if row is None:
        return '<td class="n">–</td>'
    first, *others = metrics.headlines()
    value = row.mean.get(first.name)
    if value is None:
        return f'<td class="n"><small>{text(row.status)}</small></td>'
    mark = " best" if value == best else ""
    below = "".join(f"<br><small>{_spread(row, metric)}</small>" for metric in others)
    return f'<td class="n{mark}">{_spread(row, first)}{below}</td>'


def _spread(row: SummaryRow, metric: Metric) -> str:
    """The figure, and its spread over the seeds where there is one."""
    spread = row.spread.get(metric.name)
    return _said(row.mean.get(metric.name), metric) + ("" if spread is None else f" ± {metric.written(spread)}")


def _said(value: float | None, metric: Metric) -> str:
    if value is None:
        return "–"
    return "equal" if math.isinf(value) else metric.written(value)


def _reasons(rows: Sequence[SummaryRow]) -> str:
    """Why cells have no figure; scenes that share a reason share a line."""
    scenes: dict[str, list[str]] = {}
    for row in rows:
        if row.status != "ok" and row.message and row.scene != ALL_SCENES:
            scenes.setdefault(f"{row.title}: {row.status}, {row.message}", []).append(row.scene)
    return "".join(f'<p class="note">{text(why)} ({text(", ".join(where))})</p>' for why, where in scenes.items())


def method_table(run: Run) -> str:
    """A row per method that ran, a column per figure that any of them has."""
    ran = [m for m in run.methods if m.status == "ok"]
    known = [f for f in metrics.METRICS if any(m.mean.get(f.name) is not None for m in ran)]
    if not ran or not known:
        return ""
    head = "".join(f'<th class="n">{text(f.heading)}</th>' for f in known)
    best = {f.name: _said(f.best(m.mean.get(f.name) for m in ran), f) for f in known}
    rows = "".join(_method_row(m, known, best, several=len(ran) > 1) for m in ran)
    return (
        f'<h3>Figures, mean of {len(run.tests)} pictures</h3><div class="scroll"><table class="sticky">'
        f'<tr><th>Method</th>{head}<th class="n">Seconds</th></tr>{rows}</table></div>{_notes(run)}'
    )


def _method_row(
    method: MethodResult,
    figures: Sequence[Metric],
    best: Mapping[str, str],
    *,
    several: bool,
) -> str:
    cells = []
    for metric in figures:
        said = _said(method.mean.get(metric.name), metric)
        mark = " best" if several and said == best[metric.name] else ""
        cells.append(f'<td class="n{mark}">{said}</td>')
    seconds = '<td class="n">–</td>' if method.seconds is None else f'<td class="n">{method.seconds:.1f}</td>'
    protocol = "" if method.protocol == "given poses" else f" <small>{text(method.protocol)}</small>"
    return f"<tr><td>{text(method.title)}{protocol}</td>{''.join(cells)}{seconds}</tr>"


def _notes(run: Run) -> str:
    said = []
    if run.observed_by:
        said.append(f"Seen: some input saw the surface, judged by {run.observed_by}.")
    if run.lpips:
        said.append(f"LPIPS: {run.lpips}.")
    return f'<p class="note">{text(" ".join(said))}</p>' if said else ""
