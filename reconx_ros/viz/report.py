"""A report of a run as one HTML file that needs nothing else: no network, no fonts, no scripts."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.io.images import encode_jpeg, write_bytes_atomic

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #20242c; --faint: #6b7280; --line: #e4e7eb; --card: #f7f8fa;
  --accent: #1c5ebe; --warn: #9a5b00; --warn-paper: #fff6e5; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e8eb; --faint: #98a1ae; --line: #2b313a;
  --card: #1b2027; --accent: #7fb0ff; --warn: #ffcf80; --warn-paper: #2c2412; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 18px 64px; }
h1 { font-size: 1.7rem; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 1.1rem; margin: 36px 0 12px; }
p.lead { color: var(--faint); margin: 0 0 20px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; margin: 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
dt { color: var(--faint); font-size: 0.8rem; }
dd { margin: 2px 0 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--faint); font-weight: 500; font-size: 0.85rem; }
th, td { padding: 8px 12px 8px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.n, th.n { text-align: right; }
td.bar { width: 34%; min-width: 90px; }
td.bar i { display: block; height: 8px; border-radius: 4px; background: var(--accent); min-width: 2px; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 14px; }
.strip.one { grid-template-columns: 1fr; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 8px; border: 1px solid var(--line); }
figcaption { color: var(--faint); font-size: 0.85rem; margin-top: 4px; }
ul.warnings { list-style: none; margin: 0; padding: 0; }
ul.warnings li { background: var(--warn-paper); color: var(--warn); border-radius: 8px; padding: 9px 14px;
  margin-bottom: 8px; }
details { margin-top: 32px; } summary { cursor: pointer; color: var(--faint); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px; overflow-x: auto;
  font-size: 0.8rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""

_FACTS = (
    ("keyframes", "Keyframes"),
    ("reconstructions", "Reconstructions"),
    ("points", "Points"),
    ("points_observed", "Observed points"),
    ("points_generated", "Generated points"),
    ("gaussians", "Gaussians"),
    ("novel_views", "Novel views"),
    ("confident_share", "Confident pixels"),
    ("psnr_inputs", "PSNR on inputs"),
    ("psnr_heldout", "PSNR on held-out views"),
    ("coverage_before", "Coverage before"),
    ("coverage_after", "Coverage after"),
    ("metric_scale", "Metric scale"),
    ("scale_source", "Scale from"),
    ("device", "Device"),
)
_SHARES = frozenset({"confident_share", "coverage_before", "coverage_after"})


def report_html(
    report: Mapping[str, Any],
    pictures: Sequence[tuple[str, np.ndarray]] = (),
    *,
    title: str = "Reconstruction",
    overview: np.ndarray | None = None,
) -> str:
    """The report as an HTML document.

    Args:
        report: as in report.json; entries that are missing are left out, unknown ones are shown at the end as they are.
        pictures: (caption, [H, W, 3] uint8 RGB), shown side by side.
        title: heading.
        overview: one large picture, [H, W, 3] uint8 RGB.
    """
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="lead">{_text(_lead(report))}</p>',
        _warnings(report.get("warnings") or ()),
        _facts(report),
        _stages(report.get("stages") or ()),
        _strip("Pictures", pictures),
        _strip("Overview", [] if overview is None else [("", overview)], one=True),
        _licences(report.get("licences")),
        _details(report),
    ]
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=_text(title), style=_STYLE, body=body)


def write_report(path: Path | str, report: Mapping[str, Any], **options: Any) -> None:
    """Write ``report_html`` to a file; options as there.

    Raises:
        StorageError: when it cannot be written.
    """
    write_bytes_atomic(path, report_html(report, **options).encode("utf-8"))


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _lead(report: Mapping[str, Any]) -> str:
    backends = report.get("backends")
    words = [" → ".join(str(b) for b in backends.values())] if isinstance(backends, Mapping) else []
    seconds = sum(float(s.get("seconds", 0)) for s in report.get("stages") or ())
    if seconds:
        words.append(f"{seconds:.1f} s in all stages")
    if "generates" in report:
        words.append("some pixels are made up by a model" if report["generates"] else "nothing is made up by a model")
    versions = report.get("versions")
    if isinstance(versions, Mapping) and "reconx_ros" in versions:
        words.append(f"reconx_ros {versions['reconx_ros']}")
    return " · ".join(words)


def _facts(report: Mapping[str, Any]) -> str:
    known = [(label, _value(key, report[key])) for key, label in _FACTS if report.get(key) is not None]
    rows = "".join(f"<div><dt>{_text(label)}</dt><dd>{_text(value)}</dd></div>" for label, value in known)
    return f"<dl>{rows}</dl>" if known else ""


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if key in _SHARES:
            return f"{100 * value:.0f} %"
        return f"{value:.2f} dB" if key.startswith("psnr") else f"{value:.3g}"
    return str(value)


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    if not stages:
        return ""
    longest = max(float(s.get("seconds", 0)) for s in stages) or 1.0
    on_gpu = any(s.get("peak_cuda_mb") is not None for s in stages)
    head = '<th>Stage</th><th>Backend</th><th class="n">Seconds</th><th></th><th class="n">Peak MiB</th>'
    rows = "".join(_stage(s, longest, on_gpu) for s in stages)
    gpu = '<th class="n">GPU MiB</th>' if on_gpu else ""
    return f'<h2>Stages</h2><div class="scroll"><table><tr>{head}{gpu}</tr>{rows}</table></div>'


def _stage(stage: Mapping[str, Any], longest: float, on_gpu: bool) -> str:
    seconds = float(stage.get("seconds", 0))
    cells = [
        f"<td>{_text(stage.get('name', ''))}</td><td>{_text(stage.get('backend') or '–')}</td>",
        f'<td class="n">{seconds:.2f}</td>',
        f'<td class="bar"><i style="width:{100 * seconds / longest:.1f}%"></i></td>',
        f'<td class="n">{_number(stage.get("peak_mb"))}</td>',
        f'<td class="n">{_number(stage.get("peak_cuda_mb"))}</td>' if on_gpu else "",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _number(value: Any) -> str:
    return "–" if value is None else f"{float(value):,.0f}"


def _strip(heading: str, pictures: Sequence[tuple[str, np.ndarray]], *, one: bool = False) -> str:
    if not pictures:
        return ""
    figures = "".join(_figure(caption, rgb) for caption, rgb in pictures)
    return f'<h2>{_text(heading)}</h2><div class="strip{" one" if one else ""}">{figures}</div>'


def _figure(caption: str, rgb_u8: np.ndarray) -> str:
    data = base64.b64encode(encode_jpeg(rgb_u8, 88)).decode("ascii")
    height, width = rgb_u8.shape[:2]
    source = f'src="data:image/jpeg;base64,{data}" width="{width}" height="{height}"'
    note = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure><img {source} alt="{_text(caption or "picture")}" loading="lazy">{note}</figure>'


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{_text(w)}</li>" for w in warnings)
    return f'<ul class="warnings">{items}</ul>'


def _licences(licences: Any) -> str:
    if not isinstance(licences, Mapping) or not licences:
        return ""
    rows = "".join(f"<tr><td>{_text(k)}</td><td>{_text(_flat(v))}</td></tr>" for k, v in licences.items())
    return f'<h2>Licences</h2><div class="scroll"><table>{rows}</table></div>'


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v)
    return str(value)


def _details(report: Mapping[str, Any]) -> str:
    import json

    shown = {key for key, _ in _FACTS} | {"warnings", "stages", "licences", "backends"}
    rest = {key: value for key, value in report.items() if key not in shown}
    if not rest:
        return ""
    text = json.dumps(rest, indent=2, default=str, ensure_ascii=False)
    return (
        f"<details><summary>Configuration, versions and all other numbers</summary><pre>{_text(text)}</pre></details>"
    )
