"""Rooms as people live in them: plain paint, windows, glossy floors, clutter, thin legs, corridors.

The rooms of ``make_room`` are textured everywhere, so that stereo works in them. These are not: what a network has to
learn is what to do where stereo does not.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from reconx_ros.sim.assets import Assets
from reconx_ros.sim.furniture import (
    CLOTHS,
    WALL_PIECES,
    WOODS,
    Tint,
    box,
    choose,
    clutter_on,
    coffee_table,
    plant,
    pouf,
)
from reconx_ros.sim.meshes import PlacedMesh, read_mesh
from reconx_ros.sim.room import Room, RoomConfig
from reconx_ros.sim.solids import Solid, SolidPatch, square

_PAINTS: tuple[Tint, ...] = (
    (0.88, 0.87, 0.84), (0.84, 0.82, 0.76), (0.80, 0.82, 0.84), (0.86, 0.80, 0.70), (0.70, 0.76, 0.78),
    (0.62, 0.66, 0.60), (0.74, 0.62, 0.54), (0.44, 0.50, 0.58), (0.36, 0.34, 0.33), (0.90, 0.90, 0.90),
)  # fmt: skip
_BODIES: tuple[Tint, ...] = ((0.92, 0.92, 0.90), (0.30, 0.26, 0.24), (0.14, 0.14, 0.15), (0.60, 0.60, 0.62), *WOODS)
_KIND_OF = {"wood": "wood", "fabric": "cloth", "checks": "cloth", "rug": "cloth", "stone": "hard", "package": "hard",
            "drawers": "wood"}  # fmt: skip
_TILE_M = {"floor": (0.6, 1.6), "wall": (0.8, 2.0), "ceiling": (0.8, 1.8), "wood": (0.5, 1.2), "cloth": (0.3, 0.8),
           "hard": (0.4, 1.0)}  # fmt: skip
_THICK_M = 0.03
_GAP_M = 0.02


def lifelike_room(seed: int, assets: Assets) -> Room:
    """The room of a seed; the same seed and assets give the same room."""
    rng = np.random.default_rng([seed, 113])
    maker = _Maker(rng, assets)
    size = _size(rng)
    config = RoomConfig(seed=seed, clutter=float(rng.uniform(0.1, 1.0)), furnished=False)
    shell = maker.shell(size)
    solids = maker.furniture(size, config.clutter)
    meshes = maker.meshes(size, solids)
    return Room(
        config=config,
        size_m=size,
        solids=tuple(solids),
        shell=tuple(shell),
        loop_axes_m=(size[0] / 4, size[1] / 4),
        meshes=tuple(meshes),
        gloss=float(rng.uniform(0.03, 0.25)) if rng.random() < 0.35 else 0.0,
    )


def _size(rng: np.random.Generator) -> tuple[float, float, float]:
    height = float(rng.uniform(2.3, 3.3))
    if rng.random() < 0.15:  # a corridor
        return float(rng.uniform(5.0, 10.0)), float(rng.uniform(1.5, 2.4)), height
    return float(rng.uniform(2.8, 7.5)), float(rng.uniform(2.6, 6.0)), height


class _Maker:
    """Draws everything about one room from one generator."""

    def __init__(self, rng: np.random.Generator, assets: Assets) -> None:
        self._rng, self._assets = rng, assets
        self._plain = float(rng.uniform(0.2, 0.95))  # share of surfaces without a pattern

    def shell(self, size: tuple[float, float, float]) -> list[SolidPatch]:
        """Floor, ceiling and walls, seen from inside."""
        rng, half = self._rng, np.array(size) / 2
        wall = self._surface("wall", _PAINTS, 0.75)
        sides = [
            ((0.0, 0.0, 1.0), *self._surface("floor", _BODIES, 0.3, "planks")),
            ((0.0, 0.0, -1.0), *self._surface("ceiling", _PAINTS[:1], 0.85, "ceiling")),
        ]
        for inward in ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)):
            other = rng.random() < 0.2
            sides.append((inward, *(self._surface("wall", _PAINTS, 0.5) if other else wall)))
        patches = []
        for normal, material, tint in sides:
            inward_unit = np.array(normal)
            vertices = (square(inward_unit) - 2 * inward_unit) * half + [0, 0, half[2]]
            patches.append(SolidPatch(vertices=vertices, material=material, tint=tint, seed=self._seed()))
        return patches

    def _seed(self) -> int:
        return int(self._rng.integers(1, 2**24))

    def _surface(self, kind: str, tints: tuple[Tint, ...], plain: float, drawn: str = "plaster") -> tuple[str, Tint]:
        """(material, tint): paint, else a picture of a material, else a drawn one."""
        rng = self._rng
        tint = choose(rng, tints)
        if rng.random() < plain * 0.4 + self._plain * 0.6:
            return "paint", tint
        return self._texture(kind) or drawn, tint

    def _texture(self, kind: str) -> str | None:
        paths = self._assets.textures.get(kind, ())
        if not paths:
            return None
        path = paths[int(self._rng.integers(len(paths)))]
        return f"texture:{self._rng.uniform(*_TILE_M[kind]):.3f}:{path}"

    def _restyled(self, solids: list[Solid]) -> list[Solid]:
        """A piece of furniture in one material for all parts that were of one."""
        rng = self._rng
        drawn: dict[str, tuple[str, Tint]] = {}
        styled = []
        for solid in solids:
            if solid.material not in drawn:
                kind = _KIND_OF.get(solid.material, "")
                drawn[solid.material] = (
                    self._surface(kind, _BODIES, 0.5, solid.material)
                    if kind and rng.random() < 0.85
                    else (solid.material, solid.tint)
                )
            material, tint = drawn[solid.material]
            front = solid.front
            if front in ("poster", "landscape"):
                front = self._picture() or front
            elif front and rng.random() < self._plain:
                front = ""
            styled.append(replace(solid, material=material, tint=tint, front=front))
        return styled

    def _picture(self) -> str | None:
        pictures = self._assets.pictures
        return f"picture:{pictures[int(self._rng.integers(len(pictures)))]}" if pictures else None

    def furniture(self, size: tuple[float, float, float], clutter: float) -> list[Solid]:
        """Pieces along the walls and free in the room, windows, lamps, a pillar, things on the floor."""
        solids: list[Solid] = []
        for wall in range(4):
            solids += self._along(size, clutter, wall)
        free = int(self._rng.integers(1, 3 + int(size[0] * size[1] / 3)))
        for _ in range(free):
            solids += self._free(size, clutter, solids)
        return [*solids, *self._fixtures(size), *self._floor_things(size, clutter)]

    def _along(self, size: tuple[float, float, float], clutter: float, wall: int) -> list[Solid]:
        """Walls 0 to 3 are those at +x, +y, -x, -y; local +y points into the room."""
        rng = self._rng
        span, reach = (size[1], size[0] / 2) if wall % 2 == 0 else (size[0], size[1] / 2)
        narrow = min(size[:2]) < 2.5
        yaw = (0.5 + 0.5 * wall) * math.pi
        solids: list[Solid] = []
        x = -span / 2 + float(rng.uniform(0.1, 1.2))
        while x < span / 2 - 0.5 and not (narrow and span > 3 and rng.random() < 0.5):
            draw = rng.random()
            if draw < 0.25:
                parts = self._window(size[2]) if draw < 0.12 else self._poster(size[2])
            elif draw < 0.35:
                parts = self._door()
            else:
                parts = self._restyled(WALL_PIECES[int(rng.integers(len(WALL_PIECES)))](rng, clutter))
            width = 2 * max(abs(p.centre[0]) + p.size[0] / 2 for p in parts)
            if x + width > span / 2 - 0.05:
                break
            middle = x + width / 2
            foot = np.array([math.cos(yaw), math.sin(yaw)]) * middle - np.array([-math.sin(yaw), math.cos(yaw)]) * reach
            solids += [part.moved(yaw, (float(foot[0]), float(foot[1]), 0.0)) for part in parts]
            x += width + float(rng.uniform(0.05, 0.6) + (rng.random() < 0.3) * rng.uniform(0.5, 1.8))
        return solids

    def _window(self, height: float) -> list[Solid]:
        """A bright pane in a frame, sometimes down to the floor."""
        rng = self._rng
        width, tall = float(rng.uniform(0.7, 1.8)), float(rng.uniform(0.9, height - 0.6))
        z = float(rng.uniform(tall / 2 + 0.15, max(tall / 2 + 0.16, height - 0.3 - tall / 2)))
        frame = choose(rng, _BODIES)
        pane = "glow" if rng.random() < 0.75 else (self._picture() or "landscape")
        parts = [box(rng, (0, 0.01, z), (width, 0.02, tall), "paint", frame, pane)]
        for side in (-0.5, 0.5):
            parts.append(box(rng, (side * width, 0.02, z), (0.05, 0.05, tall + 0.05), "paint", frame))
            parts.append(box(rng, (0, 0.02, z + side * tall), (width, 0.05, 0.05), "paint", frame))
        return parts

    def _poster(self, height: float) -> list[Solid]:
        rng = self._rng
        width = float(rng.uniform(0.25, 1.4))
        material = self._picture() or "poster"
        tall = width * float(rng.uniform(0.6, 1.3))
        z = float(rng.uniform(1.2, min(1.9, height - 0.4)))
        return [box(rng, (0, 0.015, z), (width, 0.03, tall), "paint", choose(rng, _BODIES), material)]

    def _door(self) -> list[Solid]:
        rng = self._rng
        width, tall = float(rng.uniform(0.75, 0.95)), float(rng.uniform(1.95, 2.1))
        material, tint = self._surface("wood", _BODIES, 0.7, "wood")
        leaf = box(rng, (0, 0.02, tall / 2), (width, 0.04, tall), material, tint)
        handle = box(rng, (0.4 * width, 0.06, 1.02), (0.12, 0.03, 0.02), "paint", (0.6, 0.6, 0.62))
        return [leaf, handle]

    def _free(self, size: tuple[float, float, float], clutter: float, taken: list[Solid]) -> list[Solid]:
        rng = self._rng
        kinds = (coffee_table, pouf, plant, self._table, self._chair, self._stand_lamp, self._boxes)
        piece = kinds[int(rng.integers(len(kinds)))]
        parts = self._restyled(piece(rng, clutter))
        spot = (float(rng.uniform(-0.38, 0.38)) * size[0], float(rng.uniform(-0.38, 0.38)) * size[1], 0.0)
        yaw = float(rng.uniform(0, 2 * math.pi))
        moved = [part.moved(yaw, spot) for part in parts]
        return [] if _collides(moved, taken) else moved

    def _table(self, rng: np.random.Generator, clutter: float) -> list[Solid]:
        width, depth, height = rng.uniform(0.7, 1.8), rng.uniform(0.6, 1.0), rng.uniform(0.68, 1.05)
        tint, leg = choose(rng, WOODS), float(rng.uniform(0.02, 0.06))
        parts = [box(rng, (0, 0, float(height)), (float(width), float(depth), _THICK_M), "wood", tint)]
        for i in (-0.5, 0.5):
            for j in (-0.5, 0.5):
                foot = (i * (width - 0.1), j * (depth - 0.1), height / 2)
                parts.append(box(rng, foot, (leg, leg, float(height)), "wood", tint))
        top = (0.0, 0.0, float(height) + _THICK_M / 2)
        return [*parts, *clutter_on(rng, top, (float(width), float(depth)), clutter)]

    def _chair(self, rng: np.random.Generator, clutter: float) -> list[Solid]:
        del clutter
        side, seat, back = rng.uniform(0.38, 0.48), rng.uniform(0.42, 0.5), rng.uniform(0.75, 1.0)
        tint, leg = choose(rng, WOODS), float(rng.uniform(0.018, 0.045))
        parts = [box(rng, (0, 0, float(seat)), (float(side), float(side), _THICK_M), "wood", tint)]
        for i in (-0.5, 0.5):
            for j in (-0.5, 0.5):
                tall = back if j < 0 else seat
                parts.append(
                    box(rng, (i * (side - leg), j * (side - leg), tall / 2), (leg, leg, float(tall)), "wood", tint)
                )
        rest = (0.0, -0.5 * (side - leg), (seat + back) / 2 + 0.1)
        parts.append(box(rng, rest, (float(side), 0.02, float(back - seat) * 0.5), "fabric", choose(rng, CLOTHS)))
        return parts

    def _stand_lamp(self, rng: np.random.Generator, clutter: float) -> list[Solid]:
        del clutter
        height = float(rng.uniform(1.3, 1.8))
        dark: Tint = (0.2, 0.2, 0.2)
        shade = "glow" if rng.random() < 0.5 else "paint"
        pole = self._round((0, 0, height / 2), (0.03, height), "paint", dark)
        foot = self._round((0, 0, 0.015), (0.28, 0.03), "paint", dark)
        top = self._round((0, 0, height), (0.34, 0.26), shade, (0.92, 0.88, 0.78))
        return [pole, foot, top]

    def _round(
        self, centre: tuple[float, float, float], extent: tuple[float, float], material: str, tint: Tint
    ) -> Solid:
        """An upright cylinder of (diameter, height)."""
        size = (extent[0], extent[0], extent[1])
        return Solid(kind="cylinder", centre=centre, size=size, material=material, tint=tint, seed=self._seed())

    def _boxes(self, rng: np.random.Generator, clutter: float) -> list[Solid]:
        del clutter
        parts, z = [], 0.0
        for _ in range(int(rng.integers(1, 4))):
            size = (float(rng.uniform(0.25, 0.6)), float(rng.uniform(0.25, 0.5)), float(rng.uniform(0.15, 0.4)))
            parts.append(
                box(
                    rng,
                    (0, 0, z + size[2] / 2),
                    size,
                    "package",
                    choose(rng, CLOTHS),
                    yaw_rad=float(rng.uniform(-0.3, 0.3)),
                )
            )
            z += size[2]
        return parts

    def _fixtures(self, size: tuple[float, float, float]) -> list[Solid]:
        """A lamp at the ceiling, a pillar, a partition wall, skirting boards."""
        rng = self._rng
        parts: list[Solid] = []
        for _ in range(int(rng.integers(0, 3))):
            spot = (float(rng.uniform(-0.3, 0.3)) * size[0], float(rng.uniform(-0.3, 0.3)) * size[1], size[2] - 0.03)
            extent = (float(rng.uniform(0.2, 1.2)), float(rng.uniform(0.2, 0.6)), 0.05)
            parts.append(box(rng, spot, extent, "glow", (1.0, 1.0, 1.0)))
        if rng.random() < 0.2:
            material, tint = self._surface("wall", _PAINTS, 0.7)
            side = float(rng.uniform(0.2, 0.5))
            spot = (float(rng.uniform(-0.4, 0.4)) * size[0], float(rng.uniform(-0.4, 0.4)) * size[1], size[2] / 2)
            parts.append(box(rng, spot, (side, side, size[2]), material, tint))
        if rng.random() < 0.25 and min(size[:2]) > 3.0:
            material, tint = self._surface("wall", _PAINTS, 0.7)
            long = float(rng.uniform(0.25, 0.5)) * size[1]
            y = (1 if rng.random() < 0.5 else -1) * (size[1] - long) / 2
            spot = (float(rng.uniform(-0.25, 0.25)) * size[0], y, size[2] / 2)
            parts.append(box(rng, spot, (0.12, long, size[2]), material, tint))
        if rng.random() < 0.5:
            parts += self._skirting(size)
        return parts

    def _skirting(self, size: tuple[float, float, float]) -> list[Solid]:
        rng = self._rng
        tint, tall = choose(rng, _BODIES), float(rng.uniform(0.06, 0.14))
        parts = []
        for side in (-0.5, 0.5):
            parts.append(box(rng, (side * size[0], 0, tall / 2), (0.03, size[1], tall), "paint", tint))
            parts.append(box(rng, (0, side * size[1], tall / 2), (size[0], 0.03, tall), "paint", tint))
        return parts

    def _floor_things(self, size: tuple[float, float, float], clutter: float) -> list[Solid]:
        """A rug, and what lies about."""
        rng = self._rng
        parts: list[Solid] = []
        if rng.random() < 0.4:
            extent = (float(rng.uniform(1.0, 0.7 * size[0])), float(rng.uniform(0.8, 0.7 * size[1] + 0.3)), 0.012)
            material = (self._texture("cloth") if rng.random() < 0.6 else None) or (
                "rug" if rng.random() < 0.5 else "paint"
            )
            parts.append(box(rng, (0, 0, 0.006), extent, material, choose(rng, CLOTHS)))
        for _ in range(int(rng.integers(0, 1 + int(6 * clutter)))):
            spot = (float(rng.uniform(-0.45, 0.45)) * size[0], float(rng.uniform(-0.45, 0.45)) * size[1], 0.0)
            parts += self._restyled(clutter_on(rng, spot, (0.3, 0.3), 0.6))
        return parts

    def meshes(self, size: tuple[float, float, float], taken: list[Solid]) -> list[PlacedMesh]:
        """Furniture from files, where it does not run into what stands there."""
        rng, models = self._rng, self._assets.models
        placed: list[PlacedMesh] = []
        for _ in range(int(rng.integers(2, 14)) if models else 0):
            found = read_mesh(models[int(rng.integers(len(models)))])
            if found is None or float(found.size_m[:2].max()) > 0.8 * min(size[:2]) or found.size_m[2] > size[2]:
                continue
            along = rng.random() < 0.6
            yaw = float(rng.integers(4)) * math.pi / 2 if along else float(rng.uniform(0, 2 * math.pi))
            mesh = PlacedMesh(mesh=found, yaw_rad=yaw, offset=(0.0, 0.0, 0.0), scale=float(rng.uniform(0.9, 1.1)))
            half = np.ptp(mesh.corners.reshape(-1, 3)[:, :2], axis=0) / 2
            reach = np.array(size[:2]) / 2 - half - _GAP_M
            if (reach <= 0).any():
                continue
            spot = rng.uniform(-reach, reach)
            if along:
                axis = int(rng.integers(2))
                spot[axis] = reach[axis] * (1 if rng.random() < 0.5 else -1)
            mesh = replace(mesh, offset=(float(spot[0]), float(spot[1]), 0.0))
            if not _collides([mesh.bounds], [*taken, *(m.bounds for m in placed)]):
                placed.append(mesh)
        return placed


def _collides(parts: list[Solid], taken: list[Solid]) -> bool:
    """Whether boxes around the parts touch what stands on the floor already, seen from above."""
    for part in parts:
        radius = math.hypot(part.size[0], part.size[1]) / 2
        for other in taken:
            if other.size[2] < 0.05 or abs(other.centre[2] - part.centre[2]) > (other.size[2] + part.size[2]) / 2:
                continue
            if float(other.distance_xy(np.array(part.centre[:2]))) < 0.7 * radius:
                return True
    return False
