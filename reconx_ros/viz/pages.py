"""The two things a person opens first in a result folder: overview.png and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconx_ros.io.images import write_image
from reconx_ros.viz.overview import OverviewData, draw_overview
from reconx_ros.viz.report import write_report

_STRIP = 6  # novel views shown in the report


def write_pages(folder: Path, data: OverviewData, report: Mapping[str, Any]) -> None:
    """Draw ``overview.png`` and ``report.html``.

    Raises:
        StorageError: when they cannot be written.
    """
    overview = draw_overview(data)
    write_image(folder / "overview.png", overview)
    step = max(1, len(data.novel) // _STRIP)
    pictures = [(f"novel view {i}", data.novel[i]) for i in range(0, len(data.novel), step)]
    write_report(folder / "report.html", report, pictures=pictures, title=data.title, overview=overview)
