"""The pair graph as seen by alignment: connected parts, and the order in which a spanning tree takes the pairs."""

from __future__ import annotations

from collections.abc import Sequence


def connected_parts(images: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Sets of images that pairs connect, each sorted, in order of their first image."""
    part = list(range(images))

    def root(n: int) -> int:
        while part[n] != n:
            n = part[n]
        return n

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        part[high] = low
    groups: dict[int, list[int]] = {}
    for n in range(images):
        groups.setdefault(root(n), []).append(n)
    return list(groups.values())


def spanning_tree(images: int, pairs: Sequence[tuple[int, int]], scores: Sequence[float]) -> list[int]:
    """Pairs of a maximum spanning tree in an order that grows one connected part, the best pair first.

    Of two pairs with equal scores the smaller one in (first, second) goes first, so that the order of pairs does not
    matter.

    Args:
        images: number of images; the pairs connect them all.
        pairs: directed pairs.
        scores: one per pair, larger is better.

    Returns:
        Indices of N - 1 pairs; each but the first shares one image with those before.
    """
    order = sorted(range(len(pairs)), key=lambda e: (-scores[e], pairs[e]))
    reached = set(pairs[order[0]])
    tree = [order[0]]
    while len(reached) < images:
        following = next(e for e in order if (pairs[e][0] in reached) != (pairs[e][1] in reached))
        tree.append(following)
        reached |= set(pairs[following])
    return tree
