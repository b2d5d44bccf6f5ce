"""Saving and loading the map: a folder with points.ply and map.json, replaced as a whole or not at all. No ROS.

Where the newest Gaussian scene lies on this computer, it is copied along as scene.ply.

map.json: ``{"format": "reconx_map", "version": 1, "frame_id", "stamp_ns", "metric_scale", "keyframes": [{"id",
"translation": [x, y, z], "quaternion_xyzw": [x, y, z, w]}]}``; poses are map_from_optical.
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PointCloud, StorageError
from reconx_ros.io.ply import read_point_cloud_ply, write_point_cloud_ply

FORMAT, VERSION = "reconx_map", 1
CLOUD_FILE, SCENE_FILE, MAP_FILE, RESULT_FILE = "points.ply", "scene.ply", "map.json", "cameras.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedMap:
    """A map at rest.

    Attributes:
        cloud: every point, unfiltered.
        poses: keyframe id to map_from_optical.
        frame_id: the map frame.
        stamp_ns: of the newest keyframe.
        metric_scale: whether lengths are metres.
        scene_file: newest Gaussian scene, copied along where it is on this computer.
    """

    cloud: PointCloud
    poses: dict[int, SE3]
    frame_id: str
    stamp_ns: int
    metric_scale: bool
    scene_file: Path | None = None


def resolved(path: str, base: Path) -> Path:
    """The folder that a request names: absolute, or inside the base folder.

    Raises:
        InvalidInputError: for an empty path, or a relative one that leaves the base folder.
    """
    given = Path(path).expanduser()
    if not path.strip():
        raise InvalidInputError("path is empty, expected a folder")
    if not given.is_absolute() and ".." in given.parts:
        raise InvalidInputError(f"path is '{path}', expected no '..' in a relative path")
    return given if given.is_absolute() else base / given


def save(folder: Path, saved: SavedMap, *, overwrite: bool) -> int:
    """Write a map; an older one of that name is replaced only after the new one is complete.

    Returns:
        Bytes written.

    Raises:
        FileExistsError: when the folder exists and overwrite is false.
        InvalidInputError: when the path is a file, or a folder that holds no map.
        StorageError: when it cannot be written (permissions, full disk).
    """
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        if folder.exists():
            _check_replaceable(folder, overwrite)
        part.mkdir(parents=True)
        _write(part, saved)
        size = sum(file.stat().st_size for file in part.iterdir())
        _exchange(part, folder)
    except (StorageError, FileExistsError):
        raise
    except OSError as error:
        raise StorageError(f"map {folder} cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return size


def _write(part: Path, saved: SavedMap) -> None:
    write_point_cloud_ply(part / CLOUD_FILE, saved.cloud)
    if saved.scene_file is not None and saved.scene_file.is_file():
        shutil.copyfile(saved.scene_file, part / SCENE_FILE)
    (part / MAP_FILE).write_text(json.dumps(_description(saved), indent=1), encoding="utf-8")


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise InvalidInputError(f"path {folder} is a file, expected a folder or nothing")
    if any(folder.iterdir()):
        if not overwrite:
            raise FileExistsError(f"folder {folder} exists already and overwrite is false")
        if not (folder / MAP_FILE).is_file():
            raise InvalidInputError(f"folder {folder} holds other files but no {MAP_FILE}, it is not replaced")


def _exchange(part: Path, folder: Path) -> None:
    former = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.former")
    if folder.exists():
        folder.rename(former)
    part.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _description(saved: SavedMap) -> dict[str, Any]:
    keyframes = [
        {
            "id": int(i),
            "translation": [float(v) for v in pose.translation],
            "quaternion_xyzw": [float(v) for v in pose.quaternion_xyzw],
        }
        for i, pose in sorted(saved.poses.items())
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "frame_id": saved.frame_id,
        "stamp_ns": int(saved.stamp_ns),
        "metric_scale": bool(saved.metric_scale),
        "keyframes": keyframes,
    }


def load(folder: Path) -> SavedMap:
    """Read a map, or the result folder of a reconstruction.

    Raises:
        FileNotFoundError: when there is no such folder or it holds neither.
        InvalidInputError: for a map of another format or version, or one that is damaged.
        StorageError: when its files cannot be read.
    """
    file = next((folder / name for name in (MAP_FILE, RESULT_FILE) if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"there is no map in {folder}: {MAP_FILE} is missing")
    content = _parsed(file)
    cloud = read_point_cloud_ply(folder / CLOUD_FILE)
    try:
        return _of_map(content, cloud) if file.name == MAP_FILE else _of_result(content, cloud)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"map {file} is damaged: {type(error).__name__} {error}") from None


def _of_map(content: dict[str, Any], cloud: PointCloud) -> SavedMap:
    poses = {
        int(k["id"]): SE3.from_quaternion_xyzw(np.array(k["translation"]), np.array(k["quaternion_xyzw"]))
        for k in content["keyframes"]
    }
    return SavedMap(
        cloud=cloud,
        poses=poses,
        frame_id=str(content["frame_id"]),
        stamp_ns=int(content["stamp_ns"]),
        metric_scale=bool(content["metric_scale"]),
    )


def _of_result(content: dict[str, Any], cloud: PointCloud) -> SavedMap:
    """A reconstruction's result: it knows neither a frame's name nor a stamp."""
    poses = {int(k["keyframe_id"]): SE3.from_matrix(np.array(k["c2w"])) for k in content["images"]}
    return SavedMap(cloud=cloud, poses=poses, frame_id="", stamp_ns=0, metric_scale=bool(content["metric_scale"]))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"map {file} cannot be read ({error})") from None
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if file.name == MAP_FILE and found != (FORMAT, VERSION):
        raise InvalidInputError(f"map {file} has format {found[0]} version {found[1]}, expected {FORMAT} {VERSION}")
    return dict(content)
