"""Folders of video models in the format of diffusers: which there is, and which generator it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from reconx_ros.core import BackendUnavailableError, InvalidInputError
from reconx_ros.core.memory import limit_bytes
from reconx_ros.core.precision import dtype_from_precision
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.registry import FOLDED_PIPELINE, registry
from reconx_ros.weights.cache import ModelCache, module_bytes
from reconx_ros.weights.resolve import WeightsSource, resolve

INDEX = "model_index.json"
FOLDED = "patch_parts.json"  # in folders of small models that were trained from scratch
_SETTING = "diffusion.weights"
_PIPELINE_FILES = (INDEX, "*/*")  # of a repository: not the single files that lie beside them


class SizedModel(Protocol):
    """A loaded video model that knows its size."""

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        ...


Clips = TypeVar("Clips", bound=SizedModel)


def is_folded(folder: str) -> bool:
    """Whether a folder holds a small model that works on folded pixels, as `reconx train` makes from scratch."""
    path = Path(folder)
    return (path / FOLDED).is_file() and not (path / INDEX).exists()


def pipeline_class(folder: Path) -> str:
    """Name of the pipeline that a folder holds.

    Raises:
        InvalidInputError: when there is no index, or it names none.
    """
    index = folder / INDEX
    if is_folded(str(folder)):
        return FOLDED_PIPELINE
    try:
        name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except FileNotFoundError:
        raise InvalidInputError(
            f"diffusion.weights is '{folder}', which has no {INDEX}: expected a folder in the format of diffusers, as"
            " `reconx convert dynamicrafter` writes it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"'{index}' cannot be read as the index of a model: {error}") from None
    return name[-1] if isinstance(name, list) else str(name)


def generator_for(weights: str) -> str | None:
    """Name of the view generator that weights are for; None when no generator runs them.

    Raises:
        WeightsError: when they are not here.
        InvalidInputError: as ``pipeline_class``.
    """
    return _generator_for(pipeline_class(resolve(weights, setting=_SETTING).path))


def _generator_for(name: str) -> str | None:
    return next((row.name for row in registry().values() if name in row.runs), None)


def checked_source(config: DiffusionConfig, generator: str, cure: str) -> WeightsSource:
    """The folder that the configuration names, which holds a model for a generator.

    Args:
        config: ``weights`` and ``download`` are read.
        generator: name of the view generator that asks.
        cure: what a user without weights should do.

    Raises:
        WeightsError: when no weights are named, or they are not here.
        InvalidInputError: when the folder holds something else.
    """
    source = resolve(config.weights, setting=_SETTING, cure=cure, download=_PIPELINE_FILES if config.download else ())
    name, wanted = pipeline_class(source.path), registry()[generator].runs
    if name not in wanted:
        fitting = _generator_for(name)
        advice = f"take diffusion.backend '{fitting}'" if fitting else "no view generator runs it"
        raise InvalidInputError(
            f"{_SETTING} is '{source.path}', which holds a {name}, but backend '{generator}' runs {wanted[0]}: {advice}"
        )
    return source


def resident(
    models: ModelCache, source: WeightsSource, config: DiffusionConfig, device: torch.device, load: Callable[[], Clips]
) -> Clips:
    """A loaded video model out of a cache: by its files, precision, device and whether parts of it are offloaded."""
    return models.get(
        [source],
        "video model",
        load,
        dtype=dtype_from_precision(config.precision, device, parameter="diffusion.precision"),
        device=device,
        size=lambda clips: clips.size_bytes,
        limit_bytes=limit_bytes(config.max_memory_gb) or 0,
        variant="offloaded" if config.offload else "",
    )


def parts_bytes(pipeline: Any) -> int:
    """Weights of a diffusers pipeline, or of one like it."""
    parts = pipeline.components if hasattr(pipeline, "components") else vars(pipeline)
    return module_bytes(*parts.values())


def load_error(source: Path, error: Exception) -> InvalidInputError:
    """One sentence for weights that the libraries refuse."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else "no reason given"
    return InvalidInputError(f"diffusion.weights '{source}' cannot be loaded ({type(error).__name__}: {reason})")


def place(pipeline: object, config: DiffusionConfig, device: torch.device) -> None:
    """Bring a diffusers pipeline to its device, whole or part by part as it works.

    Raises:
        BackendUnavailableError: for parts without accelerate.
        InvalidInputError: for parts on a CPU, where there is nothing to bring them from.
    """
    if not config.offload:
        pipeline.to(device)  # type: ignore[attr-defined]
        return
    if device.type == "cpu":
        raise InvalidInputError("diffusion.offload is on, but the device is the CPU: there is nowhere to offload from")
    try:
        pipeline.enable_model_cpu_offload(device=device)  # type: ignore[attr-defined]
    except ImportError:
        raise BackendUnavailableError(
            "diffusion.offload needs the Python package accelerate: run pip install 'reconx_ros[models]'"
        ) from None
