"""A map against the depth sensor: depth images that the map was not made of, each through its own camera and place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reconx_ros.core import SE3, PointCloud
from reconx_ros.evaluation.depth import depth_statistics, sample_nearest
from reconx_ros.geometry.tf_tree import TransformError
from reconx_ros.io.bag_choice import BagTopics
from reconx_ros.io.bag_depth import BagDepth, SensorDepth
from reconx_ros.io.bags import BagReader
from reconx_ros.io.ingest.settings import IngestSettings

_CELL_PX = 4  # side of the squares of which the nearest surface is seen
_SURFACE = 0.02  # relative depth within which points of a square count as one surface
_NEAR_NS = 1_000_000_000  # a depth image farther in time from a keyframe than this does not judge it


@dataclass(frozen=True, kw_only=True)
class SensorScore:
    """How a map compares with the sensor.

    Attributes:
        statistics: of the relative errors, as ``depth_statistics``; None where nothing could be compared.
        sentence: what was compared, or why nothing was.
    """

    statistics: dict[str, float] | None
    sentence: str

    def row(self) -> str:
        """For the table of a command."""
        found = self.statistics
        if found is None:
            return f"not computed: {self.sentence}"
        within = f"within 2 %: {100 * found['within_2pct']:.0f} %"
        return f"median {100 * found['median']:.2f} %, {within} ({self.sentence})"


Keyframes = Mapping[int, tuple[int, SE3 | None]]
"""Id to (stamp in ns, world_from_cam as the mapper used it)."""


def score_against_sensor(
    cloud: PointCloud, keyframes: Keyframes, reader: BagReader, topics: BagTopics, settings: IngestSettings
) -> SensorScore:
    """Score every keyframe's points with the depth image nearest to it in time that the map was not made of.

    Args:
        cloud: world points with keyframe ids.
        keyframes: those in the map.
        reader: the open bag that the map was made of.
        topics, settings: that it was made with.
    """
    posed = {i: (stamp, pose) for i, (stamp, pose) in keyframes.items() if pose is not None}
    if topics.depth is None:
        return SensorScore(statistics=None, sentence="the bag has no depth of this camera")
    if settings.pose_source == "none":
        why = "the poses are not the bag's, so that its depth has no place in the map"
        return SensorScore(statistics=None, sentence=why)
    depth = BagDepth(reader, topics, settings)
    stamps = depth.stamps_ns()
    used = _used_stamps(stamps, [stamp for stamp, _ in posed.values()], settings) if settings.use_depth else set()
    judges = _judges(posed, [s for s in stamps if s not in used])
    if not judges:
        why = f"{len(used)} of {len(stamps)} depth images are in the map itself, none of the others is near a keyframe"
        return SensorScore(statistics=None, sentence=why if used else "no depth image is near a keyframe")
    errors, compared = _errors(cloud, posed, judges, depth)
    if not len(errors):
        why = depth.problem or "no point of the map falls on a measured pixel"
        return SensorScore(statistics=None, sentence=f"of {len(judges)} depth images none can be compared: {why}")
    kind = "between the keyframes, which the map was not made of" if used else "withheld from the map"
    images = f"{compared} depth image{'s' if compared > 1 else ''}"
    return SensorScore(statistics=depth_statistics(errors), sentence=f"{images} {kind}")


def _used_stamps(stamps: Sequence[int], keyframes: Iterable[int], settings: IngestSettings) -> set[int]:
    """Depth images that keyframes took: the nearest to each, within the tolerance."""
    tolerance_ns = 0 if settings.depth_sync == "exact" else int(settings.depth_tolerance_s * 1e9)
    nearest = {min(stamps, key=lambda s: abs(s - k)): k for k in keyframes} if stamps else {}
    return {s for s, k in nearest.items() if abs(s - k) <= tolerance_ns}


def _judges(posed: Mapping[int, tuple[int, Any]], stamps: Sequence[int]) -> dict[int, list[int]]:
    """Stamp of a depth image to the keyframes that it judges; each keyframe has the nearest."""
    judges: dict[int, list[int]] = {}
    for keyframe_id, (stamp, _) in posed.items():
        nearest = min(stamps, key=lambda s: abs(s - stamp), default=None)
        if nearest is not None and abs(nearest - stamp) <= _NEAR_NS:
            judges.setdefault(nearest, []).append(keyframe_id)
    return judges


def _errors(
    cloud: PointCloud, posed: Mapping[int, tuple[int, Any]], judges: Mapping[int, list[int]], depth: BagDepth
) -> tuple[np.ndarray, int]:
    """Relative errors [P] of the map's points, and how many depth images there were."""
    errors = [np.zeros(0)]
    compared = set()
    for image in depth.images(judges.keys()):
        for keyframe_id in judges[image.stamp_ns]:
            stamp, pose = posed[keyframe_id]
            try:
                moved = pose @ depth.map_from_camera(stamp).inverse()  # what the mapper corrected
            except TransformError as error:
                depth.problem = str(error)
                continue
            points = cloud.points[cloud.keyframe_ids == keyframe_id].astype(np.float64)
            errors.append(point_errors(points, image, (moved @ image.map_from_depth).inverse()))
            compared |= {image.stamp_ns} if len(errors[-1]) else set()
    return np.concatenate(errors), len(compared)


def point_errors(points_world: np.ndarray, image: SensorDepth, depth_from_world: SE3) -> np.ndarray:
    """|d - d*| / d* [P] of the points [N, 3] that a depth camera sees and whose depth it measured.

    Of the points in a small square only those on the nearest surface are seen.
    """
    points = depth_from_world.apply(points_world)
    points = points[points[:, 2] > 0]
    u = points[:, 0] / points[:, 2] * image.camera.fx + image.camera.cx
    v = points[:, 1] / points[:, 2] * image.camera.fy + image.camera.cy
    truth = sample_nearest(image.depth_m, u, v)
    seen = _nearest_of_square(u, v, points[:, 2], image.depth_m.shape)
    known = np.isfinite(truth) & seen
    errors: np.ndarray = np.abs(points[known, 2] - truth[known]) / truth[known]
    return errors


def _nearest_of_square(u: np.ndarray, v: np.ndarray, z: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Mask [N] of the points that nothing nearer hides."""
    rows, columns = -(-shape[0] // _CELL_PX), -(-shape[1] // _CELL_PX)
    row, column = np.floor((v + 0.5) / _CELL_PX), np.floor((u + 0.5) / _CELL_PX)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    place = np.where(inside, row * columns + column, 0).astype(np.int64)
    nearest = np.full(rows * columns, np.inf)
    np.minimum.at(nearest, place[inside], z[inside])
    return inside & (z <= (1 + _SURFACE) * nearest[place])
