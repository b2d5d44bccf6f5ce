"""Small rooms as stage 1 would hand them over, and a stand-in for a video model, shared by the tests of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pointmap_scenes import cast, look_at, pinhole, room

from reconx_ros.core import SE3, AlignedViews, Job, PinholeCamera, PointMap
from reconx_ros.diffusion.clips.plan import ClipPlan
from reconx_ros.diffusion.clips.run import ClipFrames, ClipRequest
from reconx_ros.diffusion.clips.video_generator import VideoGenerator
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.weights.cache import ModelCache

SIZE = 64
CAMERA = pinhole(SIZE, SIZE)


def room_pose(k: float) -> SE3:
    """A robot that drives sideways, 20 cm between keyframes."""
    return look_at((-1.8, -0.5 + 0.2 * k, 1.1), (1.0, 0.05 * k, 0.8))


def room_view(pose: SE3, number: int = 0, camera: PinholeCamera = CAMERA, confidence: float = 0.9) -> PointMap:
    rgb, depth = cast(room(), camera, pose)
    return PointMap(
        rgb=torch.from_numpy(rgb.astype(np.float32)),
        depth=torch.from_numpy(depth.astype(np.float32)),
        confidence=torch.full(depth.shape, confidence),
        valid=torch.ones(depth.shape, dtype=torch.bool),
        provenance=torch.ones(depth.shape, dtype=torch.uint8),
        camera=camera,
        world_from_cam=pose,
        keyframe_id=number,
    )


def aligned(*views: PointMap) -> AlignedViews:
    return AlignedViews(views=views, metric_scale=True, scale_source="test", backend="test")


def room_views(count: int = 2, **options: Any) -> AlignedViews:
    return aligned(*(room_view(room_pose(k), k, **options) for k in range(count)))


def circle_views(degrees: Sequence[float], radius: float = 2.0) -> AlignedViews:
    """Empty views on a circle around the origin, looking at it."""
    views = []
    for k, angle in enumerate(np.deg2rad(degrees)):
        pose = SE3.exp(np.array([0.0, -angle, 0.0]), radius * np.array([np.sin(angle), 0.0, -np.cos(angle)]))
        views.append(
            PointMap(
                rgb=torch.zeros(SIZE, SIZE, 3),
                depth=torch.full((SIZE, SIZE), radius),
                confidence=torch.ones(SIZE, SIZE),
                valid=torch.ones(SIZE, SIZE, dtype=torch.bool),
                provenance=torch.ones(SIZE, SIZE, dtype=torch.uint8),
                camera=CAMERA,
                world_from_cam=pose,
                keyframe_id=k,
            )
        )
    return aligned(*views)


class StubModel:
    """Stands in for a video model: cross-fades between its two pictures, and remembers what it was asked."""

    uses_points = True

    def __init__(self, *, told_path: bool = True, error: BaseException | None = None, nan: bool = False) -> None:
        self.requests: list[ClipRequest] = []
        self._told_path, self._error, self._nan = told_path, error, nan

    def follows_path(self, config: DiffusionConfig) -> bool:
        return self._told_path

    def frame_count(self, config: DiffusionConfig) -> int:
        return config.clip_frames or 5

    def check(self, plans: Sequence[ClipPlan], config: DiffusionConfig) -> None:
        pass

    def fill(self, request: ClipRequest, config: DiffusionConfig, job: Job) -> ClipFrames:
        job.step(0.5, "fading")
        self.requests.append(request)
        if self._error is not None:
            raise self._error
        share = (torch.arange(len(request.trajectory)) / request.second_frame).clamp_max(1)[:, None, None, None]
        frames = (1 - share) * request.first + share * request.second
        return ClipFrames(frames=frames * torch.nan if self._nan else frames, warnings=("made by a stub",))


def generator_of(model: Any, estimator: Any = None, models: ModelCache | None = None) -> VideoGenerator:
    """A generator whose weights are already there."""

    class Loaded(VideoGenerator):
        name = "stub"

        def load(self, config: DiffusionConfig, device: torch.device) -> Any:
            return model

    return Loaded(estimator, models)
