"""How much of what a camera sees the map explains, and when that is too little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, PinholeCamera, PointCloud, Provenance
from reconx_ros.pipeline.config import CoverageConfig

_OCCLUSION_SLACK = 1.2  # a point this much farther than the nearest of its cell still belongs to the visible surface
_MAX_POINTS = 80_000  # coverage needs no more, and stays a few milliseconds per view


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewCoverage:
    """Coverage of one view.

    Attributes:
        cells: [grid_height, grid_width] bool, True where measured points of the map explain the cell.
        inferred: [grid_height, grid_width] bool, True where only points that were inferred lie in it.
    """

    cells: np.ndarray  # [gh, gw]
    inferred: np.ndarray  # [gh, gw]

    @property
    def fraction(self) -> float:
        """Share in [0, 1] of cells that measured points explain: what the trigger goes by."""
        return float(self.cells.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class _SeenPoints:
    """Points [P, 3] with the centres [P, 3] of the cameras that saw them."""

    points: np.ndarray
    centres: np.ndarray


def _seen_points(cloud: PointCloud, mask: np.ndarray, keyframe_poses: dict[int, SE3]) -> _SeenPoints:
    chosen = np.flatnonzero(mask)
    if len(chosen) > _MAX_POINTS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MAX_POINTS).astype(np.int64)]
    centres, ids = np.zeros((len(chosen), 3)), cloud.keyframe_ids[chosen]
    for keyframe_id in np.unique(ids):
        centres[ids == keyframe_id] = keyframe_poses[int(keyframe_id)].translation
    return _SeenPoints(points=cloud.points[chosen].astype(np.float64), centres=centres)


class CoverageModel:
    """Confident geometry together with the places it was seen from."""

    def __init__(self, config: CoverageConfig) -> None:
        self._config = config
        self._measured = self._inferred = _SeenPoints(points=np.zeros((0, 3)), centres=np.zeros((0, 3)))

    def set_map(self, cloud: PointCloud, keyframe_poses: dict[int, SE3]) -> None:
        """Replace the map.

        Args:
            cloud: points of all kinds; only OBSERVED ones of the configured confidence or more explain what is seen.
            keyframe_poses: world_from_cam of every keyframe the cloud names; points of others are ignored.
        """
        known = np.isin(cloud.keyframe_ids, list(keyframe_poses))
        observed = cloud.provenance == int(Provenance.OBSERVED)
        sure = cloud.confidence >= self._config.min_confidence
        self._measured = _seen_points(cloud, known & observed & sure, keyframe_poses)
        self._inferred = _seen_points(cloud, known & (cloud.provenance == int(Provenance.INFERRED)), keyframe_poses)

    def view(self, camera: PinholeCamera, world_from_cam: SE3) -> ViewCoverage:
        """Coverage of one view.

        A cell is covered when enough points of the visible surface fall into it that were mapped from a similar
        direction (``max_angle_deg``) and distance (``max_distance_ratio``).
        """
        cells = self._explained(self._measured, camera, world_from_cam)
        guessed = self._explained(self._inferred, camera, world_from_cam)
        return ViewCoverage(cells=cells, inferred=guessed & ~cells)

    def _explained(self, known: _SeenPoints, camera: PinholeCamera, world_from_cam: SE3) -> np.ndarray:
        """Cells [gh, gw] that points explain."""
        config = self._config
        shape = (config.grid_height, config.grid_width)
        index, z, chosen = self._project(known.points, camera, world_from_cam)
        if not len(z):
            return np.zeros(shape, bool)
        nearest = np.full(shape[0] * shape[1], np.inf)
        np.minimum.at(nearest, index, z)
        visible = z <= _OCCLUSION_SLACK * nearest[index]
        similar = self._seen_similarly(known, chosen, world_from_cam.translation)
        counts = np.bincount(index[visible & similar], minlength=nearest.size)
        return np.asarray((counts >= config.min_points).reshape(shape))

    def _project(
        self, points_world: np.ndarray, camera: PinholeCamera, pose: SE3
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        points = pose.inverse().apply(points_world)
        z = points[:, 2]
        front = np.flatnonzero(z > 1e-6 * np.abs(points).max(initial=0.0))
        z = z[front]
        u = points[front, 0] / z * camera.fx + camera.cx
        v = points[front, 1] / z * camera.fy + camera.cy
        column = np.floor((u + 0.5) / camera.width * self._config.grid_width)
        row = np.floor((v + 0.5) / camera.height * self._config.grid_height)
        inside = (column >= 0) & (column < self._config.grid_width) & (row >= 0) & (row < self._config.grid_height)
        index = (row[inside] * self._config.grid_width + column[inside]).astype(np.int64)
        return index, z[inside], front[inside]

    def _seen_similarly(self, known: _SeenPoints, chosen: np.ndarray, centre: np.ndarray) -> np.ndarray:
        points = known.points[chosen]
        now, then = points - centre, points - known.centres[chosen]
        distance_now = np.linalg.norm(now, axis=1)
        distance_then = np.linalg.norm(then, axis=1)
        cosine = (now * then).sum(axis=1) / np.maximum(distance_now * distance_then, 1e-12)
        ratio = distance_now / np.maximum(distance_then, 1e-12)
        limit = self._config.max_distance_ratio
        near_direction = cosine >= np.cos(np.radians(self._config.max_angle_deg))
        return near_direction & (ratio <= limit) & (ratio >= 1 / limit)


@dataclass(frozen=True, kw_only=True)
class TriggerDecision:
    """Whether to reconstruct now, and why or why not."""

    fire: bool
    reason: str


class CoverageTrigger:
    """Fires when coverage is poor; hysteresis and cooldown keep it from firing over and over.

    After firing it is disarmed until coverage has risen above ``rearm_above``, or until ``min_new_keyframes`` have
    come in since: what cannot be mapped (a blank wall) does not fire again by itself, new content does.
    """

    def __init__(self, config: CoverageConfig) -> None:
        self._config = config
        self._armed = True
        self._running = False
        self._last_end_ns: int | None = None

    def configure(self, config: CoverageConfig) -> None:
        """Take over changed thresholds; whether armed or running stays."""
        self._config = config

    def decide(self, coverage: float, keyframes: int, new_keyframes: int, stamp_ns: int) -> TriggerDecision:
        """Decide for the present coverage.

        Args:
            coverage: mean of the recent views in [0, 1].
            keyframes: keyframes with a pose in the buffer.
            new_keyframes: those that no reconstruction has used.
            stamp_ns: time of the newest frame.
        """
        config = self._config
        if self._running:
            return TriggerDecision(fire=False, reason="a reconstruction is running")
        if coverage >= config.rearm_above or new_keyframes >= config.min_new_keyframes:
            self._armed = True
        if keyframes < config.min_keyframes:
            return TriggerDecision(fire=False, reason=f"{keyframes} of {config.min_keyframes} keyframes collected")
        if coverage >= config.trigger_below:
            return TriggerDecision(fire=False, reason=f"coverage {coverage:.2f} is enough")
        if not self._armed or new_keyframes < 1:
            return TriggerDecision(fire=False, reason="nothing new since the last reconstruction")
        if self._last_end_ns is not None and 0 <= stamp_ns - self._last_end_ns < config.cooldown_s * 1e9:
            return TriggerDecision(fire=False, reason=f"cooling down for {config.cooldown_s:g} s")
        return TriggerDecision(fire=True, reason=f"coverage {coverage:.2f} is below {config.trigger_below:g}")

    def started(self) -> None:
        """A reconstruction began."""
        self._running, self._armed = True, False

    def finished(self, stamp_ns: int) -> None:
        """A reconstruction ended, well or not, at the time of the newest frame."""
        self._running, self._last_end_ns = False, stamp_ns
