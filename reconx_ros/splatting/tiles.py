"""Which Gaussians touch which tile of a picture, nearest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from reconx_ros.splatting.projection import MIN_ALPHA, Projection

TILE_PX = 8  # side of a square tile


@dataclass(frozen=True, kw_only=True, eq=False)
class TileLists:
    """One list of Gaussians per tile, all in one tensor.

    Attributes:
        rows: [I] which row of the projection, tile after tile, nearest first within a tile.
        starts: [T] where each tile's list begins; tiles are numbered row by row.
        counts: [T] how long it is.
        columns: tiles side by side.
    """

    rows: torch.Tensor  # [I]
    starts: torch.Tensor  # [T]
    counts: torch.Tensor  # [T]
    columns: int

    def chunks(self, max_elements: int) -> Iterator[torch.Tensor]:
        """Non-empty tiles in groups of similar length whose padded lists hold about max_elements entries."""
        order = torch.argsort(self.counts, descending=True)
        lengths = self.counts[order].tolist()
        start, stop = 0, sum(n > 0 for n in lengths)
        while start < stop:
            size = max(1, max_elements // lengths[start])
            yield order[start : min(start + size, stop)]
            start += size

    def padded(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lists of some tiles [T] side by side: (rows [T, L], present [T, L]); absent entries repeat some row."""
        counts = self.counts[tiles]
        steps = torch.arange(int(counts.max()), device=tiles.device)
        present = steps < counts[:, None]
        positions = self.starts[tiles][:, None] + steps
        return self.rows[positions.clamp_max(len(self.rows) - 1)], present

    def origins_px(self, tiles: torch.Tensor) -> torch.Tensor:
        """First pixel (u, v) [T, 2] of some tiles [T]."""
        return torch.stack([tiles % self.columns, tiles // self.columns], dim=-1) * TILE_PX


def assign_to_tiles(features: torch.Tensor, seen: Projection, width: int, height: int) -> TileLists:
    """List the Gaussians that reach a pixel of each tile with an alpha of at least MIN_ALPHA.

    Args:
        features: [M, 10] as the reference rasteriser has them; columns 0, 1 are the centre, 5 the opacity.
        seen: the projection they come from.
        width, height: picture size in pixels.
    """
    columns, rows = -(-width // TILE_PX), -(-height // TILE_PX)
    with torch.no_grad():
        first, last = _tile_boxes(features, seen, width, height)  # [M, 2]
        sides = (last - first + 1).clamp_min(0)
        order = torch.argsort(seen.depths, stable=True)
        counts = (sides[:, 0] * sides[:, 1])[order]
        owner = torch.repeat_interleave(order, counts)  # [I]
        ends = torch.cumsum(counts, dim=0)
        step = torch.arange(len(owner), device=owner.device) - torch.repeat_interleave(ends - counts, counts)
        across = sides[owner, 0]
        tile = (first[owner, 1] + step // across) * columns + first[owner, 0] + step % across
        sorted_tile, position = torch.sort(tile.to(torch.int32), stable=True)
        per_tile = torch.bincount(sorted_tile, minlength=rows * columns)
    return TileLists(
        rows=owner[position], starts=torch.cumsum(per_tile, dim=0) - per_tile, counts=per_tile, columns=columns
    )


def _tile_boxes(features: torch.Tensor, seen: Projection, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last tile (column, row) [M, 2] that each Gaussian reaches; last < first where it reaches none."""
    size = torch.tensor([width, height], dtype=features.dtype, device=features.device)
    squared_sigmas = 2 * torch.log((features[:, 5] / MIN_ALPHA).clamp_min(1.0))  # where alpha falls to MIN_ALPHA
    reach = (squared_sigmas[:, None] * seen.variances_px2).sqrt() + 1e-2
    centre = features[:, :2]
    low = torch.minimum((centre - reach).clamp_min(0.0).ceil(), size)
    high = torch.maximum(torch.minimum(centre + reach, size - 1).floor(), torch.full_like(size, -1.0))
    hidden = (features[:, 5] < MIN_ALPHA) | (low > high).any(dim=-1)
    first, last = (low / TILE_PX).floor().long(), (high / TILE_PX).floor().long()
    return first, torch.where(hidden[:, None], first - 1, last)


def assemble_picture(
    parts: Sequence[torch.Tensor], lists: TileLists, width: int, height: int, like: torch.Tensor
) -> torch.Tensor:
    """Picture [H, W, D] from tiles [_, P, P, D] in the order of ``lists.chunks``; the other tiles are zero."""
    order = torch.argsort(lists.counts, descending=True)
    depth = parts[0].shape[-1] if parts else 5
    filled = sum(len(p) for p in parts)
    empty = like.new_zeros(len(order) - filled, TILE_PX, TILE_PX, depth)
    tiles = torch.cat([*parts, empty]).index_select(0, torch.argsort(order))
    grid = tiles.reshape(-1, lists.columns, TILE_PX, TILE_PX, depth).transpose(1, 2)
    return grid.reshape(-1, lists.columns * TILE_PX, depth)[:height, :width]
