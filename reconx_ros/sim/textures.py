"""Procedural materials of the simulated rooms: each paints a texture that is rich at all scales from 1 cm to 1 m."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.sim.assets import stretched, tiled
from reconx_ros.sim.patterns import SCALES_M, Canvas, cells, mix, noise, per_cell, smooth_step, tinted
from reconx_ros.sim.pictures import PICTURES

Painter = Callable[[Canvas, np.ndarray], np.ndarray]
_FINE_M = (0.06, 0.03, 0.015)
_WHITE = np.array([0.93, 0.91, 0.86], np.float32)


def plaster(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Sponged paint: soft clouds with fine mottling."""
    return tinted(tint, 0.1 * noise(canvas, 1, persistence=0.9), 0.012 * noise(canvas, 2, scales_m=SCALES_M[:4]))


def wallpaper(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Broad stripes with a motif between them, on mottled paper."""
    x, y = canvas.metres()
    soft = 3 * canvas.texel_m
    stripes = smooth_step(np.abs((x / 0.34) % 1 - 0.5) * 0.34, 0.1, soft) * np.ones_like(y)
    column, row, _ = cells(x, y, 0.17, 0.23, 0.5)
    across, down = (x / 0.17 + 0.5 * row) % 1 - 0.5, (y / 0.23) % 1 - 0.5
    angle = np.arctan2(down * 0.23, across * 0.17)
    size = 0.045 + 0.016 * np.cos(5 * angle + 3 * per_cell(column, row, canvas.seed))
    motif = 1 - smooth_step(np.hypot(across * 0.17, down * 0.23) - size, 0.0, soft)
    paper = tinted(tint, 0.1 * noise(canvas, 1, persistence=0.9) - 0.2 * stripes)
    return mix(paper, tinted(0.55 * tint[::-1] + 0.25, 0.12 * noise(canvas, 2)), 0.8 * motif)


def brick(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Running-bond bricks of their own tones in light mortar."""
    x, y = canvas.metres()
    x = x + 0.004 * noise(canvas, 3, scales_m=(0.15, 0.08))
    column, row, inset = cells(x, y, 0.24, 0.08, 0.5)
    tone = 0.22 * per_cell(column, row, canvas.seed) + 0.13 * noise(canvas, 1, persistence=0.95)
    stone = tinted(tint, tone, 0.05 * per_cell(column, row, canvas.seed + 1))
    mortar = tinted(np.array([0.72, 0.69, 0.64]), 0.08 * noise(canvas, 2))
    return mix(mortar, stone, smooth_step(inset, 0.006, max(0.006, 2 * canvas.texel_m)))


def planks(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Floor boards of their own tones with long grain and dark joints."""
    x, y = canvas.metres()
    column, row, inset = cells(x, y, 0.85, 0.14, 0.37)
    grain = noise(canvas, 1, scales_m=(0.1, 0.05, 0.025), stretch=(6.0, 1.0), persistence=0.9)
    tone = 0.17 * per_cell(column, row, canvas.seed) + 0.13 * grain + 0.07 * noise(canvas, 2)
    boards = tinted(tint, tone, 0.03 * per_cell(column, row, canvas.seed + 1))
    return boards * (0.45 + 0.55 * smooth_step(inset, 0.003, max(0.006, 3 * canvas.texel_m)))[..., None]


def wood(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Veneer: wavy rings and grain along the longer side."""
    along_x = canvas.width >= canvas.height
    stretch = (5.0, 1.0) if along_x else (1.0, 5.0)
    x, y = canvas.metres()
    wave = noise(canvas, 1, scales_m=(0.3, 0.15), stretch=stretch)
    rings = np.sin(2 * np.pi * ((y if along_x else x) / 0.07 + 0.7 * wave))
    grain = noise(canvas, 2, scales_m=(0.06, 0.03, 0.015), stretch=stretch, persistence=0.95)
    return tinted(tint, 0.1 * rings + 0.09 * grain + 0.05 * noise(canvas, 3, scales_m=_FINE_M))


def checks(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A checked cloth: crossing stripes of two widths over a weave."""
    x, y = canvas.metres()
    soft = max(0.004, 3 * canvas.texel_m)
    bands = smooth_step(np.abs((x / 0.16) % 1 - 0.5) * 0.16, 0.04, soft)
    bands = bands + smooth_step(np.abs((y / 0.16) % 1 - 0.5) * 0.16, 0.04, soft)
    lines = smooth_step(np.abs((x / 0.08) % 1 - 0.5) * 0.08, 0.034, soft)
    lines = lines + smooth_step(np.abs((y / 0.08) % 1 - 0.5) * 0.08, 0.034, soft)
    tone = 0.1 * noise(canvas, 1, persistence=0.95)
    cloth = mix(tinted(_WHITE * 0.9, tone), tinted(tint, tone), np.clip(0.45 * bands, 0, 1))
    return cloth * (1 - 0.12 * lines)[..., None]


def fabric(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Upholstery: coarse weave, fold-like clouds and piping stripes."""
    x, _ = canvas.metres()
    weave = noise(canvas, 1, scales_m=_FINE_M, persistence=1.0)
    stripe = smooth_step(np.abs((x / 0.11) % 1 - 0.5) * 0.11, 0.04, max(0.006, 3 * canvas.texel_m))
    return tinted(tint, 0.12 * weave + 0.07 * noise(canvas, 2, scales_m=SCALES_M[:5]) - 0.22 * stripe)


def rug(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A woven rug: nested frames around a field of diamonds."""
    x, y = canvas.metres()
    wide, high = canvas.width * canvas.texel_m, canvas.height * canvas.texel_m
    edge = np.minimum(np.minimum(x, wide - x), np.minimum(y, high - y))
    soft = max(0.006, 3 * canvas.texel_m)
    frame = np.clip(np.sin(2 * np.pi * edge / 0.12) * 0.06 / soft + 0.5, 0, 1) * (1 - smooth_step(edge, 0.3, soft))
    column, row, _ = cells(x, y, 0.2, 0.2, 0.0)
    diamond = np.abs((x / 0.2) % 1 - 0.5) + np.abs((y / 0.2) % 1 - 0.5)
    field = smooth_step(0.2 * (diamond - 0.36 - 0.08 * per_cell(column, row, canvas.seed)), 0.0, soft)
    field = field * smooth_step(edge, 0.3, soft)
    tone = 0.14 * noise(canvas, 1, persistence=0.95)
    image = mix(tinted(tint, tone), tinted(0.35 + 0.5 * tint[::-1], tone), field)
    return mix(image, tinted(_WHITE * 0.85, tone), frame)


def stone(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Terrazzo: chips of several tones in a mottled ground."""
    chips = noise(canvas, 1, scales_m=(0.05, 0.025), persistence=0.9)
    dark = noise(canvas, 2, scales_m=(0.07, 0.035), persistence=0.9)
    image = tinted(tint, 0.1 * noise(canvas, 3))
    image = mix(image, tinted(_WHITE, 0.05 * dark), smooth_step(chips, 0.9, 0.6))
    return mix(image, tinted(0.4 * tint, 0.1 * chips), smooth_step(dark, 1.0, 0.6))


def ceiling(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Acoustic tiles: speckled panels with shadow joints."""
    x, y = canvas.metres()
    column, row, inset = cells(x, y, 0.6, 0.6, 0.0)
    tone = 0.05 * per_cell(column, row, canvas.seed) + 0.08 * noise(canvas, 1, persistence=1.0)
    return tinted(tint, tone) * (0.6 + 0.4 * smooth_step(inset, 0.008, max(0.008, 3 * canvas.texel_m)))[..., None]


def leaves(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Foliage: blotches of light and dark green."""
    tone = noise(canvas, 1, scales_m=(0.12, 0.06, 0.03, 0.015), persistence=0.95)
    return tinted(tint, 0.4 * np.tanh(tone), 0.05 * noise(canvas, 2, scales_m=(0.1, 0.05)))


def flat_paint(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Wall paint: one tint, with less grain than a camera's grey level."""
    return tinted(tint, 0.003 * noise(canvas, 1, persistence=1.0))


def glow(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A lamp or a window in daylight: white, whatever falls on it."""
    return np.ones((canvas.height, canvas.width, 3), np.float32) * np.maximum(tint, _WHITE)


def paint(material: str, canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """Texture [H, W, 3] float32 in [0, 1] of a material.

    Args:
        material: a key of MATERIALS, or of ``reconx_ros.sim.pictures.PICTURES``; ``texture:METRES:PATH`` for a picture
            repeated every so many metres, ``picture:PATH`` for one over the whole surface.
        canvas: size, resolution and seed.
        tint: [3] RGB in [0, 1], the material's main colour.

    Raises:
        InvalidInputError: for an unknown material.
    """
    kind, _, rest = material.partition(":")
    if kind == "texture":
        tile_m, _, path = rest.partition(":")
        return tiled(Path(path), canvas.height, canvas.width, canvas.texel_m, float(tile_m))
    if kind == "picture":
        return stretched(Path(rest), canvas.height, canvas.width)
    painter = MATERIALS.get(material) or PICTURES.get(material)
    if painter is None:
        raise InvalidInputError(
            f"material is '{material}', expected one of {', '.join(sorted({**MATERIALS, **PICTURES}))}"
        )
    return np.clip(painter(canvas, np.asarray(tint, np.float32)), 0.02, 1.0).astype(np.float32)


MATERIALS: dict[str, Painter] = {
    "plaster": plaster,
    "wallpaper": wallpaper,
    "brick": brick,
    "planks": planks,
    "wood": wood,
    "checks": checks,
    "fabric": fabric,
    "rug": rug,
    "stone": stone,
    "ceiling": ceiling,
    "leaves": leaves,
    "paint": flat_paint,
    "glow": glow,
}
