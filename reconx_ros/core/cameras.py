"""Pinhole cameras. Pixel (0, 0) is the CENTRE of the first pixel, as in ROS and OpenCV."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reconx_ros.core.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class PinholeCamera:
    """Ideal pinhole camera; axes x right, y down, z forward.

    Attributes:
        width, height: image size in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels; (0, 0) is the centre of the first pixel, so an image spans
            [-0.5, width - 0.5]. COLMAP, gsplat and 3DGS add 0.5: use ``from_corner_origin`` / ``corner_origin_matrix``.

    Raises:
        InvalidInputError: at birth, for an empty image, or a focal length that is zero, negative or not finite.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InvalidInputError(f"camera image size is {self.width}x{self.height}, expected at least 1x1 pixel")
        for name in ("fx", "fy"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInputError(f"camera focal length {name} is {value}, expected a finite positive number")
        for name in ("cx", "cy"):
            if not math.isfinite(getattr(self, name)):
                raise InvalidInputError(f"camera principal point {name} is {getattr(self, name)}, expected finite")

    @classmethod
    def from_corner_origin(cls, width: int, height: int, fx: float, fy: float, cx: float, cy: float) -> PinholeCamera:
        """From intrinsics that put pixel (0, 0)'s centre at (0.5, 0.5): COLMAP, gsplat, 3DGS, nerfstudio."""
        return cls(width=width, height=height, fx=fx, fy=fy, cx=cx - 0.5, cy=cy - 0.5)

    @property
    def matrix(self) -> np.ndarray:
        """K [3, 3], pixel-centre origin."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    @property
    def corner_origin_matrix(self) -> np.ndarray:
        """K [3, 3] with the +0.5 principal point of COLMAP and gsplat."""
        return np.array([[self.fx, 0, self.cx + 0.5], [0, self.fy, self.cy + 0.5], [0, 0, 1.0]])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    def scaled_to(self, width: int, height: int) -> PinholeCamera:
        """The same view resampled to another size (area-true: the image borders stay the borders)."""
        sx, sy = width / self.width, height / self.height
        return PinholeCamera(
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def fitted_to(self, max_size: int, multiple: int = 1) -> PinholeCamera:
        """Shrunk (never enlarged) to a longer side of at most max_size; sides become multiples of ``multiple``."""
        ratio = min(1.0, max_size / max(self.width, self.height))
        width = max(multiple, round(self.width * ratio / multiple) * multiple)
        height = max(multiple, round(self.height * ratio / multiple) * multiple)
        return self.scaled_to(width, height)
