"""Trained models as diffusers folders: safetensors weights, configurations, licence and training card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import InvalidInputError, ReconxError, StorageError
from reconx_ros.diffusion.model_folders import FOLDED
from reconx_ros.diffusion.network import models
from reconx_ros.diffusion.network.folded import FoldedPipeline
from reconx_ros.diffusion.network.patches import PatchParts
from reconx_ros.diffusion.training.config import VideoNetworkSettings
from reconx_ros.diffusion.training.initial import wake_structure
from reconx_ros.diffusion.training.model import Prepared, VideoModel

CARD_FILE = "training_card.json"
_UNET, _STRUCTURE, _SCHEDULER = "unet", "structure_encoder", "scheduler"


def fresh(settings: VideoNetworkSettings, frames: int, seed: int) -> Prepared:
    """A small model with initial weights of a seed, for clips of T frames.

    Raises:
        ConfigError: for sizes that do not fit each other.
        BackendUnavailableError: without diffusers.
    """
    config, structure, schedule = settings.unet_config(frames), settings.structure_config(), settings.schedule_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = models.ReconXUNet(**asdict(config))
        encoder = models.ReconXStructureEncoder(**asdict(structure)) if structure else None
        if encoder is not None:
            wake_structure(unet, encoder, settings.structure_gate, settings.structure_focus)
    return Prepared(
        model=VideoModel(unet, encoder),
        frozen=PatchParts(settings.patch, settings.image_tokens),
        schedule=schedule,
        description={
            "kind": "from scratch, folded pixels in place of an autoencoder, no CLIP",
            "patch": settings.patch, "image_tokens": settings.image_tokens, "unet": asdict(config),
            "structure_encoder": asdict(structure) if structure else None, "schedule": asdict(schedule),
        },
    )  # fmt: skip


def load_small(folder: Path) -> Prepared:
    """A small model that ``save_small`` wrote.

    Raises:
        StorageError: when a file is missing or cannot be read.
        InvalidInputError: when the description of the folded pixels cannot be read.
    """
    with storage_errors(folder, "read"):
        loaded = FoldedPipeline.from_folder(folder, torch.device("cpu"), torch.float32)
    return Prepared(
        model=VideoModel(loaded.unet, loaded.structure_encoder),
        frozen=loaded.parts,
        schedule=loaded.scheduler.schedule,
        description={"loaded_from": str(folder)},
    )


def save_small(folder: Path, prepared: Prepared, card: Mapping[str, Any]) -> None:
    """Write a small model and its card. A crash while writing leaves the model before it.

    Raises:
        StorageError: when it cannot be written.
    """
    model: Any = prepared.model
    frozen = prepared.frozen
    if not isinstance(frozen, PatchParts):
        raise InvalidInputError("only a model with folded pixels can be saved as a small one")
    parts: dict[str, Callable[[Path], Any]] = {_UNET: model.unet.save_pretrained}
    if model.structure_encoder is not None:
        parts[_STRUCTURE] = model.structure_encoder.save_pretrained
    parts[_SCHEDULER] = models.ReconXScheduler(**asdict(prepared.schedule)).save_pretrained
    with storage_errors(folder, "written"):
        for name, save in parts.items():
            _replaced(folder / name, save)
        patch = {"_class_name": "PatchParts", "patch": frozen.codec.patch, "image_tokens": frozen.image_tokens}
        (folder / FOLDED).write_text(json.dumps(patch, indent=2) + "\n", encoding="utf-8")
    save_card(folder, card)


def save_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the training card, and a model card with the licence.

    Raises:
        StorageError: when it cannot be written.
    """
    with storage_errors(folder, "written"):
        (folder / CARD_FILE).write_text(json.dumps(dict(card), indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_model_card(card), encoding="utf-8")


def _model_card(card: Mapping[str, Any]) -> str:
    scores = card.get("validation") or {}
    rows = "".join(f"| {name} | {value:.4f} |\n" for name, value in scores.items() if isinstance(value, float))
    source = card["data"].get("source", "own data")
    return (
        f"---\nlicense: {str(card['licence']).lower()}\nlibrary_name: diffusers\n---\n\n# Video model of reconx_ros\n\n"
        f"{card['parameters']:,} parameters, {card['steps_done']:,} steps on: {source}.\n"
        f"{CARD_FILE} holds all settings and versions.\n\n| On held-out clips | |\n|---|---|\n{rows}"
    )


def _replaced(target: Path, save: Callable[[Path], Any]) -> None:
    """Write a folder beside its place, then put it there."""
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)


@contextmanager
def storage_errors(folder: Path, verb: str) -> Iterator[None]:
    """Errors of files as StorageError; safetensors, diffusers and transformers raise their own kinds."""
    try:
        yield
    except ReconxError:
        raise
    except Exception as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise StorageError(f"model in {folder} cannot be {verb}: {reason}") from None
