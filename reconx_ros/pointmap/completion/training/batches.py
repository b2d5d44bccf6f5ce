"""Batches of training examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.learning.processes import ProcessGroup
from reconx_ros.learning.stream import made_in_order
from reconx_ros.pointmap.completion.inputs import CompletionView, scene_scale
from reconx_ros.pointmap.completion.predict import stacked
from reconx_ros.pointmap.completion.training.augment import Augmentation, augmented
from reconx_ros.pointmap.completion.training.examples import ExampleView, load_example

_UNIT_DEVIATION = 0.1  # of the logarithm of the unit, in training


@dataclass(frozen=True, kw_only=True, eq=False)
class CompletionGroup:
    """V views of one scene as the network takes them.

    Attributes:
        views: what they were made from.
        unit: the network's unit of depth in the world's.
        rgb: [V, 3, H, W].
        channels: [V, C, H, W], of the first pass.
        log_truth: [V, H, W] logarithm of true depth over the unit; 0 where not known.
        known: [V, H, W] bool.
        measured: [V, H, W] bool.
    """

    views: list[CompletionView]
    unit: float
    rgb: torch.Tensor  # [V, 3, H, W]
    channels: torch.Tensor  # [V, C, H, W]
    log_truth: torch.Tensor  # [V, H, W]
    known: torch.Tensor  # [V, H, W]
    measured: torch.Tensor  # [V, H, W]


def group(views: Sequence[ExampleView], factor: float = 1.0) -> CompletionGroup:
    """An example as tensors.

    Args:
        views: of one size.
        factor: on the network's unit.
    """
    given = [view.given for view in views]
    unit = (scene_scale(given) or _true_median(views)) * factor
    rgb, told = stacked(given, unit)
    truth = torch.stack([view.truth for view in views])
    known = truth > 0
    return CompletionGroup(
        views=given,
        unit=unit,
        rgb=rgb,
        channels=told,
        log_truth=torch.where(known, torch.log(torch.where(known, truth, 1.0) / unit), 0.0),
        known=known,
        measured=torch.stack([view.measured for view in given]),
    )


def _true_median(views: Sequence[ExampleView]) -> float:
    """The unit of views without a measurement, whose depth is relative: that their median becomes 1."""
    truth = torch.cat([view.truth[view.truth > 0] for view in views])
    return float(truth.median()) if truth.numel() else 1.0


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """The augmented group of a running number."""

    folders: tuple[tuple[Path, ...], ...]
    shares: tuple[float, ...]
    groups: int
    seed: int
    settings: Augmentation

    def __call__(self, number: int) -> CompletionGroup:
        step = number // self.groups
        sizes = self.settings.sizes
        size = sizes[int(np.random.default_rng([self.seed, step, 1]).integers(len(sizes)))]
        rng = np.random.default_rng([self.seed, number])
        paths = self.folders[int(rng.choice(len(self.folders), p=self.shares))]
        views = load_example(paths[int(rng.integers(len(paths)))])
        views = augmented(views, size, rng, self.settings)
        return group(views, float(np.exp(_UNIT_DEVIATION * rng.standard_normal())))


def training_groups(
    folders: Sequence[Sequence[Path]],
    shares: Sequence[float],
    steps: range,
    *,
    groups: int,
    seed: int,
    workers: int,
    share: ProcessGroup | None = None,
    settings: Augmentation | None = None,
) -> Iterator[list[CompletionGroup]]:
    """The groups of every step; a step's groups do not depend on where the range starts.

    Args:
        folders: paths of examples, by folder.
        shares: of the folders among the groups; they sum to 1.
        steps: without gaps.
        groups: of each step.
        seed: of what is drawn.
        workers: processes that read and change examples; 0 does so in this one.
        share: this process's part of each step's groups; None takes all.
        settings: what is changed about examples.

    Raises:
        InvalidInputError: for a folder without examples, or groups that the processes cannot share evenly.
    """
    if not folders or not all(folders):
        raise InvalidInputError("training has a folder without examples, expected some: make them with --make-data")
    if share is not None and groups % share.count:
        raise InvalidInputError(f"a step has {groups} groups, expected a multiple of the {share.count} processes")
    maker = _Drawn(
        folders=tuple(tuple(paths) for paths in folders),
        shares=tuple(shares),
        groups=groups,
        seed=seed,
        settings=settings or Augmentation(),
    )
    share = share or ProcessGroup()
    numbers = range(steps.start * groups + share.rank, steps.stop * groups, share.count)
    made = made_in_order(maker, numbers, workers=workers)
    for _ in steps:
        yield [next(made) for _ in range(groups // share.count)]
