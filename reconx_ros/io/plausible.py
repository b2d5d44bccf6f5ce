"""Calibration and poses that cannot be right, told before any work is done. Every reader of scenes passes here.

A number that is wrong in these ways gives a wrong result, not an error: a focal length of pictures of another size, a
principal point beside the picture, a quaternion that is none, one file under two names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, ReconxError
from reconx_ros.core.transforms import rotation_from_quaternion_wxyz

FOCAL_LENGTHS = (0.2, 10.0)  # over the picture's width
_QUATERNION_LENGTHS = (0.9, 1.1)  # what rounding and averaging leave
_MIDDLE = (0.2, 0.8)  # of a side, where the principal point of an uncropped picture lies
_ROUNDING = 1e-8
_OTHER_SIZE, _SAME_FACTOR = 0.15, 0.05


def check_camera(camera: PinholeCamera, name: str) -> None:
    """Refuse a focal length or a principal point that no camera has; ``name`` begins the error.

    Raises:
        InvalidInputError: for a focal length below 0.2 or above 10 picture widths, or a principal point outside the
            picture.
    """
    low, high = (share * camera.width for share in FOCAL_LENGTHS)
    for key, focal in (("fx", camera.fx), ("fy", camera.fy)):
        if not low <= focal <= high:
            raise InvalidInputError(
                f"{name} has {key} = {focal:g} for a picture {camera.width} px wide, expected {low:g} to {high:g} "
                f"({FOCAL_LENGTHS[0]:g} to {FOCAL_LENGTHS[1]:g} widths)"
            )
    if not (-0.5 < camera.cx < camera.width - 0.5 and -0.5 < camera.cy < camera.height - 0.5):
        raise InvalidInputError(
            f"{name} has its principal point at ({camera.cx:g}, {camera.cy:g}) outside of its {camera.width}x"
            f"{camera.height} pixels, expected it in the picture: the numbers seem to belong to one of another size"
        )


def check_middle(camera: PinholeCamera, name: str) -> None:
    """Refuse numbers that seem to belong to a picture of another size, where the file does not tell the size.

    Raises:
        InvalidInputError: for a principal point far from the middle, or one off by the same factor in both directions.
    """
    x, y = (camera.cx + 0.5) / camera.width, (camera.cy + 0.5) / camera.height
    scaled = abs(2 * x - 1) > _OTHER_SIZE and abs(x / y - 1) < _SAME_FACTOR if y > 0 else False
    if scaled or not (_MIDDLE[0] < x < _MIDDLE[1] and _MIDDLE[0] < y < _MIDDLE[1]):
        raise InvalidInputError(
            f"{name} has its principal point at ({camera.cx:g}, {camera.cy:g}) of {camera.width}x{camera.height} "
            "pixels, expected it near the middle: the numbers seem to belong to a picture of another size"
        )


def camera_from_intrinsics(
    name: str, size: tuple[int, int], fx: float, fy: float, cx: float, cy: float
) -> PinholeCamera:
    """A camera whose pixel (0, 0) is the centre of the first pixel, of numbers without a size; ``name`` begins errors.

    Raises:
        InvalidInputError: for a number that cannot be, or as ``check_middle``.
    """
    width, height = size
    try:
        camera = PinholeCamera(width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy)
    except ReconxError as err:
        raise InvalidInputError(f"{name}: {err}") from None
    check_middle(camera, name)
    return camera


def se3_from_matrix(matrix: np.ndarray, name: str) -> SE3:
    """A pose from a matrix [4, 4]; ``name`` begins its errors.

    Raises:
        InvalidInputError: when the matrix is not finite or not rigid.
    """
    try:
        return SE3.from_matrix(matrix)
    except ReconxError as err:
        raise InvalidInputError(f"{name} has an unusable pose: {err}") from None


def pose_from_quaternion(quaternion_wxyz: np.ndarray, translation: np.ndarray) -> SE3:
    """A pose of a quaternion (w, x, y, z), which must have length 1 up to rounding, and a translation [3].

    Raises:
        InvalidInputError: for a quaternion of another length, or NaN.
    """
    length = float(np.linalg.norm(quaternion_wxyz))
    if np.isfinite(length) and not _QUATERNION_LENGTHS[0] <= length <= _QUATERNION_LENGTHS[1]:
        raise InvalidInputError(
            f"quaternion (w, x, y, z) = {np.round(quaternion_wxyz, 6).tolist()} has length {length:.3g}, expected 1"
        )
    return SE3(rotation=rotation_from_quaternion_wxyz(quaternion_wxyz), translation=translation)


def rounding_moves(poses: Iterable[SE3]) -> float:
    """By how much the rounding of a rotation moves a camera that a file keeps as camera-from-world, over their spread.

    The position is then -R^T t: where it lies far from the origin, an error of 1e-8 in R, which a matrix printed with 8
    digits has, moves it by 1e-8 of that distance.
    """
    centres = np.stack([pose.translation for pose in poses])
    spread = float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())
    return _ROUNDING * float(np.linalg.norm(centres.mean(axis=0))) / spread if spread > 0 else 0.0


def check_unique(names: Iterable[str], title: str) -> None:
    """Refuse a list that names a picture twice; ``title`` begins the error.

    Raises:
        InvalidInputError: naming it.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidInputError(f"{title} names picture '{name}' twice, expected each name once")
        seen.add(name)


def check_one_file_each(files: Iterable[tuple[str, Path | None]], title: str) -> None:
    """Refuse two pictures that are one file, as names that differ only by folder become; ``title`` begins the error.

    Raises:
        InvalidInputError: naming both and the file.
    """
    owners: dict[Path, str] = {}
    for name, path in files:
        if path is None:
            continue
        if path in owners:
            raise InvalidInputError(
                f"{title} has pictures '{owners[path]}' and '{name}' that are both file {path}, expected one file each"
            )
        owners[path] = name
