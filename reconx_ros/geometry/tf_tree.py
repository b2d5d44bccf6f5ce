"""A transform buffer with the rules of tf2, without ROS.

A tree of frames: every frame but the roots has one parent, and the transform between them is a time series. A lookup
at a stamp walks from both frames up to their nearest common ancestor and interpolates each edge on the way. The rules
are those of tf2's ``BufferCore`` and ``TimeCache`` (geometry2, ROS 2 Jazzy):

- translation is interpolated linearly, rotation by shortest-arc slerp; nothing is ever extrapolated;
- where a frame changes its parent between two samples, the older sample holds until the newer one;
- static transforms hold at every stamp; the last one given counts;
- history is bounded per frame relative to its newest sample, and samples older than that are not taken;
- "latest" means the newest stamp at which all moving edges between the two frames are known.

Two differences: of two samples with one stamp, the one given last always counts; and where ``max_gap_ns`` is given, a
frame that moved between two samples farther apart than that has no transform between them, instead of a guess.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from reconx_ros.core import SE3, InvalidInputError, ReconxError

_MAX_DEPTH = 1000
DEFAULT_HISTORY_NS = 10_000_000_000
_STILL_M, _STILL_RAD = 0.05, 0.035  # a frame that moved and turned less than this across a gap stood still


class TransformError(ReconxError):
    """A transform that the buffer cannot give."""


class UnknownFrameError(TransformError):
    """A frame that no transform has mentioned."""


class NotConnectedError(TransformError):
    """Two known frames without a common ancestor."""


class ExtrapolationError(TransformError):
    """A stamp outside the samples of an edge.

    Attributes:
        requested_ns: the stamp asked for.
        oldest_ns, newest_ns: the samples that there are, nanoseconds.
    """

    def __init__(self, message: str, requested_ns: int, oldest_ns: int, newest_ns: int) -> None:
        super().__init__(message)
        self.requested_ns = requested_ns
        self.oldest_ns = oldest_ns
        self.newest_ns = newest_ns


class FutureExtrapolationError(ExtrapolationError):
    """The stamp is newer than all samples: waiting may help."""


class PastExtrapolationError(ExtrapolationError):
    """The stamp is older than all samples: waiting cannot help."""


class GapError(TransformError):
    """The stamp lies in a long gap between two samples, across which the frame moved: waiting cannot help."""


@dataclass
class _Edge:
    """The samples of one frame relative to its parent, by rising stamp; a static one has a single sample."""

    is_static: bool
    max_gap_ns: int | None = None
    stamps_ns: list[int] = field(default_factory=list)
    samples: list[tuple[str, SE3]] = field(default_factory=list)  # (parent, parent_from_child)

    def insert(self, stamp_ns: int, parent: str, parent_from_child: SE3, history_ns: int) -> bool:
        if self.is_static:
            self.stamps_ns, self.samples = [0], [(parent, parent_from_child)]
            return True
        if self.stamps_ns and stamp_ns < self.stamps_ns[-1] - history_ns:
            return False
        k = bisect.bisect_left(self.stamps_ns, stamp_ns)
        if k < len(self.stamps_ns) and self.stamps_ns[k] == stamp_ns:
            self.samples[k] = (parent, parent_from_child)
            return True
        self.stamps_ns.insert(k, stamp_ns)
        self.samples.insert(k, (parent, parent_from_child))
        self._prune(history_ns)
        return True

    def _prune(self, history_ns: int) -> None:
        expired = bisect.bisect_left(self.stamps_ns, self.stamps_ns[-1] - history_ns)
        if expired:
            del self.stamps_ns[:expired], self.samples[:expired]

    def at(self, child: str, stamp_ns: int) -> tuple[str, SE3]:
        """(parent, parent_from_child) at a stamp."""
        if self.is_static:
            return self.samples[0]
        oldest, newest = self.stamps_ns[0], self.stamps_ns[-1]
        if not oldest <= stamp_ns <= newest:
            raise _extrapolation(child, self.samples[-1][0], stamp_ns, oldest, newest)
        k = bisect.bisect_left(self.stamps_ns, stamp_ns)
        if self.stamps_ns[k] == stamp_ns:
            return self.samples[k]
        (parent, before), (parent_after, after) = self.samples[k - 1], self.samples[k]
        if parent != parent_after:
            return parent, before
        self._check_gap(child, parent, stamp_ns, k)
        fraction = (stamp_ns - self.stamps_ns[k - 1]) / (self.stamps_ns[k] - self.stamps_ns[k - 1])
        return parent, before.interpolate(after, fraction)

    def _check_gap(self, child: str, parent: str, stamp_ns: int, k: int) -> None:
        """Refuse to interpolate between the samples k - 1 and k when they are far apart in time and space."""
        (start_ns, end_ns), (_, before), (_, after) = self.stamps_ns[k - 1 : k + 1], *self.samples[k - 1 : k + 1]
        if self.max_gap_ns is None or end_ns - start_ns <= self.max_gap_ns:
            return
        if before.distance_to(after) > _STILL_M or before.angle_to(after) > _STILL_RAD:
            raise GapError(
                f"transform from '{child}' to '{parent}' at {stamp_ns / 1e9:.3f} s lies in a gap of "
                f"{(end_ns - start_ns) / 1e9:.3f} s between two samples ({start_ns / 1e9:.3f} s and "
                f"{end_ns / 1e9:.3f} s), expected at most {self.max_gap_ns / 1e9:.3f} s"
            )


class TransformBuffer:
    """Transforms between named frames over time; safe to use from several threads.

    Args:
        history_ns: how far behind the newest sample of a frame its samples are kept, nanoseconds.
        max_gap_ns: longest time between two samples that is interpolated when the frame moved; None is without bound,
            as tf2 does it.
    """

    def __init__(self, history_ns: int = DEFAULT_HISTORY_NS, max_gap_ns: int | None = None) -> None:
        if history_ns <= 0:
            raise InvalidInputError(f"transform history is {history_ns} ns, expected a positive duration")
        if max_gap_ns is not None and max_gap_ns <= 0:
            raise InvalidInputError(f"longest transform gap is {max_gap_ns} ns, expected a positive duration or None")
        self._history_ns = history_ns
        self._max_gap_ns = max_gap_ns
        self._lock = threading.RLock()
        self._edges: dict[str, _Edge] = {}
        self._roots: dict[str, None] = {}  # frames named as a parent; a dict keeps their order

    def set_transform(
        self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3, *, static: bool = False
    ) -> bool:
        """Add one sample.

        Args:
            parent, child: frame names; a leading slash is dropped.
            stamp_ns: time of the sample, nanoseconds; ignored when static.
            parent_from_child: maps coordinates of the child to the parent, metres (TransformStamped's meaning).
            static: holds at every stamp.

        Returns:
            False when the sample is older than the history and was not taken.

        Raises:
            InvalidInputError: for an empty name, or a frame that would be its own parent.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not parent or not child:
            raise InvalidInputError(f"transform from '{child}' to '{parent}' lacks a frame name, expected two names")
        if parent == child:
            raise InvalidInputError(f"transform of frame '{child}' names itself as parent, expected another frame")
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.is_static != static:
                edge = self._edges[child] = _Edge(is_static=static, max_gap_ns=self._max_gap_ns)
            self._roots.setdefault(parent)
            return edge.insert(int(stamp_ns), parent, parent_from_child, self._history_ns)

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> SE3:
        """target_from_source at a stamp.

        Args:
            target, source: frame names.
            stamp_ns: nanoseconds; None is the newest stamp at which all edges between the two are known.

        Returns:
            The transform that maps coordinates of ``source`` to ``target``.

        Raises:
            UnknownFrameError: a frame was never mentioned.
            NotConnectedError: both are known but share no ancestor.
            FutureExtrapolationError, PastExtrapolationError: the stamp lies outside an edge's samples.
            GapError: the stamp lies in a gap of more than ``max_gap_ns`` between an edge's samples.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            self._require_known(target, source)
            if target == source:
                return SE3.identity()
            if stamp_ns is None:
                stamp_ns = self.latest_common_ns(target, source) or 0
            return self._lookup(target, source, int(stamp_ns))

    def can_transform(self, target: str, source: str, stamp_ns: int | None = None) -> bool:
        """Whether ``lookup`` would succeed."""
        try:
            self.lookup(target, source, stamp_ns)
        except TransformError:
            return False
        return True

    def latest_common_ns(self, target: str, source: str) -> int | None:
        """Newest stamp at which every moving edge between two frames is known; None where all are static.

        Raises:
            UnknownFrameError, NotConnectedError: as lookup.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            self._require_known(target, source)
            to_source, to_target = self._newest_chain(source), self._newest_chain(target)
            common = next((frame for frame in to_target if frame in to_source), None)
            if common is None:
                raise self._not_connected(target, source)
            between = [*_until(to_source, common), *_until(to_target, common)]
            newest = [self._edges[f].stamps_ns[-1] for f in between if not self._edges[f].is_static]
            return min(newest) if newest else None

    def frames(self) -> tuple[str, ...]:
        """All known frames, sorted."""
        with self._lock:
            return tuple(sorted({*self._edges, *self._roots}))

    def parents(self) -> dict[str, str]:
        """Frame to its newest parent, for all frames that have one."""
        with self._lock:
            return {child: edge.samples[-1][0] for child, edge in self._edges.items()}

    def parent_frame(self, frame: str) -> str | None:
        """The newest parent of a frame; None for a root or an unknown frame."""
        with self._lock:
            edge = self._edges.get(frame.lstrip("/"))
            return None if edge is None else edge.samples[-1][0]

    def range_ns(self, frame: str) -> tuple[int, int] | None:
        """(oldest, newest) stamp of a frame's samples relative to its parent; None where static or without a parent."""
        with self._lock:
            edge = self._edges.get(frame.lstrip("/"))
            return None if edge is None or edge.is_static else (edge.stamps_ns[0], edge.stamps_ns[-1])

    def clear(self) -> None:
        """Forget all moving transforms, as after a jump back in time; static ones stay."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.is_static}
            self._roots = {edge.samples[0][0]: None for edge in self._edges.values()}

    def _lookup(self, target: str, source: str, stamp_ns: int) -> SE3:
        from_source, source_stop = self._chain(source, stamp_ns, ())
        from_target, target_stop = self._chain(target, stamp_ns, from_source)
        common = next((frame for frame in from_target if frame in from_source), None)
        if common is None:
            raise source_stop or target_stop or self._not_connected(target, source)
        return from_target[common].inverse() @ from_source[common]

    def _chain(self, frame: str, stamp_ns: int, meet: Iterable[str]) -> tuple[dict[str, SE3], TransformError | None]:
        """ancestor_from_frame of the frame and its ancestors, up to a root, a frame of ``meet``, or a missing stamp."""
        start, here = frame, SE3.identity()
        chain = {frame: here}
        while frame in self._edges and frame not in meet:
            try:
                frame, parent_from_child = self._edges[frame].at(frame, stamp_ns)
            except (ExtrapolationError, GapError) as err:
                return chain, err
            _require_tree(start, frame, chain)
            here = parent_from_child @ here
            chain[frame] = here
        return chain, None

    def _newest_chain(self, frame: str) -> list[str]:
        chain = [frame]
        while chain[-1] in self._edges:
            parent = self._edges[chain[-1]].samples[-1][0]
            _require_tree(frame, parent, chain)
            chain.append(parent)
        return chain

    def _require_known(self, *names: str) -> None:
        for name in names:
            if name not in self._edges and name not in self._roots:
                known = ", ".join(self.frames()) or "none"
                raise UnknownFrameError(f"frame '{name}' is not in the transform tree, known frames are: {known}")

    def _not_connected(self, target: str, source: str) -> NotConnectedError:
        roots = self._newest_chain(target)[-1], self._newest_chain(source)[-1]
        return NotConnectedError(
            f"frames '{target}' and '{source}' are not connected: the first hangs under '{roots[0]}', "
            f"the second under '{roots[1]}'"
        )


def _until(chain: list[str], stop: str) -> list[str]:
    return chain[: chain.index(stop)]


def _require_tree(start: str, frame: str, chain: Iterable[str]) -> None:
    seen = list(chain)
    if frame in seen or len(seen) > _MAX_DEPTH:
        raise NotConnectedError(
            f"the transforms above frame '{start}' run in a circle through '{frame}', expected a tree"
        )


def _extrapolation(child: str, parent: str, stamp_ns: int, oldest_ns: int, newest_ns: int) -> ExtrapolationError:
    kind = FutureExtrapolationError if stamp_ns > newest_ns else PastExtrapolationError
    if stamp_ns > newest_ns:
        where = f"{(stamp_ns - newest_ns) / 1e9:.3f} s after the newest"
    else:
        where = f"{(oldest_ns - stamp_ns) / 1e9:.3f} s before the oldest"
    message = (
        f"transform from '{child}' to '{parent}' at {stamp_ns / 1e9:.3f} s is {where} sample "
        f"(samples from {oldest_ns / 1e9:.3f} s to {newest_ns / 1e9:.3f} s)"
    )
    return kind(message, stamp_ns, oldest_ns, newest_ns)
