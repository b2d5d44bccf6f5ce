"""Posed videos in the chunk layout of pixelSplat (RealEstate10K, ACID; DL3DV as converted by its successors).

    ROOT/train/000000.torch ...   ROOT/train/index.json   ROOT/test/...

A chunk is a list of videos: {"key": str, "url": str, "timestamps": [T] int64 (microseconds), "cameras": [T, 18],
"images": T encoded pictures as 1-D uint8 tensors}. A row of cameras is fx, fy, cx, cy over the picture's width and
height, two unused numbers, and the 3x4 camera-from-world matrix row by row. index.json names the chunk of each key.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, StorageError
from reconx_ros.io.image_size import size_in_head
from reconx_ros.io.images import decode_image, read_bytes

if TYPE_CHECKING:
    import torch

INDEX_FILE = "index.json"
_NUMBERS = 18  # of a row of cameras
_OPEN_CHUNKS = 2  # kept in memory; a chunk is about 100 MB
_NS_PER_US = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class ChunkVideo:
    """One video; pictures are decoded when they are asked for.

    Attributes:
        key: its name.
        cameras: [T, 18]; see the top of this module.
        images: T encoded pictures.
        stamps_us: T times in microseconds; None where the chunk has none.
    """

    key: str
    cameras: torch.Tensor  # [T, 18]
    images: tuple[torch.Tensor, ...]
    stamps_us: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.images)

    def frame(self, place: int) -> Frame:
        """One picture with its camera and pose.

        Raises:
            InvalidInputError: when the picture cannot be decoded, or its camera is none.
        """
        rgb = decode_image(self.images[place].numpy(), self._name(place))
        return Frame(
            rgb_u8=rgb,
            camera=self._camera(place, rgb.shape[1], rgb.shape[0]),
            world_from_cam=self.world_from_cam(place),
            stamp_ns=self.stamp_ns(place),
        )

    def camera(self, place: int) -> PinholeCamera:
        """Camera of one picture, of which only the size is read.

        Raises:
            InvalidInputError: as ``frame``.
        """
        data = self.images[place].numpy()
        size = size_in_head(data.tobytes(), self._name(place))
        if size is None:
            height, width = decode_image(data, self._name(place)).shape[:2]
            size = width, height
        return self._camera(place, *size)

    def world_from_cam(self, place: int) -> SE3:
        """Pose of one picture.

        Raises:
            InvalidInputError: when it is none.
        """
        row = self._row(place)
        try:
            return SE3.from_matrix(np.vstack([row[6:].reshape(3, 4), [0, 0, 0, 1]])).inverse()
        except InvalidInputError as err:
            raise InvalidInputError(f"camera of {self._name(place)} cannot be used: {err}") from None

    def stamp_ns(self, place: int) -> int:
        """Time of one picture in nanoseconds; 0 where the chunk has none."""
        return 0 if self.stamps_us is None else self.stamps_us[place] * _NS_PER_US

    def _camera(self, place: int, width: int, height: int) -> PinholeCamera:
        fx, fy, cx, cy = self._row(place)[:4] * (width, height, width, height)
        try:
            return PinholeCamera.from_corner_origin(width, height, fx, fy, cx, cy)
        except InvalidInputError as err:
            raise InvalidInputError(f"camera of {self._name(place)} cannot be used: {err}") from None

    def _row(self, place: int) -> np.ndarray:
        row = self.cameras[place].double().numpy()
        if not np.isfinite(row).all():
            raise InvalidInputError(f"camera of {self._name(place)} has numbers that are not finite")
        return row

    def _name(self, place: int) -> str:
        return f"picture {place} of video '{self.key}'"


class ChunkDataset:
    """The videos of one split of a data set, by number; only a few chunks are in memory.

    Args:
        folder: with index.json and the chunks.

    Raises:
        StorageError: when the folder or its index is missing or cannot be read.
        InvalidInputError: when the index is not one.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.index = _read_index(self.folder)
        self.keys = tuple(self.index)
        self._chunks: OrderedDict[str, dict[str, ChunkVideo]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.keys)

    def video(self, number: int) -> ChunkVideo:
        """A video by its place in the index.

        Raises:
            StorageError, InvalidInputError: as ``read_chunk``, or when the chunk lacks the key.
        """
        key = self.keys[number]
        name = self.index[key]
        if name not in self._chunks:
            while len(self._chunks) >= _OPEN_CHUNKS:
                self._chunks.popitem(last=False)
            self._chunks[name] = {video.key: video for video in read_chunk(self.folder / name)}
        self._chunks.move_to_end(name)
        if key not in self._chunks[name]:
            raise InvalidInputError(f"chunk {self.folder / name} has no video '{key}', which {INDEX_FILE} says it has")
        return self._chunks[name][key]


def read_chunk(path: Path | str) -> list[ChunkVideo]:
    """All videos of a chunk file. Nothing in the file is executed.

    Raises:
        StorageError: when the file is missing or cut off.
        InvalidInputError: when it is not a chunk.
    """
    import torch

    if not Path(path).is_file():
        raise StorageError(f"chunk {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises RuntimeError, UnpicklingError, EOFError and others
        raise StorageError(f"chunk {path} cannot be read ({type(err).__name__}), expected a complete file") from None
    if not isinstance(content, list):
        raise InvalidInputError(f"chunk {path} holds a {type(content).__name__}, expected a list of videos")
    return [_video(item, f"video {number} of chunk {path}") for number, item in enumerate(content)]


def _video(item: Any, name: str) -> ChunkVideo:
    import torch

    missing = [k for k in ("key", "cameras", "images") if not isinstance(item, dict) or k not in item]
    if missing:
        raise InvalidInputError(f"{name} has no {', '.join(missing)}, expected key, cameras and images")
    cameras, images = item["cameras"], item["images"]
    if not isinstance(cameras, torch.Tensor) or cameras.shape != (len(images), _NUMBERS):
        shape = list(getattr(cameras, "shape", ()))
        raise InvalidInputError(f"{name} has cameras of shape {shape}, expected [{len(images)}, {_NUMBERS}]")
    stamps = item.get("timestamps")
    return ChunkVideo(
        key=str(item["key"]),
        cameras=cameras,
        images=tuple(images),
        stamps_us=None if stamps is None else tuple(int(stamp) for stamp in stamps),
    )


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX_FILE
    try:
        index = json.loads(read_bytes(path))
    except ValueError as err:
        raise InvalidInputError(f"index {path} is not JSON: {err}") from None
    if not isinstance(index, dict) or not index or not all(isinstance(v, str) for v in index.values()):
        raise InvalidInputError(f"index {path} is not a list of chunks by video, expected {{key: file, ...}}")
    return index
