"""Reading and writing the completion network: one safetensors file in half precision, its card beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from reconx_ros.core import InvalidInputError, WeightsError
from reconx_ros.core.files import write_bytes, write_text
from reconx_ros.pointmap.completion.network import CompletionConfig, CompletionNetwork
from reconx_ros.pointmap.completion.predict import Prediction
from reconx_ros.weights.tensors import read_tensors

SHIPPED_NAME = "reconx-depth-small"  # in the catalogue
TRAINED_NAME = "model.safetensors"  # in the folder of a training


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedCompletion:
    """A network ready for inference.

    Attributes:
        network: in evaluation mode, without gradients.
        card: how it was made.
    """

    network: CompletionNetwork
    card: Mapping[str, Any]

    def calibrated(self, found: Prediction) -> Prediction:
        """A prediction whose certainty is what held-out errors showed it to be (``calibration`` of the card)."""
        knots = self.card.get("calibration")
        if not knots:
            return found
        claimed, right = np.array(knots).T
        sure = np.interp(found.certainty.numpy(), claimed, right).astype(np.float32)
        return replace(found, certainty=torch.from_numpy(sure))


def save_completion(path: Path, config: CompletionConfig, state: Mapping[str, torch.Tensor], card: Any) -> None:
    """Write ``NAME.safetensors`` in half precision and ``NAME.json``.

    Raises:
        StorageError: when something cannot be written.
    """
    tensors = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in state.items()}
    write_bytes(path, save(tensors))
    write_text(path.with_suffix(".json"), json.dumps({"config": config.as_arguments(), **card}, indent=1) + "\n")


def load_completion(path: Path, device: torch.device | str = "cpu") -> LoadedCompletion:
    """Read a network and its card.

    Raises:
        WeightsError: when a file is missing or damaged.
        InvalidInputError: when they are of another network.
    """
    card = _read_card(path.with_suffix(".json"))
    network = CompletionNetwork(CompletionConfig.from_arguments(dict(card["config"])))
    state, wanted = read_tensors(path), network.state_dict()
    wrong = sorted(set(state) ^ set(wanted)) or [k for k, v in wanted.items() if state[k].shape != v.shape]
    if wrong:
        raise InvalidInputError(f"weights {path} do not fit their card: {wrong[0]}, expected a file of one training")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return LoadedCompletion(network=network.to(device).eval().requires_grad_(False), card=card)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise WeightsError(
            f"card {path} of completion weights cannot be read, expected JSON beside the weights"
        ) from None
    if not isinstance(card, dict) or not isinstance(card.get("config"), dict):
        raise WeightsError(f"card {path} does not describe a completion network, expected an entry 'config'")
    return card
