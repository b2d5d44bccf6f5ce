"""The colours of the kinds of places, for every picture, page and viewer.

Of Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), which people of all kinds of colour vision tell apart,
the three that stay farthest apart for all of them, and grey.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from reconx_ros.core import BY_TRUST, MEANINGS, Provenance

KIND_COLOURS = MappingProxyType(
    {
        Provenance.OBSERVED: (0, 114, 178),  # blue
        Provenance.INFERRED: (240, 228, 66),  # yellow
        Provenance.GENERATED: (213, 94, 0),  # vermilion
        Provenance.NONE: (153, 153, 153),
    }
)
KIND_LEGEND = tuple((KIND_COLOURS[k], f"{k.word}: {MEANINGS[k]}") for k in (*BY_TRUST, Provenance.NONE))
"""(colour, words) of every kind, the surest first."""


def provenance_picture(provenance: np.ndarray) -> np.ndarray:
    """Provenance [H, W] in the colours of its kinds, [H, W, 3] uint8; what is no kind is as NONE."""
    table = np.full((256, 3), KIND_COLOURS[Provenance.NONE], np.uint8)
    table[: len(Provenance)] = [KIND_COLOURS[k] for k in sorted(Provenance)]
    return table[np.asarray(provenance, np.uint8)]
