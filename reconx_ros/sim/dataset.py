"""Writes what a simulated robot saw as a scene folder; bags are written by ``reconx_ros.sim.bag``."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from reconx_ros.core import StorageError
from reconx_ros.core.files import write_bytes, write_text
from reconx_ros.io.images import MILLIMETRE, read_bytes
from reconx_ros.io.scenes import write_scene as write_frames
from reconx_ros.sim.bag import STORAGES, write_bag
from reconx_ros.sim.recording import RecordedDrive

__all__ = ["STORAGES", "suggested_splits", "write_bag", "write_scene"]

_SPLIT_SIZES = (2, 3, 6, 9)
_SPLIT_BASELINE_M = 0.35
_SOURCE = """Simulated room of seed {seed}: {views} views of {width}x{height} pixels, ray-cast by reconx_ros.
Poses under c2w are exact; those under c2w_dataset are what the simulated odometry gave.
Depth is in millimetres, 0 where nothing was measured. Free for any use.
"""


def write_scene(folder: Path | str, recording: RecordedDrive, *, depth: bool = True) -> None:
    """Write a recording as a scene folder: images, depth, cameras.json with both kinds of poses and splits.

    Args:
        folder: made if it does not exist.
        recording: what the robot saw.
        depth: write depth maps, too.

    Raises:
        StorageError: when something cannot be written.
    """
    root = Path(folder)
    frames = [view.frame(depth=depth) for view in recording.views]
    write_frames(root, frames, metric_scale=True, pose_source="simulation, exact")
    document = json.loads(read_bytes(root / "cameras.json"))
    document.update(pixel_center="integer", depth_unit_m=MILLIMETRE, indoor=True)
    for entry, view in zip(document["images"], recording.views, strict=True):
        entry["c2w_dataset"] = view.world_from_cam.matrix.tolist()
    document["suggested_splits"] = suggested_splits(recording, [entry["file"] for entry in document["images"]])
    write_bytes(root / "cameras.json", json.dumps(document, indent=1).encode())
    width, height = recording.camera.size
    source = _SOURCE.format(seed=recording.seed, views=len(frames), width=width, height=height)
    try:
        write_text(root / "SOURCE.txt", source)
    except OSError as err:
        raise StorageError(f"file {root / 'SOURCE.txt'} cannot be written: {err.strerror}") from err


def suggested_splits(recording: RecordedDrive, names: list[str]) -> dict[str, dict[str, Any]]:
    """Few-view splits: n neighbouring keyframes from the middle of the drive, and the views between them as tests.

    Args:
        recording: of V views.
        names: V file names.

    Returns:
        {"2": {"inputs": [...], "test": [...]}, ...} for the sizes that the recording has views for.
    """
    splits = {}
    for size in _SPLIT_SIZES:
        stride = min(_keyframe_stride(recording), (len(names) - 1) // (size - 1))
        if stride < 2:
            continue
        start = (len(names) - 1 - (size - 1) * stride) // 2
        window = range(start, start + (size - 1) * stride + 1)
        inputs = [names[k] for k in window[::stride]]
        splits[str(size)] = {"inputs": inputs, "test": [names[k] for k in window if names[k] not in inputs]}
    return splits


def _keyframe_stride(recording: RecordedDrive) -> int:
    """Views from one keyframe to the next, for about the usual baseline."""
    poses = [view.truth.world_from_cam for view in recording.views]
    way = sum(a.distance_to(b) for a, b in pairwise(poses))
    mean_step = way / max(1, len(poses) - 1)
    return max(2, round(_SPLIT_BASELINE_M / mean_step)) if mean_step > 0 else 2
