"""Is a recovered model true? Few views can register every image and still be wrong; small residuals prove nothing.

What is asked: do matches that nothing was estimated from agree (a wrong model fits those it was made from, and no
others); do strong pairs agree with the model; is there parallax; are the focal lengths those of a camera; is there a
second geometry that explains the images as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reconx_ros.core import SE3
from reconx_ros.pointmap.matching.features import Features
from reconx_ros.pointmap.sfm.mapping import IncrementalMapper, SparseModel
from reconx_ros.pointmap.sfm.triangulation import widest_angles_deg
from reconx_ros.pointmap.sfm.two_view import agreeing, chance_on_line, inlier_px

MAX_LOG_CHANCE = -3.0  # log10 of the chance that as many held-out matches agree with a wrong pose
_STRONG_ALARMS = -20.0
_MIN_EXPLAINED = 0.5  # share of a strong pair's matches
_MIN_POINT_ANGLE_DEG = 1.5
FOCAL_RANGE = (0.35, 4.0)  # over the longer side of the image: 110 to 14 degrees of view
_RATIO = 0.8


@dataclass(frozen=True, kw_only=True)
class HeldOutCheck:
    """How matches that were held out agree with a model.

    Attributes:
        tested: number of held-out matches between joined images that are distinctive.
        agree: how many of them fit.
        log_chance: log10 of the chance that a wrong pose would have as many, by image; the worst image counts.
    """

    tested: int
    agree: int
    log_chance: dict[int, float]


def log_binomial_tail(count: int, successes: int, chance: float) -> float:
    """log10 of P(X >= successes) for X ~ Binomial(count, chance)."""
    if successes <= 0:
        return 0.0
    k = np.arange(successes, count + 1)
    choose = np.array([math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in k])
    logs = choose + k * math.log(chance) + (count - k) * math.log1p(-chance)
    top = float(logs.max())
    return min(0.0, (top + math.log(float(np.exp(logs - top).sum()))) / math.log(10))


def with_cameras(features: Sequence[Features], model: SparseModel) -> list[Features]:
    """The features with the cameras of the model, which may have other focal lengths."""
    return [replace(f, camera=c) for f, c in zip(features, model.cameras, strict=True)]


def check_held_out(mapper: IncrementalMapper, model: SparseModel) -> HeldOutCheck:
    """Test a model with the matches that were held out of every estimation."""
    features = with_cameras(mapper.features, model)
    hits, trials = dict.fromkeys(model.cam_from_world, 0), dict.fromkeys(model.cam_from_world, 0)
    chance = 1e-3
    for (a, b), found in mapper.pairs.items():
        if a not in hits or b not in hits:
            continue
        raw = found.raw.select(found.raw.held_out())
        raw = raw.select(raw.ratio < _RATIO)
        pose = unit_pose(model.cam_from_world[b] @ model.cam_from_world[a].inverse())
        good = int(agreeing(features[a], features[b], pose, raw).sum()) if len(raw) else 0
        chance = max(chance, chance_on_line(features[a], features[b], inlier_px(features[a], features[b])))
        for image in (a, b):
            hits[image] += good
            trials[image] += len(raw)
    logs = {i: log_binomial_tail(trials[i], hits[i], chance) for i in hits}
    return HeldOutCheck(tested=sum(trials.values()) // 2, agree=sum(hits.values()) // 2, log_chance=logs)


def unit_pose(pose: SE3) -> SE3:
    """The pose with a translation of length 1 (unchanged where it is zero)."""
    length = float(np.linalg.norm(pose.translation))
    return SE3(rotation=pose.rotation, translation=pose.translation / length) if length > 0 else pose


def contradicted_pairs(mapper: IncrementalMapper, model: SparseModel) -> list[tuple[int, int]]:
    """Pairs with many matches most of which the model does not explain: repeated or mirrored structure."""
    explained = _explained(mapper, model)
    strong = [p for p in explained if mapper.pairs[p].log_false_alarms < _STRONG_ALARMS]
    return [p for p in strong if explained[p] < _MIN_EXPLAINED * len(mapper.pairs[p].matches)]


def explained_matches(mapper: IncrementalMapper, model: SparseModel) -> dict[int, int]:
    """How many matches of its pairs agree with the model, for each joined image."""
    total = dict.fromkeys(model.cam_from_world, 0)
    for pair, count in _explained(mapper, model).items():
        for image in pair:
            total[image] += count
    return total


def _explained(mapper: IncrementalMapper, model: SparseModel) -> dict[tuple[int, int], int]:
    """Matches that agree with the model, for each pair of joined images."""
    features, joined = with_cameras(mapper.features, model), model.cam_from_world
    counts = {}
    for (a, b), pair in mapper.pairs.items():
        if a in joined and b in joined:
            pose = unit_pose(joined[b] @ joined[a].inverse())
            near = 1.5 * inlier_px(features[a], features[b])
            counts[a, b] = int(agreeing(features[a], features[b], pose, pair.matches, near).sum())
    return counts


def point_angle_deg(mapper: IncrementalMapper, model: SparseModel) -> float:
    """Median over the points of the widest angle between their rays, degrees."""
    order = sorted(model.cam_from_world)
    slot = np.full(len(mapper.features), -1)
    slot[order] = np.arange(len(order))
    tracks, seen = mapper.tracks, model.observations
    poses = [model.cam_from_world[i] for i in order]
    angles = widest_angles_deg(poses, slot[tracks.image[seen]], tracks.track[seen], model.points)
    angles = angles[np.isfinite(model.points[:, 0])]
    return float(np.median(angles)) if len(angles) else 0.0


def implausible_focal(model: SparseModel, group: np.ndarray) -> float | None:
    """A focal length, over the longer side of its image, that no usual camera has; None when all are plausible."""
    for image in model.cam_from_world:
        camera = model.cameras[image]
        share = camera.fx / max(camera.size)
        if group[image] >= 0 and not FOCAL_RANGE[0] <= share <= FOCAL_RANGE[1]:
            return share
    return None


def lacks_parallax(mapper: IncrementalMapper, model: SparseModel) -> float | None:
    """The median angle at the points where it is too small to trust, degrees; else None."""
    angle = point_angle_deg(mapper, model)
    return angle if angle < _MIN_POINT_ANGLE_DEG else None
