"""What the viewer shows: cloud, Gaussians, cameras; from a result folder or from a running node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from reconx_ros.core import SE3, GaussianScene, InvalidInputError, PinholeCamera, PointCloud
from reconx_ros.io.cameras_json import has_corner_origin, load_json, parse_camera, parse_number, parse_pose
from reconx_ros.io.gaussians import fitted_antialiased, read_scene_ply
from reconx_ros.io.images import MILLIMETRE, read_image
from reconx_ros.io.ply import read_point_cloud_ply

Picture = Path | np.ndarray
"""A picture on disk, or [H, W, 3] uint8 RGB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewerCamera:
    """A camera that took a picture, or for which one was rendered.

    Attributes:
        name: what people call it.
        world_from_cam: where it was.
        camera: its intrinsics; None when unknown.
        picture: what it saw; None when there is none.
        depth: depth picture on disk (16-bit); None when there is none.
        depth_unit: its steps, in world units.
        stamp_ns: when it was taken; None when unknown.
    """

    name: str
    world_from_cam: SE3
    camera: PinholeCamera | None
    picture: Picture | None = None
    depth: Path | None = None
    depth_unit: float = MILLIMETRE
    stamp_ns: int | None = None

    def rgb_u8(self) -> np.ndarray | None:
        """The picture [H, W, 3] uint8; None where there is none.

        Raises:
            StorageError, InvalidInputError: when its file cannot be read.
        """
        return read_image(self.picture) if isinstance(self.picture, Path) else self.picture


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewerData:
    """Everything that can be shown.

    Attributes:
        title: what it is.
        cloud: points of the world; may be empty.
        scene: Gaussians; None where there are none.
        keyframes, novel: cameras of the inputs, and of the path of the novel views in order.
        metric_scale: whether lengths are metres; None when nobody said.
        antialiased: how the scene was fitted, and is to be rendered.
        notes: sentences about what is missing.
    """

    title: str
    cloud: PointCloud = field(default_factory=PointCloud.empty)
    scene: GaussianScene | None = None
    keyframes: tuple[ViewerCamera, ...] = ()
    novel: tuple[ViewerCamera, ...] = ()
    metric_scale: bool | None = None
    antialiased: bool = True
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What lengths are counted in: "m", or "units" where the scale is unknown."""
        return "m" if self.metric_scale else "units"


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedPicture:
    """What a renderer drew.

    Attributes:
        rgb_u8: [H, W, 3] uint8.
        depth: [H, W] float32, 0 or NaN where nothing is drawn.
        provenance: [H, W] uint8.
        confidence: [H, W] float32 in [0, 1]; None where the renderer does not tell.
    """

    rgb_u8: np.ndarray  # [H, W, 3]
    depth: np.ndarray  # [H, W]
    provenance: np.ndarray  # [H, W]
    confidence: np.ndarray | None = None  # [H, W]


Render = Callable[[PinholeCamera, SE3], RenderedPicture]
"""Draws the scene for a camera at world_from_cam; raises ReconxError when it cannot."""


class Feed(Protocol):
    """A running node, as the viewer sees it; all of it may be called from any thread."""

    def wait_for_change(self, seen: int, timeout_s: float) -> int:
        """Wait until there is something newer than version ``seen``; returns the version there is then."""
        ...

    def data(self) -> ViewerData:
        """Everything heard so far."""
        ...

    def render(self, camera: PinholeCamera, world_from_cam: SE3) -> RenderedPicture:
        """Have the node's server draw a view.

        Raises:
            ReconxError: when there is no server, no scene, or it refuses.
        """
        ...


def load_result(folder: Path, *, drop_bad: bool = False) -> ViewerData:
    """Read what ``reconx demo``, ``replay`` and ``reconstruct`` write, or a map that a node saved.

    Parts that are absent are named in ``notes``; parts that are damaged are errors.

    Args:
        folder: the result, or a file of Gaussians (3DGS, also SuperSplat's compressed one).
        drop_bad: leave out Gaussians with NaN or infinity instead of refusing them.

    Raises:
        InvalidInputError: for a folder that holds neither points.ply nor scene.ply, or a damaged file.
        StorageError: when a file cannot be read, or ends too early.
    """
    if folder.is_file() and folder.suffix.lower() == ".ply":
        found = ViewerData(title=folder.stem, scene=read_scene_ply(folder, drop_bad=drop_bad))
        return _near_origin(replace(found, notes=("This is a file alone: there are no cameras.",)))
    points, scene = folder / "points.ply", folder / "scene.ply"
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no folder, expected a result of reconx reconstruct, replay or demo")
    if not points.is_file() and not scene.is_file():
        raise InvalidInputError(f"{folder} is no result folder: it holds neither points.ply nor scene.ply")
    missing = {
        "points.ply: only the Gaussians are shown": points,
        "scene.ply: only the cloud is shown": scene,
    }
    notes = [f"There is no {text}." for text, path in missing.items() if not path.is_file()]
    keyframes, novel, metric_scale = _cameras(folder)
    if not keyframes:
        notes.append("There are no camera poses (cameras.json or map.json).")
    data = ViewerData(
        title=folder.resolve().name,
        cloud=read_point_cloud_ply(points) if points.is_file() else PointCloud.empty(),
        scene=read_scene_ply(scene, drop_bad=drop_bad) if scene.is_file() else None,
        keyframes=keyframes,
        novel=novel,
        metric_scale=metric_scale,
        antialiased=fitted_antialiased(folder),
        notes=tuple(notes),
    )
    return _near_origin(data)


def _near_origin(data: ViewerData) -> ViewerData:
    """Data in double precision, whose origin is far, about the middle of the cameras: browsers draw in single."""
    means = None if data.scene is None else data.scene.means
    if data.cloud.points.dtype != np.float64 and (means is None or means.dtype != torch.float64):
        return data
    places = np.array([c.world_from_cam.translation for c in data.keyframes]).reshape(-1, 3)
    if not len(places):
        places = data.cloud.points if len(data.cloud) or means is None else means.cpu().numpy()
    centre = places.mean(axis=0)
    scene = data.scene
    if scene is not None:
        scene = replace(scene, means=(scene.means.double() - torch.from_numpy(centre)).float())
    return replace(
        data,
        cloud=replace(data.cloud, points=(data.cloud.points - centre).astype(np.float32)),
        scene=scene,
        keyframes=tuple(_shifted(c, centre) for c in data.keyframes),
        novel=tuple(_shifted(c, centre) for c in data.novel),
        notes=(*data.notes, f"Coordinates are shown relative to ({centre[0]:.3f}, {centre[1]:.3f}, {centre[2]:.3f})."),
    )


def _shifted(camera: ViewerCamera, centre: np.ndarray) -> ViewerCamera:
    pose = camera.world_from_cam
    return replace(camera, world_from_cam=SE3(rotation=pose.rotation, translation=pose.translation - centre))


def _cameras(folder: Path) -> tuple[tuple[ViewerCamera, ...], tuple[ViewerCamera, ...], bool | None]:
    """Keyframes, novel views, and whether lengths are metres."""
    if (folder / "cameras.json").is_file():
        document = load_json(folder / "cameras.json")
        keyframes, novel = (_listed(folder, document, key) for key in ("images", "novel_views"))
        return keyframes, novel, _flag(document)
    if (folder / "map.json").is_file():
        document = load_json(folder / "map.json")
        return _map_keyframes(folder, document), (), _flag(document)
    return (), (), None


def _flag(document: dict[str, Any]) -> bool | None:
    value = document.get("metric_scale")
    return value if isinstance(value, bool) else None


def _listed(folder: Path, document: dict[str, Any], key: str) -> tuple[ViewerCamera, ...]:
    """The cameras under a key of cameras.json that have a pose."""
    entries = document.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise InvalidInputError(f"cameras.json of {folder} has {key} of another form, expected a list of objects")
    shift = 0.5 if has_corner_origin(document) else 0.0
    unit = parse_number(document, "depth_unit_m", f"cameras.json of {folder}", MILLIMETRE)
    return tuple(c for e in entries if (c := _listed_camera(folder, e, shift, unit)) is not None)


def _listed_camera(folder: Path, entry: dict[str, Any], shift: float, depth_unit: float) -> ViewerCamera | None:
    file = str(entry.get("file", ""))
    name = f"image {file} of {folder}"
    pose = parse_pose(entry, "c2w", name)
    if pose is None:
        return None
    picture = folder / file
    depth = picture.with_name(f"{picture.stem}_depth.png")
    stamp_s = entry.get("timestamp")
    return ViewerCamera(
        name=Path(file).stem,
        world_from_cam=pose,
        camera=parse_camera(entry, shift, name),
        picture=picture if file and picture.is_file() else None,
        depth=depth if file and depth.is_file() else None,
        depth_unit=depth_unit,
        stamp_ns=round(stamp_s * 1e9) if isinstance(stamp_s, (int, float)) and stamp_s > 0 else None,
    )


def _map_keyframes(folder: Path, document: dict[str, Any]) -> tuple[ViewerCamera, ...]:
    """Keyframe poses of a saved map; it holds neither calibration nor pictures."""
    try:
        return tuple(
            ViewerCamera(
                name=f"{int(k['id']):04d}",
                world_from_cam=SE3.from_quaternion_xyzw(np.array(k["translation"]), np.array(k["quaternion_xyzw"])),
                camera=None,
            )
            for k in document.get("keyframes", [])
        )
    except (KeyError, TypeError, ValueError) as err:
        raise InvalidInputError(f"map.json of {folder} has an unusable keyframe: {err}") from err
