"""From an alignment to stage 1's result: points that contradict other views removed, confidence in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reconx_ros.core import AlignedViews, InvalidInputError, PointMap, Provenance
from reconx_ros.geometry.projection import backproject, project, transform_points
from reconx_ros.pointmap.alignment.global_alignment import Alignment

MIN_CONFIDENCE = 3.0  # raw, DUSt3R's; 2 / 3 in [0, 1]


def clean_confidences(alignment: Alignment, *, tolerance: float = 1e-3) -> tuple[torch.Tensor, ...]:
    """Raw confidences with 0 for points that stand in front of what a more confident view sees.

    Points of one image after the other are projected into every other image. Where a point is nearer than the depth
    at the nearest pixel by more than the tolerance, and less confident than that pixel, it is dropped; decisions see
    what was dropped before (DUSt3R's clean-up).

    Args:
        alignment: images in one world.
        tolerance: relative depth difference.
    """
    cleaned = [c.clone() for c in alignment.confidences]
    for i, camera in enumerate(alignment.cameras):
        points = transform_points(alignment.world_from_cams[i], backproject(alignment.depths[i], camera))
        for j in range(len(cleaned)):
            if i != j:
                contradicted = _in_front(alignment, points, j, cleaned[i], cleaned[j], tolerance)
                cleaned[i] = torch.where(contradicted, 0.0, cleaned[i])
    return tuple(cleaned)


def _in_front(
    alignment: Alignment,
    points_world: torch.Tensor,
    j: int,
    confidence: torch.Tensor,
    other_confidence: torch.Tensor,
    tolerance: float,
) -> torch.Tensor:
    camera = alignment.cameras[j]
    uv, z = project(transform_points(alignment.world_from_cams[j].inverse(), points_world), camera)
    column, row = uv.round().unbind(dim=-1)
    seen = (z > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    index = torch.where(seen, row * camera.width + column, 0).long()
    depth, trust = alignment.depths[j].flatten()[index], other_confidence.flatten()[index]
    return seen & (z < (1 - tolerance) * depth) & (confidence < trust)


def unit_confidence(confidence: torch.Tensor) -> torch.Tensor:
    """Raw confidence C = 1 + exp(c) to ``1 - 1 / C`` in [0, 1): the logistic function of the output c.

    It is 0 where a pair's weight log C is 0, keeps the order of confidences, and puts DUSt3R's threshold of 3 at 2 / 3.
    """
    return 1 - 1 / confidence.clamp_min(1.0)


def to_aligned_views(
    alignment: Alignment,
    images: Sequence[torch.Tensor],
    keyframe_ids: Sequence[int],
    *,
    backend: str,
    min_confidence: float = MIN_CONFIDENCE,
    clean: bool = True,
) -> AlignedViews:
    """Stage 1's result of an alignment; all of it INFERRED, for a network placed it.

    The pixel grid stays as it is: integer pixels are centres, in DUSt3R and here, so its principal point (W / 2, H / 2)
    keeps its value.

    Args:
        alignment: images in one world.
        images: N pictures [H, W, 3] RGB float32 in [0, 1] at the size of the maps.
        keyframe_ids: one per image.
        backend: name for the report.
        min_confidence: raw confidence above which a pixel is valid.
        clean: whether to drop points that contradict other views.

    Raises:
        InvalidInputError: for another number or size of images.
    """
    if not len(images) == len(keyframe_ids) == len(alignment.cameras):
        raise InvalidInputError(
            f"{len(images)} images and {len(keyframe_ids)} keyframe ids for {len(alignment.cameras)} aligned images, "
            "expected as many of each"
        )
    raw = clean_confidences(alignment) if clean else alignment.confidences
    views = []
    warnings = list(alignment.warnings)
    for n, (rgb, confidence) in enumerate(zip(images, raw, strict=True)):
        valid = confidence > min_confidence
        if not bool(valid.any()):
            warnings.append(f"image {n} has no pixel with a confidence above {min_confidence:g}")
        views.append(
            PointMap(
                rgb=rgb,
                depth=alignment.depths[n],
                confidence=unit_confidence(confidence) * valid,
                valid=valid,
                provenance=Provenance.INFERRED.where(valid),
                camera=alignment.cameras[n],
                world_from_cam=alignment.world_from_cams[n],
                keyframe_id=keyframe_ids[n],
            )
        )
    return AlignedViews(
        views=tuple(views),
        metric_scale=alignment.unit_source is not None,
        scale_source=alignment.unit_source,
        backend=backend,
        warnings=tuple(warnings),
    )
