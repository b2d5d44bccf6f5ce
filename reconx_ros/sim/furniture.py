"""Furniture as lists of solids, in a frame of its own: x along the wall (centred), y away from the wall, z up."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from reconx_ros.sim.solids import Solid

Tint = tuple[float, float, float]
Piece = Callable[[np.random.Generator, float], list[Solid]]

WOODS: tuple[Tint, ...] = ((0.66, 0.48, 0.32), (0.78, 0.62, 0.44), (0.48, 0.34, 0.25), (0.80, 0.76, 0.68))
CLOTHS: tuple[Tint, ...] = (
    (0.34, 0.50, 0.62),
    (0.72, 0.40, 0.34),
    (0.46, 0.58, 0.42),
    (0.80, 0.66, 0.42),
    (0.56, 0.46, 0.60),
)
_GREENS: tuple[Tint, ...] = ((0.30, 0.52, 0.26), (0.42, 0.58, 0.28), (0.24, 0.44, 0.30))
_BOARD = 0.03  # thickness of shelves, metres


def choose(rng: np.random.Generator, options: tuple[Tint, ...]) -> Tint:
    """One of several tints."""
    return options[int(rng.integers(0, len(options)))]


def box(
    rng: np.random.Generator,
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
    material: str,
    tint: Tint,
    front: str = "",
    yaw_rad: float = 0.0,
) -> Solid:
    """A box with a texture seed of its own."""
    return Solid(
        kind="box",
        centre=centre,
        size=size,
        material=material,
        tint=tint,
        seed=int(rng.integers(1, 2**24)),
        front=front,
        yaw_rad=yaw_rad,
    )


def bookcase(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """Open shelves with rows of books and some gaps."""
    width, depth, height = rng.uniform(0.8, 1.1), 0.3, rng.uniform(1.7, 2.05)
    tint = choose(rng, WOODS)
    levels = np.linspace(0.08, height - _BOARD / 2, 6)
    solids = [box(rng, (0, 0.01, height / 2), (width, 0.02, height), "wood", tint)]
    for side in (-1, 1):
        centre = (side * (width - _BOARD) / 2, depth / 2 + 0.01, height / 2)
        solids.append(box(rng, centre, (_BOARD, depth - 0.02, height), "wood", tint))
    inner = width - 2 * _BOARD
    for z in levels:
        solids.append(box(rng, (0, depth / 2 + 0.01, float(z)), (inner, depth - 0.02, _BOARD), "wood", tint))
    for low, high in pairwise(levels):
        solids += _shelf_row(rng, inner, depth, float(low) + _BOARD / 2, float(high) - _BOARD / 2, clutter)
    return solids


def _shelf_row(
    rng: np.random.Generator, inner: float, depth: float, low: float, high: float, clutter: float
) -> list[Solid]:
    solids: list[Solid] = []
    x = -inner / 2 + 0.01
    while x < inner / 2 - 0.1:
        wide = min(rng.uniform(0.16, 0.4), inner / 2 - 0.01 - x)
        tall = (high - low) * rng.uniform(0.72, 0.95)
        deep = depth * rng.uniform(0.55, 0.8)
        if rng.random() < 0.75:
            centre = (x + wide / 2, 0.02 + deep / 2, low + tall / 2)
            solids.append(box(rng, centre, (wide, deep, tall), "books", choose(rng, CLOTHS)))
        elif clutter > 0:
            solids.append(_jar(rng, (x + wide / 2, depth / 2, low), 0.8 * min(wide / 2, 0.09), 0.6 * tall))
        x += wide + rng.uniform(0.0, 0.04)
    return solids


def cabinet(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """A sideboard with drawers, things on top and a picture above."""
    width, depth, height = rng.uniform(0.9, 1.4), 0.42, rng.uniform(0.75, 0.95)
    body = box(rng, (0, depth / 2, height / 2), (width, depth - 0.02, height), "wood", choose(rng, WOODS), "drawers")
    top = box(rng, (0, depth / 2, height + 0.015), (width + 0.03, depth, 0.03), "stone", (0.62, 0.58, 0.54))
    things = clutter_on(rng, (0, depth / 2, height + 0.03), (width, depth - 0.06), clutter)
    return [body, top, *things, *picture(rng, height + 0.95, 0.7 * width)]


def desk(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """A table on four legs with a stool under it and things on top."""
    width, depth, height = rng.uniform(1.1, 1.4), 0.44, 0.74
    tint = choose(rng, WOODS)
    solids = [box(rng, (0, depth / 2, height), (width, depth, 0.04), "wood", tint)]
    solids += _legs(rng, (0, depth / 2), (width - 0.1, depth - 0.1), height - 0.02, tint)
    solids.append(box(rng, (0.15, depth / 2, 0.22), (0.36, 0.34, 0.44), "fabric", choose(rng, CLOTHS)))
    solids += clutter_on(rng, (0, depth / 2, height + 0.02), (width, depth - 0.06), clutter)
    return solids + picture(rng, 1.62, 0.6 * width)


def sofa(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """A slim sofa: seat cushions, back, arms, and pillows."""
    width, depth = rng.uniform(1.4, 1.7), 0.46
    tint, seat = choose(rng, CLOTHS), 0.4
    solids = [
        box(rng, (0, depth / 2, 0.12), (width, depth - 0.04, 0.24), "fabric", tint),
        box(rng, (0, 0.08, 0.48), (width, 0.14, 0.5), "fabric", tint),
    ]
    for side in (-1, 1):
        solids.append(box(rng, (side * (width / 2 - 0.06), depth / 2, 0.3), (0.12, depth, 0.6), "fabric", tint))
        cushion = (side * (width / 4 - 0.035), depth / 2 + 0.07, 0.31)
        solids.append(box(rng, cushion, (width / 2 - 0.14, depth - 0.16, 0.14), "fabric", tint))
        pillow = (side * width / 4, 0.24, seat + 0.16)
        solids.append(box(rng, pillow, (0.38, 0.14, 0.34), "checks", choose(rng, CLOTHS), yaw_rad=0.2 * side))
    return solids + picture(rng, 1.5, 0.62 * width)


def wall_pictures(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """Two pictures beside each other over a low bench."""
    bench = box(rng, (0, 0.2, 0.22), (1.0, 0.36, 0.44), "wood", choose(rng, WOODS), "drawers")
    solids = [bench, *clutter_on(rng, (0, 0.2, 0.44), (0.95, 0.3), clutter)]
    for side in (-1, 1):
        solids += [s.moved(0.0, (0.3 * side, 0.0, 0.0)) for s in picture(rng, 1.45 + 0.08 * side, 0.5)]
    return solids


def picture(rng: np.random.Generator, z: float, width: float) -> list[Solid]:
    """One framed picture on the wall, its middle at height z."""
    material = "landscape" if rng.random() < 0.5 else "poster"
    height = width * rng.uniform(0.65, 1.0)
    return [box(rng, (0, 0.0125, z), (width, 0.025, height), "wood", choose(rng, CLOTHS), material)]


def coffee_table(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """A low table on a rug with a cloth and things on top; stands free, centred on the origin."""
    width, depth, height = rng.uniform(0.95, 1.15), rng.uniform(0.5, 0.6), rng.uniform(0.4, 0.48)
    tint = choose(rng, WOODS)
    solids = [
        box(rng, (0, 0, height), (width, depth, 0.05), "wood", tint),
        box(rng, (0, 0, height + 0.028), (0.55 * width, depth + 0.004, 0.006), "checks", choose(rng, CLOTHS)),
        box(rng, (0, 0, 0.16), (width - 0.14, depth - 0.14, 0.03), "wood", tint),
    ]
    solids += _legs(rng, (0, 0), (width - 0.08, depth - 0.08), height - 0.025, tint)
    return solids + clutter_on(rng, (0, 0, height + 0.031), (width, depth), max(clutter, 0.4))


def pouf(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """A round upholstered stool with a stack of books."""
    height = rng.uniform(0.36, 0.44)
    seat = _round(rng, "cylinder", (0, 0, height / 2), (0.44, 0.44, height), "fabric", choose(rng, CLOTHS))
    stack = box(rng, (0, 0, height + 0.06), (0.24, 0.18, 0.12), "books", choose(rng, CLOTHS), yaw_rad=0.5)
    return [seat, stack] if clutter > 0 else [seat]


def plant(rng: np.random.Generator, clutter: float) -> list[Solid]:
    """A pot with a trunk and balls of leaves; stands centred on the origin."""
    height = rng.uniform(1.0, 1.5)
    pot = _round(rng, "cylinder", (0, 0, 0.17), (0.3, 0.3, 0.34), "stone", (0.72, 0.52, 0.42))
    trunk = _round(rng, "cylinder", (0, 0, height / 2), (0.05, 0.05, height), "wood", WOODS[2])
    solids = [pot, trunk]
    for k in range(6):
        angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.22, 0.34)
        reach = rng.uniform(0.0, 0.13)
        centre = (reach * np.cos(angle), reach * np.sin(angle), height * (0.62 + 0.09 * k))
        solids.append(_round(rng, "sphere", centre, (size, size, size), "leaves", choose(rng, _GREENS)))
    return solids


def clutter_on(
    rng: np.random.Generator, centre: tuple[float, float, float], area: tuple[float, float], level: float
) -> list[Solid]:
    """Small things side by side on a surface.

    Args:
        rng: of all choices.
        centre: middle of the surface, at its height.
        area: its extents along x and y, metres.
        level: share in [0, 1] of the places that hold something.
    """
    solids: list[Solid] = []
    places = max(2, int(area[0] / 0.24))
    for k in range(places):
        x = centre[0] + ((k + 0.5) / places - 0.5) * (area[0] - 0.06)
        y = centre[1] + rng.uniform(-0.5, 0.5) * max(0.0, area[1] - 0.24)
        if rng.random() < level:
            solids.append(_thing(rng, (x, y, centre[2])))
    return solids


def _thing(rng: np.random.Generator, foot: tuple[float, float, float]) -> Solid:
    kind = rng.random()
    if kind < 0.45:
        size = (rng.uniform(0.1, 0.18), rng.uniform(0.07, 0.14), rng.uniform(0.12, 0.3))
        centre = (foot[0], foot[1], foot[2] + size[2] / 2)
        return box(rng, centre, size, "package", choose(rng, CLOTHS), yaw_rad=rng.uniform(-0.6, 0.6))
    if kind < 0.75:
        return _jar(rng, foot, rng.uniform(0.045, 0.08), rng.uniform(0.12, 0.28))
    size_m = rng.uniform(0.12, 0.2)
    centre = (foot[0], foot[1], foot[2] + size_m / 2)
    return _round(rng, "sphere", centre, (size_m, size_m, size_m), "checks", choose(rng, CLOTHS))


def _jar(rng: np.random.Generator, foot: tuple[float, float, float], radius: float, height: float) -> Solid:
    centre = (foot[0], foot[1], foot[2] + height / 2)
    return _round(rng, "cylinder", centre, (2 * radius, 2 * radius, height), "package", choose(rng, CLOTHS))


def _round(
    rng: np.random.Generator,
    kind: str,
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
    material: str,
    tint: Tint,
) -> Solid:
    centre = (float(centre[0]), float(centre[1]), float(centre[2]))
    seed = int(rng.integers(1, 2**24))
    return Solid(kind=kind, centre=centre, size=size, material=material, tint=tint, seed=seed)


def _legs(
    rng: np.random.Generator, centre: tuple[float, float], spread: tuple[float, float], height: float, tint: Tint
) -> list[Solid]:
    corners = [(i, j) for i in (-0.5, 0.5) for j in (-0.5, 0.5)]
    return [
        box(rng, (centre[0] + i * spread[0], centre[1] + j * spread[1], height / 2), (0.05, 0.05, height), "wood", tint)
        for i, j in corners
    ]


WALL_PIECES: tuple[Piece, ...] = (bookcase, cabinet, desk, sofa, wall_pictures)
