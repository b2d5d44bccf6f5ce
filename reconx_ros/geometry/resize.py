"""Resampling of images and depth maps that keeps pixel centres where ``PinholeCamera.scaled_to`` says they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from reconx_ros.core import InvalidInputError, check_shape

if TYPE_CHECKING:
    import torch

Values = TypeVar("Values", "torch.Tensor", np.ndarray)


def area_weights(size_in: int, size_out: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Share [size_out, size_in] of each input pixel in each output pixel; rows sum to one.

    An output pixel is the mean of the input over its own footprint (box filter with fractional ends), so image borders
    stay the borders. Enlarging repeats pixels.

    Raises:
        InvalidInputError: for a size below one pixel.
    """
    import torch

    if size_in < 1 or size_out < 1:
        raise InvalidInputError(f"image cannot be resized from {size_in} to {size_out} pixels, expected at least 1")
    ratio = size_in / size_out
    low = torch.arange(size_out, dtype=torch.float64)[:, None] * ratio  # [O, 1]
    pixel = torch.arange(size_in, dtype=torch.float64)[None, :]  # [1, I]
    overlap = torch.minimum(low + ratio, pixel + 1) - torch.maximum(low, pixel)
    return (overlap.clamp_min(0) / ratio).to(device=device, dtype=torch.float32)


def resize_area(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Area-true resampling of an image [H, W, C] to [height, width, C] (the box filter of OpenCV's INTER_AREA).

    Raises:
        InvalidInputError: for an image of another shape or a size below one pixel.
    """
    import torch

    dims = check_shape("image", image, "H", "W", "C")
    if (dims["W"], dims["H"]) == (width, height):
        return image
    rows = area_weights(dims["H"], height, device=image.device).to(image.dtype)  # [h, H]
    columns = area_weights(dims["W"], width, device=image.device).to(image.dtype)  # [w, W]
    return torch.einsum("hy,yxc,wx->hwc", rows, image, columns)


def resize_nearest(values: Values, width: int, height: int) -> Values:
    """Values [H, W] at the input pixel under the centre of each output pixel: [height, width]; nothing is mixed.

    Takes tensors and arrays, and gives what it took.

    Raises:
        InvalidInputError: for values of another shape.
    """
    dims = check_shape("depth", values, "H", "W")
    rows, columns = _centres(dims["H"], height), _centres(dims["W"], width)
    return values[rows[:, None], columns[None, :]]


def resize_lanczos(rgb_u8: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image [H, W, 3] uint8 at another size by Pillow's LANCZOS filter, antialiased.

    DUSt3R's networks were trained and pixelSplat's figures were measured on pictures scaled so; the filter of another
    library shifts both.

    Raises:
        InvalidInputError: for another shape or type, or an empty size.
    """
    return _resized_by_pillow(rgb_u8, width, height, "LANCZOS")


def resize_bicubic(rgb_u8: np.ndarray, width: int, height: int) -> np.ndarray:
    """As ``resize_lanczos``, by Pillow's BICUBIC filter, which DUSt3R enlarges with."""
    return _resized_by_pillow(rgb_u8, width, height, "BICUBIC")


def _resized_by_pillow(rgb_u8: np.ndarray, width: int, height: int, kernel: str) -> np.ndarray:
    from PIL import Image

    check_shape("image", rgb_u8, "H", "W", 3)
    if rgb_u8.dtype != np.uint8 or width < 1 or height < 1:
        raise InvalidInputError(f"image is {rgb_u8.dtype} and wanted at {width}x{height}, expected uint8 and one pixel")
    picture = Image.fromarray(np.ascontiguousarray(rgb_u8))
    return np.array(picture.resize((width, height), getattr(Image, kernel)))


def _centres(size_in: int, size_out: int) -> np.ndarray:
    """The input pixel [size_out] under the centre of each output pixel."""
    return np.minimum(((np.arange(size_out) + 0.5) * (size_in / size_out)).astype(np.int64), size_in - 1)
