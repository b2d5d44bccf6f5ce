"""Stage results as one coloured cloud with confidence and provenance."""

from __future__ import annotations

import numpy as np
import torch

from reconx_ros.core import (
    AlignedViews,
    PointCloud,
    PointMap,
    Provenance,
    ReconstructionError,
    SequenceView,
    ViewSequence,
)
from reconx_ros.geometry.projection import backproject, pointmap_world, transform_points


def pointmap_cloud(views: AlignedViews, min_confidence: float) -> PointCloud:
    """Every valid pixel of the pointmaps with at least this confidence, as a point of its kind."""
    return PointCloud.concatenate([_view_cloud(view, min_confidence) for view in views.views])


def _view_cloud(view: PointMap, min_confidence: float) -> PointCloud:
    mask = view.valid & (view.confidence >= min_confidence)
    return _cloud(
        pointmap_world(view)[mask], view.rgb[mask], view.confidence[mask], view.provenance[mask], view.keyframe_id
    )


_CAUSES = (
    "poses or intrinsics that are not those of the pictures (another axis convention, world-to-camera for "
    "camera-to-world, another picture size)",
    "pictures that show too little in common",
    "surfaces without texture, or blurred, moving or mirroring ones",
)


_LEAST_SHARE = 0.005  # what is 0 % in a report


def confident_share(views: AlignedViews, min_confidence: float, kind: Provenance | None = None) -> float:
    """Share in [0, 1] of pixels that have a depth of at least this confidence, the mean of all views.

    Args:
        views: stage 1's result.
        min_confidence: from which a pixel counts.
        kind: pixels of other kinds do not count; None counts all.
    """
    masks = [v.valid & (v.confidence >= min_confidence) for v in views.views]
    if kind is not None:
        masks = [mask & (v.provenance == int(kind)) for mask, v in zip(masks, views.views, strict=True)]
    return float(np.mean([float(mask.float().mean()) for mask in masks]))


def require_confident(views: AlignedViews, min_confidence: float, *, given_poses: bool) -> None:
    """Refuse geometry of which no pixel is sure: a result without points would pass for one.

    Args:
        views: stage 1's result.
        min_confidence: from which a pixel counts.
        given_poses: whether poses came with the pictures, which then are the likeliest cause.

    Raises:
        ReconstructionError: naming the likeliest causes in their order.
    """
    share = confident_share(views, min_confidence)
    if share >= _LEAST_SHARE:
        return
    causes = "; ".join(f"{k}) {cause}" for k, cause in enumerate(_CAUSES if given_poses else _CAUSES[1:], 1))
    raise ReconstructionError(
        f"{100 * share:.2g} % of the pixels of {len(views.views)} views have a depth of confidence {min_confidence:g}, "
        f"expected at least {100 * _LEAST_SHARE:g} %; the likeliest causes: {causes}"
    )


def generated_cloud(sequence: ViewSequence, views: AlignedViews, min_confidence: float) -> PointCloud:
    """The pixels a model made up, where its backend knows their depth; filed under the nearest keyframe."""
    clouds = [_generated(view, views, min_confidence) for view in sequence.views if view.depth is not None]
    return PointCloud.concatenate(clouds)


def _generated(view: SequenceView, views: AlignedViews, min_confidence: float) -> PointCloud:
    assert view.depth is not None
    mask = (view.provenance == int(Provenance.GENERATED)) & (view.depth > 0) & (view.confidence >= min_confidence)
    nearest = min(views.views, key=lambda v: v.world_from_cam.distance_to(view.world_from_cam))
    points = transform_points(view.world_from_cam, backproject(view.depth, view.camera))
    return _cloud(points[mask], view.rgb[mask], view.confidence[mask], view.provenance[mask], nearest.keyframe_id)


def _cloud(
    points: torch.Tensor, rgb: torch.Tensor, confidence: torch.Tensor, provenance: torch.Tensor, keyframe_id: int
) -> PointCloud:
    count = int(points.shape[0])
    return PointCloud(
        points=points.float().cpu().numpy(),
        rgb_u8=(rgb * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy(),
        confidence=confidence.float().cpu().numpy(),
        provenance=provenance.cpu().numpy(),
        keyframe_ids=np.full(count, keyframe_id, np.uint32),
    )
