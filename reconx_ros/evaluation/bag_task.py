"""Withheld frames of a bag: which ones, and their scores against what the running nodes drew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reconx_ros.core import Frame, InvalidInputError, Provenance, ReconstructionError
from reconx_ros.evaluation.baselines import nearest_picture
from reconx_ros.evaluation.camera_placement import GIVEN
from reconx_ros.evaluation.heldout import HeldOutTask, posed
from reconx_ros.evaluation.layout import NEAREST, OURS, MethodResult, RunFolder, ViewScore
from reconx_ros.evaluation.pictures import PictureWriter
from reconx_ros.evaluation.scores import mean_scores, score_picture
from reconx_ros.evaluation.visibility import Observed
from reconx_ros.io.images import write_image
from reconx_ros.io.scenes import shrunken_frame
from reconx_ros.pipeline.keyframes import chosen_keyframe
from reconx_ros.viz.palette import provenance_picture

_NS = 1_000_000_000


def withheld_stamps(stamps_ns: Sequence[int], every: int) -> set[int]:
    """Stamps of every k-th image: the k-th, the 2k-th and so on, in order of their stamps.

    Raises:
        InvalidInputError: when ``every`` is below 2, or nothing would be withheld or played.
    """
    if every < 2:
        raise InvalidInputError(f"--every is {every}, expected 2 or more: every image would be withheld")
    chosen = sorted(set(stamps_ns))[every - 1 :: every]
    if not chosen:
        raise InvalidInputError(f"the bag has {len(stamps_ns)} images, --every {every} withholds none of them")
    return set(chosen)


def bag_task(
    scene: str, frames: Iterable[Frame], *, keyframes: Mapping[int, int], withheld: set[int], every: int, max_size: int
) -> tuple[HeldOutTask, int]:
    """What the nodes took as keyframes and what was withheld from them; second, withheld images that are no test.

    Args:
        scene: name of the bag.
        frames: all frames of the bag that can be used.
        keyframes: id to stamp in ns, as the node published them.
        withheld: stamps in ns.
        every: as chosen, for the protocol.
        max_size: longer side of the pictures in pixels.

    Raises:
        InvalidInputError: when a withheld frame is a keyframe, no withheld frame has a pose, or fewer than two
            keyframes are among the frames.
    """
    wanted = set(keyframes.values())
    if wanted & withheld:
        raise InvalidInputError(f"{len(wanted & withheld)} withheld images of {scene} reached the nodes, expected none")
    inputs: dict[int, Frame] = {}
    tests: dict[int, Frame] = {}
    for frame in frames:
        if frame.world_from_cam is None:
            continue
        if frame.stamp_ns in withheld:
            tests[frame.stamp_ns] = shrunken_frame(frame, max_size)
        elif frame.stamp_ns in wanted:
            inputs[frame.stamp_ns] = shrunken_frame(frame, max_size)
    if not tests:
        raise InvalidInputError(f"none of the {len(withheld)} withheld images of {scene} has a pose")
    if len(inputs) < 2:
        raise InvalidInputError(f"{len(inputs)} keyframes of {scene} are among its images, expected 2 or more")
    return _task(scene, inputs, tests, every, max_size), len(withheld) - len(tests)


def _task(scene: str, inputs: dict[int, Frame], tests: dict[int, Frame], every: int, max_size: int) -> HeldOutTask:
    first = min(*inputs, *tests)
    given, held = [inputs[s] for s in sorted(inputs)], [tests[s] for s in sorted(tests)]
    return HeldOutTask(
        scene=scene,
        protocol=f"every {every}th image withheld from the running nodes, poses of the bag's transforms, longer side "
        f"{max_size} px",
        keyframes=tuple(chosen_keyframe(i, _without_depth(f)) for i, f in enumerate(given)),
        truth=tuple(posed(f) for f in given),
        depths=tuple(f.depth_m for f in given),
        tests=tuple(held),
        test_names=tuple(f"image at {(f.stamp_ns - first) / _NS:.2f} s" for f in held),
        input_names=tuple(f"keyframe at {(f.stamp_ns - first) / _NS:.2f} s" for f in given),
        metric_scale=True,
    )


def _without_depth(frame: Frame) -> Frame:
    return replace(frame, depth_m=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredDrawing:
    """A picture of the map and where its pixels come from.

    Attributes:
        rgb_u8: [H, W, 3] uint8.
        provenance: [H, W] uint8.
    """

    rgb_u8: np.ndarray
    provenance: np.ndarray


def drawn_part(task: HeldOutTask, drawn: Sequence[Any]) -> tuple[HeldOutTask, list[Any], dict[str, int]]:
    """The task and the pictures without the views that were refused; and how many were, by sentence.

    Args:
        task: with a test per entry of ``drawn``.
        drawn: picture, or the sentence that refused it.

    Raises:
        ReconstructionError: when all were refused.
    """
    kept = [i for i, d in enumerate(drawn) if not isinstance(d, str)]
    refused: dict[str, int] = {}
    for sentence in (d for d in drawn if isinstance(d, str)):
        refused[sentence] = refused.get(sentence, 0) + 1
    if not kept:
        raise ReconstructionError(f"no withheld image could be drawn: {next(iter(refused), 'none was asked for')}")
    part = replace(task, tests=tuple(task.tests[i] for i in kept), test_names=tuple(task.test_names[i] for i in kept))
    return part, [drawn[i] for i in kept], refused


def score_drawn(
    task: HeldOutTask,
    drawn: Sequence[ScoredDrawing],
    masks: Sequence[Observed | None],
    folder: RunFolder | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
) -> tuple[MethodResult, ...]:
    """The map's pictures and the nearest keyframe against the withheld images; pictures go into the folder.

    Args:
        task: inputs and withheld frames.
        drawn: a picture per withheld frame.
        masks: observed pixels of each, as ``observed_masks``.
        folder: None writes nothing.
        facts: of the map's method.
    """
    writer = PictureWriter(folder)
    for i, keyframe in enumerate(task.keyframes):
        writer.input(i, keyframe.frame.rgb_u8)
    ours: list[ViewScore] = []
    nearest: list[ViewScore] = []
    for i, (frame, view, mask) in enumerate(zip(task.tests, drawn, masks, strict=True)):
        writer.truth(i, frame.rgb_u8, mask)
        ours.append(_scored(writer, i, OURS, view.rgb_u8, frame, mask))
        if folder is not None:
            write_image(folder.layer(i, OURS, "provenance"), provenance_picture(view.provenance))
        near = nearest_picture(task, frame.camera, posed(frame))
        nearest.append(_scored(writer, i, NEAREST, near, frame, mask))
    filled = float(np.mean([(v.provenance != int(Provenance.NONE)).mean() for v in drawn]))
    observed = float(np.mean([(v.provenance == int(Provenance.OBSERVED)).mean() for v in drawn]))
    return (
        MethodResult(
            key=OURS, title="map of the nodes", kind="method", protocol=GIVEN, views=tuple(ours),
            mean={**mean_scores(ours), "filled": filled}, facts={"observed_share": observed, **(facts or {})},
        ),
        MethodResult(
            key=NEAREST, title="nearest keyframe", kind="baseline", protocol=GIVEN, views=tuple(nearest),
            mean=mean_scores(nearest),
        ),
    )  # fmt: skip


def _scored(
    writer: PictureWriter, index: int, key: str, picture_u8: np.ndarray, frame: Frame, mask: Observed | None
) -> ViewScore:
    writer.method(index, key, picture_u8, frame.rgb_u8)
    return score_picture(picture_u8, frame.rgb_u8, mask)
