"""``overview.png`` of a run of an evaluation: what went in, what was withheld, what was drawn instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reconx_ros.core import SE3, AlignedViews, PointCloud
from reconx_ros.splatting.render import RenderedView
from reconx_ros.viz import canvas
from reconx_ros.viz.overview import OverviewData, overview_data, write_overview

VIEWS = 6  # that a row of the overview shows


def shown_views(count: int) -> list[int]:
    """Which of so many withheld views the overview shows."""
    return canvas.chosen(count, VIEWS)


def write_run_overview(
    path: Path,
    views: AlignedViews,
    cloud: PointCloud,
    drawn: Sequence[RenderedView],
    truths: Sequence[np.ndarray],
    path_poses: Sequence[SE3],
    *,
    title: str,
    lines: Sequence[str],
    captions: Sequence[str],
) -> None:
    """Draw it.

    Args:
        path: of the file; its folder exists.
        views: stage 1's result.
        cloud: points in the world of the map.
        drawn: pictures of the map, at the places of ``shown_views``.
        truths: the withheld pictures of the same places, [H, W, 3] uint8.
        path_poses: world_from_cam of all withheld views, in the world of the map.
        title, lines: text on top.
        captions: one per drawn picture.

    Raises:
        StorageError: when it cannot be written.
    """
    base = overview_data(
        views,
        [v.rgb_u8 for v in drawn],
        path_poses,
        cloud,
        title=title,
        lines=lines,
        depths=[v.depth for v in drawn],
        confidences=[v.confidence for v in drawn],
        provenances=[v.provenance for v in drawn],
    )
    write_overview(path, OverviewData(**{**base.__dict__, "truths": truths, "novel_captions": captions}))
