"""How the video model is asked to run, and what it gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from reconx_ros.core import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """One run of the video model; the defaults are those the public weights were published with.

    Attributes:
        frames: T; None takes the number the weights were trained on.
        last_frame: index of the second picture; None puts it at the end. An earlier one makes the model extrapolate
            beyond it (ReconX, appendix D).
        prompt: what the scene is.
        prompt_ids: [77] token ids in place of ``prompt``, for weights without a tokenizer.
        fps: frames per second that the motion is conditioned on; None takes the default of the weights.
        steps: of the sampler.
        eta: share of its noise; 0 is deterministic, given the noise it starts from.
        image_guidance: s_img; 1 switches guidance off.
        structure_guidance: s_3d; None takes that of the picture, which saves a third of the time.
        guidance_rescale: see ``sampler.guided``.
        epipolar_threshold: in cells; see ``camera_condition.epipolar_masks``.

    Raises:
        InvalidInputError: for a value out of its range.
    """

    frames: int | None = None
    last_frame: int | None = None
    prompt: str = ""
    prompt_ids: torch.Tensor | None = None
    fps: int | None = None
    steps: int = 50
    eta: float = 1.0
    image_guidance: float = 7.5
    structure_guidance: float | None = None
    guidance_rescale: float = 0.7
    epipolar_threshold: float = 1.5

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 2:
            raise InvalidInputError(f"number of frames is {self.frames}, expected at least 2")
        if self.fps is not None and self.fps < 1:
            raise InvalidInputError(f"frames per second are {self.fps}, expected at least 1")
        if not 0 <= self.guidance_rescale <= 1:
            raise InvalidInputError(f"guidance_rescale is {self.guidance_rescale}, expected 0 to 1")
        for name in ("image_guidance", "structure_guidance"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(f"{name} is {value}, expected a finite number that is not negative")

    @property
    def guides(self) -> bool:
        """Whether predictions without conditions are needed."""
        return not (self.image_guidance == 1 and self.structure_guidance in (None, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedFrames:
    """What a run gave.

    Attributes:
        frames: [T, H, W, 3] float32 in [0, 1] on the CPU; the known ones are the pictures as given, bit for bit.
        known_frames: which are known.
        latents: [1, C, T, h, w] that the frames were decoded from.
        warnings: what the user should know about this run.
    """

    frames: torch.Tensor
    known_frames: tuple[int, ...]
    latents: torch.Tensor
    warnings: tuple[str, ...]


def known_positions(frames: int, has_last: bool, last_frame: int | None) -> tuple[int, ...]:
    """Indices of the frames that are given.

    Raises:
        InvalidInputError: when the second picture has no place.
    """
    if not has_last:
        if last_frame is not None:
            raise InvalidInputError(f"last_frame is {last_frame}, but there is no second picture")
        return (0,)
    place = frames - 1 if last_frame is None else last_frame
    if not 1 <= place < frames:
        raise InvalidInputError(f"last_frame is {place}, expected 1 to {frames - 1}")
    return (0, place)


def usage_warnings(frames: int, trained: int, first: torch.Tensor, last: torch.Tensor | None) -> list[str]:
    """What a user of weights trained on ``trained`` frames should know before looking at the result."""
    notes = []
    if frames < trained:
        notes.append(f"{frames} frames from a model trained on {trained}: its pictures degrade below that number")
    if frames > trained:
        notes.append(
            f"{frames} frames from a model trained on {trained}: the image tokens' latents are interpolated over time;"
            " good pictures need weights fine-tuned at this length"
        )
    if last is not None and torch.equal(first, last):
        notes.append("both pictures are identical: the model has no motion to interpolate")
    return notes
