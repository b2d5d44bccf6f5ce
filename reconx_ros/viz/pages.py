"""The two things a person opens first in a result folder: overview.png and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconx_ros.io.images import write_image
from reconx_ros.viz import canvas
from reconx_ros.viz.compare import ComparedView
from reconx_ros.viz.overview import OverviewData, draw_overview
from reconx_ros.viz.palette import provenance_picture
from reconx_ros.viz.report import write_report

_INPUTS, _VIEWS = 8, 10  # at most, on the page


def write_pages(folder: Path, data: OverviewData, report: Mapping[str, Any]) -> None:
    """Draw ``overview.png`` and ``report.html``.

    Raises:
        StorageError: when they cannot be written.
    """
    overview = draw_overview(data)
    write_image(folder / "overview.png", overview)
    captions = data.input_captions or [f"input {i}" for i in range(len(data.inputs))]
    pictures = [(captions[i], canvas.shrunk(data.inputs[i], 480)) for i in canvas.chosen(len(data.inputs), _INPUTS)]
    write_report(
        folder / "report.html", report, pictures=pictures, title=data.title, overview=overview, views=novel_views(data)
    )


def novel_views(data: OverviewData) -> list[ComparedView]:
    """Novel views with their depth, confidence and provenance, for the slider; at most ten, evenly chosen."""
    near, far = canvas.depth_range(data.depths)
    count = len(data.novel)
    layers: dict[str, list[Any]] = {"rgb": list(data.novel)}
    if len(data.depths) == count:
        layers["depth"] = [canvas.depth_picture(d, near, far) for d in data.depths]
    if len(data.confidences) == count:
        layers["confidence"] = [canvas.confidence_picture(c) for c in data.confidences]
    if len(data.provenances) == count:
        layers["provenance"] = [provenance_picture(p) for p in data.provenances]
    return [
        ComparedView(
            name=f"novel view {i}", short=f"view {i}", note="", pictures={key: rows[i] for key, rows in layers.items()}
        )
        for i in canvas.chosen(count, _VIEWS)
    ]
