"""Static light: what reaches each surface from the sky of the room and its lamps, computed once for all views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reconx_ros.sim.solids import SolidPatch

_OFFSET_M = 0.004
_AMBIENT_REACH_M = 0.9  # what is farther away does not darken a corner
_AMBIENT_RAYS = 32
_LAMP_RAYS = 9
_LAMPS = ((-0.22, -0.18), (0.24, 0.2))  # middle of each lamp over the room's size
_LAMP_HALF_M = 0.35
_CHUNK = 1_000_000


@dataclass(frozen=True, kw_only=True)
class LightField:
    """Brightness of one surface: [rows, columns] float32 factors for the even grid over its texture."""

    values: np.ndarray

    def at(self, height: int, width: int) -> np.ndarray:
        """Factors [height, width], smoothly enlarged."""
        import cv2

        padded = np.pad(self.values, 1, mode="edge")
        rows, columns = self.values.shape
        x, y = columns / width, rows / height
        affine = np.array([[x, 0, 0.5 * x + 0.5], [0, y, 0.5 * y + 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(padded, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def bake(
    scene: Any, surfaces: Sequence[SolidPatch], room_size_m: tuple[float, float, float], spacing_m: float
) -> list[LightField]:
    """Light on every surface.

    Args:
        scene: embree scene of the same surfaces.
        surfaces: S surfaces.
        room_size_m: (length, width, height).
        spacing_m: distance of neighbouring samples.

    Returns:
        S light fields, of mean about 0.9 over all surfaces in the open.
    """
    shapes = [_grid_shape(surface, spacing_m) for surface in surfaces]
    samples = [surface.sample(*shape) for surface, shape in zip(surfaces, shapes, strict=True)]
    points = np.concatenate([p.reshape(-1, 3) for p, _ in samples])
    normals = np.concatenate([n.reshape(-1, 3) for _, n in samples])
    light = light_at(scene, points, normals, room_size_m)
    stops = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    parts = np.split(light.astype(np.float32), stops)
    return [LightField(values=part.reshape(shape)) for part, shape in zip(parts, shapes, strict=True)]


def light_at(
    scene: Any, points: np.ndarray, normals: np.ndarray, room_size_m: tuple[float, float, float]
) -> np.ndarray:
    """Light [N] that reaches points [N, 3] with normals [N, 3]."""
    return np.asarray(
        0.30 + 0.50 * _ambient(scene, points, normals) + 0.42 * _lamps(scene, points, normals, room_size_m)
    )


def _grid_shape(surface: SolidPatch, spacing_m: float) -> tuple[int, int]:
    width, height = surface.size_m
    return max(2, round(height / spacing_m)), max(2, round(width / spacing_m))


def _ambient(scene: Any, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Share [N] of the hemisphere, weighted by the cosine, that is open within reach."""
    k = np.arange(_AMBIENT_RAYS) + 0.5
    radius, angle = np.sqrt(k / _AMBIENT_RAYS), k * np.pi * (3 - np.sqrt(5))
    local = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2)], axis=-1)
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    tangent = np.cross(helper, normals)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-9)
    frame = np.stack([tangent, np.cross(normals, tangent), normals], axis=1)  # [N, 3, 3]
    total = np.zeros(len(points))
    for ray in local:
        directions = np.einsum("c,ncd->nd", ray, frame)
        distance = _distance(scene, points + _OFFSET_M * normals, directions)
        total += np.minimum(distance / _AMBIENT_REACH_M, 1)
    return total / len(local)


def _lamps(scene: Any, points: np.ndarray, normals: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
    """Light [N] from panels below the ceiling, with soft shadows; about 1 on a table under a lamp."""
    steps = np.linspace(-_LAMP_HALF_M, _LAMP_HALF_M, round(np.sqrt(_LAMP_RAYS)))
    total = np.zeros(len(points))
    for x, y in _LAMPS:
        for i in steps:
            for j in steps:
                lamp = np.array([x * size[0] + i, y * size[1] + j, size[2] - 0.02])
                total += _from_lamp(scene, points, normals, lamp)
    return total / (len(_LAMPS) * len(steps) ** 2)


def _from_lamp(scene: Any, points: np.ndarray, normals: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    start = points + _OFFSET_M * normals
    towards = lamp - start
    distance = np.linalg.norm(towards, axis=-1)
    cosine = np.maximum((towards * normals).sum(-1), 0) / np.maximum(distance, 1e-6)
    lit = _distance(scene, start, towards) >= 1.0
    return lit * (0.35 + 0.65 * cosine) * (cosine > 0) * 4.0 / (1.5 + distance**2)


def _distance(scene: Any, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Ray parameter [N] of the first hit; huge where there is none."""
    hits = [
        scene.run(
            origins[k : k + _CHUNK].astype(np.float32), directions[k : k + _CHUNK].astype(np.float32), query="DISTANCE"
        )
        for k in range(0, len(origins), _CHUNK)
    ]
    return np.concatenate(hits)
