"""Furniture from GLB files: triangles with a texture of their own."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import BackendUnavailableError, StorageError
from reconx_ros.sim.solids import Solid, rotated_2d

_LOG = logging.getLogger(__name__)
_TEXTURE_SIDE = 192  # px
_MAX_TRIANGLES = 12_000
_GREY = (0.6, 0.6, 0.6)
_UP_FROM_GLTF = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # glTF has y up, rooms z


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Triangles in metres, standing on z = 0, centred on the origin.

    Attributes:
        corners: [T, 3, 3].
        uv: [T, 3, 2] (right, down) in [0, 1].
        texture: [h, w, 3] float32 in [0, 1].
    """

    corners: np.ndarray  # [T, 3, 3]
    uv: np.ndarray  # [T, 3, 2]
    texture: np.ndarray  # [h, w, 3]

    @property
    def size_m(self) -> np.ndarray:
        """[3] extents."""
        flat = self.corners.reshape(-1, 3)
        return np.asarray(flat.max(axis=0) - flat.min(axis=0))

    @property
    def texel_m(self) -> float:
        """Edge of a texel on the surface, on average."""
        edges = self.corners[:, 1:] - self.corners[:, :1]
        area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1).sum()
        flat = (self.uv[:, 1:] - self.uv[:, :1]) * self.texture.shape[1::-1]
        texels = np.abs(flat[:, 0, 0] * flat[:, 1, 1] - flat[:, 0, 1] * flat[:, 1, 0]).sum()
        return float(np.sqrt(max(area, 1e-9) / max(texels, 1.0)))


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedMesh:
    """A mesh in a room.

    Attributes:
        mesh: what.
        yaw_rad: turn about z.
        offset: (x, y, z) where its foot stands, metres.
        scale: factor on its size.
    """

    mesh: Mesh
    yaw_rad: float
    offset: tuple[float, float, float]
    scale: float = 1.0

    @property
    def corners(self) -> np.ndarray:
        """[T, 3, 3] metres in the room."""
        corners = self.mesh.corners * self.scale
        turned = rotated_2d(corners[..., :2], self.yaw_rad)
        return np.concatenate([turned, corners[..., 2:]], axis=-1) + np.array(self.offset)

    @property
    def bounds(self) -> Solid:
        """The box around it, as an obstacle."""
        size = np.maximum(self.mesh.size_m * self.scale, 0.01)
        x, y, z = self.offset
        return Solid(
            kind="box", centre=(x, y, z + float(size[2]) / 2), size=(float(size[0]), float(size[1]), float(size[2])),
            material="paint", tint=_GREY, seed=1, yaw_rad=self.yaw_rad,
        )  # fmt: skip


@functools.lru_cache(maxsize=128)
def read_mesh(path: Path) -> Mesh | None:
    """A GLB file as one mesh; None, with a warning, for one that cannot be used.

    Raises:
        BackendUnavailableError: when trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError as err:
        raise BackendUnavailableError("furniture from GLB files needs trimesh: pip install trimesh") from err
    try:
        scene: Any = trimesh.load(path, force="scene")
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
        if not parts:
            raise StorageError("it has no triangles")
        return _joined(parts)
    except Exception as err:  # whatever trimesh raises about a file
        _LOG.warning("furniture %s is left out: %s", path, err)
        return None


def _joined(parts: list[Any]) -> Mesh:
    """All parts side by side in one texture."""
    pictures = [_texture(part) for part in parts]
    columns = int(np.ceil(np.sqrt(len(parts))))
    rows = -(-len(parts) // columns)
    side = max(2, _TEXTURE_SIDE // columns)
    atlas = np.zeros((rows * side, columns * side, 3), np.float32)
    corners, uvs = [], []
    for k, (part, picture) in enumerate(zip(parts, pictures, strict=True)):
        row, column = divmod(k, columns)
        atlas[row * side : (row + 1) * side, column * side : (column + 1) * side] = _resized(picture, side)
        corners.append(np.asarray(part.vertices)[np.asarray(part.faces)])
        inside = (0.5 + _uv(part) * (side - 1)) / side  # half a texel from the neighbours in the atlas
        uvs.append((inside + np.array([column, row])) / [columns, rows])
    triangles = np.concatenate(corners) @ _UP_FROM_GLTF.T
    if len(triangles) > _MAX_TRIANGLES:
        raise StorageError(f"it has {len(triangles)} triangles, expected at most {_MAX_TRIANGLES}")
    flat = triangles.reshape(-1, 3)
    low, high = flat.min(axis=0), flat.max(axis=0)
    if not np.isfinite(flat).all() or float((high - low).max()) > 20 or float((high - low).max()) < 0.01:
        raise StorageError(f"its extents are {high - low}, expected metres")
    foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return Mesh(corners=triangles - foot, uv=np.concatenate(uvs), texture=atlas)


def _uv(part: Any) -> np.ndarray:
    """[T, 3, 2] (right, down) in [0, 1]; whole repetitions are taken off per triangle."""
    faces = np.asarray(part.faces)
    uv = getattr(getattr(part, "visual", None), "uv", None)
    if uv is None or len(uv) == 0:
        return np.full((len(faces), 3, 2), 0.5)
    corners = np.asarray(uv)[faces] * [1.0, -1.0] + [0.0, 1.0]
    corners = corners - np.floor(corners.min(axis=1, keepdims=True))
    return np.clip(corners, 0, 1)


def _texture(part: Any) -> np.ndarray:
    """[h, w, 3] float32 of a part's material: its picture, or one texel of its colour."""
    material = getattr(getattr(part, "visual", None), "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is not None:
        return np.asarray(image.convert("RGB"), np.float32) / 255
    colour = getattr(material, "baseColorFactor", None)
    rgb = np.array(_GREY if colour is None else np.asarray(colour, np.float64)[:3], np.float32)
    return np.ones((1, 1, 3), np.float32) * (rgb / 255 if rgb.max() > 1 else rgb)


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    import cv2

    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))
