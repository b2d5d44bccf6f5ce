"""Images on the grid that the network was trained on: resized to a long side, cropped to whole patches.

Resampling follows Pillow's, bit for bit, in exact integer arithmetic: that is what the published networks were trained
with, and a resize by another library shifts their outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import InvalidInputError, PinholeCamera, check_shape

SQUARE_SIZE = 224  # networks of this size take square images, all others keep the aspect
_FRACTION_BITS = 22  # of Pillow's 8-bit resampling
_PATCH = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkImage:
    """One image as the network takes it.

    Attributes:
        rgb_u8: [H, W, 3] uint8.
        camera: intrinsics on this grid; None when those of the picture were not given.
    """

    rgb_u8: np.ndarray  # [H, W, 3]
    camera: PinholeCamera | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.rgb_u8.shape[0]), int(self.rgb_u8.shape[1])

    def tensor(self) -> torch.Tensor:
        """[3, H, W] float32 in [-1, 1]."""
        scaled = torch.from_numpy(np.ascontiguousarray(self.rgb_u8)).permute(2, 0, 1).float() / 255
        return (scaled - 0.5) / 0.5


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """Resize to (width, height), then cut out the box (left, top, right, bottom); all in pixels."""

    resized: tuple[int, int]
    box: tuple[int, int, int, int]


def plan_grid(
    width: int, height: int, size: int, *, square: bool | None = None, square_ok: bool = False, patch: int = _PATCH
) -> GridPlan:
    """Where an image of a size goes.

    Args:
        width, height: of the image.
        size: longer side of the result.
        square: cut a square of that size from the middle; None does so for size 224, as the published networks want.
        square_ok: keep a square image square; otherwise it is cut to 4:3.
        patch: sides of the result are multiples of it.

    Raises:
        InvalidInputError: when nothing of the image would be left.
    """
    square = size == SQUARE_SIZE if square is None else square
    long = round(size * max(width / height, height / width)) if square else size
    scale = long / max(width, height)
    w, h = round(width * scale), round(height * scale)
    cx, cy = w // 2, h // 2
    if square:
        half_w = half_h = min(cx, cy)
    else:
        half_w, half_h = ((2 * c) // patch * patch // 2 for c in (cx, cy))
        if w == h and not square_ok:
            half_h = 3 * half_w // 4 // (patch // 2) * (patch // 2)
    if half_w < 1 or half_h < 1:
        raise InvalidInputError(
            f"image of {width}x{height} px becomes {w}x{h} px, expected at least {patch} px on both sides"
        )
    return GridPlan(resized=(w, h), box=(cx - half_w, cy - half_h, cx + half_w, cy + half_h))


def prepare_image(
    rgb_u8: np.ndarray,
    size: int,
    *,
    camera: PinholeCamera | None = None,
    square: bool | None = None,
    square_ok: bool = False,
    patch: int = _PATCH,
) -> NetworkImage:
    """Resize and crop one image, and its intrinsics with it.

    Args:
        rgb_u8: [H, W, 3] uint8.
        size, square, square_ok, patch: as ``plan_grid``.
        camera: intrinsics of the image.

    Raises:
        InvalidInputError: for an image of another shape or type, or one that is too narrow.
    """
    check_shape("image", rgb_u8, "H", "W", 3)
    if rgb_u8.dtype != np.uint8:
        raise InvalidInputError(f"image has type {rgb_u8.dtype}, expected uint8 RGB")
    height, width = rgb_u8.shape[:2]
    plan = plan_grid(width, height, size, square=square, square_ok=square_ok, patch=patch)
    resize = resize_lanczos if max(width, height) > max(plan.resized) else resize_bicubic
    left, top, right, bottom = plan.box
    cropped = resize(rgb_u8, *plan.resized)[top:bottom, left:right]
    moved = None if camera is None else _cropped_camera(camera.scaled_to(*plan.resized), plan.box)
    return NetworkImage(rgb_u8=np.ascontiguousarray(cropped), camera=moved)


def _cropped_camera(camera: PinholeCamera, box: tuple[int, int, int, int]) -> PinholeCamera:
    left, top, right, bottom = box
    return PinholeCamera(
        width=right - left, height=bottom - top, fx=camera.fx, fy=camera.fy, cx=camera.cx - left, cy=camera.cy - top
    )


def resize_lanczos(rgb_u8: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pillow's LANCZOS resampling of [H, W, C] uint8 to [height, width, C]."""
    return _resize(rgb_u8, width, height, _lanczos, 3.0)


def resize_bicubic(rgb_u8: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pillow's BICUBIC resampling of [H, W, C] uint8 to [height, width, C]."""
    return _resize(rgb_u8, width, height, _bicubic, 2.0)


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.5, np.abs(x)  # Catmull-Rom
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _resize(
    rgb_u8: np.ndarray, width: int, height: int, kernel: Callable[[np.ndarray], np.ndarray], support: float
) -> np.ndarray:
    """Rows first, then columns, each rounded to 8 bits."""
    rows = _filtered(rgb_u8.transpose(1, 0, 2), width, kernel, support)
    return _filtered(rows.transpose(1, 0, 2), height, kernel, support)


def _filtered(values: np.ndarray, size: int, kernel: Callable[[np.ndarray], np.ndarray], support: float) -> np.ndarray:
    """[N, M, C] uint8 resampled along the first axis to [size, M, C]; sums of whole numbers, below 2**31 each."""
    count = len(values)
    if count == size:
        return values
    index, weights = _taps(count, size, kernel, support)
    flat = values.reshape(count, -1).astype(np.int32)
    sums = np.full((size, flat.shape[1]), 1 << (_FRACTION_BITS - 1), np.int32)
    for k in range(index.shape[1]):
        sums += weights[:, k, None] * flat[index[:, k]]
    return np.clip(sums >> _FRACTION_BITS, 0, 255).astype(np.uint8).reshape(size, *values.shape[1:])


def _taps(
    count: int, size: int, kernel: Callable[[np.ndarray], np.ndarray], support: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which inputs each output sums, and how: indices [size, K] and int32 weights [size, K] of about 2**22 per row."""
    step = count / size
    stretch = max(step, 1.0)
    centre = (np.arange(size) + 0.5) * step
    low = np.maximum(np.trunc(centre - support * stretch + 0.5), 0).astype(np.intp)
    high = np.minimum(np.trunc(centre + support * stretch + 0.5), count).astype(np.intp)
    index = low[:, None] + np.arange(int((high - low).max()))
    taps = np.where(index < high[:, None], kernel((index - centre[:, None] + 0.5) / stretch), 0.0)
    fixed = taps / taps.sum(axis=1, keepdims=True) * 2.0**_FRACTION_BITS
    return np.minimum(index, count - 1), np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)
