"""The view generator of the paper: in-between views by a video model that sees the scene's points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import DoesNotFitError, InvalidInputError, Job, ReconstructionError, ReconxError
from reconx_ros.core.memory import is_out_of_memory, limit_bytes
from reconx_ros.core.precision import dtype_from_precision
from reconx_ros.diffusion.clips.plan import ClipPlan
from reconx_ros.diffusion.clips.render_guidance import LatentGuide, RenderTarget, cell_mask, standard_noise
from reconx_ros.diffusion.clips.run import ClipFrames, ClipRequest
from reconx_ros.diffusion.clips.video_generator import VideoGenerator
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.model_folders import (
    checked_source,
    is_folded,
    load_error,
    parts_bytes,
    place,
    resident,
)
from reconx_ros.diffusion.network.folded import FoldedPipeline
from reconx_ros.diffusion.network.generator_settings import ReconXGeneratorSettings

_CURE = "make a folder with `reconx convert dynamicrafter`, or train one, and name it there"
_GUIDE_SEED = 2**31  # added to the seed of a clip for the noise of the render guidance


class ReconXGenerator(VideoGenerator):
    """ReconX (arXiv:2408.16767), sec. 4.3: pictures, structure tokens and, where trained, cameras to frames."""

    name = "reconx"

    def load(self, config: DiffusionConfig, device: torch.device) -> ReconXClips:
        """The pipeline of the configured folder; see ``VideoGenerator``."""
        source = checked_source(config, self.name, _CURE)
        return resident(self._models, source, config, device, lambda: _load(source.path, config, device))


def _load(folder: Path, config: DiffusionConfig, device: torch.device) -> ReconXClips:
    dtype = dtype_from_precision(config.precision, device, parameter="diffusion.precision")
    try:
        if is_folded(str(folder)):
            return ReconXClips(FoldedPipeline.from_folder(folder, device, dtype))
        return ReconXClips(_diffusers_pipeline(folder, config, device, dtype))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        if is_out_of_memory(error) or isinstance(error, ReconxError):
            raise
        raise load_error(folder, error) from None


def _diffusers_pipeline(folder: Path, config: DiffusionConfig, device: torch.device, dtype: torch.dtype) -> Any:
    from reconx_ros.diffusion.network.pipeline import ReconXPipeline

    pipeline = ReconXPipeline.from_pretrained(str(folder), torch_dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    place(pipeline, config, device)
    return pipeline


class ReconXClips:
    """A loaded ReconXPipeline as a ``ClipModel``."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._unet = pipeline.unet.unet_config
        self.uses_points = pipeline.structure_encoder is not None and bool(self._unet.structure_dim)

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        return parts_bytes(self._pipeline)

    def follows_path(self, config: DiffusionConfig) -> bool:
        """With a camera branch, or where frames are held to renders from the planned poses."""
        return self._takes_path(config) or config.render_guidance > 0

    def _takes_path(self, config: DiffusionConfig) -> bool:
        return (
            bool(self._unet.camera_channels or self._unet.epipolar_levels)
            and config.own(ReconXGeneratorSettings).camera_conditioning
        )

    def frame_count(self, config: DiffusionConfig) -> int:
        """Frames of a clip: as configured, or as trained."""
        return int(config.clip_frames or self._unet.temporal_length)

    def check(self, plans: Sequence[ClipPlan], config: DiffusionConfig) -> None:
        """Refuse sizes that the network cannot take, and runs that do not fit into memory."""
        multiple = self._pipeline.latent_stride * self._unet.latent_multiple
        if config.width % multiple or config.height % multiple:
            raise InvalidInputError(
                f"diffusion.width and height are {config.width}x{config.height}, expected multiples of {multiple}"
            )
        structure = self.uses_points and config.structure_points > 0
        try:
            limit = limit_bytes(config.max_memory_gb)
            self._pipeline.plan(len(plans[0]), config.height, config.width, structure, limit)
        except ReconstructionError as error:
            raise DoesNotFitError(str(error)) from None

    def fill(self, request: ClipRequest, config: DiffusionConfig, job: Job) -> ClipFrames:
        """Run the pipeline once."""
        own, frames = config.own(ReconXGeneratorSettings), len(request.trajectory)
        guide = None if request.target is None else self._guide(request.target, request.seed)
        try:
            result = self._pipeline(
                request.first,
                request.second,
                points=request.points_cam,
                trajectory=request.trajectory if self._takes_path(config) else None,
                generator=torch.Generator().manual_seed(request.seed),
                memory_limit_bytes=limit_bytes(config.max_memory_gb),
                job=job,
                callback_on_step_end=None if guide is None or not guide.active else _held_to(guide),
                frames=frames,
                last_frame=request.second_frame,
                prompt=config.prompt,
                fps=config.fps or None,
                steps=config.steps,
                eta=own.eta,
                image_guidance=own.image_guidance,
                structure_guidance=own.structure_guidance,
                guidance_rescale=own.guidance_rescale,
                epipolar_threshold=own.epipolar_threshold,
            )
        except ReconstructionError as error:
            raise DoesNotFitError(str(error)) from None
        return ClipFrames(
            frames=result.frames, warnings=(*self._notes(config), *_place_notes(request), *result.warnings)
        )

    def _notes(self, config: DiffusionConfig) -> list[str]:
        notes = []
        if not self.uses_points and config.structure_points > 0:
            notes.append("the weights have no structure branch: frames are made without the scene's points")
        if not self._takes_path(config):
            notes.append("the video model is not told the camera path: its frames may leave the planned poses")
        return notes

    def _guide(self, target: RenderTarget, seed: int) -> LatentGuide:
        device = self._pipeline._execution_device
        clean = self._pipeline.latents_from_pictures(target.rgb)
        return LatentGuide(
            clean=clean,
            noise=standard_noise(clean.shape, seed + _GUIDE_SEED).to(device),
            mask=cell_mask(target.explained, self._pipeline.latent_stride).to(device),
            start=target.start,
            end=target.end,
        )


def _place_notes(request: ClipRequest) -> list[str]:
    frames = len(request.trajectory)
    if request.second_frame == frames - 1:
        return []
    return [
        f"the second picture is frame {request.second_frame} of {frames}: frames past it need weights that were"
        " fine-tuned with it there (ReconX, appendix D)"
    ]


def _held_to(guide: LatentGuide) -> Any:
    def step_end(pipeline: Any, place: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        signal, noise = pipeline.scheduler.level_after(place)
        return {"latents": guide.held(tensors["latents"], place, len(pipeline.scheduler.timesteps), signal, noise)}

    return step_end
