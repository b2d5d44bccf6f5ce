"""Second look at images that plain matching leaves apart: features of synthesised slanted views."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations

import torch

from reconx_ros.core import Keyframe
from reconx_ros.pointmap.sfm.features import Features
from reconx_ros.pointmap.sfm.mapping import Pairs
from reconx_ros.pointmap.sfm.twins import twin_share
from reconx_ros.pointmap.sfm.two_view import TwoViewGeometry, estimate, front_share, is_degenerate
from reconx_ros.pointmap.sfm.view_synthesis import SlantedFeatures, extract_slanted, match_slanted

_MAX_PAIRS = 60
_SURE_ALARMS = -60.0  # log10; a pair with fewer false alarms is good as it is
_MAX_TWIN_SHARE = 0.8
_MIN_FRONT_SHARE = 0.9
_MAX_LOG_FALSE_ALARMS = -12.0  # stricter than for plain matches, for fewer of these are true
_MAX_SIGMA_DEG = 0.6  # of the rotation
_TRIALS = 10


def pairs_to_widen(
    images: int, joined: Collection[int], pairs: Pairs, candidates: Mapping[tuple[int, int], int]
) -> list[tuple[int, int]]:
    """Pairs worth a second look: not both joined, not sure yet; those with most candidate matches first.

    Args:
        images: number of images.
        joined: images that a model joins.
        pairs: geometries found so far.
        candidates: number of distinctive matches of each pair.
    """
    apart = [p for p in combinations(range(images), 2) if not set(p) <= set(joined)]
    unsure = [p for p in apart if p not in pairs or pairs[p].log_false_alarms > _SURE_ALARMS]
    return sorted(unsure, key=lambda p: (-candidates.get(p, 0), p))[:_MAX_PAIRS]


def widened(
    frames: Sequence[Keyframe],
    features: Sequence[Features],
    pairs: Pairs,
    chosen: Sequence[tuple[int, int]],
    step: Callable[[float, str], None],
    *,
    seed: int,
    device: torch.device,
) -> tuple[list[Features], dict[tuple[int, int], TwoViewGeometry]]:
    """Features and pair geometries with those of synthesised views added; indices of plain features stay the same.

    A geometry that is vague or could be chance is left out; so is one that a plane allows twice, for
    nothing tells which is true, and one that puts more matches behind a camera than chance does, as a reflection has.

    Args:
        frames, features, pairs: images, their plain features, geometries found so far.
        chosen: pairs to look at.
        step: progress in [0, 1] of this look.
        seed: of the random sampling.
        device: where descriptors are compared.
    """
    used = sorted({i for pair in chosen for i in pair})
    slanted: dict[int, SlantedFeatures] = {}
    for k, i in enumerate(used):
        step(0.3 * k / len(used), f"slanting image {k + 1} of {len(used)}")
        slanted[i] = extract_slanted(frames[i], features[i])
    spots = [slanted[i].spots if i in slanted else f for i, f in enumerate(features)]
    found = dict(pairs)
    for k, (a, b) in enumerate(chosen):
        step(0.3 + 0.7 * k / len(chosen), f"matching slanted pair {k + 1} of {len(chosen)}")
        matches = match_slanted(slanted[a], slanted[b], device=device)
        geometry = estimate(spots[a], spots[b], seed=seed, candidates=matches, trials=_TRIALS)
        if geometry is None or is_degenerate(spots[b], geometry):
            continue
        better = (a, b) not in found or geometry.log_false_alarms < found[a, b].log_false_alarms
        if better and _is_safe(spots[a], spots[b], geometry):
            found[a, b] = geometry
    return spots, found


def _is_safe(a: Features, b: Features, found: TwoViewGeometry) -> bool:
    if found.log_false_alarms > _MAX_LOG_FALSE_ALARMS or found.sigma_deg[0] > _MAX_SIGMA_DEG:
        return False
    in_front = front_share(a, b, found.b_from_a, found.raw)
    return in_front >= _MIN_FRONT_SHARE and twin_share(a, b, found) <= _MAX_TWIN_SHARE
