"""Indoor RGB-D sequences: Microsoft's 7-Scenes, and folders as ScanNet's exporter writes them.

Both keep world-from-camera matrices in metres as text and depth in millimetres. Depth lies on the grid of a camera of
its own; it is read at the pixels of the colour picture, as if the two cameras had one centre.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.io.image_size import image_size
from reconx_ros.io.images import image_files, natural_order
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import camera_from_intrinsics, se3_from_matrix
from reconx_ros.io.readers.base import (
    DepthFile,
    PictureFile,
    Request,
    counted,
    matrix_from_file,
    scene_from_pictures,
)
from reconx_ros.io.scene_views import Scene, SceneSplit
from reconx_ros.io.splits import few_view_splits, neighbouring_splits

_COLOUR, _DEPTH, _POSE = ".color.png", ".depth.png", ".pose.txt"
_SPLIT_FILES = ("TrainSplit.txt", "TestSplit.txt")
_OWN_INTRINSICS = "camera-intrinsics.txt"
_NO_PICTURE = "a pose, but no picture"
# 7-Scenes has no calibration. Its authors name 585 px and the middle (320, 240) for the depth camera; 525 px is what
# work on the colour pictures uses (DSAC* and its successors).
_KINECT_SIZE, _KINECT_COLOUR_PX, _KINECT_DEPTH_PX = (640, 480), 525.0, 585.0


def is_seven_scenes(root: Path) -> bool:
    """Whether there are frame-NNNNNN.pose.txt files in the folder or in its seq-NN folders."""
    return any(any(folder.glob(f"frame-*{_POSE}")) for folder in (root, *_sequences(root)))


def read_seven_scenes(request: Request) -> Scene:
    """A scene with its sequences, or one sequence. Where the split files are, tests are all pictures of TestSplit.txt.

    Raises:
        StorageError: when a file cannot be read.
        InvalidInputError: when a matrix or the split files cannot be read, or no picture has a pose.
    """
    root = request.root
    found = sorted(p for folder in (root, *_sequences(root)) for p in folder.glob(f"frame-*{_COLOUR}"))
    poses = _known_poses(root, {path: _beside(path, _POSE) for path in found})
    cameras = _seven_scenes_cameras(root)
    return scene_from_pictures(
        request,
        {name: root / name for name in poses},
        lambda name: _seven_scenes_picture(root, name, poses[name], cameras),
        metric_scale=True,
        layout="7scenes",
        pose_source="KinectFusion",
        splits=lambda names: _seven_scenes_splits(root, {name: poses[name] for name in names}),
        notes=(
            *counted(len(found) - len(poses), "pose not finite"),
            *counted(
                _alone(found, (p for f in (root, *_sequences(root)) for p in f.glob(f"frame-*{_POSE}"))), _NO_PICTURE
            ),
            *_assumed(root),
        ),
    )


def _sequences(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("seq-*") if path.is_dir())


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(_COLOUR) + suffix)


def _seven_scenes_cameras(root: Path) -> tuple[PinholeCamera, PinholeCamera]:
    """Colour and depth camera."""
    own = root / _OWN_INTRINSICS
    if own.is_file():
        camera = _camera_from_file(own, _KINECT_SIZE)
        return camera, camera
    width, height = _KINECT_SIZE
    return tuple(  # type: ignore[return-value]
        PinholeCamera.from_corner_origin(width, height, f, f, width / 2, height / 2)
        for f in (_KINECT_COLOUR_PX, _KINECT_DEPTH_PX)
    )


def _assumed(root: Path) -> tuple[str, ...]:
    if (root / _OWN_INTRINSICS).is_file():
        return ()
    return (f"focal lengths are taken as {_KINECT_COLOUR_PX:g} px (colour) and {_KINECT_DEPTH_PX:g} px (depth)",)


def _seven_scenes_picture(
    root: Path, name: str, pose: SE3, cameras: tuple[PinholeCamera, PinholeCamera]
) -> PictureFile:
    depth = _beside(root / name, _DEPTH)
    return PictureFile(
        name=name,
        path=root / name,
        lens=Lens(camera=cameras[0]),
        world_from_cam=pose,
        depth=DepthFile(path=depth, camera=cameras[1]),
    )


def _seven_scenes_splits(root: Path, poses: Mapping[str, SE3]) -> dict[str, SceneSplit]:
    """Of the split files; of a single sequence, neighbouring pictures."""
    if not all((root / name).is_file() for name in _SPLIT_FILES):
        return neighbouring_splits(poses) if len({Path(name).parent for name in poses}) == 1 else {}
    parts = []
    for file in _SPLIT_FILES:
        words = (root / file).read_text(encoding="utf-8", errors="replace").split()
        numbers = ["".join(filter(str.isdecimal, word)) for word in words]
        if not words or not all(numbers):
            raise InvalidInputError(f"{root / file} lists {words}, expected sequences such as sequence1")
        folders = tuple(f"seq-{int(number):02d}/" for number in numbers)
        parts.append([name for name in poses if name.startswith(folders)])
    return few_view_splits(parts[0], parts[1], "TrainSplit.txt and TestSplit.txt")


def _alone(pictures: Sequence[Path], poses: Iterable[Path]) -> int:
    """How many pose files have no picture."""
    return sum(1 for _ in poses) - len(pictures)


def is_scannet(root: Path) -> bool:
    """Whether there are color/, pose/ and intrinsics."""
    return all((root / name).is_dir() for name in ("color", "pose")) and _intrinsics_file(root, "color") is not None


def read_scannet(request: Request) -> Scene:
    """Folders color/, depth/, pose/ and intrinsic/; pictures whose pose is not finite are left out and counted.

    Raises:
        StorageError: when a file cannot be read.
        InvalidInputError: when a matrix cannot be read, no intrinsics are found, or no picture has a pose.
    """
    root = request.root
    found = sorted(image_files(root / "color"), key=natural_order)
    poses = _known_poses(root, {path: root / "pose" / f"{path.stem}.txt" for path in found})
    return scene_from_pictures(
        request,
        {name: root / name for name in poses},
        lambda name: _scannet_picture(root, name, poses[name]),
        metric_scale=True,
        layout="scannet",
        pose_source="pose/ (BundleFusion in ScanNet)",
        splits=lambda names: neighbouring_splits({name: poses[name] for name in names}),
        notes=(
            *counted(len(found) - len(poses), "pose not finite"),
            *counted(_alone(found, (root / "pose").glob("*.txt")), _NO_PICTURE),
        ),
    )


def _scannet_picture(root: Path, name: str, pose: SE3) -> PictureFile:
    path = root / name
    colour = _intrinsics_file(root, "color")
    if colour is None:
        raise InvalidInputError(f"scene {root} has no intrinsics, expected {root / 'intrinsic/intrinsic_color.txt'}")
    depth = _scannet_depth(root, root / "depth" / f"{path.stem}.png") if (root / "depth").is_dir() else None
    camera = _camera_from_file(colour, image_size(path, as_stored=True))
    return PictureFile(name=name, path=path, lens=Lens(camera=camera), world_from_cam=pose, depth=depth)


def _scannet_depth(root: Path, path: Path) -> DepthFile:
    own = _intrinsics_file(root, "depth")
    if own is None or not path.is_file():
        return DepthFile(path=path)
    return DepthFile(path=path, camera=_camera_from_file(own, image_size(path, as_stored=True)))


def _intrinsics_file(root: Path, kind: str) -> Path | None:
    """intrinsic/intrinsic_color.txt or one of its other names; the last ones hold for both cameras."""
    names = (f"intrinsic/intrinsic_{kind}.txt", f"intrinsic_{kind}.txt", f"intrinsics_{kind}.txt")
    shared = ("intrinsic/intrinsic.txt", "intrinsics.txt", "intrinsic.txt")
    return next((root / name for name in (*names, *shared) if (root / name).is_file()), None)


def _known_poses(root: Path, files: Mapping[Path, Path]) -> dict[str, SE3]:
    """Poses by the name of the picture, from pose files by picture; those that are not finite are left out.

    Raises:
        StorageError, InvalidInputError: as ``pose_file``, or when none is left.
    """
    found = {path.relative_to(root).as_posix(): pose_file(file) for path, file in files.items()}
    known = {name: pose for name, pose in found.items() if pose is not None}
    if not known:
        raise InvalidInputError(f"scene {root} has {len(found)} images, none of them with a finite pose")
    return known


def pose_file(path: Path) -> SE3 | None:
    """world_from_cam of a text file with a 4x4 matrix; None where it is not finite, which means that tracking was lost.

    Raises:
        StorageError: when the file cannot be read.
        InvalidInputError: when it holds something else.
    """
    matrix = matrix_from_file(path, 4, 4)
    return se3_from_matrix(matrix, f"pose file {path}") if np.isfinite(matrix).all() else None


def _camera_from_file(path: Path, size: tuple[int, int]) -> PinholeCamera:
    """Of a 3x3 or 4x4 matrix of intrinsics, pixel (0, 0) at the centre of the first pixel."""
    try:
        matrix = matrix_from_file(path, 4, 4)
    except InvalidInputError:
        matrix = matrix_from_file(path, 3, 3)
    fx, fy, cx, cy = (float(matrix[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return camera_from_intrinsics(f"file {path}", size, fx, fy, cx, cy)
