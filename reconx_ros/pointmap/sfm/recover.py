"""Cameras of unposed keyframes: matching of pairs, mapping from several seeds, tests, the largest true part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch

from reconx_ros.core import SE3, InsufficientParallaxError, Job, Keyframe, PinholeCamera, ReconstructionError
from reconx_ros.pointmap.matching.base import AUTO, choose_matchers
from reconx_ros.pointmap.matching.features import Features
from reconx_ros.pointmap.sfm.looks import Sightings, look, nothing_seen, pairs_apart
from reconx_ros.pointmap.sfm.mapping import Calibration, IncrementalMapper, Pairs, SparseModel
from reconx_ros.pointmap.sfm.plausibility import (
    MAX_LOG_CHANCE,
    check_held_out,
    contradicted_pairs,
    explained_matches,
    implausible_focal,
    lacks_parallax,
)
from reconx_ros.pointmap.sfm.two_view import rival_share, shows_parallax

_MAX_RIVAL_SHARE = 0.5
_FIRST_LOOK_SHARE = 0.7  # of the progress bar


@dataclass(frozen=True, kw_only=True, eq=False)
class RecoveredCameras:
    """Cameras of the keyframes that could be joined.

    Attributes:
        world_from_cam: keyframe id to pose; the world is the first joined camera's frame, its unit the median depth.
        cameras: keyframe id to intrinsics on the image's own grid.
        left_out: ids of the keyframes that share too little with the others.
        held_out_share: share of the distinctive matches held out of all estimation that agree with the cameras.
        reprojection_px: median reprojection error, pixels.
        points: number of points they were found from.
        matchers: names of the matchers whose matches joined them.
    """

    world_from_cam: dict[int, SE3]
    cameras: dict[int, PinholeCamera]
    left_out: tuple[int, ...]
    held_out_share: float
    reprojection_px: float
    points: int
    matchers: tuple[str, ...] = ()


def recover_cameras(
    keyframes: Sequence[Keyframe],
    job: Job,
    *,
    matcher: str = AUTO,
    seed: int = 0,
    device: torch.device | None = None,
) -> RecoveredCameras:
    """Poses (and focal lengths where they are uncertain) of keyframes from their images alone; up to scale.

    The first matcher looks at all pairs of images, each later one at those that are still apart (looks.py).
    Deterministic for a seed. The result does not depend on poses that the keyframes may have.

    Args:
        keyframes: at least two.
        job: progress and cancellation.
        matcher: name of a matcher, or auto.
        seed: of the random sampling.
        device: where matchers compute; None is the CPU.

    Raises:
        InsufficientParallaxError: when the images differ by a turn of the camera only, or not at all.
        ReconstructionError: when no two images overlap, or no model stands the tests.
        ConfigError, BackendUnavailableError: for a matcher that is not there.
        CancelledError: when the job was cancelled.
    """
    matchers = choose_matchers(matcher)
    frames = sorted(keyframes, key=lambda keyframe: keyframe.id)
    seen, attempt = nothing_seen(frames), None
    asked: tuple[str, ...] = ()
    chosen = list(combinations(range(len(frames)), 2))
    for k, one in enumerate(matchers):
        part = job.part(*_look_span(k, len(matchers)))
        known = seen.pairs
        seen = look(one, frames, chosen, seen, part, seed=seed, device=device or torch.device("cpu"))
        news = any(known.get(pair) is not found for pair, found in seen.pairs.items())
        asked += (one.name,) if news else ()
        if attempt is None or news:
            attempt = _better(attempt, replace(_mapped(frames, seen, part, seed), matchers=asked))
        chosen = pairs_apart(len(frames), attempt.joined, seen)
        if not chosen:
            break
    assert attempt is not None  # there is always a matcher
    if attempt.model is None:
        raise attempt.refusal or ReconstructionError("no model of the cameras was found")
    return replace(_in_first_camera(attempt.mapper, attempt.model, frames), matchers=attempt.matchers)


def _look_span(number: int, count: int) -> tuple[float, float]:
    """What part of the progress bar a look fills."""
    if number == 0:
        return 0.0, _FIRST_LOOK_SHARE
    step = (1 - _FIRST_LOOK_SHARE) / (count - 1)
    return _FIRST_LOOK_SHARE + (number - 1) * step, _FIRST_LOOK_SHARE + number * step


@dataclass(frozen=True, kw_only=True, eq=False)
class _Attempt:
    """A model that stands the tests, or why there is none."""

    mapper: IncrementalMapper
    model: SparseModel | None = None
    refusal: ReconstructionError | InsufficientParallaxError | None = None
    matchers: tuple[str, ...] = ()

    @property
    def joined(self) -> Collection[int]:
        return () if self.model is None else self.model.cam_from_world.keys()


def _better(first: _Attempt | None, second: _Attempt) -> _Attempt:
    """The attempt that joins more images."""
    return second if first is None or len(second.joined) > len(first.joined) else first


def _mapped(frames: Sequence[Keyframe], seen: Sightings, job: Job, seed: int) -> _Attempt:
    mapper = IncrementalMapper(seen.features, seen.pairs, calibration_from_keyframes(frames))
    models = mapper.models(lambda text: job.step(1.0, text))
    if not models:
        return _Attempt(mapper=mapper, refusal=_no_model(frames, seen.features, seen.pairs))
    try:
        return _Attempt(mapper=mapper, model=_first_true(mapper, models, seed))
    except (ReconstructionError, InsufficientParallaxError) as err:
        return _Attempt(mapper=mapper, refusal=err)


def calibration_from_keyframes(keyframes: Sequence[Keyframe]) -> Calibration:
    """Which keyframes share an uncertain focal length: those of one size with the same guess."""
    keys: list[tuple[float, ...]] = []
    group, sigmas = [], []
    for keyframe in keyframes:
        frame, camera = keyframe.frame, keyframe.frame.camera
        if frame.focal_uncertainty <= 0:
            group.append(-1)
            continue
        key = (camera.width, camera.height, camera.fx, camera.fy, frame.focal_uncertainty)
        if key not in keys:
            keys.append(key)
        group.append(keys.index(key))
        sigmas.append(frame.focal_uncertainty)
    return Calibration(group=np.array(group), sigma=max(sigmas, default=0.0))


def _first_true(mapper: IncrementalMapper, models: list[SparseModel], seed: int) -> SparseModel:
    """The model that joins most images among those that stand all tests."""
    refusals: list[ReconstructionError | InsufficientParallaxError] = []
    passed: list[tuple[int, float, SparseModel]] = []
    for model in models:
        tested = _without_unconfirmed(mapper, _without_contradicted(mapper, model))
        refusal = _refusal(mapper, tested, seed)
        if refusal is None:
            share = check_held_out(mapper, tested)
            passed.append((len(tested.cam_from_world), share.agree / max(1, share.tested), tested))
        else:
            refusals.append(refusal)
    if not passed:
        raise refusals[0]
    return max(passed, key=lambda p: (p[0], p[1]))[2]


def _without_contradicted(mapper: IncrementalMapper, model: SparseModel) -> SparseModel:
    """The model less the images that strong pairs contradict, the least supported first, while three are left."""
    while len(model.cam_from_world) > 2:
        contradicted = {i for pair in contradicted_pairs(mapper, model) for i in pair}
        if not contradicted:
            break
        support = explained_matches(mapper, model)
        model = _without(mapper, model, min(contradicted, key=lambda i: (support[i], -i)))
    return model


def _without(mapper: IncrementalMapper, model: SparseModel, image: int) -> SparseModel:
    kept = {i: p for i, p in model.cam_from_world.items() if i != image}
    return replace(model, cam_from_world=kept, observations=model.observations & (mapper.tracks.image != image))


def _without_unconfirmed(mapper: IncrementalMapper, model: SparseModel) -> SparseModel:
    """The model less the images that held-out matches do not confirm, the worst first, while three are left."""
    while len(model.cam_from_world) > 2:
        logs = check_held_out(mapper, model).log_chance
        worst = max(logs, key=lambda i: (logs[i], i))
        if logs[worst] <= MAX_LOG_CHANCE:
            break
        model = _without(mapper, model, worst)
    return model


def _refusal(
    mapper: IncrementalMapper, model: SparseModel, seed: int
) -> ReconstructionError | InsufficientParallaxError | None:
    """Why a model cannot be trusted; None when it can."""
    joined = len(model.cam_from_world)
    angle = lacks_parallax(mapper, model)
    if angle is not None:
        return InsufficientParallaxError(
            f"the {joined} images that overlap see their points under {angle:.2f} deg of parallax (median), "
            "expected at least 1.5 deg: move the camera sideways"
        )
    checked = check_held_out(mapper, model)
    worst = max(checked.log_chance.values())
    if worst > MAX_LOG_CHANCE:
        return ReconstructionError(
            f"the cameras recovered from {joined} images are not confirmed: {checked.agree} of {checked.tested} "
            "held-out matches agree with them, which chance explains: give images that overlap more"
        )
    focal = implausible_focal(model, mapper.calibration.group)
    if focal is not None:
        return ReconstructionError(
            f"the recovered focal length is {focal:.2f} times the longer side of the image, expected 0.35 to 4: "
            "give the field of view"
        )
    contradicted = contradicted_pairs(mapper, model)
    if contradicted:
        return ReconstructionError(
            f"{len(contradicted)} pairs of images with many matches contradict the recovered cameras: "
            "the scene repeats or mirrors itself"
        )
    return _rival_refusal(mapper, model, seed)


def _rival_refusal(mapper: IncrementalMapper, model: SparseModel, seed: int) -> ReconstructionError | None:
    """With two images nothing but the rest of their matches can tell of a second explanation."""
    if len(model.cam_from_world) > 2:
        return None
    a, b = sorted(model.cam_from_world)
    share = rival_share(mapper.features[a], mapper.features[b], mapper.pairs[a, b], seed)
    if share <= _MAX_RIVAL_SHARE:
        return None
    return ReconstructionError(
        f"a second relative pose explains {100 * share:.0f} % as many matches of the two images as the first: "
        "the scene repeats or mirrors itself, give a third image"
    )


def _no_model(
    frames: Sequence[Keyframe], features: Sequence[Features], pairs: Pairs
) -> ReconstructionError | InsufficientParallaxError:
    """Why no pair of images could start a model."""
    blank = [str(k.id) for k, f in zip(frames, features, strict=True) if len(f) == 0]
    if not pairs:
        hint = f"; keyframe {', '.join(blank)} is blank" if blank else ""
        return ReconstructionError(
            f"no two of the {len(frames)} images have more matches in common than chance explains{hint}: "
            "expected images that overlap and have texture"
        )
    turned = [g.turned_only_px for (a, b), g in pairs.items() if not shows_parallax(features[a], features[b], g)]
    if len(turned) == len(pairs):
        return InsufficientParallaxError(
            f"a turn of the camera alone explains the {len(pairs)} overlapping image pairs to {max(turned):.1f} px, "
            "expected a camera that moves sideways"
        )
    return ReconstructionError(
        f"the {len(pairs)} overlapping pairs among {len(frames)} images do not fix a relative pose "
        f"(best parallax {max(g.parallax_deg for g in pairs.values()):.1f} deg, uncertainty of the rotation "
        f"{min(g.sigma_deg[0] for g in pairs.values()):.1f} deg): expected more overlap and some sideways motion"
    )


def _in_first_camera(mapper: IncrementalMapper, model: SparseModel, frames: Sequence[Keyframe]) -> RecoveredCameras:
    order = sorted(model.cam_from_world)
    anchor = model.cam_from_world[order[0]]
    known = np.isfinite(model.points[:, 0])
    seen = model.observations
    points = model.points[mapper.tracks.track[seen]]
    poses = [model.cam_from_world[i] for i in mapper.tracks.image[seen]]
    depths = np.array([p.rotation[2] @ x + p.translation[2] for p, x in zip(poses, points, strict=True)])
    unit = float(np.median(depths))
    world_from_cam = {}
    for i in order:
        pose = anchor @ model.cam_from_world[i].inverse()
        world_from_cam[frames[i].id] = SE3(rotation=pose.rotation, translation=pose.translation / unit)
    tested = check_held_out(mapper, model)
    return RecoveredCameras(
        world_from_cam=world_from_cam,
        cameras={frames[i].id: model.cameras[i] for i in order},
        left_out=tuple(k.id for j, k in enumerate(frames) if j not in model.cam_from_world),
        held_out_share=tested.agree / max(1, tested.tested),
        reprojection_px=mapper.reprojection_px(model),
        points=int(known.sum()),
    )
