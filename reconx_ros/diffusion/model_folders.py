"""Folders of video models in the format of diffusers: which there is, and which generator it is for."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from reconx_ros.core import BackendUnavailableError, InvalidInputError
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.registry import FOLDED_PIPELINE, registry

INDEX = "model_index.json"
FOLDED = "patch_parts.json"  # in folders of small models that were trained from scratch


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
    """Name of the view generator that a folder's weights are for; None when no generator runs them.

    Raises:
        InvalidInputError: as ``pipeline_class``.
    """
    name = pipeline_class(Path(weights).expanduser())
    return next((row.name for row in registry().values() if name in row.runs), None)


def checked_source(config: DiffusionConfig, generator: str, cure: str, *, hub: bool) -> str:
    """Where weights are loaded from: a folder, or a hub name where those are allowed.

    Args:
        config: ``weights`` is read.
        generator: name of the view generator that asks.
        cure: what a user without weights should do.
        hub: whether ``owner/name`` may be a name on the hub.

    Raises:
        BackendUnavailableError: when no weights are named, or the folder does not exist.
        InvalidInputError: when the folder holds something else.
    """
    if not config.weights:
        raise BackendUnavailableError(f"backend '{generator}' needs weights and diffusion.weights is empty: {cure}")
    folder = Path(config.weights).expanduser()
    if (
        not folder.exists()
        and hub
        and config.weights.count("/") == 1
        and not config.weights.startswith((".", "/", "~"))
    ):
        return config.weights
    if not folder.is_dir():
        raise BackendUnavailableError(
            f"backend '{generator}' needs weights and diffusion.weights is '{config.weights}', which is no folder:"
            f" {cure}"
        )
    name, wanted = pipeline_class(folder), registry()[generator].runs
    if name not in wanted:
        fitting = generator_for(config.weights)
        advice = f"take diffusion.backend '{fitting}'" if fitting else "no view generator runs it"
        raise InvalidInputError(
            f"diffusion.weights is '{folder}', which holds a {name}, but backend '{generator}' runs {wanted[0]}:"
            f" {advice}"
        )
    return str(folder)


def load_error(source: str, error: Exception) -> InvalidInputError:
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
