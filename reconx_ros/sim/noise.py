"""Seeded errors of sensors: camera, depth camera and odometry. The exact values stay with the caller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from reconx_ros.core import SE3, ConfigError, check_shape
from reconx_ros.core.settings import Settings, setting
from reconx_ros.sim.path import TimedPose

_IMAGE, _DEPTH, _ODOMETRY = 1, 2, 3  # streams of random numbers
_EDGE_RATIO = 0.04  # relative step of depth between neighbours that makes an edge


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(Settings):
    """Sizes of the errors; 0 switches one off."""

    seed: int = setting(0, "Seed of every random choice.", ge=0)
    image_sigma: float = setting(0.0, "Deviation of pixel noise.", unit="grey levels", ge=0.0, le=128.0)
    exposure_sigma: float = setting(0.0, "Deviation of the logarithm of each picture's brightness.", ge=0.0, le=2.0)
    blur_px: float = setting(0.0, "Deviation of the blur.", unit="px", ge=0.0, le=20.0)
    depth_sigma: float = setting(0.0, "Deviation of depth at 1 m, growing with its square.", unit="m", ge=0.0, le=0.5)
    depth_holes: float = setting(0.0, "Share of depth missing at edges; a tenth elsewhere.", ge=0.0, le=1.0)
    drift_translation: float = setting(0.0, "Drift of position on the first metre.", unit="m", ge=0.0, le=1.0)
    drift_yaw_deg: float = setting(0.0, "Drift of heading on the first metre.", unit="deg", ge=0.0, le=90.0)


NOISE_LEVELS: dict[str, NoiseConfig] = {
    "none": NoiseConfig(),
    "mild": NoiseConfig(
        image_sigma=2.0,
        exposure_sigma=0.02,
        blur_px=0.3,
        depth_sigma=0.0015,
        depth_holes=0.3,
        drift_translation=0.01,
        drift_yaw_deg=0.3,
    ),
    "strong": NoiseConfig(
        image_sigma=6.0,
        exposure_sigma=0.08,
        blur_px=0.7,
        depth_sigma=0.004,
        depth_holes=0.7,
        drift_translation=0.04,
        drift_yaw_deg=1.5,
    ),
}


def noise_level(name: str, seed: int = 0) -> NoiseConfig:
    """One of the named levels, with a seed.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in NOISE_LEVELS:
        raise ConfigError(f"noise is '{name}', expected one of {', '.join(NOISE_LEVELS)}")
    return replace(NOISE_LEVELS[name], seed=seed)


def noisy_image(rgb_u8: np.ndarray, config: NoiseConfig, number: int) -> np.ndarray:
    """A picture as a camera would take it.

    Args:
        rgb_u8: [H, W, 3] uint8, exact.
        config: sizes of the errors.
        number: of the picture; together with the seed it settles the errors.

    Returns:
        [H, W, 3] uint8; the same array when no error is switched on.
    """
    import cv2

    check_shape("image", rgb_u8, "H", "W", 3)
    if not (config.image_sigma or config.exposure_sigma or config.blur_px):
        return rgb_u8
    rng = np.random.default_rng([config.seed, _IMAGE, number])
    image: np.ndarray = rgb_u8.astype(np.float32)
    if config.blur_px > 0:
        image = cv2.GaussianBlur(image, (0, 0), config.blur_px)
    image *= np.float32(math.exp(config.exposure_sigma * rng.standard_normal()))
    image += np.float32(config.image_sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def noisy_depth(depth_m: np.ndarray, config: NoiseConfig, number: int) -> np.ndarray:
    """Depth as a sensor would measure it: errors that grow with the square of depth, and holes at edges.

    Args:
        depth_m: [H, W] float32 metres, exact; 0 where unknown.
        config, number: as ``noisy_image``.

    Returns:
        [H, W] float32 metres, 0 where unknown.
    """
    check_shape("depth", depth_m, "H", "W")
    rng = np.random.default_rng([config.seed, _DEPTH, number])
    error = np.float32(config.depth_sigma) * depth_m**2 * rng.standard_normal(depth_m.shape, dtype=np.float32)
    missing = rng.random(depth_m.shape, dtype=np.float32) < config.depth_holes * np.where(depth_edges(depth_m), 1, 0.1)
    return np.where(missing | (depth_m <= 0), 0, np.maximum(depth_m + error, 0)).astype(np.float32)


def depth_edges(depth_m: np.ndarray) -> np.ndarray:
    """Mask [H, W] of pixels beside a step of depth [H, W]."""
    edges = np.zeros(depth_m.shape, bool)
    for axis in (0, 1):
        near, far = np.minimum(*_neighbours(depth_m, axis)), np.maximum(*_neighbours(depth_m, axis))
        step = far - near > _EDGE_RATIO * np.maximum(near, 1e-6)
        first, second = _neighbours(edges, axis)
        first |= step
        second |= step
    return edges


def noisy_odometry(poses: Sequence[TimedPose], config: NoiseConfig) -> list[TimedPose]:
    """Poses as dead reckoning would give them: exact at the start, then drifting as a random walk along the way.

    Args:
        poses: exact, in order of time.
        config: sizes of the errors.

    Returns:
        As many poses with the same stamps.
    """
    if not poses or not (config.drift_translation or config.drift_yaw_deg):
        return list(poses)
    rng = np.random.default_rng([config.seed, _ODOMETRY])
    guessed = [poses[0]]
    for before, after in pairwise(poses):
        step = before.world_from_base.inverse() @ after.world_from_base
        root = math.sqrt(float(np.linalg.norm(step.translation)))
        yaw = math.radians(config.drift_yaw_deg) * root * float(rng.standard_normal())
        shift = np.array([*(config.drift_translation * root * rng.standard_normal(2)), 0.0])
        wrong = SE3.exp(np.array([0.0, 0.0, yaw]), shift)
        guessed.append(TimedPose(stamp_ns=after.stamp_ns, world_from_base=guessed[-1].world_from_base @ step @ wrong))
    return guessed


def _neighbours(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return (values[:-1], values[1:]) if axis == 0 else (values[:, :-1], values[:, 1:])
