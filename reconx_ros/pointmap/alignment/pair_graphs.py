"""Which images form pairs for a two-view network: the connectivity graph of ReconX eq. 2 (DUSt3R's named graphs).

A graph is named by a word and options: ``complete``, ``swin[-WIDTH][-noncyclic]`` (sliding window),
``logwin[-WIDTH][-noncyclic]`` (offsets 1, 2, 4, ...), ``oneref[-INDEX]`` (one image against all others). Images are
taken in their order; cyclic windows close the sequence. No graph pairs an image with itself, also where a window is
wider than the sequence.
"""

from __future__ import annotations

import re

from reconx_ros.core import InvalidInputError

Pair = tuple[int, int]

_DEFAULT_WIDTH = 3
_WINDOW = re.compile(r"(swin|logwin)(?:-(\d+))?(-noncyclic)?")
_ONE_REFERENCE = re.compile(r"oneref(?:-(\d+))?")
_PREFILTER = re.compile(r"(seq|cyc)(\d+)")


def complete_graph(images: int) -> list[Pair]:
    """Every two images once, as (later, earlier)."""
    return [(i, j) for i in range(images) for j in range(i)]


def window_graph(images: int, offsets: list[int], *, cyclic: bool = True) -> list[Pair]:
    """Every image with those at the given offsets after it, as (smaller, larger) index, sorted, each once."""
    found = set()
    for i in range(images):
        for offset in offsets:
            j = (i + offset) % images if cyclic else i + offset
            if j < images and j != i:
                found.add((min(i, j), max(i, j)))
    return sorted(found)


def reference_graph(images: int, reference: int = 0) -> list[Pair]:
    """The reference image first, with every other image."""
    if not 0 <= reference < images:
        raise InvalidInputError(f"reference image is {reference}, expected an index from 0 to {images - 1}")
    return [(reference, j) for j in range(images) if j != reference]


def symmetrised(pairs: list[Pair]) -> list[Pair]:
    """The pairs, then all of them reversed."""
    return pairs + [(j, i) for i, j in pairs]


def prefiltered(pairs: list[Pair], images: int, prefilter: str) -> list[Pair]:
    """The pairs no farther apart than ``seqN`` (N images) or ``cycN`` (N images around the closed sequence) says."""
    match = _PREFILTER.fullmatch(prefilter)
    if match is None:
        raise InvalidInputError(f"pair prefilter is {prefilter!r}, expected seqN or cycN with a number N")
    cyclic, limit = match[1] == "cyc", int(match[2])
    return [p for p in pairs if _index_distance(p, images, cyclic) <= limit]


def _index_distance(pair: Pair, images: int, cyclic: bool) -> int:
    apart = abs(pair[0] - pair[1])
    return min(apart, images - apart) if cyclic else apart


def pair_graph(
    images: int, graph: str = "complete", *, symmetrise: bool = True, prefilter: str | None = None
) -> list[Pair]:
    """Directed pairs (first, second) of image indices; a network predicts both images of a pair in the first's frame.

    Args:
        images: number of images; one image has no pairs.
        graph: name with options, see the module.
        symmetrise: append every pair reversed; alignment needs each image first in at least one pair to see its focal
            length directly.
        prefilter: ``seqN`` or ``cycN`` drops pairs of images far apart in the sequence.

    Raises:
        InvalidInputError: for a number of images below 1, or a name that is not one of these.
    """
    if images < 1:
        raise InvalidInputError(f"number of images is {images}, expected at least 1")
    pairs = _named_graph(images, graph)
    if symmetrise:
        pairs = symmetrised(pairs)
    return pairs if prefilter is None else prefiltered(pairs, images, prefilter)


def _named_graph(images: int, graph: str) -> list[Pair]:
    if graph == "complete":
        return complete_graph(images)
    if match := _WINDOW.fullmatch(graph):
        width = int(match[2] or _DEFAULT_WIDTH)
        steps = range(width)
        offsets = [2**k for k in steps] if match[1] == "logwin" else [k + 1 for k in steps]
        return window_graph(images, offsets, cyclic=match[3] is None)
    if match := _ONE_REFERENCE.fullmatch(graph):
        return reference_graph(images, int(match[1] or 0))
    raise InvalidInputError(
        f"pair graph is {graph!r}, expected complete, swin[-WIDTH][-noncyclic], logwin[-WIDTH][-noncyclic] or "
        "oneref[-INDEX]"
    )
