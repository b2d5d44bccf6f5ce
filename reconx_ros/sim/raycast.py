"""Ray-cast pictures of a room with exact depth, pose and intrinsics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reconx_ros.core import SE3, BackendUnavailableError, Frame, InvalidInputError, PinholeCamera, check_shape
from reconx_ros.core.settings import Settings, setting
from reconx_ros.sim.atlas import Atlas, pack
from reconx_ros.sim.light import LightField, bake, light_at
from reconx_ros.sim.meshes import PlacedMesh
from reconx_ros.sim.patterns import Canvas
from reconx_ros.sim.room import Room
from reconx_ros.sim.solids import SolidPatch
from reconx_ros.sim.textures import paint

_NO_HIT = 1e30
_MIN_COSINE = 0.05
_RAYS_PER_CALL = 16384
_OFF_M = 1e-3  # from a surface that mirrors, where the ray goes on


@dataclass(frozen=True, kw_only=True)
class RenderConfig(Settings):
    """Quality of the simulated pictures."""

    texel_m: float = setting(0.005, "Edge of a texel on all surfaces.", unit="m", ge=0.001, le=0.1)
    light_spacing_m: float = setting(0.08, "Distance of the points lit.", unit="m", ge=0.02, le=2.0)
    sharpness: float = setting(0.75, "Blur of textures over the extent of a pixel: lower is sharper.", ge=0.25, le=2.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class RgbdImage:
    """A picture with its true depth.

    Attributes:
        rgb_u8: [H, W, 3] uint8, RGB.
        depth_m: [H, W] float32 metres along the optical axis; 0 where the ray leaves the world.
        camera: exact intrinsics.
        world_from_cam: exact pose of the optical frame.
    """

    rgb_u8: np.ndarray  # [H, W, 3]
    depth_m: np.ndarray  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3

    def frame(self, stamp_ns: int = 0, *, depth: bool = True, camera_name: str = "camera") -> Frame:
        """The picture as the library's Frame, with true pose and, on demand, depth."""
        return Frame(
            rgb_u8=self.rgb_u8,
            camera=self.camera,
            stamp_ns=stamp_ns,
            world_from_cam=self.world_from_cam,
            depth_m=self.depth_m if depth else None,
            camera_name=camera_name,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RayHits:
    """Where N rays first meet the room.

    Attributes:
        distance: [N] float32 ray parameter: multiples of the direction's length; infinite where nothing is met.
        triangle: [N] int32 index of the triangle; -1 where nothing is met.
        barycentric: [N, 2] float32 weights of the triangle's second and third corner.
    """

    distance: np.ndarray  # [N]
    triangle: np.ndarray  # [N]
    barycentric: np.ndarray  # [N, 2]


@dataclass(frozen=True, kw_only=True)
class Twist:
    """A small motion of a camera, in its own optical frame.

    Attributes:
        turn_rad: [3] rotation vector.
        move_m: [3] metres.
    """

    turn_rad: tuple[float, float, float]
    move_m: tuple[float, float, float]


class RoomRenderer:
    """Renders one room from any pose. Building it paints all textures; rendering is fast and deterministic.

    Args:
        room: what to render.
        config: resolution of textures and light.

    Raises:
        BackendUnavailableError: when embreex is not installed.
    """

    def __init__(self, room: Room, config: RenderConfig | None = None) -> None:
        self.room = room
        self.config = config or RenderConfig()
        surfaces = room.surfaces()
        meshes = room.meshes
        parts = [surface.triangles() for surface in surfaces] + [(m.corners, m.mesh.uv) for m in meshes]
        triangles = np.concatenate([corners for corners, _ in parts])
        corner_uv = np.concatenate([uv for _, uv in parts]).astype(np.float32)  # [T, 3, 2]
        self._uv = np.ascontiguousarray(corner_uv[:, 0])  # [T, 2]
        self._uv_second = corner_uv[:, 1] - corner_uv[:, 0]
        self._uv_third = corner_uv[:, 2] - corner_uv[:, 0]
        self._surface = np.repeat(np.arange(len(parts)), [len(corners) for corners, _ in parts])  # [T]
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        lengths = np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
        self._normal = (normals / lengths).astype(np.float32)  # [T, 3]
        self._scene, self._mesh = _embree_scene(triangles)
        light = bake(self._scene, surfaces, room.size_m, self.config.light_spacing_m)
        self._atlas = _painted_atlas(surfaces, light, meshes, self.config.texel_m)
        self._light = self._mesh_light(triangles, len(surfaces)) if meshes else None  # [T]
        # The first surface is the floor: what it mirrors of the room.
        self._gloss = np.where(self._surface == 0, np.float32(room.gloss), np.float32(0)) if room.gloss else None

    def _mesh_light(self, triangles: np.ndarray, patches: int) -> np.ndarray:
        """Light on every triangle of the meshes; 1 on those of patches, whose textures hold it."""
        light = np.ones(len(triangles), np.float32)
        own = np.flatnonzero(self._surface >= patches)
        middle = triangles[own].mean(axis=1)
        # Files do not agree on which way is out: the brighter side of a triangle counts.
        sides = [light_at(self._scene, middle, side * self._normal[own], self.room.size_m) for side in (1.0, -1.0)]
        light[own] = np.maximum(*sides)
        return light

    def render(
        self, camera: PinholeCamera, world_from_cam: SE3, supersample: int = 1, shutter: Twist | None = None
    ) -> RgbdImage:
        """Picture and true depth from a pose.

        Args:
            camera: intrinsics.
            world_from_cam: pose of the optical frame, world in metres.
            supersample: pixels on the outline of a surface take the mean of supersample x supersample rays; the others
                are smooth already, because textures are averaged over the pixel. Depth is always that of the ray
                through the pixel's centre.
            shutter: motion while the rows are read, first to last (rolling shutter); the pose is that of the middle
                row. Depth is along the optical axis of each row's own pose. Needs a supersample of 1.

        Raises:
            InvalidInputError: for a supersample below 1, or above 1 with a rolling shutter.
        """
        if supersample < 1 or (supersample > 1 and shutter is not None):
            raise InvalidInputError(f"supersample is {supersample}, expected a number >= 1, and 1 with a shutter")
        rays = camera_rays(camera)  # [H * W, 3]
        origins, directions = world_from_cam.translation, _turned(rays, world_from_cam)
        if shutter is not None:
            origins, directions = _swept_rays(camera, world_from_cam, shutter)
        hits = self.cast(origins, directions)
        depth = np.where(hits.triangle >= 0, hits.distance, 0).astype(np.float32)
        colours = self._colours(hits, directions, camera.fx)
        if self._gloss is not None:
            colours = self._mirrored(colours, hits, origins, directions, camera.fx)
        if supersample > 1:
            outline = self._outline(hits, camera)
            colours[outline] = self._mean_colours(camera, world_from_cam, rays[outline], supersample)
        shape = (camera.height, camera.width)
        rgb = np.rint(colours).astype(np.uint8).reshape(*shape, 3)
        return RgbdImage(rgb_u8=rgb, depth_m=depth.reshape(shape), camera=camera, world_from_cam=world_from_cam)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> RayHits:
        """First hits of rays.

        Args:
            origins: [3] for all rays, or [N, 3]; world metres.
            directions: [N, 3] of any length.
        """
        check_shape("ray directions", directions, "N", 3)
        starts = np.ascontiguousarray(np.broadcast_to(origins, directions.shape), dtype=np.float32)
        towards = np.ascontiguousarray(directions, dtype=np.float32)
        # In portions: embree keeps Python's lock, and another thread may have to publish meanwhile.
        found = [
            self._scene.run(starts[k : k + _RAYS_PER_CALL], towards[k : k + _RAYS_PER_CALL], output=True)
            for k in range(0, len(towards), _RAYS_PER_CALL)
        ]
        distance, triangle, second, third = (_joined(found, key) for key in ("tfar", "primID", "u", "v"))
        triangle = np.where(distance < _NO_HIT, triangle, -1).astype(np.int32)
        return RayHits(
            distance=np.where(triangle >= 0, distance, np.float32(np.inf)),
            triangle=triangle,
            barycentric=np.where(triangle[:, None] >= 0, np.stack([second, third], axis=-1), np.float32(0)),
        )

    def _outline(self, hits: RayHits, camera: PinholeCamera) -> np.ndarray:
        """Mask [H * W] of pixels beside one that shows another surface."""
        surface = np.where(hits.triangle >= 0, self._surface[hits.triangle], -1).reshape(camera.height, camera.width)
        mask = np.zeros(surface.shape, bool)
        across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
        mask[:, 1:] |= across
        mask[:, :-1] |= across
        mask[1:] |= down
        mask[:-1] |= down
        return mask.reshape(-1)

    def _mean_colours(self, camera: PinholeCamera, world_from_cam: SE3, rays: np.ndarray, factor: int) -> np.ndarray:
        """Colours [M, 3] of pixels with central rays [M, 3], each the mean over factor x factor rays."""
        offsets = (np.arange(factor, dtype=np.float32) + 0.5) / factor - 0.5  # pixels
        v, u = np.meshgrid(offsets / camera.fy, offsets / camera.fx, indexing="ij")
        shifts = np.stack([u, v, np.zeros_like(u)], axis=-1).reshape(1, -1, 3).astype(np.float32)
        directions = _turned((rays[:, None] + shifts).reshape(-1, 3), world_from_cam)
        hits = self.cast(world_from_cam.translation, directions)
        colours = self._colours(hits, directions, camera.fx * factor)
        return np.asarray(colours.reshape(-1, factor**2, 3).mean(axis=1))

    def _colours(self, hits: RayHits, directions: np.ndarray, focal_px: float) -> np.ndarray:
        """Colours [N, 3] float32 in [0, 255] of rays [N, 3] of unit depth; black where nothing is met."""
        met = hits.triangle >= 0
        triangle = np.maximum(hits.triangle, 0)
        second, third = hits.barycentric[:, :1], hits.barycentric[:, 1:]
        uv = self._uv[triangle] + self._uv_second[triangle] * second + self._uv_third[triangle] * third  # [N, 2]
        cosine = np.abs(np.einsum("nc,nc->n", self._normal[triangle], directions))
        cosine /= np.sqrt(np.einsum("nc,nc->n", directions, directions))
        depth = np.where(met, hits.distance, np.float32(1.0))
        footprint = np.float32(self.config.sharpness / focal_px) * depth / np.sqrt(np.maximum(cosine, _MIN_COSINE))
        colours = self._atlas.sample(self._surface[triangle], uv, footprint)
        if self._light is not None:
            colours *= self._light[triangle, None]
            np.minimum(colours, 255, out=colours)
        return colours if met.all() else colours * met[:, None]

    def _mirrored(
        self, colours: np.ndarray, hits: RayHits, origins: np.ndarray, directions: np.ndarray, focal_px: float
    ) -> np.ndarray:
        """Colours with what glossy surfaces mirror, by Schlick's approximation of Fresnel's law."""
        gloss = self._gloss[np.maximum(hits.triangle, 0)] if self._gloss is not None else np.zeros(len(colours))
        at = np.flatnonzero((gloss > 0) & (hits.triangle >= 0))
        if not len(at):
            return colours
        towards, normal = directions[at], self._normal[hits.triangle[at]]
        along = np.einsum("nc,nc->n", towards, normal)[:, None]
        starts = np.broadcast_to(origins, directions.shape)[at] + hits.distance[at, None] * towards
        away = towards - 2 * along * normal
        met = self.cast(starts + _OFF_M * -np.sign(along) * normal, away)
        cosine = np.abs(along) / np.linalg.norm(towards, axis=-1, keepdims=True)
        share = gloss[at, None] + (1 - gloss[at, None]) * (1 - cosine) ** 5
        colours[at] += share * (self._colours(met, away, focal_px) - colours[at])
        return colours


def camera_rays(camera: PinholeCamera) -> np.ndarray:
    """Directions [H * W, 3] float32 of the pixels' rays in the optical frame, of unit depth."""
    rays = np.ones((camera.height, camera.width, 3), np.float32)
    rays[..., 0] = ((np.arange(camera.width) - camera.cx) / camera.fx)[None, :]
    rays[..., 1] = ((np.arange(camera.height) - camera.cy) / camera.fy)[:, None]
    return rays.reshape(-1, 3)


def _swept_rays(camera: PinholeCamera, world_from_cam: SE3, shutter: Twist) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions [H * W, 3] of the rays of a camera that moves while its rows are read."""
    rays = camera_rays(camera).reshape(camera.height, camera.width, 3)
    origins, directions = np.empty_like(rays), np.empty_like(rays)
    for row in range(camera.height):
        share = (row + 0.5) / camera.height - 0.5
        pose = world_from_cam @ SE3.exp(share * np.array(shutter.turn_rad), share * np.array(shutter.move_m))
        origins[row], directions[row] = pose.translation, _turned(rays[row], pose)
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def _joined(parts: list[dict[str, np.ndarray]], key: str) -> np.ndarray:
    return np.concatenate([part[key] for part in parts]) if parts else np.zeros(0, np.float32)


def _turned(rays: np.ndarray, world_from_cam: SE3) -> np.ndarray:
    # Written out: a threaded matrix product of this shape is slow on a busy computer.
    r = world_from_cam.rotation.astype(np.float32)
    return np.asarray(rays[:, :1] * r[:, 0] + rays[:, 1:2] * r[:, 1] + rays[:, 2:] * r[:, 2])


def _embree_scene(triangles: np.ndarray) -> tuple[Any, Any]:
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as err:
        raise BackendUnavailableError("the simulator needs embreex: pip install embreex") from err
    scene = EmbreeScene(robust=True)
    return scene, TriangleMesh(scene, np.ascontiguousarray(triangles, dtype=np.float32))


def _painted_atlas(
    surfaces: Sequence[SolidPatch], light: Sequence[LightField], meshes: Sequence[PlacedMesh], texel_m: float
) -> Atlas:
    textures = []
    for surface, field in zip(surfaces, light, strict=True):
        width_m, height_m = surface.size_m
        height, width = max(2, round(height_m / texel_m)), max(2, round(width_m / texel_m))
        canvas = Canvas(height=height, width=width, texel_m=texel_m, seed=surface.seed)
        colour = paint(surface.material, canvas, np.array(surface.tint))
        lit = colour if surface.material == "glow" else colour * field.at(height, width)[..., None]
        textures.append(np.minimum(lit, 1.0))
    own = [max(m.mesh.texel_m * m.scale, 1e-4) for m in meshes]
    return pack([*textures, *(m.mesh.texture for m in meshes)], [*([texel_m] * len(textures)), *own])
