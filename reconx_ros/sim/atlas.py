"""All textures of a room in one picture, each with its mip levels, so that shading a frame is two table look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import InvalidInputError

_LEVELS = 6
_GUTTER = 2  # texels repeated around each picture, for bilinear sampling at its border
_WIDTH = 4096
_LARGEST = 32000  # OpenCV's remap addresses at most this many texels
_ROW = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Atlas:
    """Packed mip levels of S textures.

    Attributes:
        image: [AH, AW, 3] uint8.
        corner: [S, L, 2] float32, x and y of each picture's first texel.
        extent: [S, L, 2] float32, width and height of each picture in texels.
        texel_m: [S] float32, edge of a texel at level 0.
    """

    image: np.ndarray  # [AH, AW, 3]
    corner: np.ndarray  # [S, L, 2]
    extent: np.ndarray  # [S, L, 2]
    texel_m: np.ndarray  # [S]

    def sample(self, surface: np.ndarray, uv: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
        """Colours [N, 3] float32 in [0, 255] by trilinear look-up.

        Args:
            surface: [N] which texture.
            uv: [N, 2] position in it, (right, down) in [0, 1].
            footprint_m: [N] extent of a pixel on the surface, metres; what is finer is averaged.
        """
        if not len(surface):
            return np.zeros((0, 3), np.float32)
        level = np.log2(np.maximum(footprint_m / self.texel_m[surface], 1e-6))
        level = np.clip(level, 0, self.corner.shape[1] - 1.001).astype(np.float32)
        low = level.astype(np.intp)
        share = (level - low.astype(np.float32))[:, None]
        below = self._sample_level(surface, uv, low)
        return below + share * (self._sample_level(surface, uv, low + 1) - below)

    def _sample_level(self, surface: np.ndarray, uv: np.ndarray, level: np.ndarray) -> np.ndarray:
        import cv2

        index = surface * self.corner.shape[1] + level
        place = self.corner.reshape(-1, 2)[index] + uv * self.extent.reshape(-1, 2)[index] - np.float32(0.5)
        rows = -(-len(place) // _ROW)  # remap wants an image, and no side longer than 32767
        grid = np.zeros((rows * _ROW, 2), np.float32)
        grid[: len(place)] = place
        found = cv2.remap(self.image, grid.reshape(rows, _ROW, 2), None, cv2.INTER_LINEAR)  # type: ignore[call-overload]
        return np.asarray(found.reshape(-1, 3)[: len(place)], dtype=np.float32)


def pack(textures: Sequence[np.ndarray], texels_m: Sequence[float]) -> Atlas:
    """Pack textures [h, w, 3] float32 in [0, 1] with their mip levels.

    Raises:
        InvalidInputError: when they need more texels than can be addressed.
    """
    levels = [_mip_levels(t) for t in textures]
    sizes = np.array([[(m.shape[1], m.shape[0]) for m in mips] for mips in levels])  # [S, L, 2]
    corner, (width, height) = _places(sizes.reshape(-1, 2) + 2 * _GUTTER)
    if max(width, height) > _LARGEST:
        raise InvalidInputError(
            f"textures need an atlas of {width}x{height} texels, expected at most {_LARGEST}: choose a larger texel_m"
        )
    image = np.zeros((height, width, 3), np.uint8)
    for picture, (x, y) in zip((m for mips in levels for m in mips), corner, strict=True):
        _insert(image, picture, int(x), int(y))
    return Atlas(
        image=image,
        corner=(corner + _GUTTER).reshape(sizes.shape).astype(np.float32),
        extent=sizes.astype(np.float32),
        texel_m=np.array(texels_m, np.float32),
    )


def _mip_levels(texture: np.ndarray) -> list[np.ndarray]:
    """L pictures uint8, each half the size of the one before it, area-averaged; the smallest has one texel."""
    import cv2

    mips = [texture]
    for _ in range(_LEVELS - 1):
        height, width = mips[-1].shape[:2]
        smaller = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
        mips.append(cv2.resize(mips[-1], smaller, interpolation=cv2.INTER_AREA))
    return [np.rint(np.clip(m, 0, 1) * 255).astype(np.uint8) for m in mips]


def _places(sizes: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Corners [N, 2] of rectangles (width, height) [N, 2] put in rows, tallest first; and the whole (width, height)."""
    width = max(_WIDTH, int(sizes[:, 0].max()))
    corner = np.zeros_like(sizes)
    x = y = row_height = 0
    for k in np.lexsort((-sizes[:, 0], -sizes[:, 1])):
        if x + sizes[k, 0] > width:
            x, y, row_height = 0, y + row_height, 0
        corner[k] = x, y
        x += int(sizes[k, 0])
        row_height = max(row_height, int(sizes[k, 1]))
    return corner, (width, y + row_height)


def _insert(image: np.ndarray, picture: np.ndarray, x: int, y: int) -> None:
    padded = np.pad(picture, ((_GUTTER, _GUTTER), (_GUTTER, _GUTTER), (0, 0)), mode="edge")
    image[y : y + padded.shape[0], x : x + padded.shape[1]] = padded
