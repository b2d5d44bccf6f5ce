"""Relative pose of two images from their matches, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3
from reconx_ros.core.transforms import nearest_rotation
from reconx_ros.geometry.epipolar import fundamental_matrix
from reconx_ros.pointmap.sfm.bundle import adjust
from reconx_ros.pointmap.sfm.features import Features
from reconx_ros.pointmap.sfm.matching import Matches, held_out, match, symmetric_epipolar_px
from reconx_ros.pointmap.sfm.planar import plane_poses
from reconx_ros.pointmap.sfm.problem import BundleProblem
from reconx_ros.pointmap.sfm.triangulation import homogeneous, triangulate

INLIER_SHARE = 1 / 300  # of the image's longer side: how near a match must be to its epipolar line
_RATIOS = (0.8, 0.9)
_MIN_INLIERS = 8
_SAMPLE = 5  # matches that define an essential matrix
_MODELS = 4  # real essential matrices per sample, on average
MAX_LOG_FALSE_ALARMS = -6.0
_MIN_FRONT_SHARE = 0.75  # of the matches on their epipolar lines
_MIN_TURNED_RATIO = 0.03  # of what a rotation leaves unexplained to the parallax; far less where the pose is degenerate
_MAX_PARALLAX_DEG = 120.0  # of the median match; from so far around no surface looks alike, but a reflection may
_WIDE_DEG = 10.0
_RANSAC_STEPS = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoViewGeometry:
    """What two images say about their relative pose.

    Attributes:
        b_from_a: relative pose; the translation has length 1.
        matches: that agree with it.
        log_false_alarms: log10 of how many geometries as good as this chance would offer; see ``log_false_alarms``.
        parallax_deg: median angle between the rays of the matches.
        turned_only_px: median distance in pixels of the matches when explained by a rotation alone.
        sigma_deg: standard deviations of rotation and direction of translation; see ``pose_sigma_deg``.
        raw: all candidate matches; every fifth of them (``matching.held_out``) was not used.
    """

    b_from_a: SE3
    matches: Matches
    log_false_alarms: float
    parallax_deg: float
    turned_only_px: float
    sigma_deg: tuple[float, float]
    raw: Matches


def inlier_px(a: Features, b: Features) -> float:
    """Distance to the epipolar line up to which a match agrees, pixels."""
    return max(1.5, INLIER_SHARE * max(*a.camera.size, *b.camera.size))


def chance_on_line(a: Features, b: Features, within_px: float) -> float:
    """Chance that a random match lies within some pixels of its epipolar line, in the worse of both images."""
    return min(0.5, max(2 * within_px * math.hypot(*c.size) / (c.width * c.height) for c in (a.camera, b.camera)))


def log_false_alarms(count: int, inliers: int, chance: float) -> float:
    """log10 of the expected number of geometries that explain as many of random matches as well.

    The a-contrario criterion of Moisan and Stival (IJCV 2004, eq. 13): below 0 the geometry is meaningful.
    """
    if inliers <= _SAMPLE:
        return 0.0
    log_choices = _log_choose(count, inliers) + _log_choose(inliers, _SAMPLE)
    return math.log10(_MODELS * max(1, count - _SAMPLE)) + log_choices + (inliers - _SAMPLE) * math.log10(chance)


def _log_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(10)


def fundamental_from_pose(a: Features, b: Features, b_from_a: SE3) -> np.ndarray:
    """F [3, 3] with ``x_b^T F x_a = 0``."""
    return fundamental_matrix(b.camera, a.camera, b_from_a)


def estimate(
    a: Features, b: Features, *, seed: int = 0, candidates: Matches | None = None, chance: float | None = None,
    trials: int = 3,
) -> TwoViewGeometry | None:  # fmt: skip
    """Relative pose of two images; None where their matches are no better than chance.

    Args:
        a, b: features of both.
        seed: of the random sampling.
        candidates: raw matches; None matches here.
        chance: that a wrong candidate agrees with a geometry; None takes that of a match anywhere in the image.
        trials: how often poses are sampled; more where few of the matches are true.
    """
    raw = match(a, b) if candidates is None else candidates
    withheld = held_out(raw)
    usable = raw.select(~withheld)
    chance = chance_on_line(a, b, inlier_px(a, b)) if chance is None else chance
    best = _most_meaningful(a, b, usable, seed, chance, trials)
    if best is None:
        return None
    pose, alarms = best
    inliers = usable.select(agreeing(a, b, pose, usable))
    pose = polished(a, b, inliers, pose)
    inliers = usable.select(agreeing(a, b, pose, usable))
    if len(inliers) < _MIN_INLIERS or _is_mirrored(a, b, pose, usable):
        return None
    ra, rb = a.rays[inliers.index[:, 0]], b.rays[inliers.index[:, 1]]
    parallax_deg = float(np.median(ray_angles_deg(pose, ra, rb)))
    if parallax_deg > _MAX_PARALLAX_DEG:
        return None
    return TwoViewGeometry(
        b_from_a=pose, matches=inliers, log_false_alarms=alarms, sigma_deg=pose_sigma_deg(a, b, inliers, pose),
        parallax_deg=parallax_deg, turned_only_px=turned_only_px(a, b, inliers),
        raw=raw,
    )  # fmt: skip


def _most_meaningful(
    a: Features, b: Features, usable: Matches, seed: int, chance: float, trials: int
) -> tuple[SE3, float] | None:
    """The pose with the fewest false alarms over several strengths of the ratio test, if any is meaningful."""
    best = None
    for ratio in _RATIOS:
        chosen = usable.select(usable.ratio < ratio)
        pose = _best_pose(a, b, chosen, seed, trials)
        if pose is None:
            continue
        count = int(agreeing(a, b, pose, chosen).sum())
        alarms = log_false_alarms(len(chosen), count, chance)
        if count >= _MIN_INLIERS and alarms < MAX_LOG_FALSE_ALARMS and (best is None or alarms < best[1]):
            best = pose, alarms
    return best


def _best_pose(a: Features, b: Features, chosen: Matches, seed: int, trials: int) -> SE3 | None:
    """The pose that most matches agree with, adjusted to them.

    Sampling may end in the wrong one of the two poses that a plane allows, so it is done several times, and the poses
    of the best plane are tried as well.
    """
    starts = [p for k in range(trials) if (p := _sampled_pose(a, b, chosen, seed + k)) is not None]
    if not starts:
        return None
    rays_a, rays_b = (f.rays[chosen.index[:, k]] for k, f in enumerate((a, b)))
    starts += plane_poses(rays_a, rays_b, plane_width(a, b))
    starts.sort(key=lambda p: -int(agreeing(a, b, p, chosen).sum()))
    kept = starts[: max(2, trials // 2)]
    poses = [polished(a, b, chosen.select(agreeing(a, b, p, chosen)), p) for p in kept]
    return max(poses, key=lambda p: int(agreeing(a, b, p, chosen).sum()))


def plane_width(a: Features, b: Features) -> float:
    """Distance on the plane z = 1 up to which a match agrees with a homography."""
    return 2 * inlier_px(a, b) / math.sqrt(math.sqrt(a.camera.fx * a.camera.fy * b.camera.fx * b.camera.fy))


def _sampled_pose(a: Features, b: Features, chosen: Matches, seed: int) -> SE3 | None:
    """Essential matrix by PROSAC with MAGSAC++ scores (Barath et al., CVPR 2020), as the pose with points in front."""
    import cv2

    if len(chosen) < _MIN_INLIERS:
        return None
    ra, rb = (f.rays[chosen.index[:, k]] for k, f in enumerate((a, b)))
    focal = math.sqrt(math.sqrt(a.camera.fx * a.camera.fy * b.camera.fx * b.camera.fy))
    params = cv2.UsacParams()
    params.sampler, params.score = cv2.SAMPLING_PROSAC, cv2.SCORE_METHOD_MAGSAC
    params.loMethod, params.maxIterations, params.confidence = cv2.LOCAL_OPTIM_SIGMA, _RANSAC_STEPS, 0.9999
    params.threshold, params.isParallel, params.randomGeneratorState = inlier_px(a, b) / focal, False, seed + 1
    eye = np.eye(3)
    matrix, _ = cv2.findEssentialMat(np.ascontiguousarray(ra), np.ascontiguousarray(rb), eye, eye, None, None, params)
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None
    return _in_front(matrix, a, b, chosen)


def _in_front(essential: np.ndarray, a: Features, b: Features, chosen: Matches) -> SE3:
    """Of the four poses of an essential matrix (Hartley and Zisserman, sec. 9.6) the one with most points in front."""
    import cv2

    first, second, t = cv2.decomposeEssentialMat(essential)
    poses = [SE3.exp(np.zeros(3), s * t.ravel()) for s in (1, -1)]
    poses = [SE3(rotation=nearest_rotation(r), translation=p.translation) for r in (first, second) for p in poses]
    return max(poses, key=lambda p: int(agreeing(a, b, p, chosen).sum()))


def agreeing(a: Features, b: Features, b_from_a: SE3, matches: Matches, within_px: float | None = None) -> np.ndarray:
    """Mask [M] of matches near their epipolar lines whose points lie in front of both cameras."""
    within = inlier_px(a, b) if within_px is None else within_px
    ia, ib = matches.index.T
    near = symmetric_epipolar_px(fundamental_from_pose(a, b, b_from_a), a.uv[ia], b.uv[ib]) < within
    points = triangulate(b_from_a, a.rays[ia], b.rays[ib])
    depth_b = points @ b_from_a.rotation[2] + b_from_a.translation[2]
    with np.errstate(invalid="ignore"):
        return near & (points[:, 2] > 0) & (depth_b > 0)


def polished(a: Features, b: Features, inliers: Matches, b_from_a: SE3, rounds: int = 15) -> SE3:
    """The pose after a robust two-view adjustment; translation of length 1."""
    ia, ib = inliers.index.T
    points = triangulate(b_from_a, a.rays[ia], b.rays[ib])
    depth_b = points @ b_from_a.rotation[2] + b_from_a.translation[2]
    with np.errstate(invalid="ignore"):
        good = np.isfinite(points).all(axis=1) & (points[:, 2] > 1e-3) & (depth_b > 1e-3) & (points[:, 2] < 1e4)
    if int(good.sum()) < _MIN_INLIERS:
        return b_from_a
    n = int(good.sum())
    problem = BundleProblem(
        cameras=(a.camera, b.camera),
        cam_from_worlds=(SE3.identity(), b_from_a),
        points=points[good],
        camera_index=np.repeat([0, 1], n),
        point_index=np.tile(np.arange(n), 2),
        uv=np.concatenate([a.uv[ia[good]], b.uv[ib[good]]]),
        weights=np.ones(2 * n),
        fixed_cameras=(0,),
    )
    pose = adjust(problem, iterations=rounds, tolerance=1e-5).problem.cam_from_worlds[1]
    length = float(np.linalg.norm(pose.translation))
    return SE3(rotation=pose.rotation, translation=pose.translation / length) if length > 1e-9 else b_from_a


def rival_share(a: Features, b: Features, found: TwoViewGeometry, seed: int = 0) -> float:
    """How well a second geometry explains what the first does not: near 1 where structures repeat.

    Returns:
        Inliers of the best geometry among the remaining matches, over those of the first; 0 where chance explains it.
    """
    chosen = found.raw.select(found.raw.ratio < _RATIOS[0])
    mine = agreeing(a, b, found.b_from_a, chosen, 2 * inlier_px(a, b))
    rest = chosen.select(~mine)
    other = _sampled_pose(a, b, rest, seed)
    if other is None or not mine.any():
        return 0.0
    count = int(agreeing(a, b, other, rest).sum())
    alarms = log_false_alarms(len(rest), count, chance_on_line(a, b, inlier_px(a, b)))
    return count / int(mine.sum()) if alarms < MAX_LOG_FALSE_ALARMS else 0.0


def pose_sigma_deg(a: Features, b: Features, inliers: Matches, b_from_a: SE3) -> tuple[float, float]:
    """Standard deviations in degrees of the rotation and of the direction of the translation, in their worst axes.

    From the Hessian of Sampson distances, about one pixel each (Hartley and Zisserman, sec. 5.2); infinite where the
    matches do not fix the pose: all on one line, no parallax.
    """
    basis = np.linalg.svd(b_from_a.translation[None])[2][1:]  # [2, 3] across the direction
    steps = np.concatenate([np.eye(5, 3), np.eye(5)[:, 3:] @ basis], axis=1)  # [5, 6] rotation, translation
    ia, ib = inliers.index.T

    def distances(step: np.ndarray) -> np.ndarray:
        pose = SE3.exp(step[:3], np.zeros(3)) @ b_from_a
        moved = SE3(rotation=pose.rotation, translation=b_from_a.translation + step[3:])
        return sampson_px(fundamental_from_pose(a, b, moved), a.uv[ia], b.uv[ib])

    size = 1e-5
    jacobian = np.stack([(distances(size * s) - distances(-size * s)) / (2 * size) for s in steps], axis=1)  # [M, 5]
    scale = max(0.5, 1.4826 * float(np.median(np.abs(distances(np.zeros(6))))))
    try:
        covariance = scale**2 * np.linalg.inv(jacobian.T @ jacobian)
    except np.linalg.LinAlgError:
        return math.inf, math.inf
    spread = [float(np.linalg.eigvalsh(covariance[k, k])[-1]) for k in (slice(0, 3), slice(3, 5))]
    turn, swing = (math.degrees(math.sqrt(v)) if v >= 0 else math.inf for v in spread)
    return turn, swing


def front_share(a: Features, b: Features, pose: SE3, matches: Matches) -> float:
    """Share in [0, 1], of the matches on their epipolar lines, of those in front of both cameras; 1 where none is."""
    near = symmetric_epipolar_px(
        fundamental_from_pose(a, b, pose), a.uv[matches.index[:, 0]], b.uv[matches.index[:, 1]]
    )
    count = int((near < inlier_px(a, b)).sum())
    return int(agreeing(a, b, pose, matches).sum()) / count if count else 1.0


def _is_mirrored(a: Features, b: Features, pose: SE3, usable: Matches) -> bool:
    """Whether too many matches lie on their epipolar lines but behind a camera, as those of a reflection do."""
    if front_share(a, b, pose, usable) >= _MIN_FRONT_SHARE:
        return False
    ia, ib = usable.index.T
    near = symmetric_epipolar_px(fundamental_from_pose(a, b, pose), a.uv[ia], b.uv[ib]) < inlier_px(a, b)
    return turned_only_px(a, b, usable.select(near)) > least_turned_px(a, b)


def least_turned_px(a: Features, b: Features) -> float:
    """Median error of the best rotation alone, in pixels, up to which two images show no parallax."""
    return max(1.0, max(*a.camera.size, *b.camera.size) / 360)


def is_degenerate(b: Features, found: TwoViewGeometry) -> bool:
    """Whether a pose claims wide parallax of matches that a mere rotation explains: they huddle in one spot."""
    turned_deg = math.degrees(found.turned_only_px / math.sqrt(b.camera.fx * b.camera.fy))
    return found.parallax_deg > _WIDE_DEG and turned_deg < _MIN_TURNED_RATIO * found.parallax_deg


def shows_parallax(a: Features, b: Features, found: TwoViewGeometry) -> bool:
    """Whether a rotation of the camera alone fails to explain the matches, by as much as their parallax demands."""
    return found.turned_only_px > least_turned_px(a, b) and not is_degenerate(b, found)


def sampson_px(fundamental: np.ndarray, uv_a: np.ndarray, uv_b: np.ndarray) -> np.ndarray:
    """Signed first-order geometric error [M] in pixels (Hartley and Zisserman, eq. 11.9); ``x_b^T F x_a = 0``."""
    xa, xb = homogeneous(uv_a), homogeneous(uv_b)
    line_b, line_a = xa @ fundamental.T, xb @ fundamental
    norm = np.sqrt((line_b[:, :2] ** 2).sum(axis=1) + (line_a[:, :2] ** 2).sum(axis=1))
    return (xb * line_b).sum(axis=1) / np.maximum(norm, 1e-15)


def ray_angles_deg(b_from_a: SE3, rays_a: np.ndarray, rays_b: np.ndarray) -> np.ndarray:
    """Angles [N] in degrees between matching rays, in one frame."""
    a = homogeneous(rays_a) @ b_from_a.rotation.T
    b = homogeneous(rays_b)
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))


def turned_only_px(a: Features, b: Features, inliers: Matches) -> float:
    """Median distance in pixels of matches when the best rotation alone is to explain them; small without parallax."""
    rays_a, rays_b = (_unit(homogeneous(f.rays[inliers.index[:, k]])) for k, f in enumerate((a, b)))
    weight = np.ones(len(rays_a))
    focal = math.sqrt(b.camera.fx * b.camera.fy)
    distance = np.zeros(len(rays_a))
    for _ in range(10):
        rotation = nearest_rotation((weight[:, None] * rays_b).T @ rays_a)
        distance = np.linalg.norm(rays_a @ rotation.T - rays_b, axis=1) * focal
        weight = 1 / np.maximum(distance, 0.1)
    return float(np.median(distance))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
