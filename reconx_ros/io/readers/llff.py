"""LLFF's poses_bounds.npy (https://github.com/Fyusion/LLFF): a row of 17 numbers per picture, in sorted order.

The first 15 are a 3x5 matrix: rotation and centre of the camera, world-from-camera with the axes down, right,
backwards, then height, width and focal length of the full-size pictures. The last two, near and far depth, are not
read. Principal points are the middle.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from reconx_ros.core import InvalidInputError, PinholeCamera, ReconxError
from reconx_ros.io.images import image_files, read_bytes
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import se3_from_matrix
from reconx_ros.io.readers.base import PictureFile, Request, scene_from_pictures
from reconx_ros.io.readers.picture_folders import name_in, picture_folder
from reconx_ros.io.scene_views import Scene
from reconx_ros.io.splits import every_eighth_split

_FILE = "poses_bounds.npy"


def has_poses_bounds(root: Path) -> bool:
    """Whether there is a poses_bounds.npy."""
    return (root / _FILE).is_file()


def read_llff(request: Request) -> Scene:
    """Pictures with LLFF's poses; every 8th is held out, inputs are spread over the others (as in RegNeRF).

    Raises:
        StorageError: when a file cannot be read.
        InvalidInputError: when the numbers are none of LLFF's, or are not as many as there are pictures.
    """
    root = request.root
    rows = _rows(root / _FILE)
    folder = picture_folder(root, request.images)
    paths = sorted(image_files(folder))
    if len(paths) != len(rows):
        raise InvalidInputError(f"{root / _FILE} has {len(rows)} poses, expected {len(paths)}, as the pictures")
    pictures = {}
    for path, row in zip(paths, rows, strict=True):
        pictures[name_in(path, root)] = _picture(name_in(path, root), path, row)
    return scene_from_pictures(
        request,
        {name: picture.path for name, picture in pictures.items()},
        pictures.__getitem__,
        metric_scale=False,
        layout="llff",
        pose_source="structure from motion (poses_bounds.npy)",
        splits=every_eighth_split,
    )


def _rows(path: Path) -> np.ndarray:
    """[N, 17]."""
    try:
        rows = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise InvalidInputError(f"{path} is no array of numpy, or cut off: {err}") from None
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind != "f":
        raise InvalidInputError(f"{path} has shape {list(getattr(rows, 'shape', []))}, expected [images, 17] numbers")
    return rows.astype(np.float64)


def _picture(name: str, path: Path, row: np.ndarray) -> PictureFile:
    block = row[:15].reshape(3, 5)
    down, right, back, centre, (height, width, focal) = block.T
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, down, -back, centre], axis=1)
    try:
        size = {"width": round(float(width)), "height": round(float(height))}
        camera = PinholeCamera(
            **size, fx=float(focal), fy=float(focal), cx=(size["width"] - 1) / 2, cy=(size["height"] - 1) / 2
        )
    except (ReconxError, ValueError, OverflowError) as err:
        raise InvalidInputError(f"image {name} has an unusable camera in {_FILE}: {err}") from None
    return PictureFile(
        name=name, path=path, lens=Lens(camera=camera), world_from_cam=se3_from_matrix(matrix, f"image {name}")
    )
