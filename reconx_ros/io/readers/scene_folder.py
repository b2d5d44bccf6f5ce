"""Scene folders with cameras.json; see ``reconx_ros.io.cameras_json``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from reconx_ros.io.cameras_json import (
    has_corner_origin,
    image_entries,
    is_foreign,
    load_json,
    parse_camera,
    parse_number,
    parse_pose,
    parse_splits,
)
from reconx_ros.io.images import MILLIMETRE
from reconx_ros.io.lens import Lens
from reconx_ros.io.readers.base import DepthFile, PictureFile, Request, scene_from_pictures
from reconx_ros.io.readers.picture_folders import find_picture
from reconx_ros.io.scene_views import Scene, SceneSplit
from reconx_ros.io.text import slashed

CAMERAS_FILE = "cameras.json"


def is_scene_folder(root: Path) -> bool:
    """Whether there is a cameras.json, and it is not another program's."""
    return (root / CAMERAS_FILE).is_file() and not is_foreign(root / CAMERAS_FILE)


def read_scene_folder(request: Request) -> Scene:
    """A folder with cameras.json.

    Raises:
        StorageError, InvalidInputError: as ``reconx_ros.io.scenes.read_scene``.
    """
    root = request.root
    document = load_json(root / CAMERAS_FILE)
    entries = {entry["file"]: entry for entry in image_entries(document, root)}
    paths = {name: find_picture(root, name) for name in entries}
    scene = scene_from_pictures(
        request,
        paths,
        lambda name: _picture(request, name, paths[name], entries[name], document),
        metric_scale=bool(document.get("metric_scale", False)),
        layout="reconx",
        pose_source=document.get("pose_source"),
        splits=lambda names: _known(parse_splits(document, root), names, list(entries)),
    )
    return replace(scene, name=str(document.get("scene", root.name)))


def _picture(request: Request, name: str, path: Path, entry: dict[str, Any], document: dict[str, Any]) -> PictureFile:
    root, title = request.root, f"image {name} of scene {request.root}"
    unit_m = parse_number(document, "depth_unit_m", f"cameras.json of scene {root}", MILLIMETRE)
    return PictureFile(
        name=name,
        path=path,
        lens=Lens(camera=parse_camera(entry, 0.5 if has_corner_origin(document) else 0.0, title)),
        world_from_cam=None if request.poses is None else parse_pose(entry, request.poses, title),
        stamp_ns=round(parse_number(entry, "timestamp", title, 0.0) * 1e9),
        depth=DepthFile(path=root / slashed(str(entry["depth"])), unit_m=unit_m) if entry.get("depth") else None,
    )


def _known(splits: dict[str, SceneSplit], there: list[str], listed: list[str]) -> dict[str, SceneSplit]:
    """The splits without tests whose file is gone, and without splits that have lost an input or every test."""
    gone = set(listed) - set(there)
    kept = {}
    for key, split in splits.items():
        test = tuple(name for name in split.test if name not in gone)
        if not gone.intersection(split.inputs) and (test or not split.test):
            kept[key] = replace(split, test=test)
    return kept
