"""Groups of posed RGB-D views as batches of images, points and pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import Frame, InvalidInputError
from reconx_ros.learning.stream import Reuse, drawn_examples, made_in_order
from reconx_ros.pointmap.training.losses import PairTargets

ViewSource = Callable[[int], Sequence[Frame]]
"""Gives the views of a group by its number, from 0 without end; the same number gives the same views. It must survive
being sent to another process."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupBatch:
    """B groups of V views.

    Attributes:
        images: [B, V, 3, H, W] float32 in [-1, 1].
        points_cam: [B, V, H, W, 3] float32, each view's points in its own camera frame, metres.
        valid: [B, V, H, W] bool, where depth is known.
        world_from_cam: [B, V, 4, 4] float32.
        rays: [B, V, H, W, 3] float32, directions of the pixels with z = 1.
    """

    images: torch.Tensor  # [B, V, 3, H, W]
    points_cam: torch.Tensor  # [B, V, H, W, 3]
    valid: torch.Tensor  # [B, V, H, W]
    world_from_cam: torch.Tensor  # [B, V, 4, 4]
    rays: torch.Tensor  # [B, V, H, W, 3]

    def to(self, device: torch.device) -> GroupBatch:
        """The same batch on a device."""
        return GroupBatch(**{n: getattr(self, n).to(device, non_blocking=True) for n in self.__dataclass_fields__})

    @property
    def views(self) -> int:
        """Views of a group."""
        return int(self.images.shape[1])

    def mirrored(self) -> GroupBatch:
        """The world seen in a mirror: left and right exchanged in every view, a valid world of its own."""
        flip = torch.tensor([-1.0, 1.0, 1.0], device=self.images.device)
        turn = torch.diag(torch.cat([flip, flip.new_ones(1)]))
        return GroupBatch(
            images=self.images.flip(-1),
            points_cam=self.points_cam.flip(-2) * flip,
            valid=self.valid.flip(-1),
            world_from_cam=turn @ self.world_from_cam @ turn,
            rays=self.rays.flip(-2) * flip,
        )

    def points_in(self, frame: int, view: int) -> torch.Tensor:
        """Points [B, H, W, 3] of one view in the camera frame of another."""
        return transformed(
            self.world_from_cam[:, frame].inverse() @ self.world_from_cam[:, view], self.points_cam[:, view]
        )

    def targets(self, pairs: Sequence[tuple[int, int]]) -> PairTargets:
        """Truth of the pairs of views, pair by pair: [P * B, ...]."""
        return PairTargets(
            pts3d_1=torch.cat([self.points_cam[:, i] for i, _ in pairs]),
            valid_1=torch.cat([self.valid[:, i] for i, _ in pairs]),
            pts3d_2=torch.cat([self.points_in(i, j) for i, j in pairs]),
            valid_2=torch.cat([self.valid[:, j] for _, j in pairs]),
        )


def transformed(matrices: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Points [B, H, W, 3] under homogeneous matrices [B, 4, 4]."""
    return torch.einsum("bij,bhwj->bhwi", matrices[:, :3, :3], points) + matrices[:, None, None, :3, 3]


def directed_pairs(views: int) -> list[tuple[int, int]]:
    """All ordered pairs of different views."""
    return [(i, j) for i in range(views) for j in range(views) if i != j]


def group_arrays(frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    """The arrays of one group, as GroupBatch has them without the leading B.

    Raises:
        InvalidInputError: for fewer than two views, or one without pose or depth.
    """
    if len(frames) < 2:
        raise InvalidInputError(f"a training group has {len(frames)} view(s), expected at least 2")
    views = [_view_arrays(frame, number) for number, frame in enumerate(frames)]
    sizes = {view["images"].shape for view in views}
    if len(sizes) > 1:
        raise InvalidInputError(f"views of a training group have the sizes {sorted(sizes)}, expected one size")
    return {name: np.stack([view[name] for view in views]) for name in views[0]}


def _view_arrays(frame: Frame, number: int) -> dict[str, np.ndarray]:
    if frame.world_from_cam is None or frame.depth_m is None:
        raise InvalidInputError(f"training view {number} has no pose or no depth, expected both")
    camera = frame.camera
    rays = np.ones((camera.height, camera.width, 3), np.float32)
    rays[..., 0] = ((np.arange(camera.width) - camera.cx) / camera.fx)[None, :]
    rays[..., 1] = ((np.arange(camera.height) - camera.cy) / camera.fy)[:, None]
    valid = np.isfinite(frame.depth_m) & (frame.depth_m > 0)
    return {
        "images": (frame.rgb_u8.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1),
        "points_cam": rays * np.where(valid, frame.depth_m, 0)[..., None].astype(np.float32),
        "valid": valid,
        "world_from_cam": frame.world_from_cam.matrix.astype(np.float32),
        "rays": rays,
    }


def collated(groups: Sequence[dict[str, np.ndarray]]) -> GroupBatch:
    """A batch of groups."""
    return GroupBatch(**{name: torch.from_numpy(np.stack([g[name] for g in groups])) for name in groups[0]})


def group_batches(source: ViewSource, numbers: range, batch: int, *, workers: int) -> Iterator[GroupBatch]:
    """Batches of the groups of some numbers, in order, whatever the number of workers.

    Args:
        source: gives groups.
        numbers: which ones; an incomplete last batch is left out.
        batch: groups per batch.
        workers: processes that make them; 0 makes them in this one.
    """
    made = made_in_order(_ArraysOf(source), numbers, workers=workers)
    for _ in range(len(numbers) // batch):
        yield collated([next(made) for _ in range(batch)])


def training_batches(source: ViewSource, steps: range, reuse: Reuse, *, workers: int) -> Iterator[GroupBatch]:
    """The batch of every step; a step's batch does not depend on where the range starts.

    Args:
        source: gives groups.
        steps: without gaps.
        reuse: which groups each step shows.
        workers: processes that make groups; 0 makes them in this one.
    """
    for groups in drawn_examples(_ArraysOf(source), steps, reuse, workers=workers):
        yield collated(groups)


class _ArraysOf:
    """The arrays of a source's groups, by number."""

    def __init__(self, source: ViewSource) -> None:
        self._source = source

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        return group_arrays(self._source(number))
