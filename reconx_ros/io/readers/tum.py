"""TUM RGB-D (https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats), and data sets in its form.

rgb.txt and depth.txt list times and files, groundtruth.txt times and poses (translation, quaternion x y z w) of the
colour camera. A picture gets the pose and the depth picture whose time is nearest, at most 20 ms away, each used once,
nearest pairs first, as the benchmark's own tool does it. Depth is registered to the colour picture, 5000 steps a metre.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, ReconxError
from reconx_ros.io.image_size import image_size
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import camera_from_intrinsics, check_unique, pose_from_quaternion
from reconx_ros.io.readers.base import (
    DepthFile,
    PictureFile,
    Request,
    counted,
    lines_from_file,
    scene_from_pictures,
)
from reconx_ros.io.scene_views import Scene
from reconx_ros.io.splits import neighbouring_splits
from reconx_ros.io.text import slashed

_WITHIN_NS = 20_000_000
_DEPTH_UNIT_M = 1 / 5000
_SIZE = (640, 480)
# The benchmark's calibration of the colour cameras: fx, fy, cx, cy, k1, k2, p1, p2, k3 of freiburg1, 2 and 3.
_FACTORY = (
    (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    (535.4, 539.2, 320.1, 247.6, 0.0, 0.0, 0.0, 0.0, 0.0),
)
_OWN_CALIBRATION = "calibration.txt"


def is_tum(root: Path) -> bool:
    """Whether there are rgb.txt and groundtruth.txt."""
    return (root / "rgb.txt").is_file() and (root / "groundtruth.txt").is_file()


def read_tum(request: Request) -> Scene:
    """A sequence of the benchmark; pictures without a pose within 20 ms are left out and counted.

    Raises:
        StorageError: when a file cannot be read.
        InvalidInputError: when a line cannot be read, no picture has a pose, or no calibration is known: neither does
            the folder's name say freiburg1, 2 or 3, nor is there a calibration.txt (fx fy cx cy [k1 k2 p1 p2 k3]).
    """
    root = request.root
    pictures = _listed(root / "rgb.txt")
    poses = _poses(root / "groundtruth.txt")
    depths = _listed(root / "depth.txt") if (root / "depth.txt").is_file() else []
    pose_of = nearest_pairs([t for t, _ in pictures], [t for t, _ in poses], _WITHIN_NS)
    depth_of = nearest_pairs([t for t, _ in pictures], [t for t, _ in depths], _WITHIN_NS)
    if not pose_of:
        raise InvalidInputError(
            f"scene {root} has no picture in rgb.txt within 20 ms of a pose in groundtruth.txt, expected at least one"
        )
    check_unique((pictures[k][1] for k in sorted(pose_of)), f"{root / 'rgb.txt'}")
    lens, files = _lens(root, [root / pictures[k][1] for k in sorted(pose_of)]), {}
    for k in sorted(pose_of):
        depth = DepthFile(path=root / depths[depth_of[k]][1], unit_m=_DEPTH_UNIT_M) if k in depth_of else None
        stamp_ns, name = pictures[k]
        files[name] = PictureFile(
            name=name,
            path=root / name,
            lens=lens,
            world_from_cam=poses[pose_of[k]][1],
            stamp_ns=stamp_ns,
            depth=depth,
        )
    return scene_from_pictures(
        request,
        {name: file.path for name, file in files.items()},
        files.__getitem__,
        metric_scale=True,
        layout="tum",
        pose_source="groundtruth.txt, nearest in time",
        splits=lambda names: neighbouring_splits({name: _posed(files[name]) for name in names}),
        notes=counted(len(pictures) - len(pose_of), "no pose within 20 ms"),
    )


def _posed(file: PictureFile) -> SE3:
    assert file.world_from_cam is not None
    return file.world_from_cam


def nearest_pairs(first_ns: Sequence[int], second_ns: Sequence[int], within_ns: int) -> dict[int, int]:
    """Places in the second list by places in the first: pairs closer than a limit, nearest first, each used once."""
    if not first_ns or not second_ns:
        return {}
    order = np.argsort(np.array(second_ns), kind="stable")
    times = np.array(second_ns)[order]
    pairs = []
    for i, stamp in enumerate(first_ns):
        low, high = np.searchsorted(times, [stamp - within_ns, stamp + within_ns + 1])
        pairs += [(abs(stamp - int(times[j])), i, int(order[j])) for j in range(low, high)]
    found: dict[int, int] = {}
    taken = set()
    for _, i, j in sorted(pairs):
        if i not in found and j not in taken:
            found[i] = j
            taken.add(j)
    return found


def _listed(path: Path) -> list[tuple[int, str]]:
    """Times in nanoseconds and files."""
    rows = []
    for line in lines_from_file(path):
        words = line.split(maxsplit=1)
        if len(words) != 2:
            raise InvalidInputError(f"{path} has the line {line!r}, expected a time and a file")
        rows.append((_stamp_ns(words[0], path), slashed(words[1])))
    return rows


def _poses(path: Path) -> list[tuple[int, SE3]]:
    rows = []
    for line in lines_from_file(path):
        words = line.replace(",", " ").split()
        try:
            numbers = np.array([float(word) for word in words[1:8]])
            pose = pose_from_quaternion(numbers[[6, 3, 4, 5]], numbers[:3])
        except ReconxError as err:
            raise InvalidInputError(f"{path} has the line {line!r}: {err}") from None
        except (ValueError, IndexError):
            raise InvalidInputError(f"{path} has the line {line!r}, expected time tx ty tz qx qy qz qw") from None
        rows.append((_stamp_ns(words[0], path), pose))
    return rows


def _stamp_ns(word: str, path: Path) -> int:
    """Exact: as a float, a time of our days is known to 0.2 microseconds only."""
    try:
        return int(Decimal(word) * 10**9)
    except (InvalidOperation, ValueError, OverflowError):
        raise InvalidInputError(f"{path} has the time '{word}', expected seconds") from None


def _lens(root: Path, pictures: Sequence[Path]) -> Lens:
    """Of calibration.txt where there is one, for the size of the pictures; else the benchmark's by number."""
    own = root / _OWN_CALIBRATION
    if own.is_file():
        words = " ".join(lines_from_file(own)).split()
        try:
            numbers = tuple(float(word) for word in words)
        except ValueError:
            numbers = ()
        if len(numbers) not in (4, 8, 9):
            raise InvalidInputError(f"{own} holds {len(words)} words, expected fx fy cx cy, or with k1 k2 p1 p2 [k3]")
        first = next((path for path in pictures if path.is_file()), pictures[0])
        return _lens_from_numbers(numbers, image_size(first, as_stored=True), own)
    found = re.search(r"(?:freiburg|fr)_?([123])(?!\d)", root.resolve().name.lower())
    if found is None:
        raise InvalidInputError(
            f"scene {root} has no calibration: its name says none of freiburg1, freiburg2 and freiburg3, and there is "
            f"no {_OWN_CALIBRATION} with fx fy cx cy [k1 k2 p1 p2 k3]"
        )
    return _lens_from_numbers(_FACTORY[int(found.group(1)) - 1], _SIZE, root)


def _lens_from_numbers(numbers: Sequence[float], size: tuple[int, int], source: Path) -> Lens:
    camera = camera_from_intrinsics(f"calibration of {source}", size, *numbers[:4])
    return Lens(camera=camera, model="plumb_bob", coefficients=tuple(numbers[4:]))
