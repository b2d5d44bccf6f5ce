"""Public DynamiCrafter and ViewCrafter checkpoints to a folder that diffusers loads."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import BackendUnavailableError, InvalidInputError, Job, StorageError
from reconx_ros.diffusion.conversion.conversion_plan import Part, check_complete, planned_tensors
from reconx_ros.diffusion.conversion.safetensors_file import PlannedTensor, write_safetensors
from reconx_ros.diffusion.network import architecture
from reconx_ros.diffusion.network.architecture import PublishedSettings, write_json
from reconx_ros.diffusion.network.checkpoint_keys import (
    TEXT,
    VISION,
    resampler_sources,
    text_sources,
    unet_sources,
    vae_sources,
    vision_sources,
)
from reconx_ros.diffusion.network.resampler import Resampler
from reconx_ros.diffusion.network.sampler import ScheduleConfig
from reconx_ros.diffusion.network.structure_encoder import StructureConfig, StructureEncoder
from reconx_ros.diffusion.network.unet import VideoUNet
from reconx_ros.weights.tensors import StoredTensor, open_tensors

_MODELS = "reconx_ros.diffusion.network.models"
_SPARE = 64 * 2**20  # bytes of disk beyond the weights: configuration files, tokenizer, file system
_OPTIONAL = {"text_encoder": TEXT, "image_encoder": VISION}


@dataclass(frozen=True, kw_only=True)
class Additions:
    """Branches that public checkpoints do not have; they change nothing until they are trained.

    Attributes:
        structure: of ReconX's structure encoder; None leaves the branch out.
        camera_channels: width of the camera encoder; 0 leaves it out.
        epipolar_levels: levels with epipolar attention.
    """

    structure: StructureConfig | None = field(default_factory=StructureConfig)
    camera_channels: int = 0
    epipolar_levels: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did.

    Attributes:
        folder: that was written.
        consumed: number of the checkpoint's weights that were used.
        ignored: number of weights left out, by reason.
        written: bytes of each component's weights.
        notes: what the user should know.
    """

    folder: Path
    consumed: int
    ignored: dict[str, int]
    written: dict[str, int]
    notes: tuple[str, ...]


def convert_dynamicrafter(
    path: Path,
    folder: Path,
    *,
    settings: PublishedSettings | None = None,
    dtype: torch.dtype | None = None,
    additions: Additions | None = None,
    tokenizer: Path | None = None,
    job: Job | None = None,
) -> Conversion:
    """Write U-Net, autoencoder, CLIP towers, resampler, schedule and a fresh structure encoder as a diffusers folder.

    Weights pass one at a time from the checkpoint's mapped file to the new ones.

    Args:
        path: ``model.ckpt`` of DynamiCrafter 512, 512_interp or 1024 or of ViewCrafter, or a pruned ``.safetensors``.
        folder: to be made; must not exist, or be empty.
        settings: what the weights do not show; see ``architecture.read_settings``.
        dtype: of the written weights; None keeps the checkpoint's.
        additions: our own branches.
        tokenizer: folder of a CLIPTokenizer to be copied in; without one only empty prompts can be encoded.
        job: progress and cancellation, at every weight.

    Raises:
        StorageError: when the checkpoint is not complete, or the disk too small or not writable.
        InvalidInputError: when weights are missing, unknown or of another shape, or the folder is not empty.
        BackendUnavailableError: without diffusers or transformers.
    """
    assumed = settings is None
    settings, job = settings or PublishedSettings(), job or Job(stage="convert")
    _check_folder(folder, tokenizer)
    with open_tensors(path) as stored:
        parts, schedule, notes = plan_parts(stored, settings, additions or Additions())
        ignored = check_complete(str(path), stored, parts)
        plans = {part.folder: planned_tensors(part, stored, dtype) for part in parts}
        sizes = {name: sum(t.nbytes for t in plan.values()) for name, plan in plans.items()}
        _check_disk(folder, sum(sizes.values()))
        progress = _Progress(job, sum(sizes.values()))
        with _whole_or_not(folder) as unfinished:
            _write(unfinished, parts, plans, schedule, tokenizer, progress)
    consumed = len({source.key for part in parts for source in part.sources.values()})
    if assumed:
        notes.append(
            f"no settings file: {settings.default_fps} frames per second and the head sizes of DynamiCrafter 512 are"
            " assumed; ViewCrafter and the model of 1024 pixels have 10"
        )
    if tokenizer is None:
        notes.append("no tokenizer: prompts other than the empty one need --tokenizer with a folder of CLIP's")
    return Conversion(folder=folder, consumed=consumed, ignored=ignored, written=sizes, notes=tuple(notes))


def plan_parts(
    stored: Mapping[str, StoredTensor], settings: PublishedSettings, additions: Additions
) -> tuple[list[Part], ScheduleConfig, list[str]]:
    """The components that a checkpoint becomes, its noise schedule, and notes; reads shapes and two small tables.

    Raises:
        InvalidInputError: when a weight that tells a size is missing.
        BackendUnavailableError: without diffusers or transformers.
    """
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    tables = {name: stored[name].read() for name in ("betas", "scale_arr") if name in stored}
    schedule = architecture.schedule_in(tables, settings.schedule)
    notes = []
    parts = [*_unet_parts(shapes, settings, additions), _vae_part(shapes)]
    if architecture.has_part(shapes, TEXT):
        parts.append(_text_part(shapes, settings))
    if architecture.has_part(shapes, VISION):
        parts.append(_vision_part(shapes, settings))
    for name in _OPTIONAL.keys() - {part.folder for part in parts}:
        notes.append(
            f"the checkpoint holds no {name.replace('_', ' ')}: pass {name}= to ReconXPipeline.from_pretrained"
        )
    if "betas" not in stored:
        notes.append("the checkpoint holds no noise schedule: that of the settings is assumed")
    return parts, schedule, sorted(notes)


def _unet_parts(shapes: architecture.Shapes, settings: PublishedSettings, additions: Additions) -> list[Part]:
    resampler = architecture.resampler_config(shapes, settings)
    structure = additions.structure
    unet = dataclasses.replace(
        architecture.unet_config(shapes, settings, resampler.frames),
        structure_dim=structure.width if structure else 0,
        camera_channels=additions.camera_channels,
        epipolar_levels=additions.epipolar_levels,
    )
    parts = [
        _own_part("unet", "ReconXUNet", unet, _on_meta(lambda: VideoUNet(unet))),
        _own_part("resampler", "ReconXResampler", resampler, _on_meta(lambda: Resampler(resampler))),
    ]
    parts[0].sources = unet_sources(unet, parts[0].shapes)
    parts[1].sources = resampler_sources(parts[1].shapes)
    if structure:
        network = _on_meta(lambda: StructureEncoder(structure))
        parts.append(_own_part("structure_encoder", "ReconXStructureEncoder", structure, network))
    return parts


def _own_part(folder: str, class_name: str, config: Any, network: torch.nn.Module) -> Part:
    return Part(
        folder=folder,
        library=_MODELS,
        class_name=class_name,
        config={"_class_name": class_name, **dataclasses.asdict(config)},
        shapes=_shapes(network),
    )


def _vae_part(shapes: architecture.Shapes) -> Part:
    config = architecture.vae_config(shapes)
    with _needs("diffusers"):
        from diffusers import AutoencoderKL
    network = _on_meta(lambda: AutoencoderKL(**config))
    part = Part(
        "vae", "diffusers", "AutoencoderKL", {"_class_name": "AutoencoderKL", **config}, shapes=_shapes(network)
    )
    part.sources = vae_sources(len(config["block_out_channels"]), part.shapes)
    return part


def _text_part(shapes: architecture.Shapes, settings: PublishedSettings) -> Part:
    config = architecture.text_config(shapes, settings)
    with _needs("transformers"):
        from transformers import CLIPTextConfig, CLIPTextModel
    made = CLIPTextConfig(**config)
    network = _on_meta(lambda: CLIPTextModel(made))
    sources = text_sources(config["num_hidden_layers"])
    return _clip_part("text_encoder", "CLIPTextModel", made, network, "text_model.", sources)


def _vision_part(shapes: architecture.Shapes, settings: PublishedSettings) -> Part:
    config = architecture.vision_config(shapes, settings)
    with _needs("transformers"):
        from transformers import CLIPVisionConfig, CLIPVisionModel
    made = CLIPVisionConfig(**config)
    network = _on_meta(lambda: CLIPVisionModel(made))
    sources = vision_sources(config["num_hidden_layers"])
    return _clip_part("image_encoder", "CLIPVisionModel", made, network, "vision_model.", sources)


def _clip_part(
    folder: str, class_name: str, config: Any, network: torch.nn.Module, prefix: str, sources: dict[str, Any]
) -> Part:
    """Weights are named as public CLIP files name them, with the prefix that transformers 5 no longer has inside."""
    named = {prefix + name.removeprefix(prefix): shape for name, shape in _shapes(network).items()}
    named.pop(prefix + "embeddings.position_ids", None)
    content = {**config.to_dict(), "architectures": [class_name]}
    part = Part(folder, "transformers", class_name, content, weights_file="model.safetensors")
    part.sources, part.shapes = sources, named
    if unknown := named.keys() ^ sources.keys():
        raise InvalidInputError(f"{class_name} of this transformers version has another layout: '{min(unknown)}'")
    return part


def _on_meta(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    with torch.device("meta"):
        return build()


def _shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@contextlib.contextmanager
def _needs(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise BackendUnavailableError(
            f"converting needs the Python package {package}: run pip install 'reconx_ros[models]'"
        ) from error


@contextlib.contextmanager
def _whole_or_not(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one that takes its name at the end, and is removed when something goes wrong."""
    unfinished = _unfinished(folder)
    try:
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"folder {folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


class _Progress:
    """Bytes written so far, told to the job."""

    def __init__(self, job: Job, total: int) -> None:
        self._job, self._total, self._done = job, max(total, 1), 0

    def __call__(self, name: str, size: int) -> None:
        self._done += size
        self._job.step(self._done / self._total, name)


def _write(
    folder: Path,
    parts: list[Part],
    plans: dict[str, dict[str, PlannedTensor]],
    schedule: ScheduleConfig,
    tokenizer: Path | None,
    progress: _Progress,
) -> None:
    from diffusers import __version__

    index: dict[str, Any] = {"_class_name": "ReconXPipeline", "_diffusers_version": __version__}
    for name in ("text_encoder", "image_encoder", "tokenizer", "structure_encoder"):
        index[name] = [None, None]
    for part in parts:
        write_json(folder / part.folder / part.config_file, part.config)
        write_safetensors(folder / part.folder / part.weights_file, plans[part.folder], progress)
        index[part.folder] = [part.library, part.class_name]
    write_json(
        folder / "scheduler" / "scheduler_config.json",
        {"_class_name": "ReconXScheduler", **dataclasses.asdict(schedule)},
    )
    index["scheduler"] = [_MODELS, "ReconXScheduler"]
    if tokenizer is not None:
        shutil.copytree(tokenizer, folder / "tokenizer")
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    write_json(folder / "model_index.json", index)


def _check_folder(folder: Path, tokenizer: Path | None) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"folder {folder} exists and is not empty, expected a new or an empty one")
    if _unfinished(folder).exists():
        raise InvalidInputError(f"folder {_unfinished(folder)} is left from an interrupted conversion: remove it first")
    if tokenizer is not None and not (tokenizer / "merges.txt").is_file():
        raise InvalidInputError(f"tokenizer {tokenizer} has no merges.txt, expected a folder of a CLIP tokenizer")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"folder {folder.parent} cannot be made: {error.strerror or error}") from None


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < needed + _SPARE:
        raise StorageError(
            f"disk of {folder.parent} has {free / 1e9:.2f} GB free, the converted weights need"
            f" {(needed + _SPARE) / 1e9:.2f} GB"
        )
