"""What matchers exchange with those who use them: points of an image, and pairs of points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reconx_ros.core import PinholeCamera
from reconx_ros.core.checks import check_finite, check_shape

_HELD_OUT = 5  # one match in so many is held out


def normalised_rays(uv: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """Pixels [..., 2] on the plane z = 1 of a camera."""
    return (uv - np.array([camera.cx, camera.cy])) / np.array([camera.fx, camera.fy])


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Points of one image that a matcher can find again in others.

    Attributes:
        uv: [N, 2] float64 pixels on the grid of ``camera``; (0, 0) is the centre of the first pixel.
        camera: intrinsics of the image.
        descriptors: what the matcher that found the points matches them by; nobody else looks at it.
        sizes_px: [N] diameter of what each point stands for; None where the matcher does not know.
        angles_deg: [N] its direction in the image, clockwise from +u; None where the matcher does not know.

    Raises:
        InvalidInputError: for points of another shape, or that are not finite.
    """

    uv: np.ndarray  # [N, 2]
    camera: PinholeCamera
    descriptors: Any = None
    sizes_px: np.ndarray | None = None  # [N]
    angles_deg: np.ndarray | None = None  # [N]

    def __post_init__(self) -> None:
        dims = check_shape("features uv", self.uv, "N", 2)
        check_finite("features uv", self.uv)
        for name in ("sizes_px", "angles_deg"):
            if getattr(self, name) is not None:
                check_shape(f"features {name}", getattr(self, name), "N", dims=dims)

    def __len__(self) -> int:
        return len(self.uv)

    @cached_property
    def rays(self) -> np.ndarray:
        """The points [N, 2] on the plane z = 1 of the camera."""
        return normalised_rays(self.uv, self.camera)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Points of images a and b that may be the same, the least ambiguous first.

    Attributes:
        index: [M, 2] feature of a, feature of b.
        ratio: [M] in [0, 1): how ambiguous each match is, on the scale of Lowe's ratio test: the distance to the best
            over the distance to the second best candidate. Below 0.8 a match counts as distinctive. A matcher that
            has probabilities instead of distances gives what they correspond to.

    Raises:
        InvalidInputError: for arrays of another shape, or a ratio that is not finite.
    """

    index: np.ndarray  # [M, 2]
    ratio: np.ndarray  # [M]

    def __post_init__(self) -> None:
        dims = check_shape("matches index", self.index, "M", 2)
        check_shape("matches ratio", self.ratio, "M", dims=dims)
        check_finite("matches ratio", self.ratio)

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def none(cls) -> Matches:
        """No match at all."""
        return cls(index=np.zeros((0, 2), np.int64), ratio=np.zeros(0))

    @classmethod
    def ordered(cls, index: np.ndarray, ratio: np.ndarray) -> Matches:
        """The same, brought into order; equal ratios keep theirs."""
        order = np.argsort(ratio, kind="stable")
        return cls(index=index[order], ratio=ratio[order])

    def select(self, mask: np.ndarray) -> Matches:
        """The matches where mask [M] (bool or indices) says so."""
        return Matches(index=self.index[mask], ratio=self.ratio[mask])

    def held_out(self) -> np.ndarray:
        """Mask [M] of the matches that no estimation may use: every fifth in order of distinctiveness.

        They tell afterwards whether a geometry is true: chance inliers of a wrong one do not repeat in them.
        """
        return np.arange(len(self)) % _HELD_OUT == _HELD_OUT // 2
