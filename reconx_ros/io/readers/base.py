"""What all readers share: what is asked of them, and calibrated picture files as views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, ReconxError, StorageError
from reconx_ros.io.image_size import image_size
from reconx_ros.io.images import MILLIMETRE, read_bytes, read_depth, read_image
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import check_camera
from reconx_ros.io.rectify import Rectifier
from reconx_ros.io.scene_views import Scene, SceneSplit, SceneView
from reconx_ros.io.text import decoded_text

_MAX_DEPTH_SHEAR = 0.02  # of the sides' ratio, which rounding of a shrunken map leaves


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is read.

    Attributes:
        root: the folder.
        poses: key of the poses in cameras.json, "c2w" or "c2w_dataset"; None for no poses. Other layouts have given
            poses only and leave it to the caller to drop them.
        names: only these pictures, in this order; None for all.
        fov_deg: horizontal field of view of photos.
        images: folder of the pictures relative to the root, such as "images_4"; None for the layout's own.
        video: which video of a chunk folder.
        index: file that says which pictures of which video are given and tested.
        drop_leaked: leave out tests of the index that are inputs, too, instead of refusing the video.
    """

    root: Path
    poses: str | None = "c2w"
    names: Sequence[str] | None = None
    fov_deg: float | None = None
    images: str | None = None
    video: str | None = None
    index: Path | None = None
    drop_leaked: bool = False


@dataclass(frozen=True, kw_only=True)
class SceneLayout:
    """One way to lay out a scene.

    Attributes:
        name: what ``--format`` takes.
        looks: what makes a folder one, in words.
        recognise: whether a folder looks like it.
        read: the reader.
    """

    name: str
    looks: str
    recognise: Callable[[Path], bool]
    read: Callable[[Request], Scene]


@dataclass(frozen=True, kw_only=True)
class DepthFile:
    """A 16-bit depth picture.

    Attributes:
        path: the file.
        unit_m: metres (or scene units) per step.
        camera: of the depth picture; None where it lies on the image's grid, scaled as a whole.
    """

    path: Path
    unit_m: float = MILLIMETRE
    camera: PinholeCamera | None = None


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A picture on the disk, with its calibration; all fields as in ``SceneView``, ``Lens`` and ``DepthFile``."""

    name: str
    path: Path
    lens: Lens
    world_from_cam: SE3 | None = None
    stamp_ns: int = 0
    depth: DepthFile | None = None


@dataclass(frozen=True, eq=False)
class Views:
    """Makes views of picture files; equal lenses share their rectification maps."""

    _rectifiers: dict[Lens, Rectifier] = field(default_factory=dict)

    def of(self, picture: PictureFile) -> SceneView:
        """The view of one file; only its size is read now.

        Raises:
            StorageError: when the picture is missing.
            InvalidInputError: when it is none, or its proportions or its lens cannot be.
        """
        as_stored = not _is_calibrated_turned(picture)
        width, height = image_size(picture.path, as_stored=as_stored)
        lens = picture.lens.scaled_to(width, height, f"image {picture.path}")
        check_camera(lens.camera, f"image {picture.path}")
        rectifier = self._rectifier(lens, picture.path)
        depth = picture.depth

        def read_frame(with_depth: bool) -> Frame:
            rgb = rectifier.image(read_image(picture.path, as_stored=as_stored), f"image {picture.path}")
            depth_m = None
            if with_depth and depth is not None:
                depth_m = rectifier.depth(_depth_on(lens.camera, depth), f"depth {depth.path}")
            return Frame(rgb_u8=rgb, camera=rectifier.camera, depth_m=depth_m)

        return SceneView(
            name=picture.name,
            camera=rectifier.camera,
            read_frame=read_frame,
            world_from_cam=picture.world_from_cam,
            stamp_ns=picture.stamp_ns,
            image_file=picture.path,
            depth_file=None if depth is None else depth.path,
        )

    def _rectifier(self, lens: Lens, path: Path) -> Rectifier:
        if lens not in self._rectifiers:
            try:
                self._rectifiers[lens] = lens.rectifier()
            except ReconxError as err:
                raise InvalidInputError(f"lens of image {path} cannot be used: {err}") from None
        return self._rectifiers[lens]


Splits = Callable[[list[str]], Mapping[str, SceneSplit]]
"""The splits of a scene with these pictures."""


def scene_from_pictures(
    request: Request,
    paths: Mapping[str, Path],
    picture: Callable[[str], PictureFile],
    *,
    metric_scale: bool,
    layout: str,
    pose_source: str | None,
    splits: Splits,
    notes: tuple[str, ...] = (),
) -> Scene:
    """A scene of picture files, named after its folder, with those of its pictures that are asked for.

    Pictures whose file is not there are left out and counted: people sort pictures out and leave the calibration.

    Args:
        request: what is read.
        paths: file of every picture by its name.
        picture: the picture of a name.
        splits: made of the pictures that are there.
        metric_scale, layout, pose_source, notes: as ``Scene``.

    Raises:
        StorageError: when none of the pictures is there, or one that is asked for by name is not.
        InvalidInputError: as ``chosen`` and ``Views.of``.
    """
    there = [name for name, path in paths.items() if path.is_file()]
    gone = [name for name in paths if name not in set(there)]
    for name in chosen(list(paths), request.names, request.root):
        if name in set(gone) and (request.names is not None or not there):
            others = f", like {len(gone) - 1} other files of scene {request.root}" if len(gone) > 1 else ""
            raise StorageError(f"file {paths[name]} cannot be read: it is not there{others}")
    names, views = chosen(there, request.names, request.root), Views()
    return Scene(
        name=request.root.resolve().name,
        root=request.root,
        views=tuple(views.of(picture(name)) for name in names),
        metric_scale=metric_scale,
        layout=layout,
        pose_source=pose_source,
        splits=splits(there),
        notes=(*notes, *counted(len(gone), f"no file, such as {gone[0]}" if gone else "")),
    )


def _is_calibrated_turned(picture: PictureFile) -> bool:
    """Whether a calibration is of the picture as EXIF data turn it, not as it is stored: where only that size fits."""
    width, height = image_size(picture.path, as_stored=True)
    turned = image_size(picture.path)
    return turned == picture.lens.camera.size != (width, height) and turned == (height, width)


def _depth_on(camera: PinholeCamera, file: DepthFile) -> np.ndarray:
    """Depth [H, W] in metres on the image's grid, nearest value, 0 where unknown."""
    depth_m = read_depth(file.path, file.unit_m)
    height, width = depth_m.shape
    if file.camera is None and (width, height) == camera.size:
        return depth_m
    if file.camera is None and abs(width * camera.height / (height * camera.width) - 1) > _MAX_DEPTH_SHEAR:
        raise InvalidInputError(
            f"depth {file.path} is {width}x{height}, expected {camera.width}x{camera.height} as its image, or a scaled "
            "copy of that"
        )
    source = (file.camera or camera).scaled_to(width, height)
    u = (np.arange(camera.width) - camera.cx) / camera.fx * source.fx + source.cx
    v = (np.arange(camera.height) - camera.cy) / camera.fy * source.fy + source.cy
    column, row = np.rint(u).astype(int), np.rint(v).astype(int)
    inside = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))
    near = depth_m[np.clip(row, 0, height - 1)[:, None], np.clip(column, 0, width - 1)]
    return np.where(inside, near, np.float32(0))


def chosen(found: Sequence[str], names: Sequence[str] | None, root: Path) -> list[str]:
    """The names asked for, in the order asked for; all where nothing is asked for.

    Raises:
        InvalidInputError: for a name that is not among those found, or when nothing was found.
    """
    if not found:
        raise InvalidInputError(f"scene {root} has no images, expected at least one")
    missing = [name for name in names or () if name not in set(found)]
    if missing:
        raise InvalidInputError(f"scene {root} has no image '{missing[0]}', expected one like '{found[0]}'")
    return list(found if names is None else names)


def lines_from_file(path: Path) -> list[str]:
    """Lines of a text file that are neither empty nor a comment (#).

    Raises:
        StorageError: when it cannot be read.
    """
    lines = decoded_text(read_bytes(path)).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def matrix_from_file(path: Path, rows: int, columns: int, lines: Sequence[str] | None = None) -> np.ndarray:
    """A matrix [rows, columns] written as text, one row per line; numbers may be infinite.

    Args:
        path: the file, which errors name.
        rows, columns: its shape.
        lines: the lines that hold it; None for all of the file.

    Raises:
        StorageError: when the file cannot be read.
        InvalidInputError: when it holds something else.
    """
    words = [line.replace(",", " ").split() for line in (lines_from_file(path) if lines is None else lines)]
    try:
        matrix = np.array([[float(word) for word in row] for row in words])
    except ValueError:
        matrix = np.zeros(0)
    if matrix.shape != (rows, columns):
        raise InvalidInputError(f"file {path} holds no {rows}x{columns} matrix of numbers, one row per line")
    return matrix


def counted(count: int, what: str) -> tuple[str, ...]:
    """A note about pictures that were left out; none where there were none."""
    return (f"{count} image{'s' * (count != 1)} left out: {what}",) if count else ()
