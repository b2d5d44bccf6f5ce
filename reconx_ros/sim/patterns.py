"""Building blocks of procedural textures: band-limited noise, tilings and colours.

All lengths are metres on the surface; ``texel_m`` is the edge of a texel. Nothing here is finer than about three
texels, so that sampling the texture with its mip levels does not alias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FINEST_TEXELS = 3.0
SCALES_M = (0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The texture to be painted.

    Attributes:
        height, width: in texels.
        texel_m: edge of a texel in metres.
        seed: of every random choice.
    """

    height: int
    width: int
    texel_m: float
    seed: int

    def rng(self, stream: int = 0) -> np.random.Generator:
        """A fresh generator; each stream is independent of the others."""
        return np.random.default_rng([self.seed, stream])

    def metres(self) -> tuple[np.ndarray, np.ndarray]:
        """Texel centres as x [1, W] to the right and y [H, 1] downwards, float32 metres."""
        x = (np.arange(self.width, dtype=np.float32)[None, :] + 0.5) * np.float32(self.texel_m)
        y = (np.arange(self.height, dtype=np.float32)[:, None] + 0.5) * np.float32(self.texel_m)
        return x, y


def noise(
    canvas: Canvas,
    stream: int,
    *,
    scales_m: Sequence[float] = SCALES_M,
    persistence: float = 0.8,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """Sum of octaves of cubic value noise, [H, W] float32 of about zero mean and unit deviation.

    Args:
        canvas: size and seed.
        stream: which of the canvas's random streams.
        scales_m: wavelength of each octave; those the texels cannot hold are left out.
        persistence: amplitude of each octave over that of the one before it.
        stretch: factors on the wavelength along (x, y), for grain.
    """
    rng = canvas.rng(stream)
    total = np.zeros((canvas.height, canvas.width), np.float32)
    power, amplitude = 1e-12, 1.0
    for scale in scales_m:
        octave = _octave(rng, canvas, scale * stretch[0], scale * stretch[1])
        if octave is not None:
            total += np.float32(amplitude) * octave
            power += amplitude**2
        amplitude *= persistence
    return total / np.float32(np.sqrt(power) * 0.42)  # 0.42: deviation of cubic value noise from uniform [-1, 1]


def _octave(rng: np.random.Generator, canvas: Canvas, scale_x: float, scale_y: float) -> np.ndarray | None:
    import cv2

    step = (scale_x / 2 / canvas.texel_m, scale_y / 2 / canvas.texel_m)  # texels between knots
    if min(step) < _FINEST_TEXELS / 2:
        return None
    columns, rows = int(canvas.width / step[0]) + 4, int(canvas.height / step[1]) + 4
    knots = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    shift = rng.uniform(1, 2, 2)
    # Pixel (x, y) of the canvas reads the knots at shift + (x, y) / step.
    affine = np.array([[1 / step[0], 0, shift[0]], [0, 1 / step[1], shift[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(knots, affine, (canvas.width, canvas.height), flags=flags, borderMode=cv2.BORDER_REFLECT)


def cells(x: np.ndarray, y: np.ndarray, width_m: float, height_m: float, bond: float) -> tuple[np.ndarray, ...]:
    """A tiling in rows, each shifted against the one above it.

    Args:
        x, y: [1, W] and [H, 1] metres.
        width_m, height_m: of one tile.
        bond: shift between neighbouring rows over the tile's width.

    Returns:
        (column [H, W], row [H, W] integers; inset [H, W] metres to the nearest edge of the tile).
    """
    row = np.floor(y / height_m)
    across = x / width_m + bond * row
    column = np.floor(across)
    inset_x = np.minimum(across - column, 1 - (across - column)) * width_m
    inset_y = np.minimum(y / height_m - row, 1 - (y / height_m - row)) * height_m
    return column.astype(int), np.broadcast_to(row, column.shape).astype(int), np.minimum(inset_x, inset_y)


def per_cell(column: np.ndarray, row: np.ndarray, seed: int) -> np.ndarray:
    """One number in [-1, 1] for each cell, [H, W] float32; the same for the same cell and seed."""
    values = np.random.default_rng(seed).uniform(-1, 1, (61, 67)).astype(np.float32)
    return values[row % 61, column % 67]


def smooth_step(value: np.ndarray, edge: float, width: float) -> np.ndarray:
    """0 below edge - width / 2, 1 above edge + width / 2, linear between: an edge without aliasing."""
    return np.clip((value - edge) / np.float32(max(width, 1e-9)) + 0.5, 0, 1).astype(np.float32)


def tinted(tint: np.ndarray, tone: np.ndarray, warmth: np.ndarray | None = None) -> np.ndarray:
    """A colour varied in brightness and warmth.

    Args:
        tint: [3] RGB in [0, 1].
        tone: [H, W] relative change of brightness.
        warmth: [H, W] shift between blue and red.

    Returns:
        [H, W, 3] float32.
    """
    image = tint.astype(np.float32) * (1 + tone[..., None])
    if warmth is not None:
        image = image + warmth[..., None] * np.array([1.0, 0.1, -1.0], np.float32)
    return image.astype(np.float32)


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[H, W, 3]: a where share [H, W] is 0, b where it is 1."""
    weight = share[..., None].astype(np.float32)
    return (a * (1 - weight) + b * weight).astype(np.float32)
