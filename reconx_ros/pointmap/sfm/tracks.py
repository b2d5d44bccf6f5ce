"""Points seen in several images: matches of pairs joined to tracks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """O observations of P tracks; each track is seen at most once per image.

    Attributes:
        image, feature, track: [O] which feature of which image belongs to which track.
        count: P.
    """

    image: np.ndarray  # [O]
    feature: np.ndarray  # [O]
    track: np.ndarray  # [O]
    count: int


def build_tracks(sizes: list[int], matches: Mapping[tuple[int, int], np.ndarray]) -> Tracks:
    """Join matches to tracks; a track with two features of one image is contradictory and dropped.

    Args:
        sizes: number of features of each image.
        matches: (image a, image b) to [M, 2] feature indices.
    """
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    parent = np.arange(offsets[-1])
    for (a, b), index in matches.items():
        for i, j in index + offsets[[a, b]]:
            _join(parent, int(i), int(j))
    nodes = np.unique(
        np.concatenate([np.zeros(0, np.int64)] + [m[:, k] + offsets[p[k]] for p, m in matches.items() for k in (0, 1)])
    )
    roots = np.array([_root(parent, int(n)) for n in nodes], dtype=np.int64)
    image = np.searchsorted(offsets, nodes, side="right") - 1
    _, track = np.unique(roots, return_inverse=True)
    twice = _seen_twice(track, image, len(sizes))
    keep = ~twice[track] if len(track) else np.zeros(0, bool)
    _, track = np.unique(track[keep], return_inverse=True)
    return Tracks(
        image=image[keep],
        feature=(nodes - offsets[image])[keep],
        track=track,
        count=int(track.max()) + 1 if len(track) else 0,
    )


def _seen_twice(track: np.ndarray, image: np.ndarray, views: int) -> np.ndarray:
    """Mask [P] of the tracks with two features in one image."""
    count = int(track.max()) + 1 if len(track) else 0
    table = np.zeros((count, views), np.int64)
    np.add.at(table, (track, image), 1)
    return np.asarray((table > 1).any(axis=1))


def _root(parent: np.ndarray, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = int(parent[node])
    return node


def _join(parent: np.ndarray, a: int, b: int) -> None:
    root_a, root_b = _root(parent, a), _root(parent, b)
    low, high = min(root_a, root_b), max(root_a, root_b)
    parent[high] = low
