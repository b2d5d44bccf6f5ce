"""Clips of recorded videos and scenes, by number: training data of the video network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reconx_ros.core import Frame, InvalidInputError, PinholeCamera
from reconx_ros.io.scenes import Scene, read_scene
from reconx_ros.io.video_chunks import ChunkDataset


class ChunkClips:
    """Clips of the videos in a chunk folder; see ``reconx_ros.io.video_chunks``.

    Args:
        folder: of one split.
        frames: T.
        size: (width, height) that pictures are cropped and scaled to.
        max_step: pictures from one of the clip to the next at interval 1; at interval 0 it is 1.
        seed: of the choice of places.

    Raises:
        StorageError, InvalidInputError: when the folder cannot be used.
    """

    def __init__(
        self, folder: Path | str, frames: int, size: tuple[int, int], *, max_step: int = 8, seed: int = 0
    ) -> None:
        self._videos, self._frames, self._size = ChunkDataset(folder), frames, size
        self._max_step, self._seed = max_step, seed

    def __call__(self, number: int, interval: float = 1.0) -> list[Frame]:
        """The pictures of a clip in order, with poses.

        Args:
            number: from 0, without end: the videos in their order, again and again.
            interval: from 0 (neighbouring pictures) to 1 (``max_step`` apart).

        Raises:
            InvalidInputError: for a video with fewer pictures than a clip.
        """
        video = self._videos.video(number % len(self._videos))
        rng = np.random.default_rng([self._seed, number])
        places = clip_places(len(video), self._frames, self._max_step, interval, rng, f"video '{video.key}'")
        return [cropped_frame(video.frame(place), self._size) for place in places]


class SceneClips:
    """Clips of scene folders whose pictures are in order of time.

    Args:
        folders: of scenes.
        frames, size, max_step, seed: as ``ChunkClips``.

    Raises:
        StorageError, InvalidInputError: when a folder cannot be used.
    """

    def __init__(
        self, folders: Sequence[Path | str], frames: int, size: tuple[int, int], *, max_step: int = 8, seed: int = 0
    ) -> None:
        if not folders:
            raise InvalidInputError("there are no scene folders, expected at least one")
        self._scenes: list[Scene] = [read_scene(folder, max_size=2 * max(size)) for folder in folders]
        self._frames, self._size, self._max_step, self._seed = frames, size, max_step, seed

    def __call__(self, number: int, interval: float = 1.0) -> list[Frame]:
        """As ``ChunkClips``; with depth where the scene has it."""
        scene = self._scenes[number % len(self._scenes)]
        rng = np.random.default_rng([self._seed, number])
        name = f"scene {scene.name}"
        places = clip_places(len(scene.frames), self._frames, self._max_step, interval, rng, name)
        return [cropped_frame(scene.frames[place], self._size) for place in places]


def clip_places(
    length: int, frames: int, max_step: int, interval: float, rng: np.random.Generator, name: str
) -> list[int]:
    """Indices of a clip's pictures: evenly spaced, at a random place of a video.

    The step is 1 + interval * (max_step - 1), rounded, or what the video's length allows.

    Raises:
        InvalidInputError: when the video is shorter than a clip, or the interval outside [0, 1].
    """
    if not 0 <= interval <= 1:
        raise InvalidInputError(f"interval of a clip is {interval}, expected a number in [0, 1]")
    if length < frames:
        raise InvalidInputError(f"{name} has {length} pictures, expected at least the {frames} of a clip")
    longest = (length - 1) // (frames - 1)
    step = min(longest, 1 + round(interval * (max_step - 1)))
    start = int(rng.integers(0, length - (frames - 1) * step))
    return [start + k * step for k in range(frames)]


def cropped_frame(frame: Frame, size: tuple[int, int]) -> Frame:
    """The largest middle part of a picture with a size's proportions, scaled to it (area-averaged; depth nearest).

    Raises:
        InvalidInputError: when the picture is smaller than the size.
    """
    import cv2

    width, height = size
    camera = frame.camera
    if camera.width < width or camera.height < height:
        raise InvalidInputError(f"picture is {camera.width}x{camera.height}, expected at least {width}x{height}")
    ratio = min(camera.width / width, camera.height / height)
    w, h = round(width * ratio), round(height * ratio)
    left, top = (camera.width - w) // 2, (camera.height - h) // 2
    part = PinholeCamera(
        width=w, height=h, fx=camera.fx, fy=camera.fy, cx=camera.cx - left, cy=camera.cy - top
    ).scaled_to(width, height)
    window = (slice(top, top + h), slice(left, left + w))
    depth = frame.depth_m
    if depth is not None:
        depth = cv2.resize(np.ascontiguousarray(depth[window]), size, interpolation=cv2.INTER_NEAREST)
    rgb = cv2.resize(np.ascontiguousarray(frame.rgb_u8[window]), size, interpolation=cv2.INTER_AREA)
    return replace(frame, rgb_u8=rgb, camera=part, depth_m=depth)
