"""Geometry of which no pixel is sure ends loudly, naming the likeliest causes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pointmap_scenes import pinhole

from reconx_ros.core import SE3, AlignedViews, PointMap, Provenance, ReconstructionError
from reconx_ros.pipeline.clouds import confident_share, require_confident


def views(share: float) -> AlignedViews:
    camera = pinhole(20, 10)
    sure = (torch.arange(200) < round(200 * share)).reshape(10, 20)
    view = PointMap(
        rgb=torch.zeros(10, 20, 3),
        depth=torch.ones(10, 20),
        confidence=torch.where(sure, 0.9, 0.2),
        valid=torch.ones(10, 20, dtype=torch.bool),
        provenance=torch.full((10, 20), int(Provenance.OBSERVED), dtype=torch.uint8),
        camera=camera,
        world_from_cam=SE3.identity(),
        keyframe_id=0,
    )
    return AlignedViews(views=(view, replace(view, keyframe_id=1)), metric_scale=True, scale_source=None, backend="x")


def test_a_share_that_a_report_would_round_to_nothing_is_refused() -> None:
    assert confident_share(views(0.25), 0.5) == pytest.approx(0.25)
    require_confident(views(0.01), 0.5, given_poses=True)
    with pytest.raises(
        ReconstructionError, match=r"0 % of the pixels of 2 views .* 1\) poses or intrinsics .* 2\) pict"
    ):
        require_confident(views(0), 0.5, given_poses=True)
    with pytest.raises(ReconstructionError, match=r"causes: 1\) pictures that show too little in common"):
        require_confident(views(0), 0.5, given_poses=False)
