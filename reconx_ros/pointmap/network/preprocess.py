"""Images on the grid that the network was trained on: resized to a long side, cropped to whole patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import InvalidInputError, PinholeCamera, check_shape
from reconx_ros.geometry.resize import resize_bicubic, resize_lanczos

SQUARE_SIZE = 224  # networks of this size take square images, all others keep the aspect
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
