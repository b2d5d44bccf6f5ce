"""Textures that are drawings: posters, landscapes, book spines, packages and drawer fronts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reconx_ros.sim.patterns import Canvas, mix, noise, smooth_step, tinted

_COLOURS = np.array(
    [
        [0.80, 0.36, 0.28],
        [0.90, 0.68, 0.32],
        [0.38, 0.58, 0.52],
        [0.30, 0.44, 0.64],
        [0.86, 0.82, 0.72],
        [0.52, 0.38, 0.52],
        [0.70, 0.74, 0.50],
        [0.26, 0.28, 0.34],
        [0.84, 0.56, 0.54],
    ],
    np.float32,
)
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


def poster(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A framed abstract print: discs, blocks and lines of type on a shaded ground."""
    rng = canvas.rng(9)
    x, y = canvas.metres()
    ground = tinted(tint, 0.25 * np.cos(2.2 * (x + rng.uniform(0, 3)) - 1.7 * y) + 0.08 * noise(canvas, 1))
    image = np.ascontiguousarray(ground)
    for _ in range(int(rng.integers(10, 16))):
        _draw_shape(image, rng)
    _draw_type(image, rng)
    image *= (1 + 0.06 * noise(canvas, 2, persistence=1.0))[..., None]
    return _framed(image, canvas, rng)


def landscape(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A framed painting: ridge behind ridge under a cloudy sky."""
    rng = canvas.rng(9)
    _, y = canvas.metres()
    height = canvas.height * canvas.texel_m
    sky = noise(canvas, 1, scales_m=(0.5, 0.25, 0.12, 0.06), stretch=(2.0, 1.0))
    blue, pale = np.array([0.56, 0.70, 0.84]), np.array([0.95, 0.86, 0.74])
    image = mix(tinted(blue, 0.08 * sky), tinted(pale, 0.03 * sky), y / height + 0 * sky)
    for k in range(4):
        ridge = noise(canvas, 10 + k, scales_m=(0.5, 0.25, 0.12, 0.06), persistence=0.55)[:1] * (0.07 - 0.008 * k)
        line = height * (0.38 + 0.15 * k) + ridge
        colour = _COLOURS[int(rng.integers(0, len(_COLOURS)))] * (0.5 + 0.5 * tint)
        hill = tinted(colour, 0.18 * noise(canvas, 20 + k, scales_m=(0.12, 0.06, 0.03, 0.015), persistence=0.95))
        image = mix(image, hill, smooth_step(y - line, 0.0, 3 * canvas.texel_m))
    return _framed(np.ascontiguousarray(image), canvas, rng)


def books(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A row of book spines with bands and titles."""
    rng = canvas.rng(9)
    image = np.ascontiguousarray(tinted(0.35 * tint, 0.2 * noise(canvas, 1)))
    column = 0
    while column < canvas.width:
        wide = max(3, int(rng.uniform(0.022, 0.055) / canvas.texel_m))
        _draw_book(image[:, column : column + wide], rng)
        column += wide
    return image * (1 + 0.08 * noise(canvas, 2, scales_m=(0.05, 0.025, 0.0125), persistence=1.0))[..., None]


def package(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A printed carton or tin: bands, a badge and small type."""
    rng = canvas.rng(9)
    _, y = canvas.metres()
    height = canvas.height * canvas.texel_m
    bands = np.sin(2 * np.pi * y / height * rng.uniform(1.0, 2.5) + rng.uniform(0, 6))
    ground = noise(canvas, 1, scales_m=(0.2, 0.1, 0.05, 0.025, 0.0125), persistence=0.9)
    share = smooth_step(bands, rng.uniform(-0.3, 0.5), 0.1) + 0 * ground
    other = _COLOURS[int(rng.integers(0, len(_COLOURS)))]
    image = np.ascontiguousarray(mix(tinted(tint, 0.1 * ground), tinted(other, 0.1 * ground), share))
    for _ in range(4):
        _draw_shape(image, rng)
    _draw_type(image, rng)
    return image


def drawers(canvas: Canvas, tint: np.ndarray) -> np.ndarray:
    """A cabinet front: panels of veneer with dark joints and knobs."""
    x, y = canvas.metres()
    wide, high = canvas.width * canvas.texel_m, canvas.height * canvas.texel_m
    columns, rows = max(1, round(wide / 0.45)), max(1, round(high / 0.28))
    across, down = (x / wide * columns) % 1, (y / high * rows) % 1
    inset = np.minimum(
        np.minimum(across, 1 - across) * wide / columns, np.minimum(down, 1 - down) * high / rows
    )  # [H, W] metres to the panel's edge
    soft = max(0.005, 3 * canvas.texel_m)
    grain = noise(canvas, 1, scales_m=(0.1, 0.05, 0.025), stretch=(5.0, 1.0), persistence=0.9)
    image = tinted(tint, 0.15 * grain + 0.07 * noise(canvas, 2))
    moulding = smooth_step(inset, 0.008, soft) * (1 - 0.35 * smooth_step(0.012 - np.abs(inset - 0.04), 0.0, soft))
    knob = np.hypot((across - 0.5) * wide / columns, (down - 0.5) * high / rows)
    image = image * (0.35 + 0.65 * moulding)[..., None]
    return mix(image, tinted(np.array([0.25, 0.22, 0.2]), 0 * grain), 1 - smooth_step(knob, 0.02, soft))


def _draw_shape(image: np.ndarray, rng: np.random.Generator) -> None:
    import cv2

    height, width = image.shape[:2]
    colour = _colour(rng)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    size = rng.uniform(0.05, 0.26) * min(height, width)
    if rng.random() < 0.45:
        cv2.circle(image, _fixed(x, y), _fixed(size, 0)[0], colour, -1, cv2.LINE_AA, _SHIFT)
    else:
        angle = rng.uniform(0, np.pi / 2)
        corners = np.array([[-1, -0.6], [1, -0.6], [1, 0.6], [-1, 0.6]]) * size * rng.uniform(0.6, 1.4)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = np.array([_fixed(*p) for p in corners @ turn.T + [x, y]], np.int32)
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA, _SHIFT)


def _draw_type(image: np.ndarray, rng: np.random.Generator) -> None:
    import cv2

    height, width = image.shape[:2]
    colour = _colour(rng)
    top = rng.uniform(0.1, 0.65) * height
    letter = max(2.0, rng.uniform(0.03, 0.06) * height)
    for line in range(3):
        x = 0.15 * width
        while x < rng.uniform(0.6, 0.9) * width:
            stop = x + letter * rng.uniform(0.4, 1.6)
            y = top + 1.8 * letter * line
            cv2.rectangle(image, _fixed(x, y), _fixed(stop, y + letter), colour, -1, cv2.LINE_AA, _SHIFT)
            x = stop + 0.5 * letter


def _draw_book(spine: np.ndarray, rng: np.random.Generator) -> None:
    height, width = spine.shape[:2]
    top = int(rng.uniform(0.04, 0.3) * height)
    spine[top:] = _COLOURS[int(rng.integers(0, len(_COLOURS)))] * rng.uniform(0.6, 1.1)
    rounding = np.sin(np.linspace(0.25, np.pi - 0.25, width, dtype=np.float32))
    spine[top:] *= (0.55 + 0.45 * rounding)[None, :, None]
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.uniform(top, height))
        stop = start + max(2, int(rng.uniform(0.03, 0.16) * height))
        spine[start:stop, 1:-1] = 0.3 * spine[start:stop, 1:-1] + 0.7 * np.array(_colour(rng), np.float32)


def _framed(image: np.ndarray, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    x, y = canvas.metres()
    wide, high = canvas.width * canvas.texel_m, canvas.height * canvas.texel_m
    edge = np.minimum(np.minimum(x, wide - x), np.minimum(y, high - y))
    soft = 3 * canvas.texel_m
    grain = 0.15 * noise(canvas, 30, scales_m=(0.05, 0.025, 0.0125))
    mount = tinted(np.array([0.92, 0.9, 0.84]), 0.3 * grain)
    frame = tinted(np.array([0.36, 0.26, 0.18]) * rng.uniform(0.7, 1.8), grain)
    return mix(frame, mix(mount, image, smooth_step(edge, 0.075, soft)), smooth_step(edge, 0.03, soft))


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    r, g, b = np.clip(_COLOURS[int(rng.integers(0, len(_COLOURS)))] * rng.uniform(0.8, 1.15), 0, 1)
    return float(r), float(g), float(b)


def _fixed(x: float, y: float) -> tuple[int, int]:
    return round(x * (1 << _SHIFT)), round(y * (1 << _SHIFT))


PICTURES: dict[str, Callable[[Canvas, np.ndarray], np.ndarray]] = {
    "poster": poster,
    "landscape": landscape,
    "books": books,
    "package": package,
    "drawers": drawers,
}
