"""Saving and loading the map: a folder with points.ply and map.json, replaced as a whole or not at all. No ROS.

Where the newest Gaussian scene lies on this computer, it is copied along as scene.ply.

map.json: ``{"format": "reconx_map", "version": 2, "frame_id", "stamp_ns", "metric_scale", "server_scene", "keyframes":
[{"id", "translation": [x, y, z], "quaternion_xyzw": [x, y, z, w]}], "files": {name: {"bytes", "sha256"}}, "sha256"}``;
poses are map_from_optical, the last sha256 is that of all other keys. Every byte that is read is checked first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PointCloud, StorageError
from reconx_ros.core.files import restore_folder, whole_folder
from reconx_ros.io.ply import read_point_cloud_ply, write_point_cloud_ply

FORMAT, VERSION = "reconx_map", 2
CLOUD_FILE, SCENE_FILE, MAP_FILE, RESULT_FILE = "points.ply", "scene.ply", "map.json", "cameras.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHECKSUM = "sha256"


class DiskFullError(StorageError):
    """The disk, or the user's share of it, has no room left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedMap:
    """A map at rest.

    Attributes:
        cloud: every point, unfiltered.
        poses: keyframe id to map_from_optical.
        frame_id: the map frame.
        stamp_ns: of the newest keyframe.
        metric_scale: whether lengths are metres.
        scene_file: newest Gaussian scene, copied along where it is on this computer; after loading the copy, if any.
        server_scene: the same file on the server's computer; empty when there is none.
    """

    cloud: PointCloud
    poses: dict[int, SE3]
    frame_id: str
    stamp_ns: int
    metric_scale: bool
    scene_file: Path | None = None
    server_scene: str = ""

    @property
    def scene(self) -> Path | None:
        """The scene that belongs to a loaded map: the copy in its folder, else the file on the server's computer."""
        return self.scene_file or (Path(self.server_scene) if self.server_scene else None)


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
    """Write a map; an older one of that name is replaced only after the new one is complete and on the disk.

    Returns:
        Bytes written.

    Raises:
        FileExistsError: when the folder exists and overwrite is false.
        InvalidInputError: when the path is a file, or a folder that holds no map.
        DiskFullError: when there is no room for it.
        StorageError: when it cannot be written for another reason.
    """
    try:
        restore_folder(folder)
        if folder.exists():
            _check_replaceable(folder, overwrite)
        with whole_folder(folder) as part:
            _write(part, saved)
            return sum(file.stat().st_size for file in part.iterdir())
    except FileExistsError:
        raise
    except OSError as error:
        raise _storage_error(folder, error) from None


def _storage_error(folder: Path, error: OSError) -> StorageError:
    cause = error.__cause__ if isinstance(error, StorageError) and error.__cause__ is not None else error
    reason = getattr(cause, "strerror", None) or str(cause)
    kind = DiskFullError if getattr(cause, "errno", None) in _FULL else StorageError
    return kind(f"map {folder} cannot be written ({reason})")


def _write(part: Path, saved: SavedMap) -> None:
    write_point_cloud_ply(part / CLOUD_FILE, saved.cloud)
    if saved.scene_file is not None and saved.scene_file.is_file():
        shutil.copyfile(saved.scene_file, part / SCENE_FILE)
    content = {**_description(saved), "files": {file.name: _fingerprint(file) for file in sorted(part.iterdir())}}
    text = json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1)
    (part / MAP_FILE).write_text(text, encoding="utf-8")


def _fingerprint(file: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, _CHECKSUM: digest.hexdigest()}


def _checksum(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise InvalidInputError(f"path {folder} is a file, expected a folder or nothing")
    if any(folder.iterdir()):
        if not overwrite:
            raise FileExistsError(f"folder {folder} exists already and overwrite is false")
        if not (folder / MAP_FILE).is_file():
            raise InvalidInputError(f"folder {folder} holds other files but no {MAP_FILE}, it is not replaced")


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
        "server_scene": saved.server_scene,
        "keyframes": keyframes,
    }


def load(folder: Path) -> SavedMap:
    """Read a map, or the result folder of a reconstruction. A map whose saving was cut short is put back first.

    Raises:
        FileNotFoundError: when there is no such folder or it holds neither.
        InvalidInputError: for a map of another format or version, or one that is damaged.
        StorageError: when its files cannot be read.
    """
    _restore(folder)
    file = next((folder / name for name in (MAP_FILE, RESULT_FILE) if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"there is no map in {folder}: {MAP_FILE} is missing")
    content = _parsed(file)
    try:
        if file.name == MAP_FILE:
            _check_files(folder, content["files"])
            return _of_map(content, folder)
        return _of_result(content, folder)
    except (InvalidInputError, StorageError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(f"map {file} is damaged: {type(error).__name__} {error}") from None


def _restore(folder: Path) -> None:
    try:
        restore_folder(folder)
    except OSError as error:
        raise StorageError(f"map {folder} cannot be put back ({error.strerror or error})") from None


def _check_files(folder: Path, files: dict[str, Any]) -> None:
    for name, expected in files.items():
        file = folder / Path(name).name
        try:
            found = _fingerprint(file)
        except FileNotFoundError:
            raise InvalidInputError(f"map {folder} is damaged: {name} is missing") from None
        except OSError as error:
            raise StorageError(f"map file {file} cannot be read ({error.strerror or error})") from None
        if found["bytes"] != expected["bytes"]:
            raise InvalidInputError(
                f"map {folder} is damaged: {name} has {found['bytes']} bytes, expected {expected['bytes']}"
            )
        if found != expected:
            raise InvalidInputError(f"map {folder} is damaged: the content of {name} is not what was saved")


def _of_map(content: dict[str, Any], folder: Path) -> SavedMap:
    poses = {
        int(k["id"]): SE3.from_quaternion_xyzw(np.array(k["translation"]), np.array(k["quaternion_xyzw"]))
        for k in content["keyframes"]
    }
    return SavedMap(
        cloud=read_point_cloud_ply(folder / CLOUD_FILE),
        poses=poses,
        frame_id=str(content["frame_id"]),
        stamp_ns=int(content["stamp_ns"]),
        metric_scale=bool(content["metric_scale"]),
        scene_file=_scene_in(folder),
        server_scene=str(content["server_scene"]),
    )


def _of_result(content: dict[str, Any], folder: Path) -> SavedMap:
    """A reconstruction's result: it knows neither a frame's name nor a stamp."""
    return SavedMap(
        cloud=read_point_cloud_ply(folder / CLOUD_FILE),
        poses={int(k["keyframe_id"]): SE3.from_matrix(np.array(k["c2w"])) for k in content["images"]},
        frame_id="",
        stamp_ns=0,
        metric_scale=bool(content["metric_scale"]),
        scene_file=_scene_in(folder),
    )


def _scene_in(folder: Path) -> Path | None:
    return folder / SCENE_FILE if (folder / SCENE_FILE).is_file() else None


def _parsed(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"map {file} cannot be read ({error})") from None
    content = content if isinstance(content, dict) else {}
    if file.name == MAP_FILE:
        found = (content.get("format"), content.get("version"))
        if found != (FORMAT, VERSION):
            raise InvalidInputError(f"map {file} has format {found[0]} version {found[1]}, expected {FORMAT} {VERSION}")
        if content.get(_CHECKSUM) != _checksum(content):
            raise InvalidInputError(f"map {file} is damaged: its content is not what was saved")
    return content
