"""A report of a run as one HTML file that needs nothing else: no network, no fonts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import BY_TRUST
from reconx_ros.core.files import write_bytes
from reconx_ros.viz import canvas
from reconx_ros.viz import page_parts as html
from reconx_ros.viz.compare import SCRIPT, ComparedView, Legend, compare
from reconx_ros.viz.palette import KIND_LEGEND
from reconx_ros.viz.plots import Series, lines

VIEW_TITLES = {"rgb": "picture", "depth": "depth", "confidence": "confidence", "provenance": "provenance"}
_GOOD_NEW_DB, _GOOD_INPUT_DB, _GOOD_DEPTH, _MUCH = 20.0, 22.0, 0.03, 0.5

_LEGENDS: Mapping[str, Legend] = {
    "provenance": tuple((html.css_colour(colour), words) for colour, words in KIND_LEGEND),
    "depth": (("#d23105", "near"), ("#30123b", "far"), (html.css_colour(canvas.EMPTY), "unknown")),
    "confidence": (("#440154", "low confidence"), ("#fde725", "high"), (html.css_colour(canvas.EMPTY), "none")),
}
_FACTS = (
    ("keyframes", "Keyframes"),
    ("reconstructions", "Reconstructions"),
    ("points", "Points"),
    *((f"points_{kind.word}", f"{kind.word.capitalize()} points") for kind in BY_TRUST),
    ("gaussians", "Gaussians"),
    *((f"gaussians_{kind.word}", f"{kind.word.capitalize()} Gaussians") for kind in BY_TRUST),
    ("novel_views", "Novel views"),
    ("confident_share", "Confident pixels"),
    ("psnr_inputs", "PSNR on inputs"),
    ("psnr_heldout", "PSNR on held-out views"),
    ("coverage_before", "Coverage before"),
    ("coverage_after", "Coverage after"),
    ("metric_scale", "Metric scale"),
    ("scale_source", "Scale from"),
    ("matchers", "Cameras by matches of"),
    ("device", "Device"),
)
_SHARES = frozenset({"confident_share", "coverage_before", "coverage_after"})


def report_html(
    report: Mapping[str, Any],
    pictures: Sequence[tuple[str, np.ndarray]] = (),
    *,
    title: str = "Reconstruction",
    overview: np.ndarray | None = None,
    views: Sequence[ComparedView] = (),
) -> str:
    """The report as an HTML document.

    Args:
        report: as in report.json; entries that are missing are left out, unknown ones are shown at the end as they are.
        pictures: (caption, [H, W, 3] uint8 RGB), shown side by side.
        title: heading.
        overview: one large picture, [H, W, 3] uint8 RGB.
        views: novel views; each has a picture and its depth, confidence or provenance, by the keys of ``VIEW_TITLES``.
    """
    parts = [
        f"<h1>{html.text(title)}</h1>",
        html.paragraph(_lead(report), "lead"),
        html.findings_list(report_findings(report)),
        html.cards(_facts(report)),
        html.strip("Inputs", pictures),
        _views(views),
        _section("Coverage", _coverage(report.get("coverage_history") or ())),
        _section("Stages", html.stages(report.get("stages") or ())),
        html.strip("Overview", [] if overview is None else [("", overview)], one=True),
        _licences(report.get("licences")),
        _details(report),
    ]
    return html.page(title, parts, script=SCRIPT if views else "")


def write_report(path: Path | str, report: Mapping[str, Any], **options: Any) -> None:
    """Write ``report_html`` to a file; options as there.

    Raises:
        StorageError: when it cannot be written.
    """
    write_bytes(path, report_html(report, **options).encode("utf-8"))


def report_findings(report: Mapping[str, Any]) -> list[html.Finding]:
    """What went right and what went wrong in a reconstruction, in sentences."""
    said = [*_pictures_said(report), *_geometry_said(report), *_use_said(report)]
    return [*said, *(html.Finding(kind="bad", text=str(w)) for w in report.get("warnings") or ())]


def _said(good: bool, text: str) -> html.Finding:
    return html.Finding(kind="good" if good else "bad", text=text)


def _pictures_said(report: Mapping[str, Any]) -> list[html.Finding]:
    said = []
    inputs, heldout = report.get("psnr_inputs"), report.get("psnr_heldout")
    if heldout is not None:
        words = f"Pictures from new places reach {heldout:.1f} dB against the truth (above 25 is good, below 15 poor)."
        said.append(_said(heldout >= _GOOD_NEW_DB, words))
    if inputs is not None:
        better = inputs >= _GOOD_INPUT_DB
        end = "the scene agrees with its images." if better else "the scene does not agree with its own images."
        said.append(_said(better, f"The inputs are drawn again at {inputs:.1f} dB: {end}"))
    return said


def _geometry_said(report: Mapping[str, Any]) -> list[html.Finding]:
    said = []
    median = (report.get("depth") or {}).get("median")
    if median is not None:
        words = f"The depth differs from what was measured by {100 * median:.1f} % (median)."
        said.append(_said(median < _GOOD_DEPTH, words))
    share = report.get("confident_share")
    if share is not None:
        rest = "" if share >= _MUCH else " The rest is textureless, seen by one image only, or inconsistent."
        said.append(_said(share >= _MUCH, f"The depth of {100 * share:.0f} % of the pixels is confident.{rest}"))
    given, joined = report.get("keyframe_ids"), report.get("keyframe_ids_joined")
    if given and joined is not None and len(joined) < len(given):
        words = f"Only {len(joined)} of {len(given)} images could be joined; the others are not in the map."
        said.append(_said(False, words))
    return said


def _use_said(report: Mapping[str, Any]) -> list[html.Finding]:
    said = []
    before, after = report.get("coverage_before"), report.get("coverage_after")
    if before is not None and after is not None and math.isfinite(before) and math.isfinite(after):
        words = (
            f"Of what the camera saw, the map explained {100 * before:.0f} % before and {100 * after:.0f} % at the end."
        )
        said.append(_said(after > before, words))
    dropped = report.get("frames_dropped") or {}
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        said.append(_said(False, f"Frames that were not used: {reasons}."))
    return said


def _views(views: Sequence[ComparedView]) -> str:
    if not views:
        return ""
    keys = [key for key in VIEW_TITLES if any(key in v.pictures for v in views)]
    other = next((key for key in keys if key != "rgb"), "rgb")
    titles = {key: VIEW_TITLES[key] for key in keys}
    return f"<h2>Novel views</h2>{compare(views, titles, left=other, right='rgb', legends=_LEGENDS)}"


def _coverage(history: Sequence[Sequence[float]]) -> str:
    points = [(float(t), 100 * float(share)) for t, share in history if math.isfinite(share)]
    title = "Covered share of what the camera saw in %, over seconds since the first image"
    return lines(title, [Series(name="coverage", points=points)], y_range=(0, 100))


def _section(heading: str, body: str) -> str:
    return f"<h2>{html.text(heading)}</h2>{body}" if body else ""


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


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(label, _value(key, report[key])) for key, label in _FACTS if report.get(key) not in (None, [])]


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if key in _SHARES:
            return f"{100 * value:.0f} %"
        return f"{value:.2f} dB" if key.startswith("psnr") else f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _licences(licences: Any) -> str:
    if not isinstance(licences, Mapping) or not licences:
        return ""
    rows = "".join(f"<tr><td>{html.text(k)}</td><td>{html.text(_flat(v))}</td></tr>" for k, v in licences.items())
    return f'<h2>Licences</h2><div class="scroll"><table>{rows}</table></div>'


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v)
    return str(value)


def _details(report: Mapping[str, Any]) -> str:
    shown = {key for key, _ in _FACTS} | {"warnings", "stages", "licences", "backends", "coverage_history"}
    rest = {key: value for key, value in report.items() if key not in shown}
    return html.folded("Configuration, versions and all other numbers", rest)
