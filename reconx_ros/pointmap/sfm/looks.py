"""One matcher after the other looks at images: what is known of their pairs grows, until a model joins them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from reconx_ros.core import Job, Keyframe
from reconx_ros.pointmap.matching.base import Matcher, find_features, find_matches
from reconx_ros.pointmap.matching.features import Features, Matches
from reconx_ros.pointmap.sfm.twins import twin_share
from reconx_ros.pointmap.sfm.two_view import TwoViewGeometry, estimate, front_share, is_degenerate

_MAX_PAIRS = 60
_DISTINCT = 0.8  # ratio of a match that counts when pairs are ranked
_SURE_ALARMS = -60.0  # log10; a pair with fewer false alarms is good as it is
_MAX_TWIN_SHARE = 0.8
_MIN_FRONT_SHARE = 0.9
_MAX_LOG_FALSE_ALARMS = -12.0  # of a doubtful matcher, for fewer of its matches are true
_MAX_SIGMA_DEG = 0.6  # of the rotation, likewise
_TRIALS, _DOUBTFUL_TRIALS = 3, 10
_FEATURE_SHARE = 0.3  # of a look's progress

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings:
    """What all looks so far tell about images.

    Attributes:
        features: per image; those of later looks come after those of earlier ones. Without descriptors.
        pairs: relative poses of pairs that have one.
        distinctive: number of distinctive matches of each pair that was looked at.
    """

    features: tuple[Features, ...]
    pairs: dict[Pair, TwoViewGeometry]
    distinctive: dict[Pair, int]


def nothing_seen(keyframes: Sequence[Keyframe]) -> Sightings:
    """What is known before the first look."""
    empty = tuple(Features(uv=np.zeros((0, 2)), camera=k.frame.camera) for k in keyframes)
    return Sightings(features=empty, pairs={}, distinctive={})


def pairs_apart(images: int, joined: Collection[int], seen: Sightings) -> list[Pair]:
    """Pairs worth another look: not both joined, not sure yet; those with most distinctive matches first."""
    apart = [p for p in combinations(range(images), 2) if not set(p) <= set(joined)]
    unsure = [p for p in apart if p not in seen.pairs or seen.pairs[p].log_false_alarms > _SURE_ALARMS]
    return sorted(unsure, key=lambda p: (-seen.distinctive.get(p, 0), p))[:_MAX_PAIRS]


def look(
    matcher: Matcher,
    frames: Sequence[Keyframe],
    chosen: Sequence[Pair],
    seen: Sightings,
    job: Job,
    *,
    seed: int,
    device: torch.device,
) -> Sightings:
    """What is known after a matcher looked at some pairs; indices of the features known before stay the same.

    Of two geometries of a pair the one with fewer false alarms is kept. From a doubtful matcher one that is vague or
    could be chance is left out; so is one that a plane allows twice, for nothing tells which is true, and one that
    puts more matches behind a camera than chance does, as a reflection has.

    Args:
        matcher: who looks.
        frames: images.
        chosen: pairs to look at.
        seen: what is known before.
        job: progress and cancellation, of this look.
        seed: of the random sampling.
        device: where the matcher computes.
    """
    own = _features(matcher, frames, sorted({i for pair in chosen for i in pair}), job.part(0, _FEATURE_SHARE), device)
    features, place = list(seen.features), {}
    for i, points in own.items():
        features[i], place[i] = joined(seen.features[i], points)
    pairs, distinctive = dict(seen.pairs), dict(seen.distinctive)
    answers = find_matches(matcher, [(own[a], own[b]) for a, b in chosen], device=device)
    matching = job.part(_FEATURE_SHARE, 1.0)
    for k, (a, b) in enumerate(chosen):
        matching.step(k / len(chosen), f"matching pair {k + 1} of {len(chosen)} ({matcher.name})")
        raw = next(answers)
        raw = Matches(index=np.stack([place[a][raw.index[:, 0]], place[b][raw.index[:, 1]]], axis=1), ratio=raw.ratio)
        distinctive[a, b] = max(distinctive.get((a, b), 0), int((raw.ratio < _DISTINCT).sum()))
        found = _geometry(features[a], features[b], raw, doubtful=matcher.doubtful, seed=seed, known=pairs.get((a, b)))
        if found is not None:
            pairs[a, b] = found
    return Sightings(features=tuple(features), pairs=pairs, distinctive=distinctive)


def joined(earlier: Features, later: Features) -> tuple[Features, np.ndarray]:
    """The points of two looks at one image, and where [M] the later ones are among them.

    A later point at exactly the place of an earlier one is that point: matchers that build on others share them. The
    k-th of several at one place is the k-th.
    """
    slots = {key: slot for slot, key in enumerate(_keys(earlier.uv))}
    place = np.array([slots.setdefault(key, len(slots)) for key in _keys(later.uv)], dtype=np.int64)
    fresh = later.uv[place >= len(earlier)]
    return Features(uv=np.concatenate([earlier.uv, fresh]), camera=earlier.camera), place


def _keys(uv: np.ndarray) -> list[tuple[float, float, int]]:
    counts: Counter[tuple[float, float]] = Counter()
    keys = []
    for u, v in uv.tolist():
        keys.append((u, v, counts[u, v]))
        counts[u, v] += 1
    return keys


def _features(
    matcher: Matcher, frames: Sequence[Keyframe], used: Sequence[int], job: Job, device: torch.device
) -> dict[int, Features]:
    answers = find_features(matcher, [frames[i] for i in used], device=device)
    found = {}
    for k, i in enumerate(used):
        job.step(k / len(used), f"finding features in image {k + 1} of {len(used)} ({matcher.name})")
        found[i] = next(answers)
    return found


def _geometry(
    a: Features, b: Features, raw: Matches, *, doubtful: bool, seed: int, known: TwoViewGeometry | None
) -> TwoViewGeometry | None:
    """The relative pose that matches give, if it is better than the known one and can be used."""
    found = estimate(a, b, raw, seed=seed, trials=_DOUBTFUL_TRIALS if doubtful else _TRIALS)
    if found is None or is_degenerate(b, found):
        return None
    if known is not None and found.log_false_alarms >= known.log_false_alarms:
        return None
    return None if doubtful and not _is_safe(a, b, found) else found


def _is_safe(a: Features, b: Features, found: TwoViewGeometry) -> bool:
    if found.log_false_alarms > _MAX_LOG_FALSE_ALARMS or found.sigma_deg[0] > _MAX_SIGMA_DEG:
        return False
    in_front = front_share(a, b, found.b_from_a, found.raw)
    return in_front >= _MIN_FRONT_SHARE and twin_share(a, b, found) <= _MAX_TWIN_SHARE
