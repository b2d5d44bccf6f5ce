"""Groups of real RGB-D views as training examples: posed by their folder, or by structure from motion and their depth.

A folder holds ``cameras.json`` with ``images``: a list of entries with ``file``, ``depth`` (16-bit millimetres, 0 where
unknown), ``fx``, ``fy``, ``cx``, ``cy`` and, where known, ``c2w`` (4 x 4, OpenCV axes).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core import SE3, Frame, Job, Keyframe, PinholeCamera, ReconxError, StorageError
from reconx_ros.core.transforms import nearest_rotation
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.scale import scale_to_metric
from reconx_ros.pointmap.sfm.recover import recover_cameras
from reconx_ros.pointmap.stereo.multiview import multiview_depth

_LOG = logging.getLogger(__name__)
_WINDOWS = (2, 3, 4)  # neighbouring frames that are posed together
_MATCH_SIZE = 320


@dataclass(frozen=True, kw_only=True)
class RealDepthGroups:
    """Groups of real RGB-D frames by their number.

    Attributes:
        groups: each a list of frames with poses in metres and depth.
    """

    groups: tuple[tuple[Frame, ...], ...]

    def __len__(self) -> int:
        return len(self.groups)

    def __call__(self, number: int) -> Sequence[Frame]:
        """The frames of a group."""
        return self.groups[number]


def real_depth_groups(folder: Path, job: Job) -> RealDepthGroups:
    """All groups of a folder: 2 to 4 neighbouring frames whose poses are known or can be found.

    Raises:
        StorageError: when the folder is not such a folder.
        CancelledError: when the job was cancelled.
    """
    frames = read_rgbd(folder)
    posed = [frame for frame in frames if frame.world_from_cam is not None]
    if posed:
        found = [c for n in _WINDOWS for c in combinations(posed, n)]
        return RealDepthGroups(groups=tuple(found[:: max(1, len(found) // (4 * len(posed)))]))
    windows = [frames[k : k + n] for n in _WINDOWS for k in range(len(frames) - n + 1)]
    groups = []
    for number, window in enumerate(windows):
        job.step(number / len(windows), f"{folder.name}: finding poses of group {number + 1} of {len(windows)}")
        try:
            groups.append(tuple(_posed(window)))
        except ReconxError as err:
            _LOG.info("%s: group %d has no poses: %s", folder.name, number, err)
    return RealDepthGroups(groups=tuple(group for group in groups if len(group) > 1))


def _posed(frames: Sequence[Frame]) -> list[Frame]:
    """Frames with the poses that images and sensor depth tell; those that cannot be joined are left out."""
    keyframes = [Keyframe(id=k, frame=frame, sharpness=0.0) for k, frame in enumerate(frames)]
    config = PointmapConfig(max_size=_MATCH_SIZE, scale="depth")
    cpu, job = torch.device("cpu"), Job(stage="pointmap")
    found = recover_cameras(keyframes, job, matcher=config.matcher, seed=config.actual_seed, device=cpu)
    joined = [
        replace(k, frame=replace(k.frame, world_from_cam=found.world_from_cam[k.id], depth_m=None))
        for k in keyframes
        if k.id in found.world_from_cam
    ]
    views = multiview_depth(joined, config, device=cpu, job=job, backend="training")
    views = replace(views, metric_scale=False, scale_source=None)
    scaled = scale_to_metric(views, keyframes, config)
    if not scaled.metric_scale:
        raise ReconxError(scaled.warnings[-1])
    return [replace(frames[v.keyframe_id], world_from_cam=v.world_from_cam) for v in scaled.views]


def read_rgbd(folder: Path) -> list[Frame]:
    """The frames of a folder that have depth.

    Raises:
        StorageError: when it cannot be read.
    """
    path = folder / "cameras.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["images"]
        return [_frame(folder, entry) for entry in entries if entry.get("depth")]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StorageError(
            f"RGB-D folder {folder} cannot be read: {err}, expected cameras.json and its files"
        ) from None


def _frame(folder: Path, entry: dict[str, Any]) -> Frame:
    from PIL import Image

    rgb = np.array(Image.open(folder / entry["file"]).convert("RGB"))
    depth = np.array(Image.open(folder / entry["depth"])).astype(np.float32) / 1000
    pose = np.array(entry["c2w"]) if "c2w" in entry else None
    camera = PinholeCamera(
        width=rgb.shape[1], height=rgb.shape[0], fx=entry["fx"], fy=entry["fy"], cx=entry["cx"], cy=entry["cy"]
    )
    return Frame(
        rgb_u8=rgb,
        camera=camera,
        stamp_ns=0,
        world_from_cam=None if pose is None else SE3(rotation=nearest_rotation(pose[:3, :3]), translation=pose[:3, 3]),
        depth_m=depth,
    )
