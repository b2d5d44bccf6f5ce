"""How much memory an alignment takes, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconx_ros.core import InvalidInputError
from reconx_ros.core.memory import GIGABYTE, limit_bytes
from reconx_ros.pointmap.alignment.state import PER_UNIT

_MAP_BYTES = 16  # per pixel of a map: three coordinates and a confidence, float32
_PIXEL_BYTES = 40  # per pixel of an image: offsets, depths of two states, confidence, known depth
_WORKSPACE = 300 << 20  # chunks and torch's own


@dataclass(frozen=True, kw_only=True)
class AlignmentMemory:
    """Estimated bytes.

    Attributes:
        predictions: the pairs' maps.
        pixels: depth and what else exists once per pixel of an image, and the subset of the first levels.
        system: the dense system of cameras and pairs.
        workspace: chunks.
    """

    predictions: int
    pixels: int
    system: int
    workspace: int

    @property
    def total(self) -> int:
        """All together."""
        return self.predictions + self.pixels + self.system + self.workspace


def estimate_memory(
    pairs: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]], *, coarse_pixels: int = 12_000
) -> AlignmentMemory:
    """Estimate the memory that aligning some pairs takes: predictions in float32 included, Python and torch not.

    Args:
        pairs: directed pairs of image indices.
        sizes: (height, width) of each image.
        coarse_pixels: as ``AlignmentSettings``.
    """
    maps = [h * w for pair in pairs for h, w in (sizes[pair[0]], sizes[pair[1]])]
    subset = sum(min(p, 2 * coarse_pixels) for p in maps if p > coarse_pixels)
    unknowns = PER_UNIT * (len(sizes) + len(pairs))
    return AlignmentMemory(
        predictions=_MAP_BYTES * sum(maps),
        pixels=_PIXEL_BYTES * sum(h * w for h, w in sizes) + _MAP_BYTES * subset,
        system=6 * 8 * unknowns**2,
        workspace=_WORKSPACE,
    )


def check_memory(
    pairs: Sequence[tuple[int, int]],
    sizes: Sequence[tuple[int, int]],
    max_memory_gb: float,
    *,
    coarse_pixels: int = 12_000,
) -> AlignmentMemory:
    """The estimate, if it fits into a limit.

    Args:
        pairs: directed pairs of image indices.
        sizes: (height, width) of each image.
        max_memory_gb: limit in GB (1e9 bytes); 0 for none.
        coarse_pixels: as ``AlignmentSettings``.

    Raises:
        InvalidInputError: when it does not fit.
    """
    estimate = estimate_memory(pairs, sizes, coarse_pixels=coarse_pixels)
    limit = limit_bytes(max_memory_gb)
    if limit is not None and limit < estimate.total:
        raise InvalidInputError(
            f"global alignment of {len(sizes)} images in {len(pairs)} pairs needs about "
            f"{estimate.total / GIGABYTE:.1f} GB ({estimate.predictions / GIGABYTE:.1f} for predictions, "
            f"{estimate.system / GIGABYTE:.1f} for the system of cameras), "
            f"expected at most {max_memory_gb:g} GB: use a sparser pair graph, for example swin-2, or smaller images"
        )
    return estimate
