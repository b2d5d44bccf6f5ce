"""Parts of our pages: one file each, no network and no fonts, light and dark, wide and narrow."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from reconx_ros.io.images import encode_jpeg

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
</main>{script}</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence on what went right ("good"), what went wrong ("bad") or what one should know ("info")."""

    kind: str
    text: str


def page(title: str, parts: Sequence[str], *, script: str = "") -> str:
    """A whole document of parts; empty ones are left out.

    Args:
        title: of the window.
        parts: HTML.
        script: name of the script of this package that the parts need; none by default.
    """
    body = "\n".join(part for part in parts if part)
    code = f"<script>{asset(script)}</script>" if script else ""
    return _PAGE.format(title=text(title), style=asset("page.css"), body=body, script=code)


def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return (resources.files("reconx_ros.viz") / "assets" / name).read_text(encoding="utf-8")


def text(value: object) -> str:
    """Any value as text that HTML shows as it is."""
    return html.escape(str(value), quote=True)


def css_colour(rgb: tuple[int, int, int]) -> str:
    """A colour as style sheets write it."""
    return "#" + "".join(f"{part:02x}" for part in rgb)


def paragraph(sentence: str, style: str = "") -> str:
    """A paragraph; "" for an empty sentence."""
    mark = f' class="{style}"' if style else ""
    return f"<p{mark}>{text(sentence)}</p>" if sentence else ""


def findings_list(findings: Sequence[Finding]) -> str:
    """Sentences, marked by kind."""
    items = "".join(f'<li class="{f.kind}">{text(f.text)}</li>' for f in findings)
    return f'<ul class="findings">{items}</ul>' if items else ""


def cards(facts: Sequence[tuple[str, str]]) -> str:
    """Small boxes with a label and a value."""
    rows = "".join(f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd></div>" for label, value in facts)
    return f"<dl>{rows}</dl>" if rows else ""


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar per row (label, length, the value in words); the longest fills the width."""
    longest = max((value for _, value, _ in rows), default=0) or 1.0
    items = "".join(
        f'<li><span>{text(label)}</span><b>{text(said)}</b><i style="width:{100 * value / longest:.1f}%"></i></li>'
        for label, value, said in rows
    )
    return f'<ul class="bars">{items}</ul>' if items else ""


def stages(records: Sequence[Mapping[str, Any]]) -> str:
    """Seconds and highest memory of stages, as ``report.json`` has them."""
    seconds = [(_stage(s), float(s.get("seconds") or 0), f"{float(s.get('seconds') or 0):.2f} s") for s in records]
    columns = [("Time of the stages", seconds)]
    for key, heading in (("peak_mb", "Highest memory"), ("peak_cuda_mb", "Highest memory of the GPU")):
        known = [(s, float(s[key])) for s in records if s.get(key) is not None]
        columns.append((heading, [(_stage(s), value, f"{value:,.0f} MiB") for s, value in known]))
    blocks = "".join(f"<div><h3>{heading}</h3>{bars(rows)}</div>" for heading, rows in columns if rows)
    return f'<div class="columns">{blocks}</div>' if blocks else ""


def _stage(record: Mapping[str, Any]) -> str:
    name, backend = str(record.get("name", "")), record.get("backend")
    return f"{name} · {backend}" if backend else name


def strip(heading: str, pictures: Sequence[tuple[str, np.ndarray]], *, one: bool = False) -> str:
    """Pictures [H, W, 3] uint8 with captions, side by side or (one) each as wide as the page."""
    if not pictures:
        return ""
    figures = "".join(figure(caption, rgb) for caption, rgb in pictures)
    return f'<h2>{text(heading)}</h2><div class="strip{" one" if one else ""}">{figures}</div>'


def figure(caption: str, rgb_u8: np.ndarray) -> str:
    """One picture."""
    height, width = rgb_u8.shape[:2]
    source = f'src="{data_uri(rgb_u8, 88)}" width="{width}" height="{height}"'
    note = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure><img {source} alt="{text(caption or "picture")}">{note}</figure>'


def data_uri(rgb_u8: np.ndarray, quality: int) -> str:
    """A picture as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(rgb_u8, quality)).decode('ascii')}"


def folded(summary: str, content: Any) -> str:
    """Values as JSON behind a line to click on; "" without values."""
    if not content:
        return ""
    lines = json.dumps(content, indent=2, default=str, ensure_ascii=False)
    return f"<details><summary>{text(summary)}</summary><pre>{text(lines)}</pre></details>"
