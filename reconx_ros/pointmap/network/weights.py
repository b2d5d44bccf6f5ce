"""Reads and writes weights: the published ``.pth``, the hub's folder, MASt3R files, and networks trained here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from reconx_ros.core import InvalidInputError, StorageError, WeightsError
from reconx_ros.core.files import whole_file
from reconx_ros.pointmap.network.architecture import NetworkConfig, config_from_arguments, config_from_string
from reconx_ros.pointmap.network.keys import matched
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.weights.resolve import how_to_get
from reconx_ros.weights.tensors import read_content, read_tensors

PUBLISHED_NAME = "dust3r-512-dpt"  # in the catalogue
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "training_card.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedNetwork:
    """A network ready for inference.

    Attributes:
        network: in evaluation mode, float32, without gradients.
        notes: sentences for the report: parts of the file that take no part.
        card: training card of a network that was trained here; None for the published ones.
    """

    network: PointmapNetwork
    notes: tuple[str, ...]
    card: Mapping[str, Any] | None


def load_network(path: Path | str, device: torch.device | str = "cpu") -> LoadedNetwork:
    """Load a network from a file or folder.

    Args:
        path: a ``.pth`` file of the published training code, a ``.safetensors`` file with ``config.json`` or a card of
            its own name beside it, or a folder with ``config.json`` and ``model.safetensors``.
        device: where the network will lie.

    Raises:
        WeightsError: when the file is missing, damaged or no weights at all.
        InvalidInputError: when it is another model's: wrong description, or missing, unknown or misshapen tensors.
    """
    path = Path(path).expanduser()
    if path.is_dir() or path.suffix == ".safetensors":
        config, state = _read_hub(path)
    else:
        config, state = _read_pth(path)
    with torch.device("meta"):
        network = PointmapNetwork(config)
    found = matched(state, network.state_dict(), path.name)
    # A copy: what is mapped from a file changes with the file.
    state = {k: v.to(device, torch.float32, copy=True) for k, v in found.state.items()}
    network.load_state_dict(state, strict=True, assign=True)
    network.eval().requires_grad_(False)
    return LoadedNetwork(network=network, notes=found.notes, card=_read_card(path))


def save_network(folder: Path, network: PointmapNetwork, state: Mapping[str, torch.Tensor], card: Any) -> None:
    """Write ``config.json``, ``model.safetensors`` and the training card of a network that was trained here.

    Args:
        folder: made if it does not exist.
        network: gives the configuration.
        state: parameters to write, for example averaged ones.
        card: plain values that say how the network was made.

    Raises:
        StorageError: when something cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / WEIGHTS_FILE) as temporary:
            temporary.write_bytes(save(tensors))
        _write_json(folder / CONFIG_FILE, network.config.as_arguments())
        _write_json(folder / CARD_FILE, card)
    except OSError as err:
        raise StorageError(f"network folder {folder} cannot be written: {err.strerror or err}") from None


def _write_json(path: Path, content: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _read_hub(path: Path) -> tuple[NetworkConfig, dict[str, torch.Tensor]]:
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    return config_from_arguments(_described(weights)), read_tensors(weights)


def _described(weights: Path) -> dict[str, Any]:
    """The architecture: config.json beside the weights, or the entry of their own card."""
    card, description = weights.with_suffix(".json"), weights.parent / CONFIG_FILE
    if card.is_file():
        config = _read_json(card).get("config")
        if isinstance(config, dict):
            return config
    if not description.is_file():
        raise WeightsError(f"network folder {weights.parent} has no {CONFIG_FILE}; {how_to_get(PUBLISHED_NAME)}")
    return _read_json(description)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise WeightsError(f"network description {path} cannot be read ({_first_line(err)}), expected JSON") from None
    if not isinstance(content, dict):
        raise InvalidInputError(f"network description {path} holds a {type(content).__name__}, expected an object")
    return content


def _read_pth(path: Path) -> tuple[NetworkConfig, dict[str, Any]]:
    content = read_content(path, [argparse.Namespace])  # which holds plain values
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InvalidInputError(
            f"checkpoint {path.name} has no entry 'model', expected a DUSt3R checkpoint; {how_to_get(PUBLISHED_NAME)}"
        )
    args = content.get("args")
    description = getattr(args, "model", None)
    if not isinstance(args, argparse.Namespace) or not isinstance(description, str):
        raise InvalidInputError(
            f"checkpoint {path.name} does not say its architecture in args.model, expected a DUSt3R checkpoint; "
            f"{how_to_get(PUBLISHED_NAME)}"
        )
    return config_from_string(description), content["model"]


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _read_card(path: Path) -> Mapping[str, Any] | None:
    """The card of a folder, or of a single file that has its own."""
    if path.suffix in (".pth", ".pt", ".ckpt"):
        return None
    found = [path / CARD_FILE] if path.is_dir() else [path.with_suffix(".json"), path.with_name(CARD_FILE)]
    return next((_read_json(card) for card in found if card.is_file()), None)
