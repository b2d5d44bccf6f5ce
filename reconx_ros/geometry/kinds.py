"""The kind of a pixel that several things make up."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from reconx_ros.core import BY_TRUST, Provenance


def surest_majority(shares: Mapping[Provenance, torch.Tensor], total: torch.Tensor) -> torch.Tensor:
    """The surest kind that, with all that is surer, makes up more than half.

    A pixel is OBSERVED only where most of it is; where a third each is observed, inferred and generated, it is
    inferred.

    Args:
        shares: [...] how much of each kind there is; a kind that is absent has none.
        total: [...] all of it, also what is of no kind.

    Returns:
        [...] uint8, values of Provenance; NONE where no kind is known for half of it, or there is nothing.
    """
    kind = torch.zeros_like(total, dtype=torch.uint8)
    known = torch.zeros_like(total)
    for candidate in (k for k in BY_TRUST if k in shares):
        known = known + shares[candidate]
        kind = torch.where((kind == int(Provenance.NONE)) & (known > total / 2), int(candidate), kind)
    return kind.to(torch.uint8)
