"""cameras.json of a scene folder: which pictures there are, with which cameras, poses and splits.

It holds ``metric_scale``, ``convention``, ``images`` and optionally ``suggested_splits``. An entry of ``images`` has
``file``, ``width``, ``height``, ``fx``, ``fy``, ``cx``, ``cy``, ``c2w`` (4x4 row-major camera-to-world, OpenCV axes),
and optionally ``c2w_dataset``, ``depth``, ``timestamp`` in seconds. Depth is in millimetres unless ``depth_unit_m``
says otherwise.

Where pixel (0, 0) lies: a ``convention`` that speaks of "integer+0.5" puts its centre at (0.5, 0.5), as COLMAP does,
and 0.5 is taken off cx and cy. Where that text limits itself to "SfM scenes", it holds for files with an ``sfm`` entry:
their ``c2w`` come out of COLMAP with these very intrinsics. It does not hold for calibrated cameras with poses from
elsewhere. Any other text, or none, means the package's own convention: (0, 0) is the centre of the first pixel. Which
poses are chosen does not change the camera.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, ReconxError
from reconx_ros.io.images import read_bytes
from reconx_ros.io.plausible import check_unique
from reconx_ros.io.scene_views import SceneSplit
from reconx_ros.io.text import decoded_text, slashed

_PINHOLE_MODELS = frozenset({"pinhole", "simple_pinhole", "opencv_pinhole", "perspective"})
POSE_KEYS = ("c2w", "c2w_dataset")
POSE_KINDS: Mapping[str, str | None] = MappingProxyType({"given": "c2w", "odometry": "c2w_dataset", "none": None})


def pose_key(kind: str) -> str | None:
    """Key of the poses that a user calls "given", "odometry" or "none"; None for no poses.

    Raises:
        InvalidInputError: for any other word.
    """
    if kind not in POSE_KINDS:
        raise InvalidInputError(f"poses are '{kind}', expected one of {', '.join(POSE_KINDS)}")
    return POSE_KINDS[kind]


def parse_camera(entry: dict[str, Any], shift: float, name: str) -> PinholeCamera:
    """Camera of one entry; ``shift`` is taken off its principal point, ``name`` begins its errors.

    Raises:
        InvalidInputError: for a model other than pinhole, or a number that is missing or cannot be.
    """
    model = str(entry.get("model", entry.get("camera_model", "pinhole")))
    if model.lower() not in _PINHOLE_MODELS:
        raise InvalidInputError(f"{name} has camera model '{model}', expected an undistorted PINHOLE camera")
    values = {key: parse_number(entry, key, name) for key in ("width", "height", "fx", "fy", "cx", "cy")}
    try:
        return PinholeCamera(
            width=int(values["width"]),
            height=int(values["height"]),
            fx=values["fx"],
            fy=values["fy"],
            cx=values["cx"] - shift,
            cy=values["cy"] - shift,
        )
    except ReconxError as err:
        raise InvalidInputError(f"{name}: {err}") from err


def parse_pose(entry: dict[str, Any], key: str, name: str) -> SE3 | None:
    """world_from_cam under a key of one entry; None where the entry has none.

    Raises:
        InvalidInputError: for a matrix of another shape, not finite, or not rigid.
    """
    if entry.get(key) is None:
        return None
    try:
        return SE3.from_matrix(np.array(entry[key], dtype=np.float64))
    except (ReconxError, TypeError, ValueError) as err:
        raise InvalidInputError(f"{name} has an unusable pose {key}: {err}") from err


def parse_number(entry: dict[str, Any], key: str, name: str, default: float | None = None) -> float:
    """A number of one entry.

    Raises:
        InvalidInputError: when it is missing without a default, or not a number.
    """
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInputError(f"{name} has {key} = {value!r}, expected a number")
    return float(value)


def has_corner_origin(document: dict[str, Any]) -> bool:
    """Whether principal points of the file put the first pixel's centre at (0.5, 0.5); see the top of this module."""
    text = str(document.get("convention", "")).lower().replace(" ", "")
    if "integer+0.5" not in text:
        return False
    return "forsfmscenes" not in text or "sfm" in document


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        StorageError: when the file cannot be read.
        InvalidInputError: when it is not a JSON object.
    """
    try:
        document = json.loads(decoded_text(read_bytes(path)))
    except json.JSONDecodeError as err:
        raise InvalidInputError(f"file {path} is not valid JSON: {err}") from err
    if not isinstance(document, dict):
        raise InvalidInputError(f"file {path} holds a {type(document).__name__}, expected an object")
    return document


def image_entries(document: dict[str, Any], root: Path) -> list[dict[str, Any]]:
    """The entries under ``images``.

    Raises:
        InvalidInputError: when there are none, or one has no ``file``.
    """
    entries = document.get("images")
    if not isinstance(entries, list) or not entries:
        raise InvalidInputError(
            f"cameras.json of scene {root} lists no images, expected at least one under 'images' (the file of another "
            "program? --format colmap, photos and others read what lies beside it)"
        )
    for k, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise InvalidInputError(f"image {k} in cameras.json of scene {root} has no 'file', expected a path")
    check_unique((slashed(entry["file"]) for entry in entries), f"cameras.json of scene {root}")
    return [{**entry, "file": slashed(entry["file"])} for entry in entries]


def is_foreign(path: Path) -> bool:
    """Whether a cameras.json is another program's (3DGS, OpenDroneMap): sound JSON that is no object with ``images``.

    Raises:
        StorageError: when it cannot be read.
    """
    try:
        document = json.loads(decoded_text(read_bytes(path)))
    except json.JSONDecodeError:
        return False
    return not (isinstance(document, dict) and "images" in document)


def parse_splits(document: dict[str, Any], root: Path) -> dict[str, SceneSplit]:
    """The suggested splits by number of inputs; empty where the file has none.

    Raises:
        InvalidInputError: when a split lacks its inputs or tests.
    """
    splits = document.get("suggested_splits") or {}
    try:
        return {
            str(key): SceneSplit(inputs=tuple(map(slashed, split["inputs"])), test=tuple(map(slashed, split["test"])))
            for key, split in splits.items()
        }
    except (AttributeError, KeyError, TypeError) as err:
        raise InvalidInputError(f"suggested_splits of scene {root} lacks inputs or test: {err!r}") from err
