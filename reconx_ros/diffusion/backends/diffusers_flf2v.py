"""First-and-last-frame video models of diffusers as view generators: Wan 2.1 and LTX-Video.

These models know nothing of cameras or points. Stage 1 finds the poses of their frames, unless the frames are held to
renders of the points while they are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import InvalidInputError, Job
from reconx_ros.core.memory import is_out_of_memory
from reconx_ros.core.precision import dtype_from_precision
from reconx_ros.diffusion.backends.diffusers_flf2v_ltx import LtxAdapter
from reconx_ros.diffusion.backends.diffusers_flf2v_wan import WanAdapter
from reconx_ros.diffusion.clips.plan import ClipPlan
from reconx_ros.diffusion.clips.render_guidance import LatentGuide, RenderTarget, cell_mask, standard_noise
from reconx_ros.diffusion.clips.run import ClipFrames, ClipRequest
from reconx_ros.diffusion.clips.video_generator import VideoGenerator
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.model_folders import checked_source, load_error, parts_bytes, place, resident
from reconx_ros.weights.resolve import how_to_get

Adapter = WanAdapter | LtxAdapter

_GUIDE_SEED = 2**31


class WanGenerator(VideoGenerator):
    """Wan 2.1 FLF2V through ``WanImageToVideoPipeline``."""

    name = "diffusers_flf2v_wan"

    def load(self, config: DiffusionConfig, device: torch.device) -> FlfClips:
        """See ``VideoGenerator``."""
        source = checked_source(config, self.name, how_to_get("wan-flf2v-14b"))
        return resident(self._models, source, config, device, lambda: _load(source.path, WanAdapter, config, device))


class LtxGenerator(VideoGenerator):
    """LTX-Video through ``LTXConditionPipeline``."""

    name = "diffusers_flf2v_ltx"

    def load(self, config: DiffusionConfig, device: torch.device) -> FlfClips:
        """See ``VideoGenerator``."""
        source = checked_source(config, self.name, how_to_get("ltx-video"))
        return resident(self._models, source, config, device, lambda: _load(source.path, LtxAdapter, config, device))


def _load(folder: Path, adapter: type[Adapter], config: DiffusionConfig, device: torch.device) -> FlfClips:
    """The pipeline of a folder, on its device.

    Raises:
        InvalidInputError: when it cannot be loaded.
    """
    precisions = adapter.precisions(dtype_from_precision(config.precision, device, parameter="diffusion.precision"))
    try:
        pipeline = adapter.pipeline_class().from_pretrained(str(folder), torch_dtype=precisions, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise load_error(folder, error) from None
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_tiling()
    place(pipeline, config, device)
    return FlfClips(pipeline, adapter())


class FlfClips:
    """A loaded pipeline of diffusers as a ``ClipModel``."""

    uses_points = False

    def __init__(self, pipeline: Any, adapter: Adapter) -> None:
        self._pipeline, self._adapter = pipeline, adapter

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        return parts_bytes(self._pipeline)

    def follows_path(self, config: DiffusionConfig) -> bool:
        """Only where frames are held to renders from the planned poses."""
        return config.render_guidance > 0

    def frame_count(self, config: DiffusionConfig) -> int:
        """Frames of a clip: as configured, or as trained."""
        frames, group = config.clip_frames or self._adapter.trained_frames, self._adapter.frame_group(self._pipeline)
        if (frames - 1) % group:
            near = max(1, round((frames - 1) / group)) * group + 1
            raise InvalidInputError(f"diffusion.clip_frames is {frames}, expected {group} n + 1, such as {near}")
        return int(frames)

    def check(self, plans: Sequence[ClipPlan], config: DiffusionConfig) -> None:
        """Refuse sizes and paths that the model cannot make."""
        multiple = self._adapter.multiple(self._pipeline)
        if config.width % multiple or config.height % multiple:
            raise InvalidInputError(
                f"diffusion.width and height are {config.width}x{config.height}, expected multiples of {multiple}"
            )
        for plan in plans:
            self._adapter.check_place(self._pipeline, plan.second_frame, len(plan))

    def fill(self, request: ClipRequest, config: DiffusionConfig, job: Job) -> ClipFrames:
        """Run the pipeline once."""
        guide = None if request.target is None else self._guide(request.target, request.seed)
        self._adapter.check_schedule(self._pipeline, guide is not None and guide.active)
        frames = self._adapter.run(self._pipeline, request, config, _step_end(guide, job, self._adapter))
        job.step(1.0, "done")
        if not bool(torch.isfinite(frames).all()):
            raise InvalidInputError("the video model's frames hold NaN or infinity: try diffusion.precision float32")
        return ClipFrames(frames=frames.float().clamp(0, 1).cpu())

    def _guide(self, target: RenderTarget, seed: int) -> LatentGuide:
        device = self._pipeline._execution_device
        video = (target.rgb.permute(3, 0, 1, 2)[None] * 2 - 1).to(device, self._pipeline.vae.dtype)  # [1, 3, T, H, W]
        with torch.no_grad():
            clean = self._adapter.latents_from_pictures(self._pipeline, video).float()
        stride = target.rgb.shape[1] // clean.shape[3]
        mask = cell_mask(target.explained, stride, self._adapter.frame_group(self._pipeline)).expand_as(clean)
        noise = standard_noise(clean.shape, seed + _GUIDE_SEED)
        packed = (self._adapter.packed(self._pipeline, x.to(device)) for x in (clean, noise, mask))
        held, free, where = packed
        return LatentGuide(clean=held, noise=free, mask=where, start=target.start, end=target.end)


def _step_end(guide: LatentGuide | None, job: Job, adapter: Adapter) -> Callable[..., dict[str, torch.Tensor]]:
    """What diffusers calls after each step: progress, cancellation, guidance."""

    def step_end(pipeline: Any, k: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps = pipeline.num_timesteps
        job.step((k + 1) / (steps + 1), f"step {k + 1} of {steps}")
        if guide is None or not guide.active:
            return {}
        sigma = float(pipeline.scheduler.sigmas[k + 1])  # flow matching: x = (1 - sigma) x0 + sigma noise
        latents = tensors["latents"]
        start = adapter.first_free_token(latents, guide.clean)
        held = guide.held(latents[:, start:], k, steps, 1 - sigma, sigma)
        return {"latents": torch.cat([latents[:, :start], held], dim=1) if start else held}

    return step_end
