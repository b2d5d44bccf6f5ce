"""Seeded procedural rooms: walls, furniture along them, and an island that a robot can drive around.

World frame (REP-103): origin on the floor in the middle of the room, x and y along the walls, z up, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.core.settings import Settings, setting
from reconx_ros.sim.furniture import CLOTHS, WALL_PIECES, WOODS, Piece, Tint, choose, coffee_table, plant, pouf
from reconx_ros.sim.meshes import PlacedMesh
from reconx_ros.sim.solids import Solid, SolidPatch, square

_WALL_TINTS: tuple[Tint, ...] = ((0.74, 0.70, 0.62), (0.66, 0.72, 0.70), (0.76, 0.66, 0.58), (0.68, 0.70, 0.76))
_BRICK: Tint = (0.66, 0.46, 0.38)
_KEEP_CLEAR_M = 0.28  # between the loop and whatever stands in the room
_WALL_BAND_M = 0.78  # from the wall to the loop: furniture and room for the robot
_LOOP_STEPS = 180
_RUG_M = 0.03  # what is lower can be driven over


@dataclass(frozen=True, kw_only=True)
class RoomConfig(Settings):
    """What the room is like."""

    seed: int = setting(0, "Seed of every random choice.", ge=0)
    length_m: float = setting(5.0, "Extent along x, varied by the seed.", unit="m", ge=3.6, le=12.0)
    width_m: float = setting(4.0, "Extent along y, varied by the seed.", unit="m", ge=3.2, le=12.0)
    height_m: float = setting(2.6, "Height of the ceiling.", unit="m", ge=2.3, le=5.0)
    variation: float = setting(0.06, "Largest relative change of length and width by the seed.", ge=0.0, le=0.2)
    furnished: bool = setting(True, "Put furniture into the room.")
    clutter: float = setting(0.7, "Share of the places on furniture that hold small things.", ge=0.0, le=1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Room:
    """A furnished room.

    Attributes:
        config: what it was made from.
        size_m: true (length, width, height) in metres.
        solids: everything that stands or hangs in it.
        shell: floor, ceiling and walls, seen from inside.
        loop_axes_m: half axes (x, y) of the ellipse around the middle that is free for a robot.
        meshes: furniture from files.
        gloss: share of light that the floor mirrors at normal incidence, in [0, 1].
    """

    config: RoomConfig
    size_m: tuple[float, float, float]
    solids: tuple[Solid, ...]
    shell: tuple[SolidPatch, ...]
    loop_axes_m: tuple[float, float]
    meshes: tuple[PlacedMesh, ...] = ()
    gloss: float = 0.0

    @property
    def obstacles(self) -> tuple[Solid, ...]:
        """All solids, and the boxes around all meshes."""
        return (*self.solids, *(mesh.bounds for mesh in self.meshes))

    def surfaces(self) -> list[SolidPatch]:
        """All textured surfaces but those of meshes; the first is the floor."""
        return [*self.shell, *(surface for solid in self.solids for surface in solid.surfaces())]

    def clearance(self, points: np.ndarray, height_m: float = 1.2) -> np.ndarray:
        """Horizontal distance [...] in metres of points [..., 2] to walls and to solids that reach below a height.

        Negative outside the room; 0 inside a solid.
        """
        points = np.asarray(points, dtype=np.float64)
        half = np.array(self.size_m[:2]) / 2
        distance = (half - np.abs(points)).min(axis=-1)
        for solid in self.obstacles:
            if solid.centre[2] + solid.size[2] / 2 > _RUG_M and solid.centre[2] - solid.size[2] / 2 < height_m:
                distance = np.minimum(distance, solid.distance_xy(points))
        return distance

    def is_free(self, points: np.ndarray) -> np.ndarray:
        """Mask [...] of points [..., 3] that lie in the air of the room."""
        points = np.asarray(points, dtype=np.float64)
        half = np.array(self.size_m) / 2
        free = (np.abs(points - [0, 0, half[2]]) < half).all(axis=-1)
        for solid in self.obstacles:
            free = free & ~solid.contains(points)
        return free


def make_room(config: RoomConfig | None = None) -> Room:
    """Make the room of a seed; the same configuration gives the same room.

    Raises:
        InvalidInputError: when the room is too small for a loop around its middle.
    """
    config = config or RoomConfig()
    rng = np.random.default_rng([config.seed, 71])
    length, width = (
        size * (1 + config.variation * float(rng.uniform(-1, 1))) for size in (config.length_m, config.width_m)
    )
    axes = (length / 2 - _WALL_BAND_M, width / 2 - _WALL_BAND_M)
    if min(axes) < 0.8:
        raise InvalidInputError(f"room is {length:.2f} x {width:.2f} m, expected at least 3.2 m for a loop in it")
    shell = _shell(rng, (length, width, config.height_m))
    solids = _furnish(rng, config, (length, width), axes) if config.furnished else []
    return Room(
        config=config,
        size_m=(length, width, config.height_m),
        solids=tuple(solids),
        shell=tuple(shell),
        loop_axes_m=axes,
    )


def loop_points(axes_m: tuple[float, float], steps: int = _LOOP_STEPS) -> np.ndarray:
    """Points [steps, 2] of the ellipse with the given half axes, counter-clockwise from +x."""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([axes_m[0] * np.cos(angle), axes_m[1] * np.sin(angle)], axis=-1)


def _shell(rng: np.random.Generator, size: tuple[float, float, float]) -> list[SolidPatch]:
    walls = ["plaster", "wallpaper", "brick", "plaster"]
    shift = int(rng.integers(0, 4))
    half = np.array(size) / 2
    sides: list[tuple[tuple[float, float, float], str, Tint]] = [
        ((0, 0, 1), "planks", choose(rng, WOODS[:2])),
        ((0, 0, -1), "ceiling", (0.86, 0.86, 0.84)),
    ]
    for k, inward in enumerate(((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))):
        material = walls[(k + shift) % 4]
        sides.append((inward, material, _BRICK if material == "brick" else choose(rng, _WALL_TINTS)))
    surfaces = []
    for normal, material, tint in sides:
        inward_unit = np.array(normal)
        patch = square(inward_unit) - 2 * inward_unit  # the opposite side of the cube, still facing inwards
        vertices = patch * half + [0, 0, half[2]]
        surfaces.append(SolidPatch(vertices=vertices, material=material, tint=tint, seed=int(rng.integers(1, 2**24))))
    return surfaces


def _furnish(
    rng: np.random.Generator, config: RoomConfig, size: tuple[float, float], axes: tuple[float, float]
) -> list[Solid]:
    solids = _rug(rng, axes) + _island(rng, config.clutter, axes)
    for wall in range(4):
        solids += _along_wall(rng, config.clutter, size, axes, wall)
    for i in (-1, 1):
        for j in (-1, 1):
            corner = (i * (size[0] / 2 - 0.3), j * (size[1] / 2 - 0.3), 0.0)
            solids += _placed(plant(rng, config.clutter), 0.0, corner, axes)
    return solids


def _rug(rng: np.random.Generator, axes: tuple[float, float]) -> list[Solid]:
    size = (2 * axes[0] - 0.9, 2 * axes[1] - 0.6, 0.012)
    tint = choose(rng, CLOTHS)
    seed = int(rng.integers(1, 2**24))
    return [Solid(kind="box", centre=(0.0, 0.0, 0.006), size=size, material="rug", tint=tint, seed=seed)]


def _island(rng: np.random.Generator, clutter: float, axes: tuple[float, float]) -> list[Solid]:
    turn = float(rng.uniform(-0.25, 0.25))
    solids = [s.moved(turn, (0.0, 0.0, 0.012)) for s in coffee_table(rng, clutter)]
    for side in (-1, 1):
        spot = (side * float(rng.uniform(0.8, 0.9)), side * float(rng.uniform(-0.15, 0.15)), 0.012)
        solids += _placed(pouf(rng, clutter), float(rng.uniform(0, 3)), spot, axes)
    return solids


def _along_wall(
    rng: np.random.Generator, clutter: float, size: tuple[float, float], axes: tuple[float, float], wall: int
) -> list[Solid]:
    """Furniture side by side along one wall; walls 0 to 3 are those at +x, +y, -x, -y."""
    span, reach = (size[1], size[0] / 2) if wall % 2 == 0 else (size[0], size[1] / 2)
    yaw = (0.5 + 0.5 * wall) * math.pi  # local +y points into the room
    solids: list[Solid] = []
    order: list[Piece] = [WALL_PIECES[int(k)] for k in rng.permutation(len(WALL_PIECES))]
    x = -span / 2 + 0.55
    for piece in order:
        parts = piece(rng, clutter)
        width = 2 * max(abs(p.centre[0]) + p.size[0] / 2 for p in parts)
        if x + width > span / 2 - 0.55:
            continue
        middle = x + width / 2
        foot = np.array([math.cos(yaw), math.sin(yaw)]) * middle - np.array([-math.sin(yaw), math.cos(yaw)]) * reach
        solids += _placed(parts, yaw, (float(foot[0]), float(foot[1]), 0.0), axes)
        x += width + float(rng.uniform(0.08, 0.25))
    return solids


def _placed(
    parts: list[Solid], yaw: float, offset: tuple[float, float, float], axes: tuple[float, float]
) -> list[Solid]:
    """A piece at its place; nothing when it would stand in the robot's way."""
    moved = [part.moved(yaw, offset) for part in parts]
    loop = loop_points(axes)
    blocked = any(part.distance_xy(loop).min() < _KEEP_CLEAR_M for part in moved)
    return [] if blocked else moved
