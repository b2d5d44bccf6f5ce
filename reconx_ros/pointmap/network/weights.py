"""Reads and writes weights: the published ``.pth``, the hub's folder, MASt3R files, and networks trained here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import BackendUnavailableError, InvalidInputError, StorageError
from reconx_ros.core.files import whole_file
from reconx_ros.pointmap.network.architecture import NetworkConfig, config_from_arguments, config_from_string
from reconx_ros.pointmap.network.keys import matched
from reconx_ros.pointmap.network.model import PointmapNetwork

HUB_ID = "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"
HOW_TO_GET = (
    f"the published network is {HUB_ID}, licence CC BY-NC-SA 4.0 (non-commercial): run 'hf download {HUB_ID} "
    "--local-dir DIR' and set pointmap.dust3r.weights to DIR, or to a .pth file"
)
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "training_card.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedNetwork:
    """A network ready for inference on the CPU.

    Attributes:
        network: in evaluation mode, float32, without gradients.
        notes: sentences for the report: parts of the file that take no part.
        card: training card of a network that was trained here; None for the published ones.
    """

    network: PointmapNetwork
    notes: tuple[str, ...]
    card: Mapping[str, Any] | None


def load_network(path: Path | str) -> LoadedNetwork:
    """Load a network from a file or folder.

    Args:
        path: a ``.pth`` file of the published training code, a ``.safetensors`` file with ``config.json`` beside it, or
            a folder with ``config.json`` and ``model.safetensors``.

    Raises:
        StorageError: when the file is missing, truncated or unreadable.
        InvalidInputError: when it is another model's: wrong description, or missing, unknown or misshapen tensors.
        BackendUnavailableError: when the package that reads it is not installed.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise StorageError(f"network weights {path} do not exist; {HOW_TO_GET}")
    if path.is_dir() or path.suffix == ".safetensors":
        config, state = _read_hub(path)
    else:
        config, state = _read_pth(path)
    with torch.device("meta"):
        network = PointmapNetwork(config)
    found = matched(state, network.state_dict(), path.name)
    network.load_state_dict({k: v.float() for k, v in found.state.items()}, strict=True, assign=True)
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
        BackendUnavailableError: when safetensors is not installed.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / WEIGHTS_FILE) as temporary:
            temporary.write_bytes(_safetensors().save(tensors))
        _write_json(folder / CONFIG_FILE, network.config.as_arguments())
        _write_json(folder / CARD_FILE, card)
    except OSError as err:
        raise StorageError(f"network folder {folder} cannot be written: {err.strerror or err}") from None


def _write_json(path: Path, content: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise BackendUnavailableError(
            "weights in safetensors files need the Python package safetensors: run pip install 'reconx_ros[models]'"
        ) from None
    return safetensors.torch


def _read_hub(path: Path) -> tuple[NetworkConfig, dict[str, torch.Tensor]]:
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    description = weights.parent / CONFIG_FILE
    for file in (description, weights):
        if not file.is_file():
            raise StorageError(f"network folder {weights.parent} has no {file.name}; {HOW_TO_GET}")
    arguments = _read_json(description)
    config = config_from_arguments(arguments)
    library = _safetensors()
    try:
        return config, library.load_file(weights)
    except Exception as err:  # the library raises classes of its own
        raise StorageError(
            f"network weights {weights} cannot be read ({_first_line(err)}), expected a complete file"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise StorageError(f"network description {path} cannot be read ({_first_line(err)}), expected JSON") from None
    if not isinstance(content, dict):
        raise InvalidInputError(f"network description {path} holds a {type(content).__name__}, expected an object")
    return content


def _read_pth(path: Path) -> tuple[NetworkConfig, dict[str, Any]]:
    content = _unpickled(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InvalidInputError(
            f"checkpoint {path.name} has no entry 'model', expected a DUSt3R checkpoint; {HOW_TO_GET}"
        )
    args = content.get("args")
    description = getattr(args, "model", None)
    if not isinstance(args, argparse.Namespace) or not isinstance(description, str):
        raise InvalidInputError(
            f"checkpoint {path.name} does not say its architecture in args.model, expected a DUSt3R checkpoint; "
            f"{HOW_TO_GET}"
        )
    return config_from_string(description), content["model"]


def _unpickled(path: Path) -> Any:
    """Tensors and plain values of a checkpoint; of other classes argparse.Namespace only, which holds plain values."""
    if not hasattr(torch.serialization, "safe_globals"):
        raise BackendUnavailableError(
            f"checkpoints (.pth) need PyTorch 2.5 or newer, and {torch.__version__} is installed"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as err:
        raise StorageError(f"checkpoint {path} cannot be read: {err.strerror or err}") from None
    except Exception as err:  # torch raises RuntimeError, UnpicklingError, EOFError and others
        if "Unsupported global" in str(err) or "Unsupported class" in str(err):
            raise InvalidInputError(
                f"checkpoint {path.name} would run foreign code when read ({_foreign(str(err))}), "
                "expected tensors and plain values"
            ) from None
        raise StorageError(
            f"checkpoint {path} cannot be read ({_first_line(err)}), expected a complete PyTorch file"
        ) from None


def _foreign(message: str) -> str:
    """The class that the reader refused, out of its message."""
    words = message.replace("`", " ").split()
    after = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("GLOBAL", "class")]
    return next((word.strip(".,") for word in after if "." in word), "a class that is not allowed")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _read_card(path: Path) -> Mapping[str, Any] | None:
    card = (path if path.is_dir() else path.parent) / CARD_FILE
    return _read_json(card) if path.suffix not in (".pth", ".pt", ".ckpt") and card.is_file() else None
