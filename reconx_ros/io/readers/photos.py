"""Folders of photos alone: which of them are read, what is passed over, and what their cameras are taken for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reconx_ros.core import Frame, InvalidInputError, PinholeCamera
from reconx_ros.io.exif import focal_length_px
from reconx_ros.io.image_size import image_size
from reconx_ros.io.images import HEIF_CURE, HEIF_SUFFIXES, IMAGE_SUFFIXES, heif_is_readable, image_files, read_image
from reconx_ros.io.readers.base import Request, chosen
from reconx_ros.io.scene_views import Scene, SceneView

_PLACES = ("", "images", "input", "photos", "rgb")  # looked into; of equally full ones, the first is read
_RAW_SUFFIXES = frozenset({".dng", ".cr2", ".cr3", ".nef", ".arw", ".rw2", ".orf", ".raf"})
_OTHER_SUFFIXES = _RAW_SUFFIXES | {".avif", ".gif", ".jxl", ".jp2", ".mov", ".mp4"}
_RESULT_FILES = ("report.json", "cameras.json")
_GUESSED_FOCAL = 0.95  # over the longer side, where nothing is known: a phone's main camera has 0.7 to 0.8, a webcam 1
_GUESSED_SIGMA = 0.3
_NOTED_SIGMA = 0.05


def has_photos(root: Path) -> bool:
    """Whether there are pictures in the folder, in a usual place such as images/, or in its only folder of pictures."""
    return bool(_photos(root)[1])


def read_photos(request: Request) -> Scene:
    """Pictures without cameras: centred pinholes, whose focal length is given, noted in EXIF data, or a guess.

    Of the folder and its usual subfolders, the one with most pictures is read; notes name and count what is passed
    over.

    Raises:
        StorageError, InvalidInputError: as ``reconx_ros.io.scenes.read_scene``.
    """
    root = request.root
    folder, paths = _photos(root)
    if not paths:
        seen = seen_instead(root) or "expected some in it or in images/"
        raise InvalidInputError(f"folder {root} holds no photos that can be read: {seen}")
    names = chosen([path.relative_to(root).as_posix() for path in paths], request.names, root)
    views = tuple(_photo(root / name, name, request.fov_deg) for name in names)
    notes = tuple(_passed_over(root, folder))
    return Scene(name=root.name, root=root, views=views, metric_scale=False, layout="photos", notes=notes)


def seen_instead(root: Path) -> str:
    """What a folder holds instead of photos that can be read: pictures of other kinds, or in other places; or ""."""
    return "; ".join(_passed_over(root, None))


def _photos(root: Path) -> tuple[Path, list[Path]]:
    """The folder that is read, and its pictures."""
    places = [root / name for name in _PLACES if (root / name).is_dir()]
    found = [(place, image_files(place)) for place in places]
    if not any(files for _, files in found):
        others = [(place, files) for place, files in _subfolders(root) if files]
        found += others if len(others) == 1 else []
    return max(found, key=lambda entry: len(entry[1]), default=(root, []))


def _subfolders(root: Path) -> list[tuple[Path, list[Path]]]:
    """Folders directly below, but for results, with their pictures."""
    below = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [(p, image_files(p)) for p in below if not any((p / name).is_file() for name in _RESULT_FILES)]


def _passed_over(root: Path, read: Path | None) -> Iterator[str]:
    """What is not read, a sentence each: files of other kinds where pictures are read, pictures in other folders."""
    for place in dict.fromkeys((root, *([read] if read is not None else [root / n for n in _PLACES]))):
        if place.is_dir():
            yield from _other_kinds(place)
    for place, files in [(root, image_files(root)), *_subfolders(root)]:
        if place != read and files:
            where = "the folder itself" if place == root else f"{place.name}/"
            yield f"{where} holds {len(files)} pictures that are not read"


def _other_kinds(folder: Path) -> Iterator[str]:
    heif = frozenset() if heif_is_readable() else HEIF_SUFFIXES
    suffixes = [p.suffix.lower() for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    for suffix, count in Counter(s for s in suffixes if s in _OTHER_SUFFIXES | heif).items():
        files = f"{count} {suffix} file{'s are' if count > 1 else ' is'} not read"
        yield f"{files}: {HEIF_CURE}" if suffix in HEIF_SUFFIXES else f"{files}, expected {_FORMATS}"


_FORMATS = " ".join(sorted(IMAGE_SUFFIXES))


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
