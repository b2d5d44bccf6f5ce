"""Scene folders with cameras.json, and plain folders of photos."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from reconx_ros.core import Frame, InvalidInputError, PinholeCamera
from reconx_ros.io.cameras_json import (
    choose_entries,
    has_corner_origin,
    image_entries,
    load_json,
    parse_camera,
    parse_number,
    parse_pose,
    parse_splits,
)
from reconx_ros.io.exif import focal_length_px
from reconx_ros.io.image_size import image_size
from reconx_ros.io.images import MILLIMETRE, image_files, read_depth, read_image
from reconx_ros.io.readers.base import Request, chosen
from reconx_ros.io.scene_views import Scene, SceneView

CAMERAS_FILE = "cameras.json"
_GUESSED_FOCAL = 0.95  # over the longer side, where nothing is known: a phone's main camera has 0.7 to 0.8, a webcam 1
_GUESSED_SIGMA = 0.3
_NOTED_SIGMA = 0.05


def is_scene_folder(root: Path) -> bool:
    """Whether there is a cameras.json."""
    return (root / CAMERAS_FILE).is_file()


def read_scene_folder(request: Request) -> Scene:
    """A folder with cameras.json; see ``reconx_ros.io.cameras_json``.

    Raises:
        StorageError, InvalidInputError: as ``reconx_ros.io.scenes.read_scene``.
    """
    root, poses = request.root, request.poses
    document = load_json(root / CAMERAS_FILE)
    entries = choose_entries(image_entries(document, root), request.names, root)
    shift = 0.5 if has_corner_origin(document) else 0.0
    unit_m = float(document.get("depth_unit_m", MILLIMETRE))
    return Scene(
        name=str(document.get("scene", root.name)),
        root=root,
        views=tuple(_view(root, entry, shift, poses, unit_m) for entry in entries),
        metric_scale=bool(document.get("metric_scale", False)),
        pose_source=document.get("pose_source"),
        splits=parse_splits(document, root),
    )


def _view(root: Path, entry: dict[str, Any], shift: float, poses: str | None, unit_m: float) -> SceneView:
    name = f"image {entry['file']} of scene {root}"
    camera = parse_camera(entry, shift, name)
    path = root / entry["file"]
    depth = root / str(entry["depth"]) if entry.get("depth") else None

    def read_frame(with_depth: bool) -> Frame:
        rgb = read_image(path)
        _check_size(name, rgb.shape[:2], camera, "as cameras.json says")
        depth_m = read_depth(depth, unit_m) if with_depth and depth is not None else None
        if depth_m is not None:
            _check_size(f"depth {entry['depth']} of scene {root}", depth_m.shape, camera, "as its image")
        return Frame(rgb_u8=rgb, camera=camera, depth_m=depth_m)

    return SceneView(
        name=entry["file"],
        camera=camera,
        read_frame=read_frame,
        world_from_cam=parse_pose(entry, poses, name) if poses is not None else None,
        stamp_ns=round(parse_number(entry, "timestamp", name, 0.0) * 1e9),
        image_file=path,
        depth_file=depth,
    )


def _check_size(name: str, shape: tuple[int, ...], camera: PinholeCamera, why: str) -> None:
    if shape != (camera.height, camera.width):
        raise InvalidInputError(f"{name} is {shape[1]}x{shape[0]}, expected {camera.width}x{camera.height} {why}")


def has_photos(root: Path) -> bool:
    """Whether there are pictures directly in the folder or under images/."""
    return bool(_photos(root))


def read_photos(request: Request) -> Scene:
    """Pictures without cameras: centred pinholes, whose focal length is given, noted in EXIF data, or a guess.

    Raises:
        StorageError, InvalidInputError: as ``reconx_ros.io.scenes.read_scene``.
    """
    root = request.root
    names = chosen([str(path.relative_to(root)) for path in _photos(root)], request.names, root)
    views = tuple(_photo(root / name, name, request.fov_deg) for name in names)
    return Scene(name=root.name, root=root, views=views, metric_scale=False, layout="photos")


def _photos(root: Path) -> list[Path]:
    return image_files(root) or (image_files(root / "images") if (root / "images").is_dir() else [])


def _photo(path: Path, name: str, fov_deg: float | None) -> SceneView:
    width, height = image_size(path)
    camera, uncertainty = _photo_camera(path, width, height, fov_deg)

    def read_frame(with_depth: bool) -> Frame:
        del with_depth
        return Frame(rgb_u8=read_image(path), camera=camera, focal_uncertainty=uncertainty)

    return SceneView(name=name, camera=camera, read_frame=read_frame, image_file=path)


def _photo_camera(path: Path, width: int, height: int, fov_deg: float | None) -> tuple[PinholeCamera, float]:
    """Camera of a picture and the relative uncertainty of its focal length."""
    if fov_deg is not None:
        return camera_from_fov(width, height, fov_deg), 0.0
    noted = focal_length_px(path, width, height)
    focal = noted or _GUESSED_FOCAL * max(width, height)
    return _centred(width, height, focal), _NOTED_SIGMA if noted else _GUESSED_SIGMA


def camera_from_fov(width: int, height: int, fov_deg: float) -> PinholeCamera:
    """Centred camera with square pixels and a horizontal field of view in degrees.

    Raises:
        InvalidInputError: for a field of view outside (1, 170) degrees.
    """
    if not (math.isfinite(fov_deg) and 1 < fov_deg < 170):
        raise InvalidInputError(f"field of view is {fov_deg} degrees, expected a number between 1 and 170")
    return _centred(width, height, 0.5 * width / math.tan(math.radians(fov_deg) / 2))


def _centred(width: int, height: int, focal: float) -> PinholeCamera:
    return PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)
