"""Endless seeded groups of overlapping views of procedural rooms, with exact depth and poses: training data.

Group ``number`` of a configuration is always the same, whoever asks and in whatever order, so that workers can share
the numbers among them. Rooms of the two splits never mix: training rooms have even seeds, validation rooms odd ones.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from reconx_ros.core import SE3, ConfigError, Frame, InvalidInputError, PinholeCamera
from reconx_ros.core.settings import Settings, setting
from reconx_ros.sim.assets import find_assets
from reconx_ros.sim.camera_faults import jpeg_compressed, rendered_with_faults, with_pose_noise
from reconx_ros.sim.lifelike import lifelike_room
from reconx_ros.sim.noise import NOISE_LEVELS, noise_level, noisy_image
from reconx_ros.sim.raycast import RenderConfig, RoomRenderer, camera_rays
from reconx_ros.sim.room import Room, RoomConfig, make_room

SPLITS = ("train", "validation")
ROOM_KINDS = ("textured", "lifelike")
C = TypeVar("C", bound=Settings)
_PLAIN_MATERIAL = "ceiling"
_COARSE = 12  # rays along the shorter side that judge what a view sees
_SAME_SURFACE = 0.03  # relative
_TRIES = 40
_PLACES = 500
_CLEAR_M = 0.3  # around a camera
_AROUND_M = _CLEAR_M * np.array([(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])
_OPTICAL_FROM_FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # base axes of optical axes


@dataclass(frozen=True, kw_only=True)
class ViewGroupConfig(Settings):
    """What a group of views is like; ``DIFFICULTIES`` names some."""

    seed: int = setting(0, "Seed of all groups.", ge=0, le=100_000)
    split: str = setting("train", "Rooms of training, or rooms that training never sees.", choices=SPLITS)
    width: int = setting(96, "Width of the views.", unit="px", ge=16, le=2048)
    height: int = setting(64, "Height of the views.", unit="px", ge=16, le=2048)
    views: int = setting(2, "Views of a group.", ge=2, le=16)
    min_fov_deg: float = setting(60.0, "Smallest horizontal field of view.", unit="deg", ge=20.0, le=120.0)
    max_fov_deg: float = setting(80.0, "Largest horizontal field of view.", unit="deg", ge=20.0, le=120.0)
    min_baseline_m: float = setting(0.1, "Smallest distance of a view from the first.", unit="m", ge=0.0, le=3.0)
    max_baseline_m: float = setting(0.6, "Largest distance of a view from the first.", unit="m", ge=0.01, le=3.0)
    min_overlap: float = setting(0.4, "Smallest share of the first view that each other sees.", ge=0.0, le=0.95)
    plain: float = setting(0.0, "Share of the surfaces that are painted plain.", ge=0.0, le=1.0)
    lighting: float = setting(
        0.1, "Deviation of the logarithm of each view's exposure and white balance.", ge=0.0, le=1.0
    )
    noise: str = setting("none", "Noise of the camera.", choices=tuple(NOISE_LEVELS))
    open_rooms: int = setting(8, "Rooms that neighbouring groups are taken from.", ge=1, le=64)
    groups_per_room: int = setting(64, "Groups taken from each room.", ge=1, le=4096)
    texel_m: float = setting(0.02, "Edge of a texel on all surfaces.", unit="m", ge=0.001, le=0.1)
    rooms: str = setting(
        "textured", "Rooms with texture everywhere, or with plain walls, windows and thin legs.", choices=ROOM_KINDS
    )
    assets: str = setting("", "Folder of textures, pictures and furniture for lifelike rooms.")
    pose_noise: float = setting(
        0.0, "Largest error of the given poses, over that of poor odometry (1 cm and half a degree per view).", ge=0.0
    )
    camera_faults: float = setting(
        0.0,
        "Share of views with motion blur, of views with a rolling shutter, and of JPEG-compressed views.",
        ge=0.0,
        le=1.0,
    )
    lowest_m: float = setting(0.6, "Smallest height of the first camera.", unit="m", ge=0.05, le=1.7)


DIFFICULTIES: dict[str, ViewGroupConfig] = {
    "easy": ViewGroupConfig(),
    "medium": ViewGroupConfig(
        min_baseline_m=0.2, max_baseline_m=1.0, min_overlap=0.3, plain=0.2, lighting=0.2, noise="mild",
        min_fov_deg=50.0, max_fov_deg=90.0,
    ),
    "hard": ViewGroupConfig(
        min_baseline_m=0.3, max_baseline_m=1.6, min_overlap=0.15, plain=0.5, lighting=0.4, noise="strong",
        min_fov_deg=45.0, max_fov_deg=100.0,
    ),
    "lifelike": ViewGroupConfig(
        min_baseline_m=0.08, max_baseline_m=1.4, min_overlap=0.15, lighting=0.2, noise="mild",
        min_fov_deg=45.0, max_fov_deg=95.0, rooms="lifelike", pose_noise=1.0, camera_faults=0.2, lowest_m=0.25,
        groups_per_room=16, texel_m=0.01,
    ),
}  # fmt: skip


def difficulty(name: str, named: Mapping[str, C]) -> C:
    """One of the named difficulties: how far apart, how bent, how lit, how plain and how noisy.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in named:
        raise ConfigError(f"difficulty is '{name}', expected one of {', '.join(named)}")
    return named[name]


@dataclass(frozen=True, kw_only=True)
class _Pose:
    """A camera's place, height included, and where it looks; degrees of freedom that a person can read."""

    centre: np.ndarray  # [3]
    yaw: float
    tilt: float  # downwards
    roll: float

    def world_from_cam(self) -> SE3:
        turn = SE3.exp(np.array([0.0, 0.0, self.yaw]), np.zeros(3)) @ SE3.exp(
            np.array([0.0, self.tilt, 0.0]), np.zeros(3)
        )
        roll = SE3.exp(np.array([self.roll, 0.0, 0.0]), np.zeros(3))
        return SE3(rotation=(turn @ roll).rotation @ _OPTICAL_FROM_FORWARD, translation=self.centre)


class RoomViewGroups:
    """Gives groups of views by their number; keeps the renderers of the rooms in use.

    Args:
        config: what the groups are like.

    Raises:
        BackendUnavailableError: when the ray caster is not installed (at the first group).
        InvalidInputError: when the rooms have no such views.
    """

    def __init__(self, config: ViewGroupConfig) -> None:
        self.config = config
        self._scenes: OrderedDict[int, RoomScene] = OrderedDict()

    def __call__(self, number: int) -> list[Frame]:
        """The views of a group: exact poses in one world, exact depth, pictures with noise and light.

        Args:
            number: from 0, without end.
        """
        config = self.config
        scene = self.scene(self.room(number))
        rng = np.random.default_rng([config.seed, SPLITS.index(config.split), number])
        camera = view_camera(config, rng)
        poses = place_views(scene, camera, config, rng)
        frames = [self._frame(scene.renderer, camera, pose, k, number, rng) for k, pose in enumerate(poses)]
        return with_pose_noise(frames, config.pose_noise, rng) if config.pose_noise else frames

    def room(self, number: int) -> int:
        """Running number of the room that a group is in.

        Neighbouring groups lie in ``open_rooms`` different rooms, and these are exchanged one after the other.
        """
        turn, slot = divmod(number, self.config.open_rooms)
        shift = slot * self.config.groups_per_room // self.config.open_rooms
        return (turn + shift) // self.config.groups_per_room * self.config.open_rooms + slot

    def room_seed(self, room: int) -> int:
        """Seed of the room of a running number: even in training, odd in validation."""
        return 2 * (room + 1_000_003 * self.config.seed) + SPLITS.index(self.config.split)

    def scene(self, room: int) -> RoomScene:
        """The room of a running number, ready to be rendered; kept while it is in use."""
        if room not in self._scenes:
            while len(self._scenes) >= self.config.open_rooms:
                self._scenes.popitem(last=False)
            self._scenes[room] = RoomScene(_build(self.room_seed(room), self.config))
        self._scenes.move_to_end(room)
        return self._scenes[room]

    def _frame(
        self, renderer: RoomRenderer, camera: PinholeCamera, pose: SE3, view: int, number: int, rng: np.random.Generator
    ) -> Frame:
        config = self.config
        image = rendered_with_faults(renderer, camera, pose, config.camera_faults, rng)
        gain = np.exp(config.lighting * (rng.standard_normal() + 0.3 * rng.standard_normal(3)))
        lit = np.rint(np.clip(image.rgb_u8 * gain, 0, 255)).astype(np.uint8)
        noise = noise_level(config.noise, config.seed)
        noisy = noisy_image(lit, noise, number * config.views + view)
        if config.camera_faults and rng.random() < config.camera_faults:
            noisy = jpeg_compressed(noisy, int(rng.integers(40, 95)))
        return replace(image.frame(), rgb_u8=noisy)


def _build(seed: int, config: ViewGroupConfig) -> RoomRenderer:
    rng = np.random.default_rng([seed, 17])
    quality = RenderConfig(texel_m=config.texel_m, light_spacing_m=min(2.0, 15 * config.texel_m))
    if config.rooms == "lifelike":
        return RoomRenderer(lifelike_room(seed, find_assets(config.assets, config.split)), quality)
    length, width = float(rng.uniform(4.2, 6.5)), float(rng.uniform(3.7, 5.0))
    room = make_room(RoomConfig(seed=seed, length_m=length, width_m=width, clutter=float(rng.uniform(0.3, 1.0))))
    return RoomRenderer(_with_plain_surfaces(room, config.plain, rng), quality)


def _with_plain_surfaces(room: Room, share: float, rng: np.random.Generator) -> Room:
    shell = [replace(s, material=_PLAIN_MATERIAL) if rng.random() < share else s for s in room.shell]
    solids = [replace(s, material=_PLAIN_MATERIAL, front="") if rng.random() < share else s for s in room.solids]
    return replace(room, shell=tuple(shell), solids=tuple(solids))


def view_camera(config: ViewGroupConfig, rng: np.random.Generator) -> PinholeCamera:
    """A centred camera with a field of view in the configured range."""
    low, high = sorted((config.min_fov_deg, config.max_fov_deg))
    focal = config.width / 2 / math.tan(math.radians(float(rng.uniform(low, high))) / 2)
    return PinholeCamera(
        width=config.width,
        height=config.height,
        fx=focal,
        fy=focal,
        cx=config.width / 2 - 0.5,
        cy=config.height / 2 - 0.5,
    )


def place_views(
    scene: RoomScene, camera: PinholeCamera, config: ViewGroupConfig, rng: np.random.Generator
) -> list[SE3]:
    """Poses of a group: the first anywhere in free air, the others near it and towards the same content.

    A place that yields too few views after many tries is given up for another.

    Raises:
        InvalidInputError: when no place in the room has such views.
    """
    rays = _coarse_rays(camera)
    for _ in range(_PLACES):
        first = _first_pose(scene, rays, config.lowest_m, rng)
        if first is None:
            continue
        pose, points = first
        poses = [pose.world_from_cam()]
        for _ in range(_TRIES):
            if len(poses) == config.views:
                break
            other = _near(pose, points, config, rng)
            if other is not None and scene.is_clear(other.centre):
                candidate = other.world_from_cam()
                if _overlap(scene.renderer, camera, points, candidate) >= config.min_overlap:
                    poses.append(candidate)
        if len(poses) == config.views:
            return poses
    raise InvalidInputError(
        f"no {config.views} views with an overlap of {config.min_overlap:g} at {config.min_baseline_m:g} m to "
        f"{config.max_baseline_m:g} m were found in a room, expected a smaller min_overlap or baseline"
    )


def _coarse_rays(camera: PinholeCamera) -> np.ndarray:
    small = camera.fitted_to(round(_COARSE * max(camera.size) / min(camera.size)))
    return camera_rays(small)


def _first_pose(
    scene: RoomScene, rays: np.ndarray, lowest_m: float, rng: np.random.Generator
) -> tuple[_Pose, np.ndarray] | None:
    """A pose in free air that does not look at a wall from close by, and the points [P, 3] that it sees."""
    length, width, height = scene.room.size_m
    centre = np.array(
        [rng.uniform(-0.5, 0.5) * length, rng.uniform(-0.5, 0.5) * width, rng.uniform(lowest_m, min(1.8, height))]
    )
    pose = _Pose(
        centre=centre, yaw=float(rng.uniform(-np.pi, np.pi)), tilt=float(rng.uniform(-0.1, 0.45)),
        roll=float(rng.normal(0, 0.03)),
    )  # fmt: skip
    if not scene.is_clear(centre):
        return None
    world_from_cam = pose.world_from_cam()
    depth = scene.renderer.cast(centre, rays @ world_from_cam.rotation.T).distance.astype(np.float64)
    if not np.isfinite(depth).all() or np.median(depth) < 0.9 or depth.min() < 0.15:
        return None
    return pose, world_from_cam.apply(rays * depth[:, None])


class RoomScene:
    """A room's renderer, and what tells quickly whether a camera fits in a place."""

    def __init__(self, renderer: RoomRenderer) -> None:
        self.renderer, self.room = renderer, renderer.room
        self._obstacles = self.room.obstacles
        self._centres = np.array([solid.centre for solid in self._obstacles]).reshape(-1, 3)
        self._reach = np.array([np.linalg.norm(solid.size) / 2 + _CLEAR_M for solid in self._obstacles])

    def is_clear(self, centre: np.ndarray) -> bool:
        """Free air around a point [3], away from walls, floor and ceiling; furniture below or above is no obstacle."""
        near = np.flatnonzero(np.linalg.norm(self._centres - centre, axis=-1) < self._reach)
        few = replace(self.room, solids=tuple(self._obstacles[k] for k in near), meshes=())
        return bool(few.is_free(centre + _AROUND_M).all())


def _near(pose: _Pose, points: np.ndarray, config: ViewGroupConfig, rng: np.random.Generator) -> _Pose | None:
    """A pose at a random baseline, turned halfway towards the content that the first sees."""
    low, high = sorted((config.min_baseline_m, config.max_baseline_m))
    direction = rng.standard_normal(3) * (1, 1, 0.4)
    centre = pose.centre + direction / max(float(np.linalg.norm(direction)), 1e-9) * rng.uniform(low, high)
    towards = np.median(points, axis=0) - centre
    if float(np.linalg.norm(towards[:2])) < 0.2:
        return None
    yaw = math.atan2(towards[1], towards[0])
    turned = pose.yaw + rng.uniform(0.3, 1.0) * math.remainder(yaw - pose.yaw, 2 * math.pi)
    return _Pose(
        centre=centre, yaw=float(turned + rng.normal(0, 0.08)), tilt=float(pose.tilt + rng.normal(0, 0.06)),
        roll=float(rng.normal(0, 0.03)),
    )  # fmt: skip


def _overlap(renderer: RoomRenderer, camera: PinholeCamera, points: np.ndarray, world_from_cam: SE3) -> float:
    """Share of points [P, 3] that a camera sees."""
    cam = world_from_cam.inverse().apply(points)
    depth = np.maximum(cam[:, 2], 1e-6)
    u, v = camera.fx * cam[:, 0] / depth + camera.cx, camera.fy * cam[:, 1] / depth + camera.cy
    inside = (cam[:, 2] > 0.1) & (u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5)
    if not inside.any():
        return 0.0
    towards = points[inside] - world_from_cam.translation
    met = renderer.cast(world_from_cam.translation, towards).distance
    return float((met > 1 - _SAME_SURFACE).sum() / len(points))
