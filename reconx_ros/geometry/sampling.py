"""Farthest point sampling: few points that cover a cloud (Eldar et al. 1997; PointNet++, arXiv:1706.02413)."""

from __future__ import annotations

import torch

from reconx_ros.core import InvalidInputError, check_finite, check_shape


def farthest_points(points: torch.Tensor, count: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Indices of a greedy cover: each point is the one farthest from all chosen before it; exact.

    The first is the point farthest from the centroid, so that the choice depends on the set of points and not on their
    order, but for exact ties, of which the lowest index wins. Rotating, moving or scaling the cloud does not change it.

    Args:
        points: [..., P, 3] in any unit and frame; batched by leading dimensions.
        count: L, number of points to choose. Where fewer valid points exist, indices repeat the first one.
        mask: [..., P] bool, True where a point counts; None when all do. Other points may hold anything.

    Returns:
        [..., L] int64. Memory beyond the arguments is O(P) per cloud.

    Raises:
        InvalidInputError: for a count below 1, a cloud without a valid point, or a valid point that is not finite.
    """
    flat, valid = _checked(points, count, mask)
    axes = flat.permute(2, 0, 1).contiguous()  # [3, B, P]: each pass reads memory in order
    nearest, scratch = torch.empty_like(axes[0]), torch.empty_like(axes[:2])
    nearest.copy_(_squared_distance(axes, _centroid(flat, valid), scratch))
    nearest.masked_fill_(~valid, -1.0)
    chosen = torch.empty(flat.shape[0], count, dtype=torch.int64, device=flat.device)
    chosen[:, 0] = nearest.argmax(dim=-1)
    nearest.masked_fill_(valid, torch.inf)
    for k in range(1, count):
        last = flat.gather(1, chosen[:, k - 1, None, None].expand(-1, 1, 3))[:, 0]  # [B, 3]
        torch.minimum(nearest, _squared_distance(axes, last, scratch), out=nearest)
        best, index = nearest.max(dim=-1)
        chosen[:, k] = torch.where(best > 0, index, chosen[:, 0])
    return chosen.reshape(*points.shape[:-2], count)


def farthest_points_reference(points: torch.Tensor, count: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The readable twin of ``farthest_points``: measures every distance anew for every choice. Same arguments."""
    flat, valid = _checked(points, count, mask)
    clouds = [_cover_of_one(cloud, keep.nonzero()[:, 0], count) for cloud, keep in zip(flat, valid, strict=True)]
    return torch.stack(clouds).reshape(*points.shape[:-2], count)


def _cover_of_one(cloud: torch.Tensor, candidates: torch.Tensor, count: int) -> torch.Tensor:
    centroid = cloud[candidates].mean(dim=0)
    chosen = [max(candidates.tolist(), key=lambda i: float((cloud[i] - centroid).square().sum()))]
    while len(chosen) < count:
        gaps = (cloud[candidates][:, None] - cloud[chosen][None]).square().sum(dim=-1).amin(dim=1)
        best = int(gaps.argmax())
        chosen.append(int(candidates[best]) if float(gaps[best]) > 0 else chosen[0])
    return torch.tensor(chosen, device=cloud.device)


def _checked(points: torch.Tensor, count: int, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    check_shape("points", points, "...", "P", 3)
    if count < 1:
        raise InvalidInputError(f"number of points to sample is {count}, expected at least 1")
    if mask is not None and mask.shape != points.shape[:-1]:
        raise InvalidInputError(f"point mask has shape {list(mask.shape)}, expected {list(points.shape[:-1])}")
    if not points.numel():
        raise InvalidInputError("point cloud is empty, expected at least 1 point")
    flat = points.detach().reshape(-1, *points.shape[-2:])
    valid = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)
    if mask is not None:
        valid = mask.reshape(flat.shape[:2])
        flat = torch.where(valid[..., None], flat, 0.0)
    if not bool(valid.any(dim=-1).all()):
        raise InvalidInputError("point cloud holds no valid point, expected at least 1")
    check_finite("points", flat)
    return flat, valid


def _centroid(flat: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    return flat.sum(dim=1) / valid.sum(dim=1, keepdim=True)  # invalid points are zero


def _squared_distance(axes: torch.Tensor, centre: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """[B, P] from the point [B, 3], in the first half of scratch [2, B, P]; nothing is allocated."""
    total, difference = scratch
    torch.sub(axes[0], centre[:, :1], out=total)
    total.square_()
    for k in (1, 2):
        torch.sub(axes[k], centre[:, k, None], out=difference)
        total.addcmul_(difference, difference)
    return total
