"""What a matcher is, which there are, and how their answers are checked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch

from reconx_ros.core import InvalidInputError, Keyframe
from reconx_ros.core.registry import BackendInfo, create, with_entry_points
from reconx_ros.pointmap.matching.features import Features, Matches

AUTO = "auto"
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Matcher(Protocol):
    """Finds points that images have in common. Instances hold no state between calls.

    Both methods answer as they go, so that whoever asks can report progress and stop in between; how many images or
    pairs are computed at once is the matcher's own affair.

    Attributes:
        name: what configuration calls it.
        cost_s: seconds per pair of VGA images on one core of a CPU, roughly; cheaper matchers are asked first.
        doubtful: whether many of its matches may be wrong; what is estimated from them has to pass stricter tests.
    """

    name: str
    cost_s: float
    doubtful: bool

    def features(
        self, keyframes: Sequence[Keyframe], *, device: torch.device, limit: int | None = None
    ) -> Iterator[Features]:
        """Points of each image, in order of the images; none of a blank one. Deterministic.

        Args:
            keyframes: images; poses are not looked at.
            device: where torch computes.
            limit: at most so many points per image, the strongest; None leaves it to the matcher.

        Raises:
            InvalidInputError: for an image that is too small.
        """
        ...

    def match(self, pairs: Sequence[tuple[Features, Features]], *, device: torch.device) -> Iterator[Matches]:
        """Matches of each pair of images, in order of the pairs; each point is in at most one match of a pair.

        Args:
            pairs: features of images a and b, as this matcher found them.
            device: where torch computes.
        """
        ...


_BUILTIN = {
    "sift": BackendInfo(
        name="sift",
        target="reconx_ros.pointmap.matching.sift:SiftMatcher",
        summary="SIFT and nearest neighbours; fast, views up to about 30 degrees apart",
    ),
    "sift_slanted": BackendInfo(
        name="sift_slanted",
        target="reconx_ros.pointmap.matching.sift_slanted:SlantedSiftMatcher",
        summary="the same on synthesised slanted views; slow, surfaces seen from 60 degrees apart and more",
    ),
}


def registry() -> dict[str, BackendInfo]:
    """All known matchers by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.matching")


def create_matcher(name: str) -> Matcher:
    """The matcher of a name.

    Raises:
        ConfigError, BackendUnavailableError: as ``registry.create``.
    """
    matcher: Matcher = create(registry(), name, kind="matcher")
    return matcher


def choose_matchers(name: str) -> tuple[Matcher, ...]:
    """The matchers that a configured name stands for, the cheapest first.

    ``auto`` is all of the package that can run here: each later one is for images that those before leave apart.

    Raises:
        ConfigError, BackendUnavailableError: as ``registry.create``.
    """
    if name != AUTO:
        return (create_matcher(name),)
    chosen = [create_matcher(row.name) for row in _BUILTIN.values() if row.missing() is None]
    chosen.sort(key=lambda matcher: matcher.cost_s)
    _log.info("matcher auto: %s (all that can run here, the cheapest first)", ", then ".join(m.name for m in chosen))
    return tuple(chosen)


def find_features(
    matcher: Matcher, keyframes: Sequence[Keyframe], *, device: torch.device, limit: int | None = None
) -> Iterator[Features]:
    """What the matcher finds in each image.

    Raises:
        InvalidInputError: as ``Matcher.features``, and for a matcher that does not answer for every image.
    """
    answers = matcher.features(keyframes, device=device, limit=limit)
    for k in range(len(keyframes)):
        yield _answer(matcher, answers, k, len(keyframes), "images")


def find_matches(
    matcher: Matcher, pairs: Sequence[tuple[Features, Features]], *, device: torch.device
) -> Iterator[Matches]:
    """What the matcher finds in each pair of images.

    Raises:
        InvalidInputError: for a matcher that does not answer for every pair, names features that are not there or one
            of them twice, or does not give the least ambiguous match first.
    """
    answers = matcher.match(pairs, device=device)
    for k, (a, b) in enumerate(pairs):
        matches = _answer(matcher, answers, k, len(pairs), "pairs")
        unknown = matches.index[(matches.index < 0) | (matches.index >= [len(a), len(b)])]
        if len(unknown):
            raise InvalidInputError(
                f"matcher {matcher.name} names feature {unknown[0]} of images with {len(a)} and {len(b)}"
            )
        if any(len(np.unique(column)) < len(matches) for column in matches.index.T):
            raise InvalidInputError(f"matcher {matcher.name} matches a feature twice, expected at most once in a pair")
        if bool((np.diff(matches.ratio) < 0).any()):
            raise InvalidInputError(f"matcher {matcher.name} gives matches in no order, expected rising ratios")
        yield matches


def _answer(matcher: Matcher, answers: Iterator[T], number: int, count: int, what: str) -> T:
    answer = next(answers, None)
    if answer is None:
        raise InvalidInputError(f"matcher {matcher.name} answered for {number} of {count} {what}")
    return answer
