"""Semi-global smoothing of a cost volume along scanlines, and the choice of a depth from it.

Hirschmueller, "Stereo processing by semi-global matching and mutual information", PAMI 2008, eq. 13:
L_r(p, d) = C(p, d) + min(L_r(p-r, d), L_r(p-r, d +- 1) + P1, min_k L_r(p-r, k) + P2) - min_k L_r(p-r, k).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """Penalties in units of the matching cost.

    Attributes:
        p1: a change of one label between neighbours.
        p2: a larger change, where the image is flat.
        p2_min: a larger change across a strong image edge.
        edge: grey-value difference in [0, 1] at which p2 has fallen to 1 / e of its range.
    """

    p1: float = 0.03
    p2: float = 0.5
    p2_min: float = 0.1
    edge: float = 0.06


def jump_penalty(image: torch.Tensor, step_y: int, step_x: int, smoothness: Smoothness) -> torch.Tensor:
    """P2 [H, W] for arriving at each pixel from its predecessor at (y - step_y, x - step_x); wraps at the border."""
    difference = (image - torch.roll(image, (step_y, step_x), dims=(0, 1))).abs()
    return smoothness.p2_min + (smoothness.p2 - smoothness.p2_min) * torch.exp(-difference / smoothness.edge)


def _step(cost: torch.Tensor, previous: torch.Tensor, p1: float, p2: torch.Tensor) -> torch.Tensor:
    """One pixel further along B scanline bundles: cost and previous [B, D, N], p2 [B, 1, N]."""
    lowest = previous.amin(dim=1, keepdim=True)
    best = torch.minimum(previous, lowest + p2)
    neighbour = previous + p1
    torch.minimum(best[:, 1:], neighbour[:, :-1], out=best[:, 1:])
    torch.minimum(best[:, :-1], neighbour[:, 1:], out=best[:, :-1])
    return best.sub_(lowest).add_(cost)


def _shifted(previous: torch.Tensor, shift: int) -> torch.Tensor:
    """Move the state [D, N] sideways by one pixel for diagonal paths; at the border a path starts without history."""
    if shift == 0:
        return previous
    pad = (1, 0) if shift > 0 else (0, 1)
    kept = previous[:, :-1] if shift > 0 else previous[:, 1:]
    return nnf.pad(kept, pad)


def _scan(cost: torch.Tensor, image: torch.Tensor, shifts: tuple[int, ...], smoothness: Smoothness) -> torch.Tensor:
    """Sum of path costs [R, D, N] over paths that run along R, both ways, one pair per sideways shift."""
    rows = cost.shape[0]
    down = [jump_penalty(image, 1, s, smoothness) for s in shifts]
    up = [jump_penalty(image, -1, s, smoothness) for s in shifts]
    total = torch.zeros_like(cost)
    count = len(shifts)
    state = cost.new_zeros(2 * count, *cost.shape[1:])  # [2 S, D, N]
    p2 = torch.stack([*down, *(u.flip(0) for u in up)], dim=1)[:, :, None]  # [R, 2 S, 1, N]
    for i in range(rows):
        j = rows - 1 - i
        here = torch.cat([cost[i].expand(count, -1, -1), cost[j].expand(count, -1, -1)])
        moved = torch.stack([_shifted(state[k], s) for k, s in enumerate(shifts * 2)]) if count > 1 else state
        state = _step(here, moved, smoothness.p1, p2[i])
        total[i] += state[:count].sum(dim=0)
        total[j] += state[count:].sum(dim=0)
    return total


def smooth_costs(cost: torch.Tensor, image: torch.Tensor, smoothness: Smoothness, *, paths: int = 4) -> torch.Tensor:
    """Mean path cost over 4 or 8 directions.

    Args:
        cost: [D, H, W].
        image: [H, W] grey values in [0, 1] that steer the jump penalty.
        smoothness: penalties.
        paths: 4 (left, right, up, down) or 8 (and the diagonals).

    Returns:
        [D, H, W].
    """
    sideways = (0,) if paths == 4 else (-1, 0, 1)
    vertical = _scan(cost.permute(1, 0, 2).contiguous(), image, sideways, smoothness)  # [H, D, W]
    horizontal = _scan(cost.permute(2, 0, 1).contiguous(), image.T.contiguous(), (0,), smoothness)  # [W, D, H]
    return (vertical.permute(1, 0, 2) + horizontal.permute(1, 2, 0)) / paths


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The winning label of every pixel.

    Attributes:
        label: [H, W] float, with a sub-label part from a parabola through the three lowest costs.
        cost: [H, W] matching cost at the winner, before smoothing.
        margin: [H, W] by how much the next best label that is not adjacent costs more, after smoothing.
    """

    label: torch.Tensor  # [H, W]
    cost: torch.Tensor  # [H, W]
    margin: torch.Tensor  # [H, W]


def choose(cost: torch.Tensor, smoothed: torch.Tensor) -> Choice:
    """Winner takes all on a smoothed volume [D, H, W], refined between labels."""
    lowest, index = smoothed.min(dim=0)
    raw = cost.gather(0, index[None])[0]
    labels = torch.arange(smoothed.shape[0], device=cost.device)[:, None, None]
    rivals = torch.where((labels - index).abs() <= 2, torch.inf, smoothed)
    margin = (rivals.amin(dim=0) - lowest).clamp(0, 1)
    return Choice(label=index + parabola_offset(smoothed, index), cost=raw, margin=margin)


def parabola_offset(volume: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Offset [H, W] in [-0.5, 0.5] of the parabola through each minimum and its neighbours; 0 at the ends."""
    count = volume.shape[0]
    if count < 3:
        return torch.zeros_like(index, dtype=volume.dtype)
    inner = index.clamp(1, count - 2)
    left, middle, right = (volume.gather(0, (inner + k)[None])[0] for k in (-1, 0, 1))
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend.clamp_min(1e-9)
    usable = (inner == index) & (bend > 1e-9)
    return torch.where(usable, offset.clamp(-0.5, 0.5), torch.zeros_like(offset))
