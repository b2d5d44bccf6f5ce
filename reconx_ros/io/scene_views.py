"""What a reader of any layout gives: the pictures of one place with what is known of them, decoded when asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera

_KEPT_BYTES = 256 << 20  # of decoded pictures, per scene


@dataclass(frozen=True, kw_only=True)
class SceneSplit:
    """Which pictures are given and which are held back, by name; ``protocol`` says who divided them."""

    inputs: tuple[str, ...]
    test: tuple[str, ...]
    protocol: str = "suggested split"


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneView:
    """One picture before it is decoded.

    Attributes:
        name: unique within the scene; a file's path relative to the scene where there is a file.
        camera: intrinsics of exactly the picture that ``frame`` gives.
        read_frame: decodes the picture, with its depth map or without; without pose and stamp.
        world_from_cam: pose; None where unknown.
        stamp_ns: time of exposure in nanoseconds.
        image_file: the picture; None where it lies in a chunk.
        depth_file: sensor depth; None where there is none or it is not wanted.
    """

    name: str
    camera: PinholeCamera
    read_frame: Callable[[bool], Frame]
    world_from_cam: SE3 | None = None
    stamp_ns: int = 0
    image_file: Path | None = None
    depth_file: Path | None = None

    def frame(self) -> Frame:
        """The picture, decoded now.

        Raises:
            StorageError: when a file is missing or cannot be read.
            InvalidInputError: when it cannot be decoded or has another size than expected.
        """
        frame = self.read_frame(self.depth_file is not None)
        return replace(frame, world_from_cam=self.world_from_cam, stamp_ns=self.stamp_ns)

    def changed(self, camera: PinholeCamera, change: Callable[[Frame], Frame]) -> SceneView:
        """The same view whose frames are changed once decoded; ``camera`` is that of the changed frames."""
        read = self.read_frame
        return replace(self, camera=camera, read_frame=lambda with_depth: change(read(with_depth)))


class LazyFrames(Sequence[Frame]):
    """Frames of views, decoded on access; the last ones stay in memory up to a limit. Safe for several threads.

    Args:
        views: what to decode.
        kept_bytes: of decoded pictures that are kept; the newest frame is kept whatever its size.
    """

    def __init__(self, views: Sequence[SceneView], kept_bytes: int = _KEPT_BYTES) -> None:
        self._views, self._kept_bytes = tuple(views), kept_bytes
        self._kept: OrderedDict[int, Frame] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> LazyFrames: ...

    def __getitem__(self, index: int | slice) -> Frame | LazyFrames:
        if isinstance(index, slice):
            return LazyFrames(self._views[index], self._kept_bytes)
        place = range(len(self._views))[index]
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        frame = self._views[place].frame()
        with self._lock:
            self._kept[place] = frame
            while len(self._kept) > 1 and sum(map(_size_bytes, self._kept.values())) > self._kept_bytes:
                self._kept.popitem(last=False)
        return frame


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Pictures of one place.

    Attributes:
        name: the folder's name, or that of the video in a chunk.
        root: the folder.
        views: the pictures, none of them decoded.
        metric_scale: whether poses and depth are in metres.
        layout: which reader read it, one of ``reconx_ros.io.readers.layouts.LAYOUTS``.
        pose_source: where the poses come from, in words; None where nothing says so.
        splits: few-view splits by number of inputs ("2", "3", ...), suggested or defined by the data set.
        notes: what was left out or assumed, a sentence each.
        coarse_positions: whether positions are to be doubted: the file keeps them, far from the origin, as rotated
            coordinates, where the rounding of a rotation moves a camera.
    """

    name: str
    root: Path
    views: tuple[SceneView, ...]
    metric_scale: bool
    layout: str = "reconx"
    pose_source: str | None = None
    splits: Mapping[str, SceneSplit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    coarse_positions: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures."""
        return tuple(view.name for view in self.views)

    @cached_property
    def frames(self) -> LazyFrames:
        """The pictures, decoded on access."""
        return LazyFrames(self.views)

    def frame(self, name: str) -> Frame:
        """One frame by its name.

        Raises:
            InvalidInputError: for a name that the scene has not.
        """
        return self.frames[self._place(name)]

    def view(self, name: str) -> SceneView:
        """One view by its name, nothing decoded.

        Raises:
            InvalidInputError: for a name that the scene has not.
        """
        return self.views[self._place(name)]

    def select(self, names: Sequence[str]) -> Scene:
        """The scene reduced to some names, in their order.

        Raises:
            InvalidInputError: for a name that the scene has not.
        """
        return replace(self, views=tuple(self.view(name) for name in names))

    def inputs(self, count: int) -> tuple[str, ...]:
        """Names of that many inputs: those of the scene's own split, else pictures spread evenly over the scene.

        Raises:
            InvalidInputError: when the scene has fewer pictures, or count is below 2.
        """
        if len(self.views) < 2:
            raise InvalidInputError(f"scene {self.name} has {len(self.views)} image, expected at least 2")
        if not 2 <= count <= len(self.views):
            raise InvalidInputError(
                f"{count} views are asked for, expected 2 to {len(self.views)}, as many as scene {self.name} has images"
            )
        split = self.splits.get(str(count))
        return split.inputs if split is not None else spread(self.names, count)

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise InvalidInputError(f"scene {self.name} has no image '{name}', expected one like '{self.names[0]}'")
        return self.names.index(name)


def spread(names: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` of the names, evenly from the first to the last."""
    return tuple(names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int))


def without_lost_depth(scene: Scene) -> Scene:
    """The scene; views whose depth map is not there have none, which a note counts."""
    lost = [v.depth_file for v in scene.views if v.depth_file is not None and not v.depth_file.is_file()]
    if not lost:
        return scene
    views = tuple(replace(view, depth_file=None) if view.depth_file in set(lost) else view for view in scene.views)
    what = f"{len(lost)} depth maps are" if len(lost) > 1 else "1 depth map is"
    return replace(scene, views=views, notes=(*scene.notes, f"{what} not there, such as {lost[0]}"))


def _size_bytes(frame: Frame) -> int:
    return frame.rgb_u8.nbytes + (0 if frame.depth_m is None else frame.depth_m.nbytes)
