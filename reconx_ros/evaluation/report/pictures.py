"""The pictures of a run beside each other: truth, ours, baselines, and where they err."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reconx_ros.evaluation.findings import place
from reconx_ros.evaluation.layout import LAYERS, OBSERVED, TRUTH, MethodResult, Run, RunFolder
from reconx_ros.evaluation.pictures import FULL_ERROR
from reconx_ros.io.images import read_image
from reconx_ros.viz.compare import ComparedView, Legend, compare
from reconx_ros.viz.page_parts import css_colour, text
from reconx_ros.viz.palette import KIND_LEGEND

_LAYER_TITLES = {"error": "error of {}", "provenance": "provenance of {}", "confidence": "confidence of {}"}
_LAYER_LEGENDS: tuple[tuple[str, Legend], ...] = (
    ("error", (("#000004", "error: none"), ("#fcffa4", f"{100 * FULL_ERROR:.0f} % of full brightness or more"))),
    ("provenance", tuple((css_colour(colour), words) for colour, words in KIND_LEGEND)),
    ("confidence", (("#000", "confidence 0"), ("#fff", "confidence 1"))),
)
_OBSERVED_LEGEND: Legend = (("#fff", "seen by an input"), ("#000", "seen by none"), ("#808080", "nothing tells"))


def compared(folder: RunFolder, run: Run, most: int) -> str:
    """The slider for a run's test views; "" where there are no pictures.

    Args:
        folder: where they lie.
        run: its figures.
        most: so many views at most: the best, the worst and others evenly by PSNR between them.
    """
    methods = _pictured(run)
    if not methods or not run.tests:
        return ""
    titles = _titles(methods)
    chosen = chosen_views([s.psnr for s in methods[0].views] or [0.0] * len(run.tests), most)
    found = [_view(folder, run, k, methods, titles) for k in chosen]
    views = [v for v in found if v is not None]
    if not views:
        return '<p class="note">The pictures of this run are not in its folder.</p>'
    keys = [k for k in titles if any(k in v.pictures for v in views)]
    block = compare(
        views,
        {k: titles[k] for k in keys},
        left=TRUTH,
        right=methods[0].key,
        legends=_legends(keys),
    )
    return f"<h3>Withheld pictures and what was drawn</h3>{block}{_note(len(views), len(run.tests))}"


def chosen_views(scores: Sequence[float], most: int) -> list[int]:
    """Indices, in order, of at most so many views: evenly by rank, the worst and the best among them."""
    if len(scores) <= most:
        return list(range(len(scores)))
    ranked = sorted(range(len(scores)), key=lambda k: scores[k])
    places = np.linspace(0, len(ranked) - 1, max(most, 2)).round().astype(int)
    return sorted({ranked[int(p)] for p in places})


def _pictured(run: Run) -> list[MethodResult]:
    """Methods whose pictures are shown: ours and the baselines, not the ablation."""
    return [m for k, m in enumerate(run.methods) if m.status == "ok" and (k == 0 or m.kind in ("method", "baseline"))]


def _titles(methods: Sequence[MethodResult]) -> dict[str, str]:
    titles = {TRUTH: "truth", **{m.key: m.title for m in methods}}
    for layer in LAYERS:
        titles |= {f"{m.key}_{layer}": _LAYER_TITLES[layer].format(m.title) for m in methods}
    return {**titles, OBSERVED: "seen by an input"}


def _legends(keys: Sequence[str]) -> dict[str, Legend]:
    legends = {key: legend for key in keys for layer, legend in _LAYER_LEGENDS if key.endswith(f"_{layer}")}
    return {**legends, **({OBSERVED: _OBSERVED_LEGEND} if OBSERVED in keys else {})}


def _view(
    folder: RunFolder, run: Run, index: int, methods: Sequence[MethodResult], titles: dict[str, str]
) -> ComparedView | None:
    paths = {key: folder.picture(index, key) for key in titles}
    pictures = {key: read_image(path) for key, path in paths.items() if path.is_file()}
    if not pictures:
        return None
    test = run.tests[index]
    scores = [(m.title, m.views[index].psnr) for m in methods if index < len(m.views)]
    figures = ", ".join(f"{title} {_decibel(psnr)}" for title, psnr in scores)
    short = _decibel(scores[0][1]) if scores else test.image
    return ComparedView(name=test.image, short=short, note=f"{figures}; {place(test)}", pictures=pictures)


def _decibel(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def _note(shown: int, all_of_them: int) -> str:
    if shown == all_of_them:
        return ""
    rest = (
        f"{shown} of {all_of_them} pictures are shown, from the worst to the best; all lie in runs/ beside this page."
    )
    return f'<p class="note">{text(rest)}</p>'
