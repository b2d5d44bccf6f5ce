"""Baselines that a reconstruction should beat: the nearest input picture, and that picture warped by depth."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import SE3, AlignedViews, PinholeCamera, PointMap
from reconx_ros.evaluation.heldout import HeldOutTask
from reconx_ros.geometry.view_blending import BlendSettings, blend_views
from reconx_ros.geometry.visibility import Surface, make_surface
from reconx_ros.splatting.holes import push_pull

_MIN_CONFIDENCE = 0.01  # of a pixel that is warped: every depth that stage 1 found


def nearest_inputs(task: HeldOutTask, pose: SE3) -> list[int]:
    """Places of the inputs, the one taken from nearest by a true pose first.

    Nearest is the smallest sum of the distance, in mean distances between inputs, and of the angle in radians.
    """
    unit = mean_baseline(task) or 1.0
    away = [p.distance_to(pose) / unit + p.angle_to(pose) for p in task.truth]
    return [int(i) for i in np.argsort(away, kind="stable")]


def mean_baseline(task: HeldOutTask) -> float:
    """Mean distance between the inputs' cameras; 0 where they share one place."""
    pairs = [a.distance_to(b) for i, a in enumerate(task.truth) for b in task.truth[:i]]
    return float(np.mean(pairs)) if pairs else 0.0


def nearest_picture(task: HeldOutTask, camera: PinholeCamera, pose: SE3) -> np.ndarray:
    """The nearest input picture in the size of a held-out one [H, W, 3] uint8."""
    import cv2

    picture = task.keyframes[nearest_inputs(task, pose)[0]].frame.rgb_u8
    out: np.ndarray = cv2.resize(picture, camera.size, interpolation=cv2.INTER_AREA)
    return out


class WarpedNearest:
    """The nearest input picture moved to the held-out view by stage 1's depth.

    Args:
        task: inputs and their true poses, which choose the nearest one.
        views: stage 1's result.
        fill_holes: paint pixels where depth tells nothing as the method's own pictures are; black if not.
    """

    def __init__(self, task: HeldOutTask, views: AlignedViews, *, fill_holes: bool) -> None:
        self._task, self._settings, self._fill_holes = task, BlendSettings(), fill_holes
        self._surfaces = {v.keyframe_id: self._surface(v) for v in views.views}

    def _surface(self, view: PointMap) -> Surface:
        return make_surface(view, min_confidence=_MIN_CONFIDENCE, max_step=self._settings.max_step)

    def picture(self, camera: PinholeCamera, pose: SE3, pose_in_map: SE3) -> np.ndarray:
        """Picture [H, W, 3] uint8.

        Args:
            camera: of the held-out view.
            pose: its true pose.
            pose_in_map: its pose in stage 1's world.
        """
        surface = next(self._surfaces[i] for i in nearest_inputs(self._task, pose) if i in self._surfaces)
        view = blend_views([surface], camera, pose_in_map, self._settings)
        rgb = view.rgb * view.hit[..., None]
        if self._fill_holes:
            rgb = push_pull(rgb, view.hit.float())
        out: np.ndarray = (255 * rgb.clamp(0, 1).numpy()).round().astype(np.uint8)
        return out
