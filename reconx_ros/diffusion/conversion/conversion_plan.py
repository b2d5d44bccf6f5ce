"""What becomes of every weight of a public checkpoint: one component's planned file, or a reason to leave it out."""

from __future__ import annotations

import difflib
import functools
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.diffusion.conversion.safetensors_file import PlannedTensor
from reconx_ros.diffusion.network.checkpoint_keys import Source
from reconx_ros.weights.tensors import StoredTensor

# Weights of public files that nothing here needs, and why. The first pattern that fits counts.
IGNORED = (
    (r"[^.]+$", "table of the noise schedule: computed from its settings"),
    (r"cond_stage_model\.model\.transformer\.resblocks\.\d+\.", "last text block: the layer before it is the output"),
    (r"(cond_stage_model|embedder)\.model\.(text_projection|logit_scale)$", "for CLIP's contrastive training only"),
    (r"(cond_stage_model|embedder)\.model\.attn_mask$", "causal mask: computed"),
    (r"embedder\.model\.(positional_embedding|token_embedding|ln_final)", "left over from the text tower"),
    (r"embedder\.model\.visual\.proj$", "projection of the class token: all tokens are used instead"),
    (r"first_stage_model\.loss\.", "for training the autoencoder only"),
    (r"model_ema\.", "running average kept beside the weights"),
)
_SHOWN = 3
_NORM = re.compile(r"norm\w*\.weight$")
_ZERO = re.compile(r"structure_gate$|epipolar\.to_out\.|camera_encoder\.outs\.")


@dataclass
class Part:
    """One component of the folder to be written.

    Attributes:
        folder: of the component.
        library, class_name: as ``model_index.json`` names them.
        config: what its configuration file holds.
        config_file, weights_file: names inside the folder.
        sources: where each weight comes from.
        shapes: of the component's own weights, those without a source included.
    """

    folder: str
    library: str
    class_name: str
    config: dict[str, Any]
    config_file: str = "config.json"
    weights_file: str = "diffusion_pytorch_model.safetensors"
    sources: dict[str, Source] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def check_complete(path: str, stored: Mapping[str, StoredTensor], parts: list[Part]) -> dict[str, int]:
    """Hold a checkpoint against what the parts need.

    Returns:
        How many weights were left out, by reason.

    Raises:
        InvalidInputError: for weights that are missing, unknown, or of another shape; names the first few.
    """
    needed = {source.key for part in parts for source in part.sources.values()}
    missing = [key for key in sorted(needed) if key not in stored]
    ignored: dict[str, int] = {}
    extra = []
    for key in stored:
        if key not in needed:
            reason = next((text for pattern, text in IGNORED if re.match(pattern, key)), None)
            if reason is None:
                extra.append(key)
            else:
                ignored[reason] = ignored.get(reason, 0) + 1
    if missing or extra:
        raise InvalidInputError(_difference(path, missing, extra, len(needed)))
    _check_shapes(path, stored, parts)
    return ignored


def _difference(path: str, missing: list[str], extra: list[str], needed: int) -> str:
    clauses = []
    if missing:
        clauses.append(f"lacks {len(missing)} of {needed} weights ({_first(missing)})")
    if extra:
        clauses.append(f"holds {len(extra)} unknown ones ({_first(extra)})")
    text = f"checkpoint {path} {' and '.join(clauses)}"
    similar = difflib.get_close_matches(missing[0], extra[:2000], n=1, cutoff=0.9) if missing else []
    return f"{text}; '{missing[0]}' may have been renamed to '{similar[0]}'" if similar else text


def _first(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def _check_shapes(path: str, stored: Mapping[str, StoredTensor], parts: list[Part]) -> None:
    for part in parts:
        for name, source in part.sources.items():
            public = stored[source.key].shape
            ours = tuple(source.take(torch.empty(public, device="meta")).shape)
            if ours != part.shapes[name]:
                raise InvalidInputError(
                    f"checkpoint {path}: '{source.key}' has shape {list(public)}, which does not fit"
                    f" {list(part.shapes[name])} of '{name}' in {part.folder}"
                )


def planned_tensors(
    part: Part, stored: Mapping[str, StoredTensor], dtype: torch.dtype | None
) -> dict[str, PlannedTensor]:
    """The part's weights, each read and changed when it is written; ``dtype`` None keeps that of the checkpoint."""
    first = next(iter(part.sources.values()), None)
    own = dtype or (stored[first.key].dtype if first else torch.float32)
    plan = {}
    for name, shape in part.shapes.items():
        source = part.sources.get(name)
        if source is None:
            plan[name] = PlannedTensor(shape, own, functools.partial(fresh_weight, name, shape))
        else:
            kept = stored[source.key]
            plan[name] = PlannedTensor(shape, dtype or kept.dtype, functools.partial(_taken, source, kept))
    return plan


def _taken(source: Source, stored: StoredTensor) -> torch.Tensor:
    return source.take(stored.read())


def fresh_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight of a branch that public checkpoints do not have: zero where the branch must start without effect.

    Others are uniform within ``1 / sqrt(fan in)``, torch's own choice, from a generator seeded by the name, so that a
    conversion can be repeated.
    """
    if _ZERO.search(name):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape) if _NORM.search(name) else torch.zeros(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
