"""Tables of an evaluation: scenes against methods, and the methods of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from reconx_ros.evaluation.layout import MethodResult, Metrics, Run, SummaryRow
from reconx_ros.evaluation.summary import ALL_SCENES
from reconx_ros.viz.page_parts import text

# Figure of a method, heading, digits, factor, whether the largest is best.
_FIGURES = (
    ("psnr", "PSNR, dB", 2, 1.0, True),
    ("ssim", "SSIM", 3, 1.0, True),
    ("lpips", "LPIPS", 3, 1.0, False),
    ("psnr_observed", "PSNR where seen", 2, 1.0, True),
    ("psnr_unobserved", "PSNR where unseen", 2, 1.0, True),
    ("ssim_observed", "SSIM where seen", 3, 1.0, True),
    ("ssim_unobserved", "SSIM where unseen", 3, 1.0, True),
    ("filled", "Filled, %", 0, 100.0, True),
)


def summary_tables(metrics: Metrics) -> str:
    """Per number of inputs, kind of poses and protocol a table: a row per scene, a column per method."""
    groups: dict[tuple[int, str, str], list[SummaryRow]] = {}
    for row in metrics.summary:
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
    return (
        f"<h3>{views} inputs, poses {text(poses)}; test cameras: {text(protocol)}</h3>"
        f'<div class="scroll"><table class="sticky"><tr><th>Scene</th>{head}</tr>{body}</table></div>'
        f'<p class="note">PSNR in dB, below it SSIM{spread}; the best PSNR of a scene in bold.</p>{_reasons(rows)}'
    )


def _scene_row(scene: str, cells: Sequence[SummaryRow | None]) -> str:
    best = max((_number(c.mean, "psnr") for c in cells if c is not None and c.status == "ok"), default=-math.inf)
    drawn = "".join(_summary_cell(c, best) for c in cells)
    mark = ' class="mean"' if scene == ALL_SCENES else ""
    return f'<tr{mark}><th scope="row">{text("mean of the scenes" if scene == ALL_SCENES else scene)}</th>{drawn}</tr>'


def _summary_cell(row: SummaryRow | None, best: float) -> str:
    if row is None:
        return '<td class="n">–</td>'
    value = _number(row.mean, "psnr")
    if math.isinf(value) and value < 0:
        return f'<td class="n"><small>{text(row.status)}</small></td>'
    mark = " best" if value == best else ""
    return (
        f'<td class="n{mark}">{_said(value, 2)}{_spread(row, "psnr", 2)}'
        f"<br><small>{_said(row.mean.get('ssim'), 3)}{_spread(row, 'ssim', 3)}</small></td>"
    )


def _number(mean: Mapping[str, float | None], name: str) -> float:
    """A figure, or minus infinity where there is none."""
    value = mean.get(name)
    return -math.inf if value is None else float(value)


def _spread(row: SummaryRow, name: str, digits: int) -> str:
    value = row.spread.get(name)
    return "" if value is None else f" ± {value:.{digits}f}"


def _said(value: float | None, digits: int, factor: float = 1.0) -> str:
    if value is None:
        return "–"
    return "equal" if math.isinf(value) else f"{factor * value:.{digits}f}"


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
    known = [f for f in _FIGURES if any(m.mean.get(f[0]) is not None for m in ran)]
    if not ran or not known:
        return ""
    head = "".join(f'<th class="n">{heading}</th>' for _, heading, _, _, _ in known)
    best = {f[0]: _said(_best([m.mean.get(f[0]) for m in ran], f[4]), f[2], f[3]) for f in known}
    rows = "".join(_method_row(m, known, best, several=len(ran) > 1) for m in ran)
    return (
        f'<h3>Figures, mean of {len(run.tests)} pictures</h3><div class="scroll"><table class="sticky">'
        f'<tr><th>Method</th>{head}<th class="n">Seconds</th></tr>{rows}</table></div>{_notes(run)}'
    )


def _best(values: Sequence[float | None], largest: bool) -> float | None:
    known = [v for v in values if v is not None]
    return None if not known else (max(known) if largest else min(known))


def _method_row(
    method: MethodResult,
    figures: Sequence[tuple[str, str, int, float, bool]],
    best: Mapping[str, str],
    *,
    several: bool,
) -> str:
    cells = []
    for name, _, digits, factor, _ in figures:
        said = _said(method.mean.get(name), digits, factor)
        mark = " best" if several and said == best[name] else ""
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
