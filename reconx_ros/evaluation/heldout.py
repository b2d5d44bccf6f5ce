"""The few-view protocol: what is reconstructed, what is held back, and that nothing held back leaks into the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe
from reconx_ros.io.cameras_json import pose_key
from reconx_ros.io.scenes import Scene, SceneSplit, read_scene
from reconx_ros.pipeline.keyframes import chosen_keyframe

# Mean difference in grey levels below which two thumbnails show one picture. On photos a JPEG of quality 50 makes 0.9,
# a shift by one of 640 pixels 1.5 to 1.9, the next frame of a slow video 10.
SAME_PICTURE_LEVELS = 1.2
_THUMBNAIL_PX = 48


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutTask:
    """What is reconstructed and what is held back.

    Attributes:
        scene: name of the scene.
        protocol: the protocol in words, to be quoted with every figure.
        keyframes: the inputs; no sensor depth. Their ids are places in the lists below.
        truth: true poses of the inputs, world_from_cam.
        depths: sensor depth [H, W] in metres of the inputs; None where there is none.
        tests: held-out frames with poses in the world of ``truth``, never among the inputs; read on demand.
        test_names: their names.
        input_names: names of the inputs.
        metric_scale: whether the world's unit is the metre.
        poses: what the inputs carry: "given", "odometry" or "none".
        originals: the inputs at the size from which cameras are found or refined; as ``keyframes`` where it is empty.
        source: the inputs as the scene has them; None for a task that is not from a scene's files.
    """

    scene: str
    protocol: str
    keyframes: tuple[Keyframe, ...]
    truth: tuple[SE3, ...]
    depths: tuple[np.ndarray | None, ...]
    tests: Sequence[Frame]
    test_names: tuple[str, ...]
    input_names: tuple[str, ...]
    metric_scale: bool
    poses: str = "given"
    originals: tuple[Keyframe, ...] = ()
    source: Scene | None = None

    @property
    def true_keyframes(self) -> tuple[Keyframe, ...]:
        """The inputs, as large as cameras are found from, with their true poses."""
        return with_world_from_cams(self.originals or self.keyframes, self.truth)


def with_world_from_cams(keyframes: Sequence[Keyframe], poses: Sequence[SE3]) -> tuple[Keyframe, ...]:
    """The keyframes at other poses."""
    return tuple(
        replace(k, frame=replace(k.frame, world_from_cam=pose)) for k, pose in zip(keyframes, poses, strict=True)
    )


def posed(frame: Frame) -> SE3:
    """The pose of a frame that was checked to have one."""
    assert frame.world_from_cam is not None
    return frame.world_from_cam


def heldout_task(
    folder: Path | str,
    views: int,
    *,
    poses: str = "given",
    max_size: int = 320,
    camera_size: int | None = None,
    **reading: Any,
) -> HeldOutTask:
    """The split of a scene for this number of inputs, suggested with the scene or defined by its data set.

    Args:
        folder: a scene with splits.
        views: number of inputs.
        poses: "given" (c2w), "odometry" (c2w_dataset) or "none" for the inputs; tests always have "given" ones.
        max_size: longer side of inputs and tests in pixels; larger images are area-averaged.
        camera_size: longer side of the inputs that cameras are found from where poses are not given, if it is above
            ``max_size``.
        reading: further options of ``read_scene``: which layout, which video, which index file.

    Raises:
        InvalidInputError: when the scene has no such split, no test view or fewer than two inputs, a frame lacks a pose
            that the protocol needs, or a held-out picture is also an input: the same file, or the same picture under
            another name.
        StorageError: when a file cannot be read.
    """
    key = pose_key(poses)
    scene = read_scene(folder, poses="c2w", max_size=max_size, **reading)
    split = _split(scene, views)
    inputs, tests = scene.select(split.inputs), scene.select(split.test)
    carried = _carried(inputs, poses, key, reading)
    _check_tests(inputs, tests)
    protocol = f"{views} input views, poses {poses}, {split.protocol}, longer side {max_size} px"
    large = None if poses == "given" or camera_size is None else _larger(folder, inputs, camera_size, reading)
    if large is not None:
        protocol += f", cameras from inputs of {_longest_side(large)} px"
    return HeldOutTask(
        scene=scene.name,
        protocol=protocol,
        keyframes=_keyframes(inputs, carried),
        truth=tuple(posed(f) for f in inputs.frames),
        depths=tuple(f.depth_m for f in inputs.frames),
        tests=tests.frames,
        test_names=tests.names,
        input_names=inputs.names,
        metric_scale=scene.metric_scale,
        poses=poses,
        originals=() if large is None else _keyframes(large, carried),
        source=inputs,
    )


def _split(scene: Scene, views: int) -> SceneSplit:
    split = scene.splits.get(str(views))
    if split is None:
        known = ", ".join(scene.splits) or "none: it cannot be evaluated"
        raise InvalidInputError(f"scene {scene.name} has no split '{views}', expected one of {known}")
    if not split.test:
        raise InvalidInputError(f"split '{views}' of scene {scene.name} has no test view, expected at least one")
    if len(split.inputs) < 2:
        raise InvalidInputError(
            f"split '{views}' of scene {scene.name} has {len(split.inputs)} input, expected 2 or more"
        )
    leaked = sorted({_place(scene.root, n) for n in split.inputs} & {_place(scene.root, n) for n in split.test})
    if leaked:
        raise InvalidInputError(f"scene {scene.name} tests on {leaked[0]}, which is one of its inputs")
    return split


def _place(root: Path, name: str) -> str:
    """One name for one file, however it is written or linked."""
    path = (root / name).resolve()
    return str(path.relative_to(root.resolve())) if path.is_relative_to(root.resolve()) else str(path)


def _carried(inputs: Scene, poses: str, key: str | None, reading: dict[str, Any]) -> list[SE3 | None]:
    """The poses that the inputs carry into the method."""
    if poses == "given":
        return [f.world_from_cam for f in inputs.frames]
    if key is None:
        return [None] * len(inputs.frames)
    odometry = read_scene(inputs.root, poses=key, depth=False, names=inputs.names, max_size=32, **reading)
    carried = [f.world_from_cam for f in odometry.frames]
    for name, pose in zip(inputs.names, carried, strict=True):
        if pose is None:
            raise InvalidInputError(f"input image {name} of scene {inputs.name} has no pose c2w_dataset (odometry)")
    return carried


def _check_tests(inputs: Scene, tests: Scene) -> None:
    """Every picture has a true pose, and no held-out one is an input under another name."""
    given = [thumbnail(f.rgb_u8) for f in inputs.frames]
    for kind, scene in (("input", inputs), ("held-out", tests)):
        for view in scene.views:
            if view.world_from_cam is None:
                raise InvalidInputError(f"{kind} image {view.name} of scene {scene.name} has no pose, expected one")
    for name, frame in zip(tests.names, tests.frames, strict=True):
        small = thumbnail(frame.rgb_u8)
        for other, seen in zip(inputs.names, given, strict=True):
            if float(np.abs(small - seen).mean()) < SAME_PICTURE_LEVELS:
                raise InvalidInputError(
                    f"scene {inputs.name} tests on {name}, which shows the same picture as its input {other}"
                )


def thumbnail(rgb_u8: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] area-averaged to 48x48, float: what re-encoding or resizing leaves alone."""
    import cv2

    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    out: np.ndarray = cv2.resize(rgb_u8.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return out


def _larger(folder: Path | str, inputs: Scene, size: int, reading: dict[str, Any]) -> Scene | None:
    """The inputs with longer sides of up to ``size`` pixels; None where that is no more than they have."""
    large = read_scene(folder, poses=None, depth=False, names=inputs.names, max_size=size, **reading)
    return large if _longest_side(large) > _longest_side(inputs) else None


def _longest_side(scene: Scene) -> int:
    return max(max(view.camera.size) for view in scene.views)


def _keyframes(scene: Scene, poses: Sequence[SE3 | None]) -> tuple[Keyframe, ...]:
    """The frames of a scene with these poses and without depth."""
    pairs = enumerate(zip(scene.frames, poses, strict=True))
    return tuple(chosen_keyframe(i, replace(frame, depth_m=None, world_from_cam=pose)) for i, (frame, pose) in pairs)
