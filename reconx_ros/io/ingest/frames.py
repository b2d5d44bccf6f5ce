"""What the tree of frames says of a camera's frame: whether it looks along z, and which parameter cures what is wrong.

A camera's frame is an optical one: x right, y down, z forward (REP-103). Many simulators and drivers stamp their images
with the body frame beside it, x forward, z up. That is told where the tree holds the optical frame, turned as REP-103
says, below or beside the one of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.geometry.tf_tree import TransformError

BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_SAME_TURN = 0.02  # largest difference of an entry of the rotation


class Transforms(Protocol):
    """Where transforms come from: ``geometry.tf_tree.TransformBuffer``, or a node's listener."""

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> SE3:
        """target_from_source at a stamp, or at the newest one.

        Raises:
            TransformError: of ``reconx_ros.geometry.tf_tree``, with a sentence naming frames and stamps.
        """
        ...

    def parents(self) -> dict[str, str]:
        """Frame to its newest parent, for all frames that have one."""
        ...


def root_above(parents: Mapping[str, str], frame: str) -> str:
    """The root of the tree that a frame hangs in; the frame itself where it has no parent."""
    seen = {frame}
    while frame in parents and parents[frame] not in seen:
        frame = parents[frame]
        seen.add(frame)
    return frame


def optical_frames_beside(transforms: Transforms, frame: str) -> tuple[str, ...]:
    """Frames below or beside a frame that are turned against it as an optical frame is against its body."""
    parents = transforms.parents()
    others = (f for f in sorted(parents) if f != frame)
    near = (f for f in others if _is_below(parents, f, frame) or _are_beside(parents, f, frame))
    return tuple(f for f in near if _is_optical_of(transforms, frame, f))


def _is_below(parents: Mapping[str, str], frame: str, ancestor: str) -> bool:
    seen: set[str] = set()
    while frame in parents and frame not in seen:
        seen.add(frame)
        frame = parents[frame]
        if frame == ancestor:
            return True
    return False


def _are_beside(parents: Mapping[str, str], a: str, b: str) -> bool:
    return b in parents and parents.get(a) == parents[b]


def _is_optical_of(transforms: Transforms, body: str, optical: str) -> bool:
    try:
        rotation = transforms.lookup(body, optical).rotation
    except (TransformError, InvalidInputError):
        return False
    return bool(np.abs(rotation - BODY_FROM_OPTICAL).max() < _SAME_TURN)


class BodyFrames:
    """Remembers which frames are body frames until the tree changes."""

    def __init__(self, transforms: Transforms) -> None:
        self._transforms = transforms
        self._parents: dict[str, str] = {}
        self._known: dict[str, tuple[str, ...]] = {}

    def complaint(self, what: str, frame: str, cure: str = "") -> str:
        """One sentence about something whose frame looks along x; empty where it does not.

        Args:
            what: names what is in that frame.
            frame: name from its header.
            cure: what to do; empty names ``ros.optical_frame``.
        """
        found = self._optical(frame.lstrip("/"))
        if not found:
            return ""
        known = f"the tree has {', '.join(found)}"
        cure = cure or f"set ros.optical_frame: {found[0]}, or to '{frame}' itself if that looks along z"
        return f"{what} is in frame '{frame}', whose x axis looks forward, expected an optical one: {known}, {cure}"

    def _optical(self, frame: str) -> tuple[str, ...]:
        parents = self._transforms.parents()
        if parents != self._parents:
            self._parents, self._known = parents, {}
        if frame not in self._known:
            self._known[frame] = tuple(sorted(optical_frames_beside(self._transforms, frame), key=_unlikely))
        return self._known[frame]


def _unlikely(name: str) -> tuple[bool, bool, str]:
    lower = name.lower()
    return "optical" not in lower, not any(word in lower for word in ("color", "colour", "rgb")), name


def map_frame_hint(transforms: Transforms, map_frame: str, optical_frame: str) -> str:
    """The parameter that cures a map frame that is not in the camera's tree; empty where that is not it."""
    parents = transforms.parents()
    optical, wanted = optical_frame.lstrip("/"), map_frame.lstrip("/")
    root = root_above(parents, optical)
    in_tree = wanted in {*parents, *parents.values()} and root_above(parents, wanted) == root
    if root == optical or in_tree:
        return ""
    return f"the root above '{optical}' is '{root}', set ros.map_frame: {root}"
