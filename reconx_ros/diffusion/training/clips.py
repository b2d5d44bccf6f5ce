"""Clips of posed pictures as batches: pictures, points of the first and last one, cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, Trajectory

_POINT_STREAM = 4
_NS_PER_S = 1e9
_MAX_FPS = 60

PointSource = Callable[[Frame, Frame], np.ndarray]
"""Stage 1: points [P, 3] of a first and a last picture, in the frame of the first camera."""


class ClipSource(Protocol):
    """Gives the T pictures of a clip, in order, by its number and how far apart they should be.

    The same number and interval give the same clip. It must survive being sent to another process. Pictures have poses;
    the first and the last have depth where no estimator of points is given.
    """

    def __call__(self, number: int, interval: float) -> Sequence[Frame]:
        """Number from 0 without end; interval from 0 (as close as there are) to 1."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipBatch:
    """B clips of T pictures.

    Attributes:
        images: [B, T, 3, H, W] uint8.
        points: [B, P, 3] float32 in the frame of the first camera, any unit.
        point_mask: [B, P] bool, False at padding.
        first_from_cam: [B, T, 4, 4] float32.
        intrinsics: [B, 4] float32: fx, fy, cx, cy in pixels.
        fps: [B] int64 pictures per second; 0 where unknown.
    """

    images: torch.Tensor  # [B, T, 3, H, W]
    points: torch.Tensor  # [B, P, 3]
    point_mask: torch.Tensor  # [B, P]
    first_from_cam: torch.Tensor  # [B, T, 4, 4]
    intrinsics: torch.Tensor  # [B, 4]
    fps: torch.Tensor  # [B]

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def frames(self) -> int:
        """T."""
        return int(self.images.shape[1])

    def to(self, device: torch.device) -> ClipBatch:
        """The same batch on a device."""
        return ClipBatch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def split(self, parts: int) -> list[ClipBatch]:
        """Parts of equal size."""
        pieces = {f.name: getattr(self, f.name).chunk(parts) for f in fields(self)}
        return [ClipBatch(**{name: values[k] for name, values in pieces.items()}) for k in range(parts)]

    def exchanged(self) -> ClipBatch:
        """The same clips, each with the points of the one before it.

        Raises:
            InvalidInputError: for a single clip.
        """
        if len(self) < 2:
            raise InvalidInputError("a batch of 1 clip has no other clip's points to show, expected at least 2")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("points", "point_mask"):
            values[name] = values[name].roll(1, dims=0)
        return ClipBatch(**values)

    def pixels(self) -> torch.Tensor:
        """[B, T, 3, H, W] float32 in [-1, 1]."""
        return self.images.float() / 127.5 - 1

    def trajectory(self, clip: int) -> Trajectory:
        """The cameras of one clip, in the frame of the first."""
        fx, fy, cx, cy = self.intrinsics[clip].tolist()
        height, width = self.images.shape[-2:]
        poses = self.first_from_cam[clip].double().cpu().numpy()
        return Trajectory(
            camera=PinholeCamera(width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy),
            world_from_cams=tuple(SE3.from_matrix(pose) for pose in poses),
        )


def points_from_depth(first: Frame, last: Frame) -> np.ndarray:
    """Points [P, 3] of all pixels with depth of two posed pictures, in the frame of the first camera.

    Raises:
        InvalidInputError: when a pose or a depth map is missing.
    """
    if first.world_from_cam is None:
        raise InvalidInputError("first picture of a training clip has no pose, expected one")
    first_from_world = first.world_from_cam.inverse()
    clouds = []
    for name, frame in (("first", first), ("last", last)):
        if frame.world_from_cam is None or frame.depth_m is None:
            raise InvalidInputError(f"{name} picture of a training clip has no pose or no depth, expected both")
        rows, columns = np.nonzero(np.isfinite(frame.depth_m) & (frame.depth_m > 0))
        depth, camera = frame.depth_m[rows, columns].astype(np.float64), frame.camera
        rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(len(rows))], -1)
        clouds.append((first_from_world @ frame.world_from_cam).apply(rays * depth[:, None]))
    return np.concatenate(clouds)


class ClipArrays:
    """The arrays of a source's clips by number, as ClipBatch has them without the leading B.

    Args:
        source: gives pictures.
        interval: of a clip by its number.
        points: drawn per clip.
        point_source: stage 1.
        seed: of the drawing.
    """

    def __init__(
        self,
        source: ClipSource,
        interval: Callable[[int], float],
        points: int,
        point_source: PointSource = points_from_depth,
        seed: int = 0,
    ) -> None:
        self._source, self._interval, self._points = source, interval, points
        self._points_of, self._seed = point_source, seed

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        """Raises InvalidInputError for pictures that make no clip."""
        frames = list(self._source(number, self._interval(number)))
        rng = np.random.default_rng([self._seed, number, _POINT_STREAM])
        return clip_arrays(frames, self._points, rng, self._points_of)


def clip_arrays(
    frames: Sequence[Frame], points: int, rng: np.random.Generator, point_source: PointSource = points_from_depth
) -> dict[str, np.ndarray]:
    """The arrays of one clip.

    Raises:
        InvalidInputError: for fewer than two pictures, other than one size, a missing pose, or no points.
    """
    if len(frames) < 2:
        raise InvalidInputError(f"a training clip has {len(frames)} picture(s), expected at least 2")
    sizes = {frame.camera.size for frame in frames}
    if len(sizes) > 1:
        raise InvalidInputError(f"pictures of a training clip have the sizes {sorted(sizes)}, expected one size")
    poses = [frame.world_from_cam for frame in frames]
    missing = [k for k, pose in enumerate(poses) if pose is None]
    if missing:
        raise InvalidInputError(f"picture {missing[0]} of a training clip has no pose, expected one")
    first_from_world = poses[0].inverse()  # type: ignore[union-attr]
    camera = frames[0].camera
    chosen, mask = _drawn(point_source(frames[0], frames[-1]), points, rng)
    return {
        "images": np.stack([frame.rgb_u8.transpose(2, 0, 1) for frame in frames]),
        "points": chosen,
        "point_mask": mask,
        "first_from_cam": np.stack([(first_from_world @ p).matrix for p in poses if p is not None]).astype(np.float32),
        "intrinsics": np.array([camera.fx, camera.fy, camera.cx, camera.cy], np.float32),
        "fps": np.int64(_fps(frames)),
    }


def _drawn(cloud: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` of the points [P, 3], without repetition; zeros and False where there are fewer."""
    cloud = cloud[np.isfinite(cloud).all(axis=-1)]
    if not len(cloud):
        raise InvalidInputError("a training clip has no points: its first and last picture have no valid depth")
    kept = rng.permutation(len(cloud))[:count]
    points = np.zeros((count, 3), np.float32)
    points[: len(kept)] = cloud[kept]
    return points, np.arange(count) < len(kept)


def _fps(frames: Sequence[Frame]) -> int:
    seconds = (frames[-1].stamp_ns - frames[0].stamp_ns) / _NS_PER_S
    return min(_MAX_FPS, max(1, round((len(frames) - 1) / seconds))) if seconds > 0 else 0


def collated(clips: Sequence[dict[str, np.ndarray]]) -> ClipBatch:
    """A batch of clips.

    Raises:
        InvalidInputError: for clips of different lengths or sizes.
    """
    shapes = {clip["images"].shape for clip in clips}
    if len(shapes) > 1:
        raise InvalidInputError(f"clips of a batch have the shapes {sorted(shapes)}, expected one")
    return ClipBatch(**{name: torch.from_numpy(np.stack([c[name] for c in clips])) for name in clips[0]})
