"""Two pictures of the same view with a slider between them, on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.viz.canvas import shrunk
from reconx_ros.viz.page_parts import data_uri, text

SCRIPT = "compare.js"
_QUALITY = 84
_LONGEST_PX = 640

Legend = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedView:
    """A view and its pictures.

    Attributes:
        name: in full.
        short: a word or two under the small picture.
        note: a sentence about the view.
        pictures: key to [H, W, 3] uint8; all of one size.
    """

    name: str
    short: str
    note: str
    pictures: Mapping[str, np.ndarray]


def compare(
    views: Sequence[ComparedView],
    titles: Mapping[str, str],
    *,
    left: str,
    right: str,
    legends: Mapping[str, Legend] | None = None,
) -> str:
    """The block of HTML; the page needs ``SCRIPT``.

    Args:
        views: at least one; a picture larger than 640 pixels is shrunk.
        titles: keys of pictures, in the order in which they are offered, and what to call them.
        left, right: keys that are shown first.
        legends: per key (CSS colour, meaning).
    """
    rows = [
        {
            "name": v.name,
            "short": v.short,
            "note": v.note,
            "pictures": {key: data_uri(shrunk(v.pictures[key], _LONGEST_PX), _QUALITY) for key in v.pictures},
        }
        for v in views
    ]
    thumb = right if right in views[0].pictures else next(iter(views[0].pictures))
    content = {"views": rows, "titles": dict(titles), "legends": dict(legends or {}), "left": left, "right": right}
    encoded = json.dumps({**content, "thumb": thumb}).replace("<", "\\u003c")
    height, width = views[0].pictures[thumb].shape[:2]
    return _BLOCK.format(data=encoded, ratio=f"{width} / {height}", missing=text(_NO_SCRIPT))


_NO_SCRIPT = "These pictures need JavaScript; they also lie beside this page as files."
_BLOCK = """<div class="compare">
<script type="application/json">{data}</script>
<noscript><p class="note">{missing}</p></noscript>
<div class="controls"><label>Left <select class="left"></select></label>
<label>Right <select class="right"></select></label></div>
<div class="stage"><img class="right" alt="" style="aspect-ratio: {ratio}"><img class="left" alt="">
<span class="tag l"></span><span class="tag r"></span><div class="bar"></div>
<input type="range" min="0" max="100" value="50" step="0.5" aria-label="Boundary between the two pictures"></div>
<p class="said"></p><div class="swatches"></div><div class="thumbs"></div></div>"""
