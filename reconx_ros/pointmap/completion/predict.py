"""The network on views: a first pass on each alone, a second with what the others found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import Job
from reconx_ros.pointmap.completion.inputs import OTHERS_CHANNELS, CompletionView, channels
from reconx_ros.pointmap.completion.network import CompletedDepth, CompletionNetwork
from reconx_ros.pointmap.completion.others import DepthGuess, seen_from

RIGHT_WITHIN = 0.05  # relative error up to which a completed depth counts as right


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What the network says about one view, on its grid.

    Attributes:
        depth: [H, W] z-depth in the world's unit.
        certainty: [H, W] in (0, 1): chance that it is within 5 % of the truth, as the Laplace scale says.
        log_scale: [H, W] natural logarithm of the Laplace scale of log depth.
    """

    depth: torch.Tensor  # [H, W]
    certainty: torch.Tensor  # [H, W]
    log_scale: torch.Tensor  # [H, W]


def certainty(log_scale: torch.Tensor) -> torch.Tensor:
    """Chance that a Laplace variable of that scale stays within RIGHT_WITHIN."""
    return 1 - torch.exp(-RIGHT_WITHIN * torch.exp(-log_scale))


def stacked(views: Sequence[CompletionView], unit: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [V, 3, H, W] and channels [V, C, H, W] of views of one size."""
    rgb = torch.stack([view.rgb.permute(2, 0, 1) for view in views]).contiguous(memory_format=torch.channels_last)
    told = torch.stack([channels(view, unit) for view in views]).contiguous(memory_format=torch.channels_last)
    return rgb, told


def with_others(
    views: Sequence[CompletionView], told: torch.Tensor, first: CompletedDepth, unit: float
) -> torch.Tensor:
    """The channels [V, C, H, W] of views with what the others found on the first pass.

    Args:
        views: V views of one scene.
        told: [V, C, H, W] channels of the first pass.
        first: its output for them.
        unit: the network's unit.
    """
    guesses = [merged(view, first, k, unit) for k, view in enumerate(views)]
    return _shown_others(told, guesses, guesses, unit)


def _shown_others(
    told: torch.Tensor, here: Sequence[DepthGuess], everyone: Sequence[DepthGuess], unit: float
) -> torch.Tensor:
    """Channels [V, C, H, W] of some views with what all but each itself found."""
    seen = [seen_from(g, [o for o in everyone if o is not g], unit) for g in here]
    return torch.cat([told[:, : -len(OTHERS_CHANNELS)], torch.stack(seen).to(told.device)], dim=1)


def without_channels(told: torch.Tensor, hidden: Sequence[int]) -> torch.Tensor:
    """Channels [V, C, H, W] of which some are zero."""
    if not hidden:
        return told
    told = told.clone()
    told[:, list(hidden)] = 0
    return told


def merged(view: CompletionView, found: CompletedDepth, index: int, unit: float) -> DepthGuess:
    """Measured depth where there is one, else the network's."""
    depth = unit * torch.exp(found.log_depth[index].detach().to(view.depth.device))
    sure = certainty(found.log_scale[index].detach().to(view.depth.device))
    measured = view.measured
    return DepthGuess(
        depth=torch.where(measured, view.depth, depth),
        certainty=torch.where(measured, torch.maximum(sure, view.confidence), sure),
        camera=view.camera,
        world_from_cam=view.world_from_cam,
    )


@torch.no_grad()
def predict(
    network: CompletionNetwork,
    views: Sequence[CompletionView],
    unit: float,
    *,
    at_once: int = 4,
    hidden: Sequence[int] = (),
    job: Job | None = None,
) -> list[Prediction]:
    """Depth of every pixel of views of one scene.

    Args:
        network: in evaluation mode.
        views: of any sizes, poses in one world.
        unit: the network's unit of depth in the world's, ``scene_scale``.
        at_once: views that the network sees in one call; bounds the memory, and changes nothing else.
        hidden: numbers of channels that it does not see.
        job: progress and cancellation.

    Raises:
        CancelledError: when the job was cancelled.
    """
    step = at_once if len({view.camera.size for view in views}) == 1 else 1
    parts = [views[k : k + step] for k in range(0, len(views), step)]
    device = next(network.parameters()).device
    passes = 1 if len(views) == 1 else 2
    inputs, features, found = [], [], []
    for k, part in enumerate(parts):
        _step(job, k / (passes * len(parts)))
        inputs.append(stacked(part, unit))
        features.append(network.picture(inputs[-1][0].to(device)))
        found.append(_run(network, inputs[-1], features[-1], hidden))
    if passes == 1:
        return [_prediction(out, k, unit) for out in found for k in range(len(out.log_depth))]
    pairs = [(part[k], out, k) for part, out in zip(parts, found, strict=True) for k in range(len(part))]
    guesses = [merged(view, out, k, unit) for view, out, k in pairs]
    again, start = [], 0
    for k, (rgb, told) in enumerate(inputs):
        _step(job, 0.5 + k / (passes * len(parts)))
        here = guesses[start : start + len(rgb)]
        start += len(rgb)
        again.append(_run(network, (rgb, _shown_others(told, here, guesses, unit)), features[k], hidden))
    return [_prediction(out, k, unit) for out in again for k in range(len(out.log_depth))]


def _step(job: Job | None, done: float) -> None:
    if job is not None:
        job.step(done, "completing depth")


def _run(
    network: CompletionNetwork,
    inputs: tuple[torch.Tensor, torch.Tensor],
    features: list[torch.Tensor],
    hidden: Sequence[int],
) -> CompletedDepth:
    rgb, told = inputs
    device = features[0].device
    out = network(rgb.to(device), without_channels(told, hidden).to(device), features)
    return CompletedDepth(log_depth=out.log_depth.float().cpu(), log_scale=out.log_scale.float().cpu())


def _prediction(out: CompletedDepth, index: int, unit: float) -> Prediction:
    log_scale = out.log_scale[index]
    return Prediction(depth=unit * torch.exp(out.log_depth[index]), certainty=certainty(log_scale), log_scale=log_scale)
