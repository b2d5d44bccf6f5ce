"""What completes depth, and which completers there are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from reconx_ros.core import Job, PointMap
from reconx_ros.core.registry import BackendInfo, create, with_entry_points
from reconx_ros.weights.cache import ModelCache, sharing

if TYPE_CHECKING:
    from reconx_ros.pointmap.config import PointmapConfig

AUTO, NONE = "auto", "none"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Guess:
    """Depth of every pixel of one view.

    Attributes:
        depth: [H, W] float32 z-depth in the world's unit, > 0.
        certainty: [H, W] float32 in [0, 1], chance that the depth is within 5 % of the truth.
        scale: [H, W] float32 Laplace scale of the logarithm of depth, > 0: how far around the depth to look.
    """

    depth: torch.Tensor  # [H, W]
    certainty: torch.Tensor  # [H, W]
    scale: torch.Tensor  # [H, W]


class DepthCompleter(Protocol):
    """Guesses the depth of every pixel from pictures and from what stage 1 knows.

    Attributes:
        name: what configuration calls it.
    """

    name: str

    def complete(
        self, views: Sequence[PointMap], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> list[Guess]:
        """A guess for every view, on its grid and in its unit.

        Args:
            views: of one scene; where no pixel of any of them is valid, guesses are relative.
            config: the stage's settings.
            device: where torch computes.
            job: progress and cancellation.

        Raises:
            WeightsError: for weights that are missing or damaged.
            CancelledError: when the job was cancelled.
        """
        ...


_BUILTIN = {
    "learned": BackendInfo(
        name="learned",
        target="reconx_ros.pointmap.completion.learned:LearnedCompleter",
        summary="the small network that comes with the package, or one of your own from reconx train depth",
        licence_weights="Apache-2.0",
    ),
    "metric_network": BackendInfo(
        name="metric_network",
        target="reconx_ros.pointmap.completion.metric_network:MetricNetworkCompleter",
        summary="a metric depth network (pointmap.metric_network), fitted to what is measured in each view",
        modules=("transformers",),
        extra="models",
        needs=("weights",),
    ),
    "smooth": BackendInfo(
        name="smooth",
        target="reconx_ros.pointmap.completion.smooth:SmoothCompleter",
        summary="smooth surfaces through what is measured, bent at the edges of the picture; no weights",
    ),
}


def registry() -> dict[str, BackendInfo]:
    """All known completers by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.completion")


def completer_name(config: PointmapConfig) -> str | None:
    """The completer that a configuration stands for; None where depth is not completed.

    ``auto`` is the learned one where its weights are there, else none.
    """
    if config.completion == NONE:
        return None
    if config.completion != AUTO:
        return config.completion
    reason = registry()["learned"].load_class().absence(config)
    _LOG.info("completion auto: %s", "learned" if reason is None else f"none, because {reason}")
    return "learned" if reason is None else None


def create_completer(name: str, models: ModelCache | None = None) -> DepthCompleter:
    """The completer of a name, which takes its network from a cache.

    Raises:
        ConfigError, BackendUnavailableError: as ``registry.create``.
    """
    completer: DepthCompleter = sharing(create(registry(), name, kind="depth completer"), models)
    return completer
