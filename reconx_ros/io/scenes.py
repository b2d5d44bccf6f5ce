"""Scenes: pictures, cameras and depth of one place, as files, in any of the layouts that data sets come in.

The package's own layout, which ``write_scene`` writes, is

    SCENE/images/0000.jpg ...   SCENE/depth/0000.png (16-bit)   SCENE/cameras.json

``reconx_ros.io.cameras_json`` says what cameras.json holds; ``reconx_ros.io.readers.layouts`` lists the other layouts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconx_ros.core import Frame, InvalidInputError, StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.geometry.resize import resize_nearest
from reconx_ros.io.cameras_json import POSE_KEYS
from reconx_ros.io.covering import covering_camera, covering_crop
from reconx_ros.io.images import write_depth, write_image
from reconx_ros.io.plausible import check_camera, check_one_file_each, check_unique
from reconx_ros.io.readers.base import Request
from reconx_ros.io.readers.chunks import INDEX_CROP, video_keys
from reconx_ros.io.readers.layouts import OWN_LAYOUT, layout_from_folder
from reconx_ros.io.readers.photos import camera_from_fov
from reconx_ros.io.readers.scene_folder import CAMERAS_FILE
from reconx_ros.io.scene_views import Scene, SceneSplit, SceneView, without_lost_depth

__all__ = [
    "Scene",
    "SceneSplit",
    "camera_from_fov",
    "read_scene",
    "read_split",
    "shrunken_frame",
    "video_keys",
    "write_scene",
]


def read_scene(
    folder: Path | str,
    *,
    format: str | None = None,  # noqa: A002 (as the command line calls it)
    poses: str | None = "c2w",
    depth: bool = True,
    names: Sequence[str] | None = None,
    max_size: int | None = None,
    fov_deg: float | None = None,
    images: str | None = None,
    video: str | None = None,
    index: Path | str | None = None,
    drop_leaked: bool = False,
    crop: tuple[int, int] | None = None,
) -> Scene:
    """Read a scene: cameras, poses and names now, pictures and depth when a frame is asked for.

    Args:
        folder: of one of the layouts; its content says which.
        format: name of the layout where the content shall not decide.
        poses: key of the poses to use, "c2w" or (cameras.json only) "c2w_dataset"; None leaves frames without poses.
        depth: read depth maps where there are any.
        names: read only these images, in this order.
        max_size: shrink pictures whose longer side is larger, pixels.
        fov_deg: horizontal field of view in degrees, for photos without cameras; None takes each file's EXIF focal
            length, or a guess where there is none, and frames say how uncertain it is.
        images: folder of the pictures relative to the scene, for layouts with shrunken copies such as images_4.
        video: which video, for folders of chunks.
        index: file of pixelSplat that says which pictures of a video are given and tested.
        drop_leaked: leave out tests of the index file that are inputs, too, instead of refusing the video.
        crop: (width, height) that pictures are scaled to cover, by Lanczos, and cut to in the middle, as pixelSplat
            does; None crops to 256x256 where there is an index file, and else not at all.

    Raises:
        StorageError: when the folder or a file is missing or cannot be read; listed pictures and depth maps whose file
            is not there are left out, and counted in the scene's notes, as long as one picture is there.
        InvalidInputError: when the folder has no known layout, or something in it cannot be used: broken JSON, an
            unknown camera model, a pose that is not finite or mirrored, intrinsics of another picture size, one file
            under two names. Reading a frame raises the same for a picture or depth map
            that cannot be decoded or has another size than expected.
    """
    root = Path(folder)
    if not root.is_dir():
        raise StorageError(f"scene folder {root} does not exist")
    layout = layout_from_folder(root, format)
    _check_poses(root, layout.name, poses)
    _check_index(root, layout.name, index, video)
    request = Request(
        root=root,
        poses=poses,
        names=names,
        fov_deg=fov_deg,
        images=images,
        video=video,
        index=None if index is None else Path(index),
        drop_leaked=drop_leaked,
    )
    scene = without_lost_depth(layout.read(request))
    _check(scene)
    if layout.name != OWN_LAYOUT and (root / CAMERAS_FILE).is_file():
        note = f"{CAMERAS_FILE} is not read: it is another program's, or another layout was asked for"
        scene = replace(scene, notes=(*scene.notes, note))
    if crop is None and index is not None:
        crop = INDEX_CROP
    if crop is not None:
        added = f", {crop[0]}x{crop[1]} crops"
        splits = {key: replace(split, protocol=split.protocol + added) for key, split in scene.splits.items()}
        scene = replace(scene, splits=splits)
    return replace(scene, views=tuple(_adapted(view, poses, depth, crop, max_size) for view in scene.views))


def read_split(folder: Path | str, name: str, **options: Any) -> tuple[Scene, Scene]:
    """The (input, test) scenes of a split; options as ``read_scene``.

    Raises:
        InvalidInputError: when the scene has no such split, and as ``read_scene``.
    """
    scene = read_scene(folder, **options)
    if name not in scene.splits:
        known = ", ".join(scene.splits) or "none"
        raise InvalidInputError(f"scene {folder} has no split '{name}', expected one of {known}")
    split = scene.splits[name]
    return scene.select(split.inputs), scene.select(split.test)


def _check(scene: Scene) -> None:
    """What no reader may let through, whichever layout it reads."""
    check_unique(scene.names, f"scene {scene.root}")
    check_one_file_each(((view.name, view.image_file) for view in scene.views), f"scene {scene.root}")
    for view in scene.views:
        check_camera(view.camera, f"image {view.name} of scene {scene.root}")


def _check_index(root: Path, layout: str, index: Path | str | None, video: str | None) -> None:
    if layout != "chunks" and (index is not None or video is not None):
        raise InvalidInputError(f"scene {root} ({layout}) takes no index file or video, expected chunks")


def _check_poses(root: Path, layout: str, poses: str | None) -> None:
    if poses is None:
        return
    if poses not in POSE_KEYS:
        raise InvalidInputError(f"scene poses are '{poses}', expected one of {', '.join(POSE_KEYS)} or none")
    if layout != OWN_LAYOUT and poses != "c2w":
        raise InvalidInputError(f"scene {root} ({layout}) has no '{poses}' poses, expected its given ones or none")


def _adapted(
    view: SceneView, poses: str | None, depth: bool, crop: tuple[int, int] | None, max_size: int | None
) -> SceneView:
    """The view as the caller wants it."""
    if poses is None:
        view = replace(view, world_from_cam=None)
    if not depth:
        view = replace(view, depth_file=None)
    if crop is not None:
        view = view.changed(covering_camera(view.camera, crop), lambda frame: covering_crop(frame, crop))
    if max_size is not None and max(view.camera.size) > max_size:
        view = view.changed(view.camera.fitted_to(max_size), lambda frame: shrunken_frame(frame, max_size))
    return view


def shrunken_frame(frame: Frame, max_size: int | None) -> Frame:
    """The frame, its longer side at most ``max_size`` pixels: image area-averaged, depth nearest, camera to match."""
    if max_size is None or max(frame.camera.size) <= max_size:
        return frame
    import cv2

    camera = frame.camera.fitted_to(max_size)
    depth = frame.depth_m
    if depth is not None:
        depth = resize_nearest(depth, camera.width, camera.height)
    rgb = cv2.resize(frame.rgb_u8, camera.size, interpolation=cv2.INTER_AREA)
    return replace(frame, rgb_u8=rgb, camera=camera, depth_m=depth)


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
    write_bytes(root / "cameras.json", json.dumps(document, indent=1).encode())


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
