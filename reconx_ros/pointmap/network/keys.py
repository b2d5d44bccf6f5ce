"""Matches the tensors of a file with the parameters of a network: every one is consumed or the file is refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reconx_ros.core import InvalidInputError

# In checkpoints of the published code this tensor has two names; safetensors files keep only one of them.
_TIED = re.compile(r"^(downstream_head[12]\.dpt\.scratch\.)layer_rn\.([0-3])\.weight$")
_DESCRIPTOR_HEAD = re.compile(r"^downstream_head[12]\.head_local_features\.")
_NAMED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """Tensors under the names of the network's parameters, and sentences about what was left out."""

    state: dict[str, torch.Tensor]
    notes: tuple[str, ...]


def matched(state: Mapping[str, Any], expected: Mapping[str, torch.Tensor], source: str) -> Matched:
    """Give each parameter its tensor.

    Two names of one tensor are merged, a file without a second decoder gives its only one to both, and the descriptor
    head of MASt3R is left out.

    Args:
        state: name to tensor, as in the file.
        expected: name to a tensor of the right shape, possibly on the meta device.
        source: the file's name, for messages.

    Raises:
        InvalidInputError: when tensors are missing, unknown or of another shape; the first few are named.
    """
    _require_tensors(state, source)
    tensors = _without_ties(state, source)
    descriptors = [name for name in tensors if _DESCRIPTOR_HEAD.match(name)]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in set(descriptors)}
    notes = []
    if descriptors:
        notes.append(f"{source} is a MASt3R file: its local-feature head ({len(descriptors)} tensors) is not used")
    if not any(name.startswith("dec_blocks2.") for name in tensors):
        copies = {
            n.replace("dec_blocks.", "dec_blocks2.", 1): t for n, t in tensors.items() if n.startswith("dec_blocks.")
        }
        tensors |= copies
        notes.append(f"{source} has one decoder: it serves both views")
    _require_same_names(tensors, expected, source)
    _require_same_shapes(tensors, expected, source)
    return Matched(state=tensors, notes=tuple(notes))


def _require_tensors(state: Mapping[str, Any], source: str) -> None:
    other = [
        name for name, value in state.items() if not isinstance(value, torch.Tensor) or not value.is_floating_point()
    ]
    if other:
        raise InvalidInputError(
            f"{source} has entries that are no floating-point tensors ({_few(other)}), expected weights"
        )


def _without_ties(state: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        tied = _TIED.match(name)
        kept = f"{tied[1]}layer{int(tied[2]) + 1}_rn.weight" if tied else name
        twin = tensors.setdefault(kept, tensor)
        if twin is not tensor and (twin.shape != tensor.shape or not _same(twin, tensor)):
            raise InvalidInputError(
                f"{source} has different values under {name} and {kept}, expected one tensor of two names"
            )
    return tensors


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.is_meta or b.is_meta or torch.equal(a, b)


def _require_same_names(tensors: Mapping[str, Any], expected: Mapping[str, Any], source: str) -> None:
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    if not missing and not unknown:
        return
    hint = ""
    if missing and unknown:
        near = difflib.get_close_matches(missing[0], unknown, n=1, cutoff=0.8)
        hint = f" ({missing[0]} may be called {near[0]} there)" if near else ""
    raise InvalidInputError(
        f"{source} is not a checkpoint of this network: {len(missing)} tensors are missing [{_few(missing)}] and "
        f"{len(unknown)} are unknown [{_few(unknown)}]{hint}, expected all {len(expected)} and no other"
    )


def _require_same_shapes(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str
) -> None:
    wrong = [
        f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if tensors[name].shape != tensor.shape
    ]
    if wrong:
        raise InvalidInputError(
            f"{source} has {len(wrong)} tensors of another shape [{_few(wrong)}], "
            "expected the sizes that its description names"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
