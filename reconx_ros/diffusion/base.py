"""The interface of view generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from reconx_ros.core import SE3, AlignedViews, Job, PinholeCamera, Trajectory, ViewSequence, check_shape
from reconx_ros.diffusion.config import DiffusionConfig


class ViewGenerator(Protocol):
    """Stage 2: aligned views to dense frames along a path. Instances hold no state between calls."""

    name: str

    def generate(
        self, views: AlignedViews, trajectory: Trajectory, config: DiffusionConfig, *, device: torch.device, job: Job
    ) -> ViewSequence:
        """Frames along the trajectory, each with confidence and provenance.

        Args:
            views: stage 1's result.
            trajectory: poses between (and beyond) the keyframes; the keyframes themselves are added by the backend.
                Video models make as many frames as their clips have and plan their own path (``config.path``); where
                they warp instead, they take this one.
            config: stage settings.
            device: where torch computes.
            job: progress and cancellation.

        Returns:
            The keyframes (``is_input``) in the order of the views, then the in-between views of the path; on the CPU.

        Raises:
            CancelledError: when the job was cancelled.
            InvalidInputError: for views or weights that cannot be used.
            BackendUnavailableError: without weights.
            ReconstructionError: when the frames do not fit into memory.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class InBetweenView:
    """An in-between view as a video model gives it, before anybody says what it is worth.

    Attributes:
        rgb: [H, W, 3] in [0, 1].
        camera: its intrinsics.
        world_from_cam: where it was planned to be seen from.
    """

    rgb: torch.Tensor  # [H, W, 3]
    camera: PinholeCamera
    world_from_cam: SE3


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameGeometry:
    """What stage 1 says about an in-between view.

    Attributes:
        world_from_cam: where it is seen from.
        depth: [H, W] z-depth on the frame's grid; 0 where unknown.
        confidence: [H, W] in [0, 1], how well the frames agree on it (eq. 6's stand-in); 0 where unknown.
    """

    world_from_cam: SE3
    depth: torch.Tensor  # [H, W]
    confidence: torch.Tensor  # [H, W]

    def __post_init__(self) -> None:
        dims = check_shape("frame depth", self.depth, "H", "W")
        check_shape("frame confidence", self.confidence, "H", "W", dims=dims)


class FrameEstimator(Protocol):
    """Stage 1, asked about in-between views. Stages do not know each other; the pipeline passes it in."""

    def __call__(
        self,
        known: AlignedViews,
        frames: Sequence[InBetweenView],
        *,
        find_poses: bool,
        device: torch.device,
        job: Job,
    ) -> Sequence[FrameGeometry | None]:
        """Geometry of every frame in the world of the known views; None for one that cannot be joined to them.

        Args:
            known: stage 1's result for the keyframes.
            frames: in-between views, in order of the path.
            find_poses: False takes the planned poses as they are.
            device: where torch computes.
            job: progress and cancellation.

        Raises:
            ReconxError: when stage 1 cannot use the frames.
        """
        ...


@runtime_checkable
class UsesEstimator(Protocol):
    """A generator that asks stage 1 about its frames."""

    def with_estimator(self, estimator: FrameEstimator) -> ViewGenerator:
        """The same generator with that estimator."""
        ...
