"""The few-view protocol: reconstruct from some images of a scene, render the others, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe, PinholeCamera
from reconx_ros.evaluation.images import psnr, ssim
from reconx_ros.io.scenes import read_split
from reconx_ros.pipeline.keyframes import sharpness

POSE_KEYS = {"given": "c2w", "odometry": "c2w_dataset"}


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutTask:
    """What is reconstructed and what is held back.

    Attributes:
        scene: name of the scene.
        protocol: the protocol in words, to be quoted with every figure.
        keyframes: the inputs; no sensor depth.
        tests: held-out frames with poses in the same world, never among the inputs.
        test_names: their names.
        metric_scale: whether the world's unit is the metre.
    """

    scene: str
    protocol: str
    keyframes: tuple[Keyframe, ...]
    tests: tuple[Frame, ...]
    test_names: tuple[str, ...]
    metric_scale: bool

    @property
    def cameras(self) -> list[tuple[PinholeCamera, SE3]]:
        """Camera and pose of every held-out frame."""
        return [(f.camera, f.world_from_cam) for f in self.tests if f.world_from_cam is not None]


def heldout_task(folder: Path | str, views: int, *, poses: str = "given", max_size: int = 320) -> HeldOutTask:
    """The suggested split of a scene folder for this number of inputs.

    Args:
        folder: scene folder with ``suggested_splits``.
        views: number of inputs.
        poses: "given" (c2w) or "odometry" (c2w_dataset) for the inputs; tests always have "given" ones.
        max_size: longer side of inputs and tests in pixels; larger images are area-averaged.

    Raises:
        InvalidInputError: when the scene has no such split, a held-out frame has no pose, or is also an input.
        StorageError: when a file cannot be read.
    """
    if poses not in POSE_KEYS:
        raise InvalidInputError(f"poses are '{poses}', expected one of {', '.join(POSE_KEYS)}")
    inputs, tests = read_split(folder, str(views), poses="c2w", depth=False, max_size=max_size)
    if poses != "given":
        inputs, _ = read_split(folder, str(views), poses=POSE_KEYS[poses], depth=False, max_size=max_size)
    leaked = sorted(set(inputs.names) & set(tests.names))
    if leaked:
        raise InvalidInputError(f"scene {inputs.name} tests on {leaked[0]}, which is one of its inputs")
    for name, frame in zip(tests.names, tests.frames, strict=True):
        if frame.world_from_cam is None:
            raise InvalidInputError(f"held-out image {name} of scene {inputs.name} has no pose, expected one")
    return HeldOutTask(
        scene=inputs.name,
        protocol=f"{views} input views, poses {poses}, suggested split, longer side {max_size} px",
        keyframes=tuple(_keyframe(i, frame) for i, frame in enumerate(inputs.frames)),
        tests=tests.frames,
        test_names=tests.names,
        metric_scale=inputs.metric_scale,
    )


def _keyframe(index: int, frame: Frame) -> Keyframe:
    frame = replace(frame, depth_m=None)
    return Keyframe(id=index, frame=frame, sharpness=sharpness(frame.rgb_u8), reason="chosen")


def score_pictures(pictures_u8: Sequence[np.ndarray], task: HeldOutTask) -> dict[str, Any]:
    """PSNR and SSIM of pictures [H, W, 3] uint8 against the held-out frames, each and on the mean over images.

    Every pixel counts, also those that no input saw.

    Raises:
        InvalidInputError: when the number of pictures or a size differs from the held-out frames.
    """
    if len(pictures_u8) != len(task.tests):
        raise InvalidInputError(f"got {len(pictures_u8)} pictures for {len(task.tests)} held-out frames")
    rows = []
    for name, picture, frame in zip(task.test_names, pictures_u8, task.tests, strict=True):
        truth = frame.rgb_u8
        rows.append({"image": name, "psnr": psnr(picture, truth), "ssim": ssim(picture / 255.0, truth / 255.0)})
    return {
        "psnr": float(np.mean([r["psnr"] for r in rows])),
        "ssim": float(np.mean([r["ssim"] for r in rows])),
        "images": rows,
    }
