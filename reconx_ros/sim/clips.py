"""Endless seeded clips through procedural rooms, with exact poses: training data of the video network.

A clip is T pictures along a curved path between two keyframes that see the same content. The first and the last carry
depth with a sensor's errors and holes, as stage 1 would have it. As for groups of views, a clip depends on nothing but
the configuration, its number and its interval, and rooms of the two splits never mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera
from reconx_ros.core.settings import Settings, setting
from reconx_ros.sim.noise import NOISE_LEVELS, noise_level, noisy_depth, noisy_image
from reconx_ros.sim.path import NS_PER_S
from reconx_ros.sim.raycast import RgbdImage
from reconx_ros.sim.view_groups import SPLITS, RoomScene, RoomViewGroups, ViewGroupConfig, place_views, view_camera

_CLIP_STREAM = 3  # keeps the random numbers apart from those of view groups
_PATHS = 40  # pairs of keyframes that are tried
_SPEED_MPS = 0.5  # at which the stamps say the camera moved


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Settings):
    """What a clip is like; ``CLIP_DIFFICULTIES`` names some."""

    seed: int = setting(0, "Seed of all clips.", ge=0, le=100_000)
    split: str = setting("train", "Rooms of training, or rooms that training never sees.", choices=SPLITS)
    frames: int = setting(8, "Pictures of a clip.", ge=2, le=64)
    width: int = setting(32, "Width of the pictures.", unit="px", ge=8, le=2048)
    height: int = setting(32, "Height of the pictures.", unit="px", ge=8, le=2048)
    min_fov_deg: float = setting(70.0, "Smallest horizontal field of view.", unit="deg", ge=20.0, le=120.0)
    max_fov_deg: float = setting(70.0, "Largest horizontal field of view.", unit="deg", ge=20.0, le=120.0)
    min_baseline_m: float = setting(0.15, "Distance of the keyframes at interval 0.", unit="m", ge=0.01, le=3.0)
    max_baseline_m: float = setting(1.0, "Distance of the keyframes at interval 1.", unit="m", ge=0.01, le=3.0)
    min_overlap: float = setting(0.35, "Smallest share of the first picture that the last sees.", ge=0.0, le=0.95)
    bow: float = setting(0.3, "Largest sideways shift of the path, over the distance of the keyframes.", ge=0.0, le=1.0)
    plain: float = setting(0.0, "Share of the surfaces that are painted plain.", ge=0.0, le=1.0)
    lighting: float = setting(0.0, "Deviation of the logarithm of each clip's exposure and tint.", ge=0.0, le=1.0)
    noise: str = setting("mild", "Noise of camera and depth.", choices=tuple(NOISE_LEVELS))
    supersample: int = setting(2, "Rays along the side of a pixel on outlines.", ge=1, le=8)
    open_rooms: int = setting(8, "Rooms that neighbouring clips are taken from.", ge=1, le=64)
    clips_per_room: int = setting(16, "Clips taken from each room.", ge=1, le=4096)
    texel_m: float = setting(0.03, "Edge of a texel on all surfaces.", unit="m", ge=0.001, le=0.1)

    def keyframes(self, interval: float) -> ViewGroupConfig:
        """How the two keyframes of a clip lie to each other, at an interval from 0 to 1."""
        low, high = sorted((self.min_baseline_m, self.max_baseline_m))
        baseline = low + interval * (high - low)
        return ViewGroupConfig(
            seed=self.seed, split=self.split, width=max(16, self.width), height=max(16, self.height), views=2,
            min_fov_deg=self.min_fov_deg, max_fov_deg=self.max_fov_deg, min_baseline_m=0.8 * baseline,
            max_baseline_m=baseline, min_overlap=self.min_overlap, plain=self.plain, open_rooms=self.open_rooms,
            groups_per_room=self.clips_per_room, texel_m=self.texel_m,
        )  # fmt: skip


CLIP_DIFFICULTIES: dict[str, ClipConfig] = {
    "easy": ClipConfig(max_baseline_m=0.6, min_overlap=0.5, bow=0.15, noise="none"),
    "medium": ClipConfig(),
    "hard": ClipConfig(
        max_baseline_m=1.6, min_overlap=0.15, plain=0.3, lighting=0.2, noise="strong", min_fov_deg=55.0,
        max_fov_deg=90.0,
    ),
}  # fmt: skip


class RoomClips:
    """Gives clips by their number; keeps the renderers of the rooms in use.

    Args:
        config: what the clips are like.

    Raises:
        BackendUnavailableError: when the ray caster is not installed (at the first clip).
        InvalidInputError: when the rooms have no such clips.
    """

    def __init__(self, config: ClipConfig) -> None:
        self.config = config
        self._rooms = RoomViewGroups(config.keyframes(1.0))

    def __call__(self, number: int, interval: float = 1.0) -> list[Frame]:
        """The pictures of a clip in order, with exact poses; the first and the last with depth.

        Args:
            number: from 0, without end.
            interval: 0 for keyframes as close as they get, 1 for as far.

        Raises:
            InvalidInputError: for an interval outside [0, 1].
        """
        if not 0 <= interval <= 1:
            raise InvalidInputError(f"interval of a clip is {interval}, expected a number in [0, 1]")
        config = self.config
        scene = self._rooms.scene(self._rooms.room(number))
        rng = np.random.default_rng([config.seed, SPLITS.index(config.split), number, _CLIP_STREAM])
        camera = view_camera(config.keyframes(interval), rng).scaled_to(config.width, config.height)
        path = self._path(scene, camera, interval, rng)
        images = [scene.renderer.render(camera, pose, config.supersample) for pose in path]
        gain = np.exp(config.lighting * (rng.standard_normal() + 0.3 * rng.standard_normal(3)))
        return [self._frame(image, k, number, gain, path) for k, image in enumerate(images)]

    def _path(
        self, scene: RoomScene, camera: PinholeCamera, interval: float, rng: np.random.Generator
    ) -> tuple[SE3, ...]:
        keyframes = self.config.keyframes(interval)
        for _ in range(_PATHS):
            first, last = place_views(scene, camera, keyframes, rng)
            path = bowed_path(first, last, self.config.frames, self.config.bow, rng)
            if all(scene.is_clear(pose.translation) for pose in path[1:-1]):
                return path
        raise InvalidInputError(
            f"no free way of {keyframes.max_baseline_m:g} m was found in a room after {_PATHS} pairs of keyframes, "
            "expected a smaller baseline or bow"
        )

    def _frame(self, image: RgbdImage, place: int, number: int, gain: np.ndarray, path: Sequence[SE3]) -> Frame:
        config = self.config
        noise, running = noise_level(config.noise, config.seed), number * config.frames + place
        lit = np.rint(np.clip(image.rgb_u8 * gain, 0, 255)).astype(np.uint8)
        keyframe = place in (0, config.frames - 1)
        way_m = sum(a.distance_to(b) for a, b in pairwise(path[: place + 1]))
        return replace(
            image.frame(stamp_ns=round(way_m / _SPEED_MPS * NS_PER_S)),
            rgb_u8=noisy_image(lit, noise, running),
            depth_m=noisy_depth(image.depth_m, noise, running) if keyframe else None,
        )


def bowed_path(first: SE3, last: SE3, frames: int, bow: float, rng: np.random.Generator) -> tuple[SE3, ...]:
    """Poses from the first to the last, evenly turning, on a parabola that leaves the straight line sideways.

    Args:
        first, last: the ends, kept exactly.
        frames: number of poses, at least 2.
        bow: largest shift in the middle, over the distance of the ends.
        rng: chooses direction and size of the shift.
    """
    way = last.translation - first.translation
    sideways = rng.standard_normal(3) * (1, 1, 0.5)
    sideways -= way * (sideways @ way) / max(float(way @ way), 1e-12)
    size = bow * rng.uniform(-1, 1) * np.linalg.norm(way)
    sideways *= size / max(float(np.linalg.norm(sideways)), 1e-9)
    poses = [first]
    for k in range(1, frames - 1):
        s = k / (frames - 1)
        straight = first.interpolate(last, s)
        poses.append(SE3(rotation=straight.rotation, translation=straight.translation + 4 * s * (1 - s) * sideways))
    return (*poses, last)
