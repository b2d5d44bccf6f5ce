"""How the place of a point, Gaussian or pixel is known: its kind. Kinds are never mixed up."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from reconx_ros.core.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

PLACE_TOLERANCE = 0.05
"""A place is right, and two places are the same, within this share of the distance from the camera."""


class Provenance(enum.IntEnum):
    """How a place is known, stored as uint8 in arrays, files and messages. What does not say so is NONE."""

    NONE = 0  # nobody says: an empty pixel, a point of another program
    OBSERVED = 1  # measured: two views, or a depth sensor, agree on the place
    GENERATED = 2  # no camera saw it: a model made it up
    INFERRED = 3  # a camera saw its colour; a model or a smooth guess placed it

    @property
    def word(self) -> str:
        """Its name in settings, reports and pictures."""
        return self.name.lower()

    def where(self, mask: torch.Tensor) -> torch.Tensor:
        """This kind where a mask says so, NONE elsewhere; uint8, as the mask."""
        return mask.byte() * int(self)


BY_TRUST = (Provenance.OBSERVED, Provenance.INFERRED, Provenance.GENERATED)
"""What a place can be known by, the surest first."""

MEANINGS = MappingProxyType(
    {
        Provenance.NONE: "unknown",
        Provenance.OBSERVED: "measured by two views or a depth sensor",
        Provenance.GENERATED: "seen by no camera, made up",
        Provenance.INFERRED: "seen by a camera, its place guessed",
    }
)
KIND_COMMENT = "provenance: " + ", ".join(f"{k:d} {k.word} ({MEANINGS[k]})" for k in Provenance)
"""One line for the headers of files."""


def check_provenance(what: str, values: np.ndarray) -> None:
    """Raise InvalidInputError, naming the first wrong one, unless all values are kinds."""
    wrong = ~np.isin(values, [int(k) for k in Provenance])
    if wrong.any():
        known = ", ".join(f"{k:d} ({k.word})" for k in Provenance)
        raise InvalidInputError(f"{what} has the provenance {values[wrong][0]:g}, expected one of {known}")
