"""DTU in the two forms in which networks are fed with it, and other scenes in those forms.

MVSNet's: cams/00000000_cam.txt beside images/00000000.jpg, each with "extrinsic", a 4x4 camera-from-world matrix,
"intrinsic", a 3x3 matrix, and depth bounds, which are not read. NeuS's, IDR's and pixelNeRF's: cameras_sphere.npz or
cameras.npz beside image/, with a projection matrix ``world_mat_I`` per picture in sorted order; ``scale_mat_I``, the
way to a unit sphere, is not applied, so that the world stays that of the recording. Intrinsics of both take pixel
(0, 0) as the centre of the first pixel. Folders called scanN are DTU's own: their unit is the millimetre.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.io.image_size import image_size
from reconx_ros.io.images import image_files, read_bytes
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import camera_from_intrinsics, se3_from_matrix
from reconx_ros.io.readers.base import (
    PictureFile,
    Request,
    counted,
    lines_from_file,
    matrix_from_file,
    scene_from_pictures,
)
from reconx_ros.io.readers.picture_folders import name_in
from reconx_ros.io.scene_views import Scene, SceneSplit
from reconx_ros.io.splits import FEW_VIEW_SIZES, every_eighth_split

_NPZ = ("cameras_sphere.npz", "cameras.npz", "cameras_large.npz")
_PICTURE_FOLDERS = ("images", "image", "blended_images", "rgb")
_MM = 0.001
_MM_NOTE = ("translations are taken as millimetres, as in DTU",)
# The division of DTU's 49 pictures that pixelNeRF made and RegNeRF kept: inputs in this order, dark or repeated
# pictures left out, the others tested.
_DTU_INPUTS = (25, 22, 28, 40, 44, 48, 0, 8, 13)
_DTU_LEFT_OUT = (3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 36, 37, 38, 39)
_DTU_PICTURES = 49


def is_dtu(root: Path) -> bool:
    """Whether there are MVSNet's camera files or NeuS's archive."""
    return _archive(root) is not None or any((root / "cams").glob("*_cam.txt"))


def read_dtu(request: Request) -> Scene:
    """Pictures in MVSNet's or NeuS's form.

    Scenes of DTU have pixelNeRF's few-view split, others hold every 8th picture out.

    Raises:
        StorageError: when a file cannot be read.
        InvalidInputError: when a matrix is missing or cannot be, or pictures and cameras are not equally many.
    """
    root = request.root
    folder = _picture_folder(request)
    archive = _archive(root)
    matrices, gone = _from_text(root, folder) if archive is None else _from_archive(root / archive, folder)
    is_scan = re.fullmatch(r"scan_?\d+(_train)?", root.resolve().name, re.IGNORECASE) is not None
    unit_m = _MM if is_scan else 1.0
    by_name = {name_in(path, root): path for path in matrices}
    return scene_from_pictures(
        request,
        by_name,
        lambda name: _picture(name, by_name[name], *matrices[by_name[name]], unit_m),
        metric_scale=is_scan,
        layout="dtu",
        pose_source="calibrated robot (DTU)" if is_scan else "camera files in MVSNet's or NeuS's form",
        splits=_dtu_splits if is_scan else every_eighth_split,
        notes=(*_MM_NOTE[:is_scan], *counted(gone, "a camera, but no picture")),
    )


def _archive(root: Path) -> str | None:
    return next((name for name in _NPZ if (root / name).is_file()), None)


def _picture_folder(request: Request) -> Path:
    names = _PICTURE_FOLDERS if request.images is None else (request.images,)
    for name in names:
        if (request.root / name).is_dir():
            return request.root / name
    raise InvalidInputError(f"scene {request.root} has no folder of pictures, expected {' or '.join(names)}")


_Matrices = tuple[np.ndarray, np.ndarray]  # intrinsics [3, 3], world_from_cam [4, 4]


def _from_text(root: Path, folder: Path) -> tuple[dict[Path, _Matrices], int]:
    """By picture, and how many have a camera only; the camera file of 00000007.jpg is 00000007_cam.txt."""
    files = {path.name.removesuffix("_cam.txt"): path for path in sorted((root / "cams").glob("*_cam.txt"))}
    paths = sorted(image_files(folder))
    lonely = [path for path in paths if path.stem not in files]
    if lonely:
        raise InvalidInputError(f"image {lonely[0]} has no camera, expected {root / 'cams' / lonely[0].stem}_cam.txt")
    return {path: _camera_file(files[path.stem]) for path in paths}, len(files) - len({path.stem for path in paths})


def _camera_file(path: Path) -> _Matrices:
    lines = lines_from_file(path)
    words = [line.lower() for line in lines]
    if "extrinsic" not in words or "intrinsic" not in words:
        raise InvalidInputError(f"file {path} has no 'extrinsic' and 'intrinsic', expected a camera file of MVSNet")
    outer, inner = words.index("extrinsic") + 1, words.index("intrinsic") + 1
    cam_from_world = matrix_from_file(path, 4, 4, lines[outer : outer + 4])
    return matrix_from_file(path, 3, 3, lines[inner : inner + 3]), _inverse(cam_from_world, path)


def _inverse(matrix: np.ndarray, path: Path) -> np.ndarray:
    try:
        return np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        raise InvalidInputError(f"file {path} has a pose that cannot be inverted") from None


def _from_archive(path: Path, folder: Path) -> tuple[dict[Path, _Matrices], int]:
    """By picture, and how many have a matrix only."""
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as archive:
            found = {key: np.array(archive[key]) for key in archive.files if key.startswith("world_mat_")}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as err:
        raise InvalidInputError(f"{path} is no archive of numpy, or cut off: {err}") from None
    projections = {int(k.rsplit("_", 1)[1]): m for k, m in found.items() if k.rsplit("_", 1)[1].isdecimal()}
    pairs = _paired(path, folder, sorted(projections))
    named = {picture: _decomposed(projections[k], f"world_mat_{k} of {path}") for picture, k in pairs.items()}
    return named, len(projections) - len(named)


def _paired(path: Path, folder: Path, numbers: list[int]) -> dict[Path, int]:
    """The matrix of each picture: the one of its number, else (as many as there are, without gaps) in sorted order."""
    paths = sorted(image_files(folder))
    named = {int(p.stem): p for p in paths if p.stem.isdecimal()}
    if paths and len(named) == len(paths) and set(named) <= set(numbers):
        return {named[k]: k for k in sorted(named)}
    if not numbers or len(paths) != len(numbers):
        raise InvalidInputError(
            f"{path} has {len(numbers)} matrices world_mat_I, expected {len(paths)}, the pictures in {folder}"
        )
    if len(named) == len(paths) and max(named) - min(named) >= len(named):
        raise InvalidInputError(
            f"{path} has matrices world_mat_{numbers[0]} to world_mat_{numbers[-1]}, expected the numbers of the "
            f"pictures in {folder}, {min(named)} to {max(named)} with gaps"
        )
    return dict(zip(paths, numbers, strict=True))


def _decomposed(projection: np.ndarray, name: str) -> _Matrices:
    """Intrinsics and pose of a projection matrix [4, 4] or [3, 4]: K R from an RQ decomposition, K positive."""
    if projection.shape not in ((4, 4), (3, 4)) or not np.isfinite(projection).all():
        raise InvalidInputError(f"{name} has shape {list(projection.shape)}, expected a finite 4x4 matrix")
    p = projection[:3].astype(np.float64)
    p = p * np.sign(np.linalg.det(p[:, :3]))
    if not np.abs(p).any():
        raise InvalidInputError(f"{name} is no projection of a camera: its left part is singular")
    q, r = np.linalg.qr(np.flipud(p[:, :3]).T)
    intrinsics, rotation = np.flipud(np.fliplr(r.T)), np.flipud(q.T)
    signs = np.sign(np.diag(intrinsics))
    intrinsics, rotation = intrinsics * signs, signs[:, None] * rotation
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -np.linalg.solve(p[:, :3], p[:, 3])
    return intrinsics / intrinsics[2, 2], pose


def _picture(name: str, path: Path, intrinsics: np.ndarray, pose: np.ndarray, unit_m: float) -> PictureFile:
    size, title = image_size(path, as_stored=True), f"image {path}"
    fx, fy, cx, cy = (float(intrinsics[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    pose = pose.copy()
    pose[:3, 3] *= unit_m
    return PictureFile(
        name=name,
        path=path,
        lens=Lens(camera=camera_from_intrinsics(title, size, fx, fy, cx, cy)),
        world_from_cam=se3_from_matrix(pose, title),
    )


def _dtu_splits(names: list[str]) -> Mapping[str, SceneSplit]:
    if len(names) < _DTU_PICTURES:
        return every_eighth_split(names)
    apart = {*_DTU_INPUTS, *_DTU_LEFT_OUT}
    test = tuple(names[k] for k in range(_DTU_PICTURES) if k not in apart)
    inputs = [names[k] for k in _DTU_INPUTS]
    protocol = "pixelNeRF's split of DTU"
    return {str(n): SceneSplit(inputs=tuple(inputs[:n]), test=test, protocol=protocol) for n in FEW_VIEW_SIZES}
