"""The conditions of one run, encoded: text, picture, structure, cameras, known latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reconx_ros.core import InvalidInputError, Trajectory, check_finite, check_shape
from reconx_ros.diffusion.network.camera_condition import LATENT_STRIDE, epipolar_masks, plucker_rays
from reconx_ros.diffusion.network.clip_image import clip_pixels
from reconx_ros.diffusion.network.structure_encoder import normalize_points

TEXT_TOKENS = 77
_START, _END = -2, -1  # CLIP's marks are the last two of its vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """Conditions of one sequence, ready for the network.

    Attributes:
        known: [1, C, T, h, w] latents of the known frames, zero elsewhere.
        text, empty_text: [1, 77, D] of the prompt and of the empty one.
        image, no_image: [1, T, 16, D] of the first picture and of a black one.
        structure: [1, L, S]; None without points.
        fps: [1].
        cameras: keyword arguments of the network for the camera branches; empty without a path.
    """

    known: torch.Tensor
    text: torch.Tensor
    empty_text: torch.Tensor
    image: torch.Tensor
    no_image: torch.Tensor
    structure: torch.Tensor | None
    fps: torch.Tensor
    cameras: dict[str, Any]


def check_pictures(first: torch.Tensor, last: torch.Tensor | None, multiple: int) -> tuple[int, int]:
    """Height and width of the pictures [H, W, 3].

    Raises:
        InvalidInputError: for pictures of different sizes, sides that are no multiples, or values outside [0, 1].
    """
    dims = check_shape("first picture", first, "H", "W", 3)
    if last is not None:
        check_shape("last picture", last, "H", "W", 3, dims=dims)
    if dims["H"] % multiple or dims["W"] % multiple:
        raise InvalidInputError(
            f"pictures are {dims['W']}x{dims['H']}, expected width and height to be multiples of {multiple}"
        )
    for name, picture in (("first picture", first), ("last picture", last)):
        if picture is None:
            continue
        check_finite(name, picture)
        if float(picture.min()) < 0 or float(picture.max()) > 1:
            raise InvalidInputError(
                f"{name} has values from {float(picture.min()):.3g} to {float(picture.max()):.3g}, expected [0, 1]"
            )
    return dims["H"], dims["W"]


def network_pixels(picture: torch.Tensor) -> torch.Tensor:
    """[H, W, 3] in [0, 1] to [1, 3, H, W] in [-1, 1]."""
    return picture.float().permute(2, 0, 1)[None] * 2 - 1


def prompt_tokens(vocabulary: int, tokenizer: Any, prompt: str, prompt_ids: torch.Tensor | None) -> torch.Tensor:
    """Token ids [1, 77]: start, words, end, then zeros as OpenCLIP pads (transformers' tokenizer repeats the end).

    Raises:
        InvalidInputError: for a prompt without a tokenizer, or ids out of the vocabulary.
    """
    if prompt_ids is not None:
        ids = prompt_ids.reshape(1, -1)
        check_shape("prompt ids", ids, 1, TEXT_TOKENS)
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise InvalidInputError(f"prompt ids reach {int(ids.max())}, expected 0 to {vocabulary - 1}")
        return ids
    if not prompt:
        words = [vocabulary + _START, vocabulary + _END]
    elif tokenizer is None:
        raise InvalidInputError(
            f"prompt is '{prompt}', but the model folder has no tokenizer: give prompt_ids, an empty prompt, or convert"
            " with --tokenizer"
        )
    else:
        words = tokenizer(prompt, truncation=True, max_length=TEXT_TOKENS)["input_ids"]
    return torch.tensor([words + [0] * (TEXT_TOKENS - len(words))])


def known_latents(
    vae: Any, pictures: Sequence[torch.Tensor], places: Sequence[int], frames: int, device: torch.device
) -> torch.Tensor:
    """[1, C, T, h, w]: latents at their frames, zero elsewhere; a single picture's stand in every frame.

    The mean of the posterior is taken; the public code draws a sample, whose spread is far below the noise.
    """
    codes = []
    for picture in pictures:
        pixels = network_pixels(picture).to(device, vae.dtype)
        codes.append(vae.encode(pixels).latent_dist.mean[0].float() * vae.config.scaling_factor)
    if len(codes) == 1:
        return codes[0][None, :, None].expand(-1, -1, frames, -1, -1).contiguous()
    known = torch.zeros(1, codes[0].shape[0], frames, *codes[0].shape[1:], device=device)
    for place, code in zip(places, codes, strict=True):
        known[0, :, place] = code
    return known


def image_tokens(
    encoder: Any, resampler: Any, picture: torch.Tensor, frames: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [1, T, 16, D] of a picture and of the black (zero in [-1, 1]) one that stands for none."""
    pixels = network_pixels(picture).to(device)
    both = torch.cat([clip_pixels(pixels), clip_pixels(torch.zeros_like(pixels))]).to(encoder.dtype)
    features = encoder(pixel_values=both).last_hidden_state.to(resampler.dtype)
    tokens = resampler(features, frames)
    return tokens[:1], tokens[1:]


def camera_inputs(
    unet_config: Any,
    trajectory: Trajectory | None,
    points: torch.Tensor | None,
    places: tuple[int, ...],
    frames: int,
    size: tuple[int, int],
    threshold: float,
) -> dict[str, Any]:
    """Ray maps and epipolar masks for the branches that the network has; empty without a path.

    Centres are measured in the mean distance of the points from their middle, as in training, where there are points.

    Raises:
        InvalidInputError: for a path that does not fit the frames, or that the network has no branch for.
    """
    if trajectory is None:
        return {}
    if len(trajectory) != frames or trajectory.camera.size != size:
        raise InvalidInputError(
            f"camera path has {len(trajectory)} poses of {trajectory.camera.width}x{trajectory.camera.height} px,"
            f" expected {frames} of {size[0]}x{size[1]}"
        )
    if not (unet_config.camera_channels or unet_config.epipolar_levels):
        raise InvalidInputError(
            "a camera path was given, but this network has no camera branch (camera_channels is off)"
        )
    length = 1.0 if points is None else float(normalize_points(points[None].float())[1])
    inputs: dict[str, Any] = {}
    if unet_config.camera_channels:
        inputs["rays"] = plucker_rays(trajectory, length)[None]
    if unet_config.epipolar_levels:
        inputs["epipolar"] = epipolar_masks(trajectory, places, unet_config.epipolar_levels, threshold)
        inputs["reference_frames"] = places
    return inputs


def latent_size(height: int, width: int) -> tuple[int, int]:
    """Of pictures, in latent cells."""
    return height // LATENT_STRIDE, width // LATENT_STRIDE
