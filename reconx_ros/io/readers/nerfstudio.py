"""transforms.json of nerfstudio and instant-ngp, and the transforms_train.json family of NeRF's Blender scenes.

Poses are world-from-camera with OpenGL axes (x right, y up, z backwards); principal points count from the corner of
the first pixel. Intrinsics and distortion stand at the top or with a frame. ``applied_transform`` and ``applied_scale``
are what was done to the poses since they were recorded; it is undone, so that the world is that of the recording.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, ReconxError
from reconx_ros.io.cameras_json import load_json, parse_number
from reconx_ros.io.image_size import image_size
from reconx_ros.io.images import IMAGE_SUFFIXES, MILLIMETRE
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import check_middle, check_unique, se3_from_matrix
from reconx_ros.io.readers.base import DepthFile, PictureFile, Request, scene_from_pictures
from reconx_ros.io.readers.picture_folders import find_picture, name_in, picture_folder
from reconx_ros.io.scene_views import Scene, SceneSplit
from reconx_ros.io.splits import every_eighth_split, few_view_splits
from reconx_ros.io.text import slashed

_FILE = "transforms.json"
_PARTS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_PERSPECTIVE = frozenset({"", "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"})
_FISHEYE = frozenset({"OPENCV_FISHEYE", "FISHEYE"})


def has_transforms(root: Path) -> bool:
    """Whether there is a transforms.json, or the parts of one."""
    return (root / _FILE).is_file() or (root / _PARTS[0]).is_file()


def read_nerfstudio(request: Request) -> Scene:
    """Pictures of a transforms.json, in the order of its frames.

    Depth pictures are in millimetres by nerfstudio's definition, unless ``depth_unit_scale_factor`` says otherwise; a
    scene that has some is taken to be metric. Masks and ``ply_file_path`` are not read.

    Raises:
        StorageError: when a file cannot be read.
        InvalidInputError: for broken JSON, or a camera, lens or pose that is missing or cannot be used.
    """
    root = request.root
    entries = _entries(root)
    has_depth = any("depth_file_path" in entry for entry in entries.values())
    paths = {name: _path(request, name) for name in entries}
    return scene_from_pictures(
        request,
        paths,
        lambda name: _picture(request, name, paths[name], entries[name]),
        metric_scale=has_depth,
        layout="nerfstudio",
        pose_source="transforms.json",
        splits=lambda names: _splits(root, {name: entries[name] for name in names}),
        notes=("depth pictures are taken as millimetres and poses as metres",) if has_depth else (),
    )


def _entries(root: Path) -> dict[str, dict[str, Any]]:
    """Frames by file, each with what stands at the top of its file."""
    files = [root / name for name in ([_FILE] if (root / _FILE).is_file() else _PARTS)]
    entries: dict[str, dict[str, Any]] = {}
    for path in (path for path in files if path.is_file()):
        document = load_json(path)
        frames = document.pop("frames", None)
        if not isinstance(frames, list) or not frames:
            raise InvalidInputError(f"file {path} lists no frames, expected at least one under 'frames'")
        for k, frame in enumerate(frames):
            if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
                raise InvalidInputError(f"frame {k} in {path} has no 'file_path', expected a picture")
        names = [_file(root, frame["file_path"]) for frame in frames]
        check_unique(names, f"file {path}")
        for name, frame in zip(names, frames, strict=True):
            entry = {**document, **frame, "part": path.name}
            if name in entries and entries[name].get("transform_matrix") != entry.get("transform_matrix"):
                raise InvalidInputError(
                    f"picture '{name}' has one pose in {entries[name]['part']} and another one in {path}, expected one"
                )
            entries[name] = entry
    return entries


def _file(root: Path, name: str) -> str:
    """The picture's name relative to the scene; Blender scenes leave out the suffix."""
    name = slashed(name).removeprefix("./")
    path = find_picture(root, name)
    if path.is_file():
        return name_in(path, root)
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}.png"


def _path(request: Request, name: str) -> Path:
    """The file of a picture: in the folder asked for, or in one of shrunken copies where its own is not there."""
    path = request.root / name
    if request.images is None and path.parent.is_dir():
        return path
    inner = Path(name).parts[1:] or (name,)
    return find_picture(picture_folder(request.root, request.images), "/".join(inner))  # DL3DV has images_4 alone


def _splits(root: Path, entries: Mapping[str, dict[str, Any]]) -> dict[str, SceneSplit]:
    """What the file calls test pictures (else validation pictures) is held out; without either, every 8th."""
    parts: dict[str, list[str]] = {}
    for part in ("train", "val", "test"):
        first = next(iter(entries.values()))
        listed = [_file(root, str(name)) for name in first.get(f"{part}_filenames") or ()]
        parts[part] = [n for n, e in entries.items() if n in set(listed) or e["part"] == f"transforms_{part}.json"]
    test = parts["test"] or parts["val"]
    if not (test and parts["train"]):
        return every_eighth_split(list(entries))
    return few_view_splits([n for n in parts["train"] if n not in set(test)], test, "split of transforms.json")


def _picture(request: Request, name: str, path: Path, entry: dict[str, Any]) -> PictureFile:
    title = f"image {name} of scene {request.root}"
    full_size = request.root / name
    depth = entry.get("depth_file_path")
    unit_m = parse_number(entry, "depth_unit_scale_factor", title, MILLIMETRE)
    return PictureFile(
        name=name,
        path=path,
        lens=_lens(entry, full_size if full_size.is_file() else path, title),
        world_from_cam=_pose(entry, title),
        depth=None if depth is None else DepthFile(path=request.root / slashed(str(depth)), unit_m=unit_m),
    )


def _pose(entry: dict[str, Any], title: str) -> SE3:
    """The pose in the world of the recording."""
    if "transform_matrix" not in entry:
        raise InvalidInputError(f"{title} has no pose, expected a 'transform_matrix' in transforms.json")
    try:
        matrix = _homogeneous(entry["transform_matrix"])
        applied = _homogeneous(entry.get("applied_transform", np.eye(4)))
        undone = np.linalg.inv(applied)
        scale = 1 / parse_number(entry, "applied_scale", title, 1.0)
    except (TypeError, ValueError, ZeroDivisionError, np.linalg.LinAlgError):
        raise InvalidInputError(
            f"{title} has a transform_matrix or applied_transform that is no 3x4 or 4x4 matrix"
        ) from None
    se3_from_matrix(matrix, title)
    matrix[:3, 3] *= scale
    return se3_from_matrix(undone @ matrix @ _OPENCV_FROM_OPENGL, title)


def _homogeneous(rows: Any) -> np.ndarray:
    """[4, 4] of a matrix [3, 4] or [4, 4].

    Raises:
        ValueError: for another shape.
    """
    matrix = np.array(rows, dtype=np.float64)
    return np.vstack([matrix, [0, 0, 0, 1]]) if matrix.shape == (3, 4) else matrix.reshape(4, 4)


def _lens(entry: dict[str, Any], path: Path, title: str) -> Lens:
    """The calibration; of the picture at ``path`` where the file does not say of which size."""
    width, height = image_size(path, as_stored=True)
    w, h = parse_number(entry, "w", title, width), parse_number(entry, "h", title, height)
    fx = _focal(entry, "fl_x", "camera_angle_x", w, title)
    fy = _focal(entry, "fl_y", "camera_angle_y", h, title) or fx
    fx = fx or fy
    if not fx or not fy:
        raise InvalidInputError(f"{title} has no focal length, expected fl_x or camera_angle_x in transforms.json")
    cx, cy = parse_number(entry, "cx", title, w / 2), parse_number(entry, "cy", title, h / 2)
    model, coefficients = _distortion(entry, title)
    try:
        camera = PinholeCamera.from_corner_origin(int(w), int(h), fx, fy, cx, cy)
    except ReconxError as err:
        raise InvalidInputError(f"{title}: {err}") from None
    if not {"w", "h"} <= entry.keys():
        check_middle(camera, title)
    return Lens(camera=camera, model=model, coefficients=coefficients)


def _focal(entry: dict[str, Any], key: str, angle_key: str, side: float, title: str) -> float:
    """0 where neither the focal length nor the angle is given."""
    if key in entry:
        return parse_number(entry, key, title)
    angle = parse_number(entry, angle_key, title, 0.0)
    return side / (2 * math.tan(angle / 2)) if 0 < angle < math.pi else 0.0


def _distortion(entry: dict[str, Any], title: str) -> tuple[str, tuple[float, ...]]:
    model = str(entry.get("camera_model", "")).upper()
    if entry.get("is_fisheye"):
        model = "OPENCV_FISHEYE"
    k1, k2, k3, k4, p1, p2 = (parse_number(entry, key, title, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model in _FISHEYE:
        return "equidistant", (k1, k2, k3, k4)
    if model not in _PERSPECTIVE or k4:
        what = f"camera_model '{model}'" if model not in _PERSPECTIVE else f"k4 = {k4:g}"
        raise InvalidInputError(f"{title} has {what}, expected OPENCV (k1, k2, p1, p2, k3) or OPENCV_FISHEYE")
    return "plumb_bob", (k1, k2, p1, p2, k3)
