"""Stage 1, asked about in-between views: where they are seen from, and how well all agree (eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from reconx_ros.core import AlignedViews, Frame, Job, Keyframe, PinholeCamera, PointMap
from reconx_ros.core.registry import create
from reconx_ros.core.transforms import SE3
from reconx_ros.diffusion.base import FrameGeometry, InBetweenView
from reconx_ros.geometry.resize import resize_nearest
from reconx_ros.geometry.umeyama import align_poses
from reconx_ros.pointmap.base import PointmapBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.registry import automatic, registry
from reconx_ros.weights.cache import ModelCache, sharing


class Stage1Estimator:
    """Runs a stage-1 backend over keyframes and in-between views together; see ``FrameEstimator``.

    A backend that the configuration names is asked itself if it both takes poses and finds them, as pointmap networks
    do. Otherwise ``auto`` chooses: multi-view stereo, after structure from motion where poses are sought; sensors see
    no in-between view.
    """

    def __init__(self, config: PointmapConfig, models: ModelCache | None = None) -> None:
        self._config = config
        self._models = models

    def __call__(
        self,
        known: AlignedViews,
        frames: Sequence[InBetweenView],
        *,
        find_poses: bool,
        device: torch.device,
        job: Job,
    ) -> Sequence[FrameGeometry | None]:
        """Geometry of every frame in the world of the known views; see ``FrameEstimator``.

        Poses that were found are brought to that world by the similarity between the found and the known poses of the
        keyframes; it takes at least two of them.

        Raises:
            InvalidInputError: when fewer than two keyframes could be joined to the frames.
            ReconxError: when the backend cannot use the frames.
        """
        exact = replace(self._config, network_holds_poses=True, refine_poses=False, min_depth=0.0, max_depth=0.0)
        keyframes = [
            _keyframe(k, v.rgb, v.camera, None if find_poses else v.world_from_cam) for k, v in enumerate(known.views)
        ]
        first = len(keyframes)
        for k, frame in enumerate(frames):
            pose = None if find_poses else frame.world_from_cam
            keyframes.append(_keyframe(first + k, frame.rgb, frame.camera, pose))
        found = self._backend(find_poses).reconstruct(keyframes, exact, device=device, job=job)
        joined = {view.keyframe_id: view for view in found.views}
        factor, poses = _in_known_world(known, joined) if find_poses else (1.0, {})
        return [
            _geometry(frame, joined.get(first + k), factor, poses.get(first + k, frame.world_from_cam))
            for k, frame in enumerate(frames)
        ]

    def _backend(self, find_poses: bool) -> PointmapBackend:
        rows, name = registry(), self._config.backend
        if name not in rows or not (rows[name].takes_poses and rows[name].finds_poses):
            name = automatic(posed=not find_poses, depth=False)
        backend: PointmapBackend = create(rows, name, kind="pointmap backend")
        return sharing(backend, self._models)


def _keyframe(number: int, rgb: torch.Tensor, camera: PinholeCamera, world_from_cam: SE3 | None) -> Keyframe:
    rgb_u8 = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    frame = Frame(rgb_u8=np.ascontiguousarray(rgb_u8), camera=camera, world_from_cam=world_from_cam)
    return Keyframe(id=number, frame=frame, sharpness=1.0)


def _in_known_world(known: AlignedViews, joined: Mapping[int, PointMap]) -> tuple[float, dict[int, SE3]]:
    """Scale and poses by number of the found views, in the known world."""
    both = [k for k in range(len(known.views)) if k in joined]
    known_from_found = align_poses(
        [known.views[k].world_from_cam for k in both], [joined[k].world_from_cam for k in both]
    )
    poses = {k: known_from_found.apply_pose(view.world_from_cam) for k, view in joined.items()}
    return known_from_found.scale, poses


def _geometry(frame: InBetweenView, view: PointMap | None, factor: float, world_from_cam: SE3) -> FrameGeometry | None:
    if view is None:
        return None
    width, height = frame.camera.size
    depth = torch.where(view.valid, view.depth * factor, 0.0)
    confidence = torch.where(view.valid, view.confidence, 0.0)
    return FrameGeometry(
        world_from_cam=world_from_cam,
        depth=resize_nearest(depth, width, height),
        confidence=resize_nearest(confidence, width, height),
    )
