"""Where a pixel, Gaussian or point comes from. Observed and generated are never mixed up."""

from __future__ import annotations

import enum


class Provenance(enum.IntEnum):
    """Source of a value, stored as uint8 in arrays, files and messages."""

    NONE = 0  # nothing is known here: an empty pixel
    OBSERVED = 1  # a camera saw it
    GENERATED = 2  # a model made it up
