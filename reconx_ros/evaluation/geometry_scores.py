"""Cameras, depth and cloud of stage 1 against what a scene knows of them; empty where it knows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from reconx_ros.core import AlignedViews, Provenance, Sim3
from reconx_ros.evaluation.clouds import cloud_errors, truth_cloud
from reconx_ros.evaluation.depth import depth_ratios, ratio_figures
from reconx_ros.evaluation.heldout import HeldOutTask
from reconx_ros.evaluation.poses import pose_figures
from reconx_ros.pipeline.clouds import confident_share, pointmap_cloud

_MIN_CONFIDENCE = 0.5


def pose_scores(task: HeldOutTask, views: AlignedViews) -> dict[str, Any]:
    """``pose_figures`` of the input poses as stage 1 left them, in metres where the scene has them.

    Returns:
        Empty for given poses. "scale_error" (relative) where stage 1 says that its unit is the metre and the scene's
        is; "metric_scale" says whether it does. For odometry, "before" holds the same figures of what went in.
    """
    if task.poses == "given":
        return {}
    found = {v.keyframe_id: v.world_from_cam for v in views.views}
    estimate = [found.get(k.id) for k in task.keyframes]
    figures: dict[str, Any] = {**pose_figures(estimate, task.truth), "metric_scale": views.metric_scale}
    if views.metric_scale and task.metric_scale and "scale" in figures:
        figures["scale_error"] = abs(1 / figures["scale"] - 1)
    if task.poses == "odometry":
        figures["before"] = pose_figures([k.frame.world_from_cam for k in task.keyframes], task.truth)
    return figures


def depth_scores(task: HeldOutTask, views: AlignedViews, map_from_truth: Sim3) -> dict[str, Any]:
    """Depth of confident measured pixels (0.5 and more) of all inputs against the sensor, and of inferred ones.

    Empty without a sensor or metres.

    Where the poses were found, depth is first scaled by the alignment of the poses, so that it says nothing of scale.
    """
    ratios = [
        depth_ratios(view, truth, min_confidence=_MIN_CONFIDENCE, kind=Provenance.OBSERVED) / map_from_truth.scale
        for view in views.views
        if (truth := task.depths[view.keyframe_id]) is not None
    ]
    if not (ratios and task.metric_scale):
        return {}
    guessed = [
        depth_ratios(view, truth, min_confidence=0.0, kind=Provenance.INFERRED) / map_from_truth.scale
        for view in views.views
        if (truth := task.depths[view.keyframe_id]) is not None
    ]
    return {
        **ratio_figures(np.concatenate(ratios)),
        "inferred": ratio_figures(np.concatenate(guessed)),
        "min_confidence": _MIN_CONFIDENCE,
        "confident_share": confident_share(views, _MIN_CONFIDENCE, Provenance.OBSERVED),
        "truth": "depth sensor",
    }


def cloud_scores(task: HeldOutTask, views: AlignedViews, map_from_truth: Sim3, min_confidence: float) -> dict[str, Any]:
    """Accuracy, completeness and F-scores of the measured points of the cloud, and of all ("all_kinds").

    Empty without metres or sensor depth.

    The truth is the sensor depth of the inputs at their true poses: what the cameras could have mapped. Where the poses
    were found, the cloud is aligned by the similarity of the poses.
    """
    seen = [
        (depth, keyframe.frame.camera, pose)
        for depth, keyframe, pose in zip(task.depths, task.keyframes, task.truth, strict=True)
        if depth is not None
    ]
    if not (seen and task.metric_scale):
        return {}
    cloud = pointmap_cloud(views, min_confidence)
    points = map_from_truth.inverse().apply(cloud.points.astype(np.float64))
    measured, truth = cloud.provenance == int(Provenance.OBSERVED), truth_cloud(seen)
    return {
        **cloud_errors(points[measured], truth),
        "all_kinds": cloud_errors(points, truth),
        "min_confidence": min_confidence,
        "truth": f"depth sensor of {len(seen)} inputs at given poses",
        "alignment": "none" if task.poses == "given" else "Sim(3) of the input poses",
    }
