"""Videos of RealEstate10K, ACID and DL3DV in pixelSplat's chunks (``reconx_ros.io.video_chunks``), and its index files.

An index file is {video: {"context": [places], "target": [places]} or null}: which pictures are given and which tested.
Null means that the video is not evaluated. The published files test some videos on their own inputs: such a video is
refused, or, on request, evaluated without these targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconx_ros.core import Frame, InvalidInputError
from reconx_ros.io.cameras_json import load_json
from reconx_ros.io.readers.base import Request, chosen
from reconx_ros.io.scene_views import Scene, SceneSplit, SceneView
from reconx_ros.io.video_chunks import INDEX_FILE, ChunkDataset, ChunkVideo

INDEX_CROP = (256, 256)  # what pixelSplat's figures are measured on


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """Places in a video: which pictures are given, and which are tested."""

    context: tuple[int, ...]
    target: tuple[int, ...]


def has_chunks(root: Path) -> bool:
    """Whether the folder, or test/ in it, holds chunks with their index."""
    return _chunk_folder(root) is not None


def read_chunks(request: Request) -> Scene:
    """One video; with an index file, its division of the pictures.

    Raises:
        StorageError: when a file cannot be read.
        InvalidInputError: when the video is not named or not there, or the index file is wrong.
    """
    dataset = _dataset(request.root)
    key = _key(dataset, request)
    video = dataset.video(dataset.keys.index(key))
    entry = read_index(request.index).get(key) if request.index is not None else None
    if request.index is not None and entry is None:
        raise InvalidInputError(f"index {request.index} has no entry for video '{key}', expected context and target")
    every = [f"{place:06d}" for place in range(len(video))]
    names = chosen(every, request.names, request.root)
    return Scene(
        name=key,
        root=request.root,
        views=tuple(_view(video, int(name), name) for name in names),
        metric_scale=False,
        layout="chunks",
        pose_source="structure from motion (chunk)",
        splits={} if entry is None else _splits(entry, every, request, key),
    )


def video_keys(folder: Path | str, index: Path | str | None = None) -> tuple[str, ...]:
    """Videos of a folder of chunks; with an index file, those that it evaluates, in its order.

    Raises:
        StorageError: when the folder or the index file cannot be read.
        InvalidInputError: when the folder holds no chunks, or the index file names none of its videos.
    """
    dataset = _dataset(Path(folder))
    if index is None:
        return dataset.keys
    entries = read_index(Path(index))
    there = set(dataset.keys)
    keys = tuple(key for key, entry in entries.items() if entry is not None and key in there)
    if not keys:
        known = f"'{next(iter(entries))}'" if entries else "none"
        raise InvalidInputError(
            f"index {index} names no video of {folder} ({known} and others, there is '{dataset.keys[0]}'), expected "
            "the index of this data set"
        )
    return keys


def read_index(path: Path) -> dict[str, IndexEntry | None]:
    """An index file; None for videos that are not evaluated.

    Raises:
        StorageError: when it cannot be read.
        InvalidInputError: when it is no index file.
    """
    return {key: _entry(value, key, path) for key, value in load_json(path).items()}


def _entry(value: Any, key: str, path: Path) -> IndexEntry | None:
    if value is None:
        return None
    context, target = (_places(value, part, f"index {path}, video '{key}'") for part in ("context", "target"))
    return IndexEntry(context=context, target=target)


def _places(value: Any, part: str, name: str) -> tuple[int, ...]:
    places = value.get(part) if isinstance(value, dict) else None
    if not isinstance(places, list) or not places or not all(type(p) is int and p >= 0 for p in places):
        raise InvalidInputError(f"{name} has {part} {str(places)[:60]}, expected a list of places from 0")
    if len(set(places)) < len(places):
        raise InvalidInputError(f"{name} has {part} {str(places)[:60]}, expected each place once")
    return tuple(places)


def _splits(entry: IndexEntry, names: list[str], request: Request, key: str) -> dict[str, SceneSplit]:
    path = Path(str(request.index))
    largest = max(*entry.context, *entry.target)
    if largest >= len(names):
        raise InvalidInputError(
            f"index {path} names picture {largest} of video '{key}', expected at most {len(names) - 1}"
        )
    leaked = sorted(set(entry.context) & set(entry.target))
    test = tuple(place for place in entry.target if place not in leaked)
    if leaked and not (request.drop_leaked and test):
        raise InvalidInputError(
            f"index {path} tests video '{key}' on picture {leaked[0]}, which is one of its inputs, expected other "
            "pictures, or that such tests are to be dropped"
        )
    protocol = f"pixelSplat index {path.name}"
    if leaked:
        protocol += f" without {len(leaked)} of {len(entry.target)} targets that are inputs"
    inputs = tuple(names[place] for place in entry.context)
    return {str(len(inputs)): SceneSplit(inputs=inputs, test=tuple(names[place] for place in test), protocol=protocol)}


def _chunk_folder(root: Path) -> Path | None:
    for folder in (root, root / "test"):
        if (folder / INDEX_FILE).is_file() and any(folder.glob("*.torch")):
            return folder
    return None


def _dataset(root: Path) -> ChunkDataset:
    folder = _chunk_folder(root)
    if folder is None:
        raise InvalidInputError(f"folder {root} holds no chunks, expected {INDEX_FILE} and *.torch, there or in test/")
    return ChunkDataset(folder)


def _key(dataset: ChunkDataset, request: Request) -> str:
    keys = dataset.keys
    if request.video is None and len(keys) > 1:
        raise InvalidInputError(
            f"folder {request.root} holds {len(keys)} videos, expected the name of one, such as '{keys[0]}'"
        )
    key = keys[0] if request.video is None else request.video
    if key not in keys:
        raise InvalidInputError(f"folder {request.root} has no video '{key}', expected one such as '{keys[0]}'")
    return key


def _view(video: ChunkVideo, place: int, name: str) -> SceneView:
    def read_frame(with_depth: bool) -> Frame:
        del with_depth
        return video.frame(place)

    return SceneView(
        name=name,
        camera=video.camera(place),
        read_frame=read_frame,
        world_from_cam=video.world_from_cam(place),
        stamp_ns=video.stamp_ns(place),
    )
