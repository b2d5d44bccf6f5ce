"""Solids a room is furnished with, and the textured surfaces that bound them. World axes: x forward, z up, metres."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from reconx_ros.core import InvalidInputError, check_shape

_ROUND_STEPS = 8  # cells along each side of a curved patch
_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, kw_only=True, eq=False)
class SolidPatch:
    """A patch of a solid's skin, as a grid of vertices with one texture over it.

    Attributes:
        vertices: [R, C, 3] metres; rows run down and columns to the right of the texture, seen from outside. The grid
            is sampled evenly by the texture.
        material: key of the textures' table.
        tint: RGB in [0, 1].
        seed: of the texture.
    """

    vertices: np.ndarray  # [R, C, 3]
    material: str
    tint: tuple[float, float, float]
    seed: int

    def __post_init__(self) -> None:
        check_shape("surface vertices", self.vertices, "R", "C", 3)

    @property
    def size_m(self) -> tuple[float, float]:
        """(width, height) of the texture: mean lengths of the grid's rows and columns."""
        width = np.linalg.norm(np.diff(self.vertices, axis=1), axis=-1).sum(1).mean()
        height = np.linalg.norm(np.diff(self.vertices, axis=0), axis=-1).sum(0).mean()
        return float(width), float(height)

    def sample(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Points and outward normals [rows, columns, 3] at the centres of an even grid over the texture."""
        r, c = self.vertices.shape[0] - 1, self.vertices.shape[1] - 1
        v, u = np.meshgrid((np.arange(rows) + 0.5) / rows * r, (np.arange(columns) + 0.5) / columns * c, indexing="ij")
        i, j = np.minimum(v.astype(int), r - 1), np.minimum(u.astype(int), c - 1)
        fv, fu = (v - i)[..., None], (u - j)[..., None]
        a, b = self.vertices[i, j], self.vertices[i, j + 1]
        d, e = self.vertices[i + 1, j], self.vertices[i + 1, j + 1]
        points = (a * (1 - fu) + b * fu) * (1 - fv) + (d * (1 - fu) + e * fu) * fv
        right, down = (b - a) * (1 - fv) + (e - d) * fv, (d - a) * (1 - fu) + (e - b) * fu
        normals = np.cross(down, right)
        return points, normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)

    def triangles(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners [T, 3, 3] in metres and their texture coordinates [T, 3, 2] in [0, 1] (right, down)."""
        rows, columns = self.vertices.shape[:2]
        v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
        grid = np.concatenate([self.vertices, u[..., None], v[..., None]], axis=-1)  # [R, C, 5]
        a, b, d, e = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
        both = np.stack([np.stack([a, d, b], axis=2), np.stack([b, d, e], axis=2)], axis=2)  # [R-1, C-1, 2, 3, 5]
        corners = both.reshape(-1, 3, 5)
        return corners[..., :3], corners[..., 3:]


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A box, upright cylinder or ellipsoid.

    Attributes:
        kind: "box", "cylinder" or "sphere".
        centre: (x, y, z) metres.
        size: full extents (x, y, z) metres, before turning.
        yaw_rad: turn about z.
        material: of all sides, but the front's.
        tint: RGB in [0, 1].
        seed: of the textures.
        front: material of a box's side towards local +y; empty for the same as elsewhere.

    Raises:
        InvalidInputError: at birth, for an unknown kind or a size that is not positive.
    """

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    material: str
    tint: tuple[float, float, float]
    seed: int
    yaw_rad: float = 0.0
    front: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("box", "cylinder", "sphere"):
            raise InvalidInputError(f"solid is a '{self.kind}', expected box, cylinder or sphere")
        if min(self.size) <= 0:
            raise InvalidInputError(f"solid has size {self.size}, expected positive lengths in metres")

    def moved(self, yaw_rad: float, offset: tuple[float, float, float]) -> Solid:
        """Turned about the z axis of the origin, then shifted."""
        x, y = rotated_2d(np.array(self.centre[:2]), yaw_rad)
        centre = (float(x) + offset[0], float(y) + offset[1], self.centre[2] + offset[2])
        return replace(self, centre=centre, yaw_rad=self.yaw_rad + yaw_rad)

    def distance_xy(self, points: np.ndarray) -> np.ndarray:
        """Horizontal distance [...] in metres of points [..., 2] from the outline seen from above; 0 inside."""
        local = np.abs(rotated_2d(np.asarray(points) - self.centre[:2], -self.yaw_rad))
        return np.linalg.norm(np.maximum(local - np.array(self.size[:2]) / 2, 0), axis=-1)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Mask [...] of points [..., 3] inside the solid's bounding box."""
        points = np.asarray(points)
        within = np.abs(points[..., 2] - self.centre[2]) < self.size[2] / 2
        return within & (self.distance_xy(points[..., :2]) <= 0)

    def surfaces(self) -> list[SolidPatch]:
        """The skin; a side that lies on the floor is left out."""
        patches = {"box": _box_patches, "cylinder": _cylinder_patches, "sphere": _sphere_patches}[self.kind]()
        if self.centre[2] - self.size[2] / 2 < 0.02 and self.kind != "sphere":
            patches.pop("bottom")
        return [self._surface(k, name, unit) for k, (name, unit) in enumerate(patches.items())]

    def _surface(self, number: int, name: str, unit: np.ndarray) -> SolidPatch:
        local = unit * (np.array(self.size) / 2)
        vertices = local.copy()
        vertices[..., :2] = rotated_2d(local[..., :2], self.yaw_rad)
        material = self.front if name == "front" and self.front else self.material
        return SolidPatch(
            vertices=vertices + self.centre, material=material, tint=self.tint, seed=self.seed * 16 + number
        )


def rotated_2d(points: np.ndarray, yaw_rad: float) -> np.ndarray:
    """Points [..., 2] turned about the origin."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.stack([c * points[..., 0] - s * points[..., 1], s * points[..., 0] + c * points[..., 1]], axis=-1)


def square(normal: np.ndarray, steps: int = 1) -> np.ndarray:
    """The side of the cube [-1, 1]^3 with an outward unit normal along an axis, as vertices [steps+1, steps+1, 3].

    Rows run down and columns to the right as seen from outside; for floor and ceiling, columns run along +x.
    """
    normal = np.asarray(normal, dtype=np.float64)
    if abs(normal[2]) > 0.5:
        right, down = np.array([1.0, 0.0, 0.0]), np.array([0.0, -normal[2], 0.0])
    else:
        right, down = np.cross(_UP, normal), -_UP
    t = np.linspace(-1, 1, steps + 1)
    return normal + t[None, :, None] * right + t[:, None, None] * down


def _sides(steps: int = 1) -> dict[str, np.ndarray]:
    normals = {"front": (0, 1, 0), "left": (1, 0, 0), "back": (0, -1, 0), "right": (-1, 0, 0)}
    patches = {name: square(np.array(n, dtype=float), steps) for name, n in normals.items()}
    patches["top"], patches["bottom"] = square(_UP, steps), square(-_UP, steps)
    return patches


def _box_patches() -> dict[str, np.ndarray]:
    return _sides()


def _sphere_patches() -> dict[str, np.ndarray]:
    # Tangent-spaced cube: neighbouring cells differ little in size.
    patches = {name: np.tan(p * np.pi / 4) for name, p in _sides(_ROUND_STEPS).items()}
    return {name: p / np.linalg.norm(p, axis=-1, keepdims=True) for name, p in patches.items()}


def _cylinder_patches() -> dict[str, np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, 4 * _ROUND_STEPS + 1)
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=-1)
    caps = {}
    for name, normal in (("top", _UP), ("bottom", -_UP)):
        flat = square(normal, _ROUND_STEPS)
        x, y = flat[..., 0], flat[..., 1]
        disc = np.stack([x * np.sqrt(1 - y**2 / 2), y * np.sqrt(1 - x**2 / 2)], axis=-1)
        caps[name] = np.concatenate([disc, flat[..., 2:]], axis=-1)
    return {"side": np.stack([ring + _UP, ring - _UP]), **caps}
