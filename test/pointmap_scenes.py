"""Small posed scenes with exact depth, by analytic ray casting in numpy: a textured plane, a ball, a room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, Frame, Keyframe, PinholeCamera

Hit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def noise3(points: np.ndarray, seed: int) -> np.ndarray:
    """Smooth value noise in [0, 1] at points [..., 3], one feature per unit."""
    cell = np.floor(points).astype(np.int64)
    part = points - cell
    part = part * part * (3 - 2 * part)
    total = np.zeros(points.shape[:-1])
    for corner in range(8):
        offset = np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        key = (cell + offset) @ np.array([73856093, 19349663, 83492791]) + seed * 2654435761
        key = (key ^ (key >> 13)) * 1274126177 & 0x7FFFFFFF
        value = ((key ^ (key >> 16)) & 0xFFFF) / 65535.0
        total += value * np.prod(np.where(offset, part, 1 - part), axis=-1)
    return total


def texture(points: np.ndarray, contrast: float = 1.0) -> np.ndarray:
    """Colour [..., 3] in [0, 1] at world points: four octaves of noise from 60 cm to 3 cm."""
    channels = []
    for channel in range(3):
        value = sum(
            weight * noise3(points / size + 17.0, 10 * channel + octave)
            for octave, (size, weight) in enumerate(((0.6, 0.25), (0.2, 0.25), (0.07, 0.3), (0.03, 0.2)))
        )
        channels.append(0.5 + contrast * 1.6 * (np.asarray(value) - 0.5))
    return np.clip(np.stack(channels, axis=-1), 0, 1)


def plane(normal: Sequence[float], offset: float) -> Hit:
    """Distance along rays to the plane ``normal . x = offset``."""

    def hit(origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        towards = direction @ np.asarray(normal, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (offset - origin @ np.asarray(normal, float)) / towards
        return np.where((t > 1e-6) & np.isfinite(t), t, np.inf)

    return hit


def ball(centre: Sequence[float], radius: float) -> Hit:
    """Distance along rays to a sphere."""

    def hit(origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        to_centre = origin - np.asarray(centre, float)
        a = (direction * direction).sum(-1)
        b = (direction * to_centre).sum(-1)
        discriminant = b * b - a * ((to_centre * to_centre).sum(-1) - radius**2)
        t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
        return np.where((discriminant > 0) & (t > 1e-6), t, np.inf)

    return hit


def box(low: Sequence[float], high: Sequence[float]) -> Hit:
    """Distance along rays to an axis-aligned box, from outside."""

    def hit(origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (np.asarray(low) - origin) / direction, (np.asarray(high) - origin) / direction
        near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
        return np.where((near < far) & (near > 1e-6), near, np.inf)

    return hit


def room() -> list[Hit]:
    """A room of 5 x 4 x 2.6 m with a table, a cupboard and a ball; z is up, the floor is z = 0."""
    walls = [plane((1, 0, 0), 2.5), plane((1, 0, 0), -2.5), plane((0, 1, 0), 2.0), plane((0, 1, 0), -2.0)]
    things = [
        box((0.4, -0.5, 0.0), (1.2, 0.5, 0.7)),
        box((1.9, 0.6, 0.0), (2.5, 1.6, 1.8)),
        ball((0.8, -0.1, 0.9), 0.2),
    ]
    return [*walls, plane((0, 0, 1), 0.0), plane((0, 0, 1), 2.6), *things]


@dataclass(frozen=True)
class Scene:
    """Keyframes with the exact depth [H, W] of each."""

    keyframes: list[Keyframe]
    depths: list[np.ndarray]


def look_at(eye: Sequence[float], target: Sequence[float], up: Sequence[float] = (0, 0, 1)) -> SE3:
    """Pose of a camera at ``eye`` that looks at ``target``."""
    z = np.asarray(target, float) - np.asarray(eye, float)
    z /= np.linalg.norm(z)
    x = np.cross(z, np.asarray(up, float))
    x /= np.linalg.norm(x)
    return SE3(rotation=np.stack([x, np.cross(z, x), z], axis=1), translation=np.asarray(eye, float))


def pinhole(width: int = 160, height: int = 120, focal: float = 0.9) -> PinholeCamera:
    """A camera with its principal point in the middle; focal length as a share of the width."""
    return PinholeCamera(
        width=width, height=height, fx=focal * width, fy=focal * width, cx=(width - 1) / 2, cy=(height - 1) / 2
    )


def cast(hits: Sequence[Hit], camera: PinholeCamera, pose: SE3, contrast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Colour [H, W, 3] and z-depth [H, W] (inf where no surface is)."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
    directions = rays @ pose.rotation.T
    depth = np.min([hit(pose.translation, directions) for hit in hits], axis=0)
    points = pose.translation + np.where(np.isfinite(depth), depth, 0)[..., None] * directions
    return np.where(np.isfinite(depth)[..., None], texture(points, contrast), 0.5), depth


def render(
    hits: Sequence[Hit],
    cameras: Sequence[PinholeCamera],
    poses: Sequence[SE3],
    *,
    contrast: float = 1.0,
    noise: float = 0.0,
) -> Scene:
    """Keyframes of a scene, four rays per pixel, with Gaussian noise of that many grey levels."""
    rng = np.random.default_rng(0)
    keyframes, depths = [], []
    for i, (camera, pose) in enumerate(zip(cameras, poses, strict=True)):
        fine, _ = cast(hits, camera.scaled_to(2 * camera.width, 2 * camera.height), pose, contrast)
        colour = fine.reshape(camera.height, 2, camera.width, 2, 3).mean(axis=(1, 3)) * 255
        rgb = np.clip(colour + noise * rng.standard_normal(colour.shape), 0, 255).round().astype(np.uint8)
        frame = Frame(rgb_u8=rgb, camera=camera, world_from_cam=pose)
        keyframes.append(Keyframe(id=i, frame=frame, sharpness=1.0))
        depths.append(cast(hits, camera, pose, contrast)[1])
    return Scene(keyframes=keyframes, depths=depths)


def room_scene(
    views: int = 5, camera: PinholeCamera | None = None, *, contrast: float = 1.0, noise: float = 1.0
) -> Scene:
    """A robot that drives sideways through the room, 18 cm between views."""
    camera = camera or pinhole()
    poses = [look_at((-1.8, -0.7 + 0.18 * i, 1.1), (1.0, 0.05 * i, 0.8)) for i in range(views)]
    return render(room(), [camera] * views, poses, contrast=contrast, noise=noise)
