"""Training examples: groups of views with the depth that stage 1 really found and the true depth, as files.

Making a group costs more than learning from it, so groups are made once, by as many processes as there are, each into
a file of its own; what was made before an interruption stays.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core import (
    SE3,
    Frame,
    InsufficientParallaxError,
    InvalidInputError,
    Job,
    Keyframe,
    MatchingEvidence,
    PinholeCamera,
    PointMap,
    Provenance,
    ReconstructionError,
    StorageError,
)
from reconx_ros.core.files import write_bytes
from reconx_ros.geometry.resize import resize_area, resize_nearest
from reconx_ros.learning.stream import made_in_order
from reconx_ros.pointmap.completion.inputs import CompletionView, completion_view
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.multiview import multiview_depth

FrameSource = Callable[[int], Sequence[Frame]]
"""Gives posed frames with exact depth by the number of the group, always the same; may be sent to other processes."""

SUFFIX = ".npz"
_COUNTS = ("sees", "agrees", "denies")


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleView:
    """One view of an example.

    Attributes:
        given: what the network may look at.
        truth: [H, W] float32 true depth on the same grid; 0 where unknown.
    """

    given: CompletionView
    truth: torch.Tensor  # [H, W]


@dataclass(frozen=True, kw_only=True)
class ExampleMaker:
    """Makes the example of a number: views from a source, seen by the real stage 1.

    Attributes:
        source: of frames with exact depth.
        grid: longer side of the network's grid in pixels.
        sizes: longer sides of the grid that stage 1 works on, one of them drawn per group.
        fewest: smallest number of views of a group; the others are left out, a random number per group.
        up_world: unit vector against gravity in the source's world (REP-103: z points up); None where unknown.
        seed: of what is drawn.
    """

    source: FrameSource
    grid: int = 256
    sizes: tuple[int, ...] = (256, 320)
    fewest: int = 2
    up_world: tuple[float, float, float] | None = (0.0, 0.0, 1.0)
    seed: int = 0

    def __call__(self, number: int) -> list[ExampleView]:
        """The views of an example. Where stage 1 finds nothing, they hold pictures alone."""
        rng = np.random.default_rng([self.seed, number])
        frames = list(self.source(number))
        frames = frames[: int(rng.integers(min(self.fewest, len(frames)), len(frames) + 1))]
        maps = stage_1(frames, int(rng.choice(self.sizes)))
        up = None if self.up_world is None else np.array(self.up_world)
        return [example_view(view, frame, self.grid, up) for view, frame in zip(maps, frames, strict=True)]


def stage_1(frames: Sequence[Frame], size: int) -> list[PointMap]:
    """What multi-view stereo finds for posed frames; pointmaps without a valid pixel where it finds nothing."""
    keyframes = [Keyframe(id=k, frame=frame, sharpness=0.0) for k, frame in enumerate(frames)]
    config = PointmapConfig(max_size=size)
    try:
        if len(keyframes) > 1:
            found = multiview_depth(
                keyframes, config, device=torch.device("cpu"), job=Job(stage="pointmap"), backend="training"
            )
            return list(found.views)
    except (InsufficientParallaxError, ReconstructionError):
        pass
    return [_unmeasured(frame, size, k) for k, frame in enumerate(frames)]


def _unmeasured(frame: Frame, size: int, number: int) -> PointMap:
    camera = frame.camera.fitted_to(size)
    zero = torch.zeros(camera.height, camera.width)
    none = zero.bool()
    pose = frame.world_from_cam
    assert pose is not None
    return PointMap(
        rgb=resize_area(frame.rgb(), *camera.size), depth=zero, confidence=zero, valid=none,
        provenance=Provenance.OBSERVED.where(none), camera=camera, world_from_cam=pose, keyframe_id=number,
    )  # fmt: skip


def example_view(view: PointMap, frame: Frame, grid: int, up_world: np.ndarray | None) -> ExampleView:
    """A pointmap and the true depth of its frame on the network's grid.

    Raises:
        InvalidInputError: for a frame without depth.
    """
    if frame.depth_m is None:
        raise InvalidInputError("training view has no depth, expected the true one")
    given = completion_view(view, grid, up_world)
    truth = resize_nearest(torch.from_numpy(np.array(frame.depth_m, np.float32)), *given.camera.size)
    return ExampleView(given=given, truth=torch.where(torch.isfinite(truth), truth, 0.0))


def save_example(path: Path, views: Sequence[ExampleView]) -> None:
    """Write an example, complete or not at all: half precision depths, bytes for the rest.

    Raises:
        StorageError: when it cannot be written.
    """
    arrays = [_packed(view) for view in views]
    content = io.BytesIO()
    stacks: dict[str, Any] = {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}
    np.savez(content, **stacks)
    write_bytes(path, content.getvalue())


def load_example(path: Path) -> list[ExampleView]:
    """Read an example.

    Raises:
        StorageError: when it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return [_unpacked({name: values[k] for name, values in arrays.items()}) for k in range(len(arrays["rgb"]))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
        raise StorageError(f"training example {path} cannot be read: {err}, expected one of this package") from None


def _packed(view: ExampleView) -> dict[str, np.ndarray]:
    given, evidence = view.given, view.given.evidence
    zero = torch.zeros_like(given.depth)
    told = evidence or MatchingEvidence(cost=zero + 1, margin=zero, sees=zero, agrees=zero, denies=zero)
    camera = given.camera
    return {
        "rgb": _bytes(given.rgb),
        "depth": given.depth.numpy().astype(np.float16),
        "confidence": _bytes(given.confidence),
        "truth": view.truth.numpy().astype(np.float16),
        "matched": np.array(evidence is not None),
        "cost": _bytes(told.cost),
        "margin": _bytes(told.margin.sqrt()),
        **{name: getattr(told, name).numpy().astype(np.uint8) for name in _COUNTS},
        "camera": np.array([camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy]),
        "world_from_cam": given.world_from_cam.matrix,
        "up_world": np.zeros(3) if given.up_world is None else given.up_world,
    }


def _bytes(values: torch.Tensor) -> np.ndarray:
    """Values in [0, 1] as uint8; what is above 0 stays so."""
    return (values * 255).ceil().clamp(0, 255).byte().numpy()


def _unpacked(arrays: dict[str, np.ndarray]) -> ExampleView:
    floats = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in ("depth", "truth", *_COUNTS)}
    share = {
        name: torch.from_numpy(arrays[name].astype(np.float32) / 255)
        for name in ("rgb", "confidence", "cost", "margin")
    }
    width, height, fx, fy, cx, cy = arrays["camera"]
    pose = arrays["world_from_cam"]
    evidence = MatchingEvidence(
        cost=share["cost"], margin=share["margin"] ** 2, **{name: floats[name] for name in _COUNTS}
    )
    given = CompletionView(
        rgb=share["rgb"],
        depth=floats["depth"],
        confidence=share["confidence"],
        evidence=evidence if bool(arrays["matched"]) else None,
        camera=PinholeCamera(width=int(width), height=int(height), fx=fx, fy=fy, cx=cx, cy=cy),
        world_from_cam=SE3(rotation=pose[:3, :3], translation=pose[:3, 3]),
        up_world=arrays["up_world"] if arrays["up_world"].any() else None,
    )
    return ExampleView(given=given, truth=floats["truth"])


def example_paths(folder: Path) -> list[Path]:
    """The examples of a folder, by number."""
    return sorted(folder.glob(f"*{SUFFIX}"))


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Makes and writes the example of a number unless it is there; gives the number of its views."""

    maker: Callable[[int], Sequence[ExampleView]]
    folder: Path

    def __call__(self, number: int) -> int:
        path = self.folder / f"{number:06d}{SUFFIX}"
        if not path.is_file():
            save_example(path, self.maker(number))
            return 1
        return 0


def make_examples(
    maker: Callable[[int], Sequence[ExampleView]], folder: Path, numbers: range, *, workers: int, job: Job
) -> int:
    """Make the examples of some numbers that a folder lacks; interrupted, the same call goes on.

    Args:
        maker: as ``ExampleMaker``; must survive being sent to other processes.
        folder: where they go, made if it is missing.
        numbers: of the examples.
        workers: processes that make them; 0 makes them in this one.
        job: progress and cancellation.

    Returns:
        How many were made now.

    Raises:
        StorageError: when something cannot be written.
        CancelledError: when the job was cancelled.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"folder {folder} cannot be made: {err.strerror}") from None
    made = 0
    for done, wrote in enumerate(made_in_order(_Writer(maker=maker, folder=folder), numbers, workers=workers)):
        made += wrote
        job.step((done + 1) / len(numbers), f"example {done + 1} of {len(numbers)}")
    return made
