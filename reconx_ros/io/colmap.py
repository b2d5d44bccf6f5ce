"""COLMAP sparse models: cameras and posed pictures, as text or binary (https://colmap.github.io/format.html).

COLMAP keeps cam_from_world as quaternion (w, x, y, z) and translation, and puts the centre of the first pixel at
(0.5, 0.5): principal points move by half a pixel here and nowhere else. Points are written, and passed over when read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, ReconxError, StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.core.transforms import rotation_from_quaternion_wxyz
from reconx_ros.io.colmap_points import ColmapPoints
from reconx_ros.io.images import read_bytes
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import check_unique
from reconx_ros.io.text import decoded_text, slashed

_FILES = ("cameras", "images", "points3D")
_LATER_FILES = ("rigs", "frames")  # COLMAP 3.12 and later add these; older models do without
_MODELS = {  # by number: name and count of parameters (colmap/src/colmap/sensor/models.h)
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
}
_IDS = {name: number for number, (name, _) in _MODELS.items()}
_POINT_2D_BYTES = 24  # x, y, id of its 3-D point


@dataclass(frozen=True, kw_only=True)
class ColmapView:
    """One picture of a model.

    Attributes:
        camera: intrinsics, pixel (0, 0) at the centre of the first pixel as everywhere in this package.
        world_from_cam: pose.
        name: the picture's file, relative to the folder of pictures.
        distortion_model: of the stored picture, as in ``reconx_ros.io.lens``; "" for none.
        distortion: coefficients of that model.
    """

    camera: PinholeCamera
    world_from_cam: SE3
    name: str
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()

    @property
    def lens(self) -> Lens:
        """Camera and distortion."""
        return Lens(camera=self.camera, model=self.distortion_model, coefficients=self.distortion)


def write_colmap(
    folder: Path, views: Sequence[ColmapView], points: ColmapPoints | None = None, *, binary: bool = True
) -> None:
    """Write a sparse model of PINHOLE cameras without distortion: cameras, images and points3D.

    Equal cameras are written once; images are numbered from 1 in the order given. Each file appears complete or not at
    all.

    Args:
        folder: made where it is absent, for example ``sparse/0``.
        views: cameras, poses and names.
        points: what the views see; None for a model without points.
        binary: ``.bin`` files, else ``.txt``.

    Raises:
        InvalidInputError: for names that are empty, given twice, or hold what the format cannot, a view with
            distortion, or a folder that holds a model which the new one would not replace.
        StorageError: when a file cannot be written.
    """
    _check_names(views, binary)
    suffix = ".bin" if binary else ".txt"
    _check_folder(folder, suffix)
    cameras = list(dict.fromkeys(view.camera for view in views))
    numbers = [cameras.index(view.camera) + 1 for view in views]
    points = points if points is not None else ColmapPoints.none(len(views))
    parts = (_binary_parts if binary else _text_parts)(cameras, numbers, views, points)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make folder {folder}: {error.strerror or error}") from error
    for name, data in zip(_FILES, parts, strict=True):
        write_bytes(folder / f"{name}{suffix}", data)


def _check_names(views: Sequence[ColmapView], binary: bool) -> None:
    names = [view.name for view in views]
    distorted = [view.name for view in views if not view.lens.is_pinhole]
    if distorted:
        raise InvalidInputError(f"picture '{distorted[0]}' has distortion, expected undistorted views to write")
    for name in names:
        if not name or "\0" in name or (not binary and name.split() != [name]):
            kind = "binary" if binary else "text"
            raise InvalidInputError(
                f"picture name {name!r} cannot be written to a COLMAP {kind} model, expected a path"
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError(f"picture name '{twice}' is given twice, expected each name once")


def _check_folder(folder: Path, suffix: str) -> None:
    other = ".txt" if suffix == ".bin" else ".bin"
    stale = [f"{name}{other}" for name in _FILES] + [
        f"{name}{end}" for name in _LATER_FILES for end in (".bin", ".txt")
    ]
    for name in stale:
        if (folder / name).exists():
            raise InvalidInputError(f"folder {folder} holds {name} of another model, expected an empty or a new folder")


def _parameters(camera: PinholeCamera) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy as COLMAP has them."""
    matrix = camera.corner_origin_matrix
    return float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])


def _pose(view: ColmapView) -> list[float]:
    """Quaternion w x y z and translation x y z of cam_from_world."""
    cam_from_world = view.world_from_cam.inverse()
    return [*map(float, cam_from_world.quaternion_wxyz), *map(float, cam_from_world.translation)]


def _binary_parts(
    cameras: list[PinholeCamera], numbers: list[int], views: Sequence[ColmapView], points: ColmapPoints
) -> tuple[bytes, bytes, bytes]:
    count = struct.Struct("<Q").pack
    camera_rows = [
        struct.pack("<IiQQ4d", i, _IDS["PINHOLE"], camera.width, camera.height, *_parameters(camera))
        for i, camera in enumerate(cameras, 1)
    ]
    image_rows = [
        struct.pack("<I7dI", i, *_pose(view), number) + view.name.encode() + b"\0" + points.binary_view(i - 1)
        for i, (view, number) in enumerate(zip(views, numbers, strict=True), 1)
    ]
    return b"".join([count(len(cameras)), *camera_rows]), b"".join([count(len(views)), *image_rows]), points.binary()


def _text_parts(
    cameras: list[PinholeCamera], numbers: list[int], views: Sequence[ColmapView], points: ColmapPoints
) -> tuple[bytes, bytes, bytes]:
    camera_rows = [
        f"{i} PINHOLE {camera.width} {camera.height} {' '.join(map(repr, _parameters(camera)))}\n"
        for i, camera in enumerate(cameras, 1)
    ]
    image_rows = [
        f"{i} {' '.join(map(repr, _pose(view)))} {number} {view.name}\n{points.text_view(i - 1)}\n"
        for i, (view, number) in enumerate(zip(views, numbers, strict=True), 1)
    ]
    headers = (
        "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]\n",
        "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of POINTS2D[] as X Y POINT3D_ID\n",
        "# POINT3D_ID X Y Z R G B ERROR TRACK[] as IMAGE_ID POINT2D_IDX\n",
    )
    texts = (headers[0] + "".join(camera_rows), headers[1] + "".join(image_rows), headers[2] + points.text())
    return texts[0].encode(), texts[1].encode(), texts[2].encode()


def read_colmap(folder: Path) -> list[ColmapView]:
    """Read the cameras and pictures of a sparse model; binary files go before text files, as in COLMAP.

    Args:
        folder: with cameras and images, for example ``sparse/0``.

    Returns:
        Views in the order of their numbers.

    Raises:
        StorageError: when a file cannot be read or ends too early.
        InvalidInputError: when the folder holds no model, a camera has an unknown model, or a number is missing or
            cannot be.
    """
    for suffix, cameras_of, images_of in (
        (".bin", _binary_cameras, _binary_images),
        (".txt", _text_cameras, _text_images),
    ):
        paths = [folder / f"{name}{suffix}" for name in _FILES[:2]]
        if all(path.exists() for path in paths):
            cameras = cameras_of(paths[0], read_bytes(paths[0]))
            return _views(paths[1], cameras, images_of(paths[1], read_bytes(paths[1])))
    raise InvalidInputError(f"folder {folder} holds no COLMAP model, expected cameras and images as .bin or .txt")


_Image = tuple[int, Sequence[float], int, str]  # number, pose, number of its camera, name


def _views(path: Path, cameras: dict[int, Lens], images: Iterator[_Image]) -> list[ColmapView]:
    views = {}
    for number, pose, camera, name in images:
        if camera not in cameras:
            raise InvalidInputError(
                f"{path} names camera {camera} for '{name}', expected one of {sorted(cameras)[:10]}"
            )
        if number in views:
            raise InvalidInputError(f"{path} has picture number {number} twice, expected each number once")
        try:
            rotation = rotation_from_quaternion_wxyz(np.array(pose[:4]))
            cam_from_world = SE3(rotation=rotation, translation=np.array(pose[4:]))
        except ReconxError as error:
            raise InvalidInputError(f"{path}, picture '{name}': {error}") from error
        lens = cameras[camera]
        views[number] = ColmapView(
            camera=lens.camera,
            world_from_cam=cam_from_world.inverse(),
            name=slashed(name),
            distortion_model=lens.model,
            distortion=lens.coefficients,
        )
    check_unique([view.name for view in views.values()], f"{path}")
    return [views[number] for number in sorted(views)]


def _camera(path: Path, model: str, size: tuple[int, int], values: Sequence[float]) -> Lens:
    if model not in _IDS:
        raise InvalidInputError(f"{path} has camera model {model}, expected {', '.join(_IDS)}: undistort first")
    wanted = _MODELS[_IDS[model]][1]
    if len(values) != wanted:
        raise InvalidInputError(f"{path} has a {model} camera of {len(values)} parameters, expected {wanted}")
    one_focal = model.startswith(("SIMPLE", "RADIAL"))
    fx, fy, cx, cy = (values[0], *values[:3]) if one_focal else values[:4]
    coefficients = tuple(float(v) for v in values[3 if one_focal else 4 :])
    distortion, length = ("equidistant", 4) if "FISHEYE" in model else ("plumb_bob", 5)
    if model == "FULL_OPENCV":
        distortion, length = "rational_polynomial", 8
    padded = coefficients + (0.0,) * (length - len(coefficients))
    try:
        camera = PinholeCamera.from_corner_origin(*size, fx, fy, cx, cy)
    except ReconxError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    lens = Lens(camera=camera, model=distortion, coefficients=padded)
    return Lens(camera=camera) if lens.is_pinhole else lens


class _Reader:
    """Little-endian values one after the other."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    def values(self, form: str) -> tuple[int | float, ...]:
        try:
            found = struct.unpack_from(f"<{form}", self._data, self._at)
        except struct.error:
            raise self._truncated() from None
        self._at += struct.calcsize(f"<{form}")
        return found

    def whole(self, form: str) -> int:
        return int(self.values(form)[0])

    def text(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise self._truncated()
        name = self._data[self._at : end].decode("utf-8", "replace")
        self._at = end + 1
        return name

    def skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise self._truncated()

    def _truncated(self) -> StorageError:
        return StorageError(f"{self._path} is truncated: it ends at byte {len(self._data)} inside a record")


def _binary_cameras(path: Path, data: bytes) -> dict[int, Lens]:
    reader, cameras = _Reader(path, data), {}
    for _ in range(reader.whole("Q")):
        number, model, width, height = map(int, reader.values("IiQQ"))
        name, count = _MODELS.get(model, (f"number {model}", 0))
        cameras[number] = _camera(path, name, (width, height), reader.values(f"{count}d"))
    return cameras


def _binary_images(path: Path, data: bytes) -> Iterator[_Image]:
    reader = _Reader(path, data)
    for _ in range(reader.whole("Q")):
        number, pose, camera = reader.whole("I"), reader.values("7d"), reader.whole("I")
        name = reader.text()
        reader.skip(_POINT_2D_BYTES * reader.whole("Q"))
        yield number, pose, camera, name


def _text_cameras(path: Path, data: bytes) -> dict[int, Lens]:
    cameras = {}
    for line in _lines(data):
        words = line.split()
        if not words:
            continue
        try:
            number, size = int(words[0]), (int(words[2]), int(words[3]))
            values = [float(word) for word in words[4:]]
        except (ValueError, IndexError):
            raise InvalidInputError(f"{path} has the line {line!r}, expected ID MODEL WIDTH HEIGHT PARAMS") from None
        cameras[number] = _camera(path, words[1], size, values)
    return cameras


def _text_images(path: Path, data: bytes) -> Iterator[_Image]:
    """Every other line is a picture; the lines between, which may be empty, hold its points."""
    lines = iter(_lines(data))
    for line in lines:
        words = line.split(maxsplit=9)
        if not words:
            continue
        try:
            number, pose, camera, name = int(words[0]), [float(w) for w in words[1:8]], int(words[8]), words[9].strip()
        except (ValueError, IndexError):
            raise InvalidInputError(
                f"{path} has the line {line!r}, expected ID QW QX QY QZ TX TY TZ CAMERA NAME"
            ) from None
        _check_points(path, name, next(lines, ""))
        yield number, pose, camera, name


def _check_points(path: Path, name: str, line: str) -> None:
    """Refuse a line that holds no points: where such lines were removed, every second picture would be lost."""
    words = line.split()
    try:
        [float(word) for word in words]
        are_points = len(words) % 3 == 0
    except ValueError:
        are_points = False
    if not are_points:
        raise InvalidInputError(
            f"{path}: the line of points of picture {name} has {len(words)} words and ends in '{words[-1]}', expected "
            "X Y POINT3D_ID triples or an empty line after each picture"
        )


def _lines(data: bytes) -> list[str]:
    """Lines that are no comment."""
    return [line for line in decoded_text(data).splitlines() if not line.lstrip().startswith("#")]
