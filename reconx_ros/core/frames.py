"""What comes out of a camera: frames, and the few that are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from reconx_ros.core.cameras import PinholeCamera
from reconx_ros.core.checks import check_shape
from reconx_ros.core.errors import InvalidInputError
from reconx_ros.core.transforms import SE3

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One rectified image with what is known about it. Unknown is None.

    Attributes:
        rgb_u8: [H, W, 3] uint8, RGB.
        camera: intrinsics of exactly this image.
        stamp_ns: time of exposure in nanoseconds.
        world_from_cam: pose of the optical frame in the map frame.
        depth_m: [H, W] float32 metres on the same grid; 0 or NaN where the sensor saw nothing.
        camera_name: which of the robot's cameras.
        focal_uncertainty: relative standard deviation of the camera's focal length; 0 for a calibrated camera, a few
            per cent where it comes from a file's EXIF data, about 0.3 where it is a guess.

    Raises:
        InvalidInputError: at birth, when sizes or types disagree.
    """

    rgb_u8: np.ndarray  # [H, W, 3]
    camera: PinholeCamera
    stamp_ns: int = 0
    world_from_cam: SE3 | None = None
    depth_m: np.ndarray | None = None  # [H, W]
    camera_name: str = "camera"
    focal_uncertainty: float = 0.0

    def __post_init__(self) -> None:
        if self.rgb_u8.dtype != np.uint8:
            raise InvalidInputError(f"frame image has type {self.rgb_u8.dtype}, expected uint8 RGB")
        check_shape("frame image", self.rgb_u8, self.camera.height, self.camera.width, 3)
        if not 0 <= self.focal_uncertainty < 1:
            raise InvalidInputError(f"frame focal_uncertainty is {self.focal_uncertainty}, expected a number in [0, 1)")
        if self.depth_m is not None:
            check_shape("frame depth", self.depth_m, self.camera.height, self.camera.width)
            if self.depth_m.dtype != np.float32:
                raise InvalidInputError(f"frame depth has type {self.depth_m.dtype}, expected float32 metres")

    def rgb(self) -> torch.Tensor:
        """Image [H, W, 3] float32 in [0, 1]."""
        import torch

        return torch.from_numpy(self.rgb_u8.astype(np.float32) / 255.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Keyframe:
    """A frame that was kept for reconstruction.

    Attributes:
        id: unique within one map, rising, >= 0.
        frame: the frame itself.
        sharpness: variance of the Laplacian of the luminance, in squared 8-bit grey levels.
        overlap: share in [0, 1] of its content that the newest keyframe before it also saw; None for the first.
        reason: why it was kept, in a few words.
    """

    id: int
    frame: Frame
    sharpness: float
    overlap: float | None = None
    reason: str = field(default="")

    def __post_init__(self) -> None:
        if self.id < 0:
            raise InvalidInputError(f"keyframe id is {self.id}, expected a number >= 0")
