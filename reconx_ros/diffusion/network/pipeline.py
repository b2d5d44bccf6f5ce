"""ReconXPipeline: two pictures and the scene's points to the frames between them (ReconX, arXiv:2408.16767).

A diffusers DiffusionPipeline: ``save_pretrained``, ``from_pretrained``, ``to``, ``enable_model_cpu_offload``. diffusers
is imported when the class is first asked for.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from reconx_ros.core import InvalidInputError, Job, Trajectory, check_finite, check_shape
from reconx_ros.core.memory import free_bytes
from reconx_ros.diffusion.network import models
from reconx_ros.diffusion.network.camera_condition import LATENT_STRIDE
from reconx_ros.diffusion.network.conditions import (
    Encoded,
    camera_inputs,
    check_pictures,
    image_tokens,
    known_latents,
    latent_size,
    prompt_tokens,
)
from reconx_ros.diffusion.network.cost import Cost, VideoMemoryPlan, measure, plan_memory, unet_cost
from reconx_ros.diffusion.network.sampler import guided
from reconx_ros.diffusion.network.settings import (
    GeneratedFrames,
    GenerationSettings,
    known_positions,
    usage_warnings,
)

StepCallback = Callable[[Any, int, torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]

_ENCODING, _SAMPLING = 0.05, 0.85  # shares of the progress


def __getattr__(name: str) -> Any:
    if name == "ReconXPipeline":
        return _pipeline_class()
    raise AttributeError(f"module {__name__} has no attribute {name}")


@functools.cache
def _pipeline_class() -> type:
    models.require_diffusers()
    from diffusers import DiffusionPipeline

    return type(
        "ReconXPipeline",
        (VideoGeneration, DiffusionPipeline),
        {"__module__": __name__, "__doc__": VideoGeneration.__doc__},
    )


class VideoGeneration:
    """Frames between (or beyond) two pictures, guided by the scene's structure.

    ::

        pipeline = ReconXPipeline.from_pretrained("models/reconx")  # made by `reconx convert dynamicrafter`
        result = pipeline(first, last, points=points_cam, generator=torch.Generator().manual_seed(0))
        result.frames  # [T, 320, 512, 3]

    Components: ``unet`` (ReconXUNet), ``vae`` (AutoencoderKL), ``resampler``, ``scheduler``; ``text_encoder``
    (CLIPTextModel), ``image_encoder`` (CLIPVisionModel), ``tokenizer`` (CLIPTokenizer) and ``structure_encoder`` may be
    absent from a folder, and are asked for when they are needed.
    """

    unet: Any
    vae: Any
    resampler: Any
    scheduler: Any
    text_encoder: Any
    image_encoder: Any
    tokenizer: Any
    structure_encoder: Any

    latent_stride: ClassVar[int] = LATENT_STRIDE
    model_cpu_offload_seq = "text_encoder->image_encoder->resampler->structure_encoder->unet->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "image_encoder", "tokenizer", "structure_encoder"]

    def __init__(
        self,
        unet: Any,
        vae: Any,
        resampler: Any,
        scheduler: Any,
        text_encoder: Any = None,
        image_encoder: Any = None,
        tokenizer: Any = None,
        structure_encoder: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(  # type: ignore[attr-defined]
            unet=unet,
            vae=vae,
            resampler=resampler,
            scheduler=scheduler,
            text_encoder=text_encoder,
            image_encoder=image_encoder,
            tokenizer=tokenizer,
            structure_encoder=structure_encoder,
        )

    @torch.no_grad()
    def __call__(
        self,
        first: torch.Tensor,
        last: torch.Tensor | None = None,
        *,
        points: torch.Tensor | None = None,
        trajectory: Trajectory | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        memory_limit_bytes: int | None = None,
        job: Job | None = None,
        callback_on_step_end: StepCallback | None = None,
        **settings: Any,
    ) -> GeneratedFrames:
        """Generate the frames of one sequence.

        Args:
            first: [H, W, 3] in [0, 1], frame 0; sides multiples of 64 for the public weights.
            last: [H, W, 3], frame ``last_frame``. None continues from the first alone.
            points: [P, 3] the scene, in the frame of the first camera, any unit. None runs without structure.
            trajectory: a camera for every frame, at the size of the pictures; only for networks with a camera branch.
            generator: source of noise; one on the CPU gives the same frames on every device.
            latents: [1, C, T, H / 8, W / 8] noise to start from; None draws it.
            memory_limit_bytes: what the run may take; None takes what is free.
            job: progress and cancellation, at every step.
            callback_on_step_end: called as diffusers' pipelines do, with (pipeline, number of the step, timestep,
                {"latents": latents after the step}); the latents it returns are taken.
            settings: fields of ``GenerationSettings``.

        Raises:
            InvalidInputError: for pictures, points, path or settings that cannot be used, or a NaN on the way.
            ReconstructionError: when the run does not fit into memory.
            CancelledError: when the job was cancelled.
        """
        options, job = GenerationSettings(**settings), job or Job(stage="generate views")
        config = self.unet.unet_config
        height, width = check_pictures(first, last, self.latent_stride * config.latent_multiple)
        frames = options.frames or config.temporal_length
        places = known_positions(frames, last is not None, options.last_frame)
        plan = self.plan(frames, height, width, points is not None, memory_limit_bytes)
        job.step(0.0, "encoding")
        encoded = self.encode(first, last, places, frames, options, points, trajectory)
        noise = self._start(encoded.known.shape, generator, latents)
        clean = self.sample(encoded, noise, options, generator, job, callback_on_step_end)
        pictures = self.decode(clean, plan, job)
        for place, given in zip(places, (first, last), strict=False):
            pictures[place] = given.detach().cpu().float()  # type: ignore[union-attr]
        job.step(1.0, "done")
        self.maybe_free_model_hooks()  # type: ignore[attr-defined]
        notes = usage_warnings(frames, config.temporal_length, first, last)
        return GeneratedFrames(
            frames=pictures, known_frames=places, latents=clean.cpu(), warnings=(*notes, *plan.notes)
        )

    def plan(
        self, frames: int, height: int, width: int, structure: bool = False, limit_bytes: int | None = None
    ) -> VideoMemoryPlan:
        """How a run fits into memory: ``limit_bytes``, or what is free. Errors as ``plan_memory``."""
        h, w = latent_size(height, width)
        tokens = self.structure_encoder.structure_config.tokens if structure and self.structure_encoder else 0
        step = unet_cost(self.unet.unet_config, frames, h, w, self.unet.dtype, tokens)
        device = self._execution_device  # type: ignore[attr-defined]
        tile = self.vae.tile_latent_min_size
        kind: Any = type(self.vae)
        decode = functools.partial(_decode_cost, kind, self.vae.to_json_string(), self.vae.dtype)
        return plan_memory(
            step=step,
            moved_bytes=0 if self.unet.device.type == device.type else step.weight_bytes,
            decode_bytes=decode(h, w).activation_bytes,
            tile_bytes=decode(min(h, tile), min(w, tile)).activation_bytes,
            frames=frames,
            size=f"{width}x{height}",
            available=free_bytes(device) if limit_bytes is None else limit_bytes,
        )

    def encode(
        self,
        first: torch.Tensor,
        last: torch.Tensor | None,
        places: tuple[int, ...],
        frames: int,
        options: GenerationSettings,
        points: torch.Tensor | None = None,
        trajectory: Trajectory | None = None,
    ) -> Encoded:
        """Everything the network is told; arguments as ``__call__``."""
        device, dtype = self._execution_device, self.unet.dtype  # type: ignore[attr-defined]
        self._require("text_encoder", "image_encoder")
        vocabulary = self.text_encoder.config.vocab_size
        ids = prompt_tokens(vocabulary, self.tokenizer, options.prompt, options.prompt_ids)
        ids = torch.cat([ids, prompt_tokens(vocabulary, None, "", None)]).to(device)
        text = self.text_encoder(ids).last_hidden_state.to(dtype)
        image, no_image = image_tokens(self.image_encoder, self.resampler, first, frames, device)
        pictures = [first] if last is None else [first, last]
        size = (first.shape[1], first.shape[0])
        cameras = camera_inputs(
            self.unet.unet_config, trajectory, points, places, frames, size, options.epipolar_threshold
        )
        return Encoded(
            known=known_latents(self.vae, pictures, places, frames, device),
            text=text[:1],
            empty_text=text[1:],
            image=image.to(dtype),
            no_image=no_image.to(dtype),
            structure=None if points is None else self._structure(points, device).to(dtype),
            fps=torch.tensor([options.fps or self.unet.unet_config.default_fps], device=device),
            cameras=_moved(cameras, device),
        )

    @torch.no_grad()
    def latents_from_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Clean latents [1, C, T, h, w] of a clip [T, H, W, 3] in [0, 1], scaled as the sampler has them."""
        places = range(len(pictures))
        return known_latents(self.vae, list(pictures), places, len(pictures), self._execution_device)  # type: ignore[attr-defined]

    def _structure(self, points: torch.Tensor, device: torch.device) -> torch.Tensor:
        self._require("structure_encoder")
        check_shape("points", points, "P", 3)
        return self.structure_encoder(points[None].to(device))

    def _require(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is None:
                raise InvalidInputError(f"the model folder has no {name}: pass {name}= to from_pretrained")

    def _start(
        self, shape: torch.Size, generator: torch.Generator | None, latents: torch.Tensor | None
    ) -> torch.Tensor:
        device = self._execution_device  # type: ignore[attr-defined]
        if latents is None:
            return _normal(shape, generator).to(device)
        check_shape("latents", latents, *shape)
        check_finite("latents", latents)
        return latents.float().to(device)

    def sample(
        self,
        encoded: Encoded,
        latents: torch.Tensor,
        options: GenerationSettings,
        generator: torch.Generator | None,
        job: Job,
        step_end: StepCallback | None = None,
    ) -> torch.Tensor:
        """Latents of the clean frames, from noise; cancellable at every step."""
        self.scheduler.set_timesteps(options.steps, options.eta, latents.device)
        steps = self.scheduler.timesteps
        for place, timestep in enumerate(steps):
            job.step(_ENCODING + _SAMPLING * place / len(steps), f"step {place + 1} of {len(steps)}")
            output = self._prediction(encoded, latents, timestep[None], options)
            noise = None
            if self.scheduler.sigma(place) > 0:
                noise = _normal(latents.shape, generator).to(latents.device)
            latents, _ = self.scheduler.step(output, place, latents, noise)
            if step_end is not None:
                latents = step_end(self, place, timestep, {"latents": latents}).get("latents", latents)
        return latents

    def _prediction(
        self, encoded: Encoded, latents: torch.Tensor, timestep: torch.Tensor, options: GenerationSettings
    ) -> torch.Tensor:
        """One evaluation for each kind of condition that guidance needs, one after the other to spare memory."""
        dtype = self.unet.dtype
        sample = torch.cat([latents, encoded.known], dim=1).to(dtype)

        def predict(text: torch.Tensor, image: torch.Tensor, structure: torch.Tensor | None) -> torch.Tensor:
            told = {"text": text, "image": image, "structure": structure, "fps": encoded.fps, **encoded.cameras}
            return self.unet(sample, timestep, **told).float()

        everything = predict(encoded.text, encoded.image, encoded.structure)
        if not options.guides:
            return everything
        structure_scale = options.image_guidance if options.structure_guidance is None else options.structure_guidance
        apart = encoded.structure is not None and structure_scale != options.image_guidance
        return guided(
            predict(encoded.empty_text, encoded.no_image, None),
            predict(encoded.text, encoded.image, None) if apart else None,
            everything,
            image_scale=options.image_guidance,
            structure_scale=structure_scale,
            rescale=options.guidance_rescale,
        )

    def decode(self, latents: torch.Tensor, plan: VideoMemoryPlan, job: Job) -> torch.Tensor:
        """Latents [1, C, T, h, w] to frames [T, H, W, 3] in [0, 1] on the CPU, one at a time."""
        self.vae.enable_tiling() if plan.tiled else self.vae.disable_tiling()
        codes, frames = latents[0].transpose(0, 1) / self.vae.config.scaling_factor, []
        for k, code in enumerate(codes):
            job.step(_ENCODING + _SAMPLING + (1 - _ENCODING - _SAMPLING) * k / len(codes), f"frame {k + 1}")
            picture = self.vae.decode(code[None].to(self.vae.dtype)).sample[0]
            frames.append(((picture.float() + 1) / 2).clamp(0, 1).permute(1, 2, 0).cpu())
        stacked = torch.stack(frames)
        check_finite("decoded frames", stacked)
        return stacked


def _normal(shape: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device="cpu" if generator is None else generator.device)


def _moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors of (one level of nested) keyword arguments on the device."""
    return {
        name: value.to(device)
        if isinstance(value, torch.Tensor)
        else _moved(value, device)
        if isinstance(value, dict)
        else value
        for name, value in inputs.items()
    }


@functools.lru_cache(maxsize=64)
def _decode_cost(kind: Any, config: str, dtype: torch.dtype, height: int, width: int) -> Cost:
    """Of an autoencoder's decoder for one frame, its configuration given as JSON."""
    values = json.loads(config)

    def run(network: Any) -> Any:
        return network.decode(torch.empty(1, values["latent_channels"], height, width, dtype=dtype))

    return measure(lambda: kind.from_config(values), run, dtype)
