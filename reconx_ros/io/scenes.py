"""Scene folders: pictures, cameras and depth of one place, as files.

    SCENE/images/0000.jpg ...   SCENE/depth/0000.png (16-bit)   SCENE/cameras.json

``reconx_ros.io.cameras_json`` says what cameras.json holds. A folder of pictures without it is a scene without poses;
its cameras are centred pinholes whose focal length is given, or noted in the files' EXIF data, or a guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import Frame, InvalidInputError, PinholeCamera, StorageError
from reconx_ros.geometry.resize import resize_nearest
from reconx_ros.io.cameras_json import (
    POSE_KEYS,
    SceneSplit,
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
from reconx_ros.io.images import (
    MILLIMETRE,
    image_files,
    read_depth,
    read_image,
    write_bytes_atomic,
    write_depth,
    write_image,
)

_GUESSED_FOCAL = 0.95  # over the longer side, where nothing is known: a phone's main camera has 0.7 to 0.8, a webcam 1
_GUESSED_SIGMA = 0.3
_NOTED_SIGMA = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Pictures of one place.

    Attributes:
        name: the folder's name.
        root: the folder.
        names: file of each frame relative to the folder, as cameras.json calls it.
        frames: one Frame per name; pose and depth are None where unknown.
        metric_scale: whether poses and depth are in metres.
        pose_source: where the poses come from, in words; None where the file does not say.
        splits: suggested few-view splits by number of inputs ("2", "3", ...).
    """

    name: str
    root: Path
    names: tuple[str, ...]
    frames: tuple[Frame, ...]
    metric_scale: bool
    pose_source: str | None = None
    splits: Mapping[str, SceneSplit] = field(default_factory=dict)

    def frame(self, name: str) -> Frame:
        """One frame by its name.

        Raises:
            InvalidInputError: for a name that the scene has not.
        """
        if name not in self.names:
            raise InvalidInputError(f"scene {self.name} has no image '{name}', expected one like '{self.names[0]}'")
        return self.frames[self.names.index(name)]

    def select(self, names: Sequence[str]) -> Scene:
        """The scene reduced to some names, in their order.

        Raises:
            InvalidInputError: for a name that the scene has not.
        """
        return replace(self, names=tuple(names), frames=tuple(self.frame(name) for name in names))


def read_scene(
    folder: Path | str,
    *,
    poses: str | None = "c2w",
    depth: bool = True,
    names: Sequence[str] | None = None,
    max_size: int | None = None,
    fov_deg: float | None = None,
) -> Scene:
    """Read a scene folder, or a plain folder of pictures.

    Args:
        folder: with ``cameras.json``; or with pictures, directly or under ``images/``.
        poses: key of the poses to use, "c2w" or "c2w_dataset"; None leaves frames without poses.
        depth: read depth maps where there are any.
        names: read only these images, as cameras.json names them, in this order.
        max_size: shrink pictures whose longer side is larger, pixels.
        fov_deg: horizontal field of view in degrees, for a folder without cameras.json; None takes each file's EXIF
            focal length, or a guess where there is none, and frames say how uncertain it is.

    Raises:
        StorageError: when the folder or a file is missing or cannot be read.
        InvalidInputError: for broken JSON, an unknown camera model, a pose that is not finite, an image or depth map
            that cannot be decoded or has another size than the file says, or missing intrinsics.
    """
    root = Path(folder)
    if not root.is_dir():
        raise StorageError(f"scene folder {root} does not exist")
    if (root / "cameras.json").is_file():
        return _read_with_cameras(root, poses, depth, names, max_size)
    return _read_plain(root, names, max_size, fov_deg)


def read_split(folder: Path | str, name: str, **options: Any) -> tuple[Scene, Scene]:
    """The (input, test) scenes of a suggested split; options as ``read_scene``.

    Raises:
        InvalidInputError: when the scene has no such split, and as ``read_scene``.
    """
    splits = parse_splits(load_json(Path(folder) / "cameras.json"), Path(folder))
    if name not in splits:
        raise InvalidInputError(f"scene {folder} has no split '{name}', expected one of {', '.join(splits) or 'none'}")
    split = splits[name]
    scene = read_scene(folder, names=(*split.inputs, *split.test), **options)
    return scene.select(split.inputs), scene.select(split.test)


def _read_with_cameras(
    root: Path, poses: str | None, depth: bool, names: Sequence[str] | None, max_size: int | None
) -> Scene:
    if poses is not None and poses not in POSE_KEYS:
        raise InvalidInputError(f"scene poses are '{poses}', expected one of {', '.join(POSE_KEYS)} or none")
    document = load_json(root / "cameras.json")
    entries = choose_entries(image_entries(document, root), names, root)
    shift = 0.5 if has_corner_origin(document) else 0.0
    unit_m = float(document.get("depth_unit_m", MILLIMETRE))
    frames = tuple(_read_frame(root, e, shift, poses, unit_m if depth else None, max_size) for e in entries)
    return Scene(
        name=str(document.get("scene", root.name)),
        root=root,
        names=tuple(e["file"] for e in entries),
        frames=frames,
        metric_scale=bool(document.get("metric_scale", False)),
        pose_source=document.get("pose_source"),
        splits=parse_splits(document, root),
    )


def _read_plain(root: Path, names: Sequence[str] | None, max_size: int | None, fov_deg: float | None) -> Scene:
    files = image_files(root) or (image_files(root / "images") if (root / "images").is_dir() else [])
    if not files:
        raise InvalidInputError(f"folder {root} holds no images and no cameras.json, expected a scene or pictures")
    entries = choose_entries([{"file": str(f.relative_to(root))} for f in files], names, root)
    frames = []
    for entry in entries:
        frames.append(shrunken_frame(_plain_frame(root / entry["file"], fov_deg), max_size))
    return Scene(
        name=root.name,
        root=root,
        names=tuple(e["file"] for e in entries),
        frames=tuple(frames),
        metric_scale=False,
    )


def _plain_frame(path: Path, fov_deg: float | None) -> Frame:
    """A picture as a frame; its focal length from the field of view, the file, or a guess."""
    rgb = read_image(path)
    height, width = rgb.shape[:2]
    if fov_deg is not None:
        return Frame(rgb_u8=rgb, camera=camera_from_fov(width, height, fov_deg))
    noted = focal_length_px(path, width, height)
    focal = noted or _GUESSED_FOCAL * max(width, height)
    camera = PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)
    return Frame(rgb_u8=rgb, camera=camera, focal_uncertainty=_NOTED_SIGMA if noted else _GUESSED_SIGMA)


def camera_from_fov(width: int, height: int, fov_deg: float) -> PinholeCamera:
    """Centred camera with square pixels and a horizontal field of view in degrees.

    Raises:
        InvalidInputError: for a field of view outside (1, 170) degrees.
    """
    if not (math.isfinite(fov_deg) and 1 < fov_deg < 170):
        raise InvalidInputError(f"field of view is {fov_deg} degrees, expected a number between 1 and 170")
    focal = 0.5 * width / math.tan(math.radians(fov_deg) / 2)
    return PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)


def shrunken_frame(frame: Frame, max_size: int | None) -> Frame:
    """The frame, its longer side at most ``max_size`` pixels: image area-averaged, depth nearest, camera to match."""
    if max_size is None or max(frame.camera.size) <= max_size:
        return frame
    import cv2

    camera = frame.camera.fitted_to(max_size)
    depth = frame.depth_m
    if depth is not None:
        depth = resize_nearest(torch.from_numpy(depth), camera.width, camera.height).numpy()
    rgb = cv2.resize(frame.rgb_u8, camera.size, interpolation=cv2.INTER_AREA)
    return replace(frame, rgb_u8=rgb, camera=camera, depth_m=depth)


def _read_frame(
    root: Path, entry: dict[str, Any], shift: float, poses: str | None, unit_m: float | None, max_size: int | None
) -> Frame:
    name = f"image {entry['file']} of scene {root}"
    rgb = read_image(root / entry["file"])
    camera = parse_camera(entry, shift, name)
    if rgb.shape[:2] != (camera.height, camera.width):
        raise InvalidInputError(
            f"{name} is {rgb.shape[1]}x{rgb.shape[0]}, expected {camera.width}x{camera.height} as cameras.json says"
        )
    depth = None
    if unit_m is not None and entry.get("depth"):
        depth = read_depth(root / str(entry["depth"]), unit_m)
        if depth.shape != rgb.shape[:2]:
            size, wanted = f"{depth.shape[1]}x{depth.shape[0]}", f"{camera.width}x{camera.height}"
            raise InvalidInputError(f"depth {entry['depth']} of scene {root} is {size}, expected {wanted} as its image")
    pose = parse_pose(entry, poses, name) if poses is not None else None
    stamp_ns = round(parse_number(entry, "timestamp", name, 0.0) * 1e9)
    return shrunken_frame(
        Frame(rgb_u8=rgb, camera=camera, stamp_ns=stamp_ns, world_from_cam=pose, depth_m=depth), max_size
    )


def write_scene(folder: Path | str, frames: Sequence[Frame], *, metric_scale: bool, pose_source: str = "") -> None:
    """Write frames as a scene folder that ``read_scene`` reads back: PNG images, millimetre depth, cameras.json.

    Args:
        folder: made if it does not exist.
        frames: written as images/0000.png, images/0001.png, ...
        metric_scale: whether poses and depth are in metres.
        pose_source: where the poses come from, in words.

    Raises:
        StorageError: when something cannot be written.
    """
    root = Path(folder)
    try:
        for name in ("images", "depth"):
            (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"scene folder {root} cannot be made: {err.strerror}") from err
    document = {
        "scene": root.name,
        "convention": "OpenCV camera axes; pixel (0, 0) is the centre of the first pixel; c2w is camera-to-world",
        "metric_scale": metric_scale,
        "pose_source": pose_source,
        "images": [_write_frame(root, k, frame) for k, frame in enumerate(frames)],
    }
    write_bytes_atomic(root / "cameras.json", json.dumps(document, indent=1).encode())


def _write_frame(root: Path, number: int, frame: Frame) -> dict[str, Any]:
    camera = frame.camera
    entry: dict[str, Any] = {"file": f"images/{number:04d}.png", "width": camera.width, "height": camera.height}
    entry.update(fx=camera.fx, fy=camera.fy, cx=camera.cx, cy=camera.cy, timestamp=frame.stamp_ns / 1e9)
    write_image(root / entry["file"], frame.rgb_u8)
    if frame.world_from_cam is not None:
        entry["c2w"] = frame.world_from_cam.matrix.tolist()
    if frame.depth_m is not None:
        entry["depth"] = f"depth/{number:04d}.png"
        write_depth(root / entry["depth"], frame.depth_m)
    return entry
