"""Clips rendered once and kept in a file, so that many runs see the same ones at no cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, Job, PinholeCamera, StorageError
from reconx_ros.core.files import whole_file
from reconx_ros.diffusion.training.clips import ClipSource
from reconx_ros.learning.stream import made_in_order

_STREAM = 6
_ARRAYS = ("rgb_u8", "ends_depth_m", "world_from_cam", "intrinsics", "stamp_ns")


class _Packed:
    """A clip's pictures as arrays; survives being sent to another process."""

    def __init__(self, source: ClipSource, interval: Callable[[int], float]) -> None:
        self._source, self._interval = source, interval

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        return packed(self._source(number, self._interval(number)))


def record_clips(
    path: Path,
    source: ClipSource,
    interval: Callable[[int], float],
    count: int,
    *,
    description: str,
    workers: int,
    job: Job,
) -> None:
    """Write the first clips of a source to a file, with words that say what they are.

    Raises:
        StorageError: when it cannot be written.
        CancelledError: when the job was cancelled.
    """
    clips: list[dict[str, np.ndarray]] = []
    for clip in made_in_order(_Packed(source, interval), range(count), workers=workers):
        job.step(len(clips) / count, f"clip {len(clips) + 1} of {count}")
        clips.append(clip)
    arrays: dict[str, Any] = {name: np.stack([clip[name] for clip in clips]) for name in _ARRAYS}
    arrays["description"] = np.array(description)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as err:
        raise StorageError(f"clips {path} cannot be written: {err.strerror}") from None


def packed(frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    """The arrays of one clip of posed pictures, the first and the last with depth.

    Raises:
        InvalidInputError: when a pose or the depth of an end is missing.
    """
    poses = [frame.world_from_cam for frame in frames]
    ends = [frames[0].depth_m, frames[-1].depth_m]
    if any(pose is None for pose in poses) or any(depth is None for depth in ends):
        raise InvalidInputError("a clip to be stored lacks a pose, or depth at an end, expected both")
    camera = frames[0].camera
    return {
        "rgb_u8": np.stack([frame.rgb_u8 for frame in frames]),
        "ends_depth_m": np.stack([depth for depth in ends if depth is not None]),
        "world_from_cam": np.stack([pose.matrix for pose in poses if pose is not None]),
        "intrinsics": np.array([camera.fx, camera.fy, camera.cx, camera.cy]),
        "stamp_ns": np.array([frame.stamp_ns for frame in frames], np.int64),
    }


class StoredClips:
    """The clips of a file as a source without end: all of them in a random order, then all in another.

    Args:
        path: written by ``record_clips``.
        seed: of the orders; None keeps the file's.

    Attributes:
        description: what the clips are.

    Raises:
        StorageError: when the file is missing or is not one of clips.
    """

    def __init__(self, path: Path, seed: int | None = None) -> None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                self._arrays = {name: stored[name] for name in _ARRAYS}
                self.description = str(stored["description"])
        except Exception as err:  # numpy raises OSError, ValueError, KeyError, BadZipFile and others
            raise StorageError(
                f"clips {path} cannot be read ({type(err).__name__}), expected a file of `reconx train diffusion`"
            ) from None
        self._seed = seed

    def __len__(self) -> int:
        return len(self._arrays["rgb_u8"])

    def __call__(self, number: int, interval: float = 1.0) -> list[Frame]:
        """The pictures of a clip; the interval was chosen when the file was written."""
        del interval
        turn, place = divmod(number, len(self))
        if self._seed is not None:
            place = int(np.random.default_rng([self._seed, turn, _STREAM]).permutation(len(self))[place])
        clip = {name: values[place] for name, values in self._arrays.items()}
        height, width = clip["rgb_u8"].shape[1:3]
        fx, fy, cx, cy = (float(v) for v in clip["intrinsics"])
        camera = PinholeCamera(width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy)
        last = len(clip["rgb_u8"]) - 1
        return [
            Frame(
                rgb_u8=rgb,
                camera=camera,
                stamp_ns=int(clip["stamp_ns"][k]),
                world_from_cam=SE3.from_matrix(clip["world_from_cam"][k]),
                depth_m=clip["ends_depth_m"][min(k, 1)] if k in (0, last) else None,
            )
            for k, rgb in enumerate(clip["rgb_u8"])
        ]
