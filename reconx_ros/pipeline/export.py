"""A result folder in the formats of other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import InvalidInputError, PointCloud, StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.geometry.point_visibility import visible_points
from reconx_ros.geometry.voxel import thin_to
from reconx_ros.io.cameras_json import has_corner_origin, load_json, parse_camera, parse_pose
from reconx_ros.io.colmap import ColmapView, write_colmap
from reconx_ros.io.colmap_points import ColmapPoints
from reconx_ros.io.gaussians import fitted_antialiased, read_scene_ply, write_scene_ply
from reconx_ros.io.ply import read_point_cloud_ply
from reconx_ros.io.splat_files import write_splat, write_spz

MAX_COLMAP_POINTS = 100_000


def export_result(folder: Path, formats: Sequence[str], out: Path, *, drop_bad: bool = False) -> list[Path]:
    """Write a result folder's scene or cameras for other programs.

    Args:
        folder: what ``save_reconstruction`` wrote.
        formats: of ``FORMATS``: "splat" and "spz" (scene for web viewers), "ply" (scene with the public properties
            only), "colmap" and "colmap_text" (images and sparse/0 with points, for nerfstudio, gsplat and the like).
        out: folder to write to; made where it is absent.
        drop_bad: leave out Gaussians with NaN or infinity instead of refusing them.

    Returns:
        What was written, one path per format.

    Raises:
        InvalidInputError: for an unknown format, or a folder that is no result.
        StorageError: when something cannot be read or written.
    """
    for name in formats:
        if name not in FORMATS:
            raise InvalidInputError(f"export format is '{name}', expected one of {', '.join(FORMATS)}")
    if not (folder / "cameras.json").is_file() or not (folder / "scene.ply").is_file():
        raise InvalidInputError(f"{folder} is no result folder: it needs scene.ply and cameras.json")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"export folder {out} cannot be made: {err.strerror}") from None
    return [FORMATS[name](folder, out, drop_bad) for name in formats]


def _ply(folder: Path, out: Path, drop_bad: bool) -> Path:
    target = out / "scene_public.ply"
    write_scene_ply(target, read_scene_ply(folder / "scene.ply", drop_bad=drop_bad), extra=False)
    return target


def _splat(folder: Path, out: Path, drop_bad: bool) -> Path:
    target = out / "scene.splat"
    write_splat(target, read_scene_ply(folder / "scene.ply", drop_bad=drop_bad))
    return target


def _spz(folder: Path, out: Path, drop_bad: bool) -> Path:
    target = out / "scene.spz"
    write_spz(target, read_scene_ply(folder / "scene.ply", drop_bad=drop_bad), antialiased=fitted_antialiased(folder))
    return target


def _colmap(folder: Path, out: Path, _: bool) -> Path:
    return _colmap_model(folder, out / "colmap", binary=True)


def _colmap_text(folder: Path, out: Path, _: bool) -> Path:
    return _colmap_model(folder, out / "colmap_text", binary=False)


def _colmap_model(folder: Path, out: Path, *, binary: bool) -> Path:
    """images/ and sparse/0 of the keyframes, with the thinned cloud as points3D."""
    document = load_json(folder / "cameras.json")
    views = [_colmap_view(folder, document, entry) for entry in document.get("images", [])]
    try:
        for name in ("images", "sparse/0"):
            (out / name).mkdir(parents=True, exist_ok=True)
        for view in views:
            write_bytes(out / "images" / view.name, (folder / "images" / view.name).read_bytes())
    except OSError as err:
        raise StorageError(f"COLMAP folder {out} cannot be written: {err.filename}: {err.strerror}") from None
    write_colmap(out / "sparse" / "0", views, _colmap_points(folder, views), binary=binary)
    return out


def _colmap_view(folder: Path, document: dict[str, Any], entry: dict[str, Any]) -> ColmapView:
    name = f"image {entry.get('file')} of {folder}"
    pose = parse_pose(entry, "c2w", name)
    if pose is None or not entry.get("file"):
        raise InvalidInputError(f"{name} has no file or no pose in cameras.json, expected both")
    camera = parse_camera(entry, 0.5 if has_corner_origin(document) else 0.0, name)
    return ColmapView(camera=camera, world_from_cam=pose, name=Path(entry["file"]).name)


def _colmap_points(folder: Path, views: Sequence[ColmapView]) -> ColmapPoints | None:
    """The cloud, thinned, without what no view sees; None where the result has no cloud."""
    if not (folder / "points.ply").is_file():
        return None
    cloud = read_point_cloud_ply(folder / "points.ply")
    thinned, _ = thin_to(cloud, _least_voxel(cloud), MAX_COLMAP_POINTS)
    sights = [visible_points(thinned.points, cloud.points, view.camera, view.world_from_cam) for view in views]
    kept = np.unique(np.concatenate([np.zeros(0, np.int64), *(seen for seen, _ in sights)]))
    return ColmapPoints(
        points=thinned.points[kept],
        rgb_u8=thinned.rgb_u8[kept],
        seen=[np.searchsorted(kept, seen) for seen, _ in sights],
        pixels=[pixels for _, pixels in sights],
    )


def _least_voxel(cloud: PointCloud) -> float:
    """So small that it joins only points that are as good as the same."""
    spread = float(np.ptp(cloud.points, axis=0).max()) if len(cloud) else 0.0
    return max(spread * 1e-4, float(np.finfo(np.float32).tiny))


FORMATS: dict[str, Callable[[Path, Path, bool], Path]] = {
    "splat": _splat,
    "spz": _spz,
    "ply": _ply,
    "colmap": _colmap,
    "colmap_text": _colmap_text,
}
