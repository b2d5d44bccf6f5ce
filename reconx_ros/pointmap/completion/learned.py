"""Depth of every pixel by the small network of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as nnf

from reconx_ros.core import Job, PinholeCamera, PointMap
from reconx_ros.core.memory import limit_bytes
from reconx_ros.geometry.resize import resize_nearest
from reconx_ros.pointmap.completion.base import Guess
from reconx_ros.pointmap.completion.inputs import completion_view, scene_scale, up_direction
from reconx_ros.pointmap.completion.predict import Prediction, predict
from reconx_ros.pointmap.completion.weights import SHIPPED_NAME, TRAINED_NAME, LoadedCompletion, load_completion
from reconx_ros.weights.cache import ModelCache, module_bytes
from reconx_ros.weights.catalogue import catalogue
from reconx_ros.weights.resolve import find, how_to_get, resolve

if TYPE_CHECKING:
    from reconx_ros.pointmap.config import PointmapConfig

_ONE_SURFACE = 0.03  # of the logarithm of depth: neighbours farther apart are not mixed when maps are enlarged
_VIEW_BYTES = 96 * 2**20  # that the network takes per view while it runs


class LearnedCompleter:
    """The network that comes with the package (``reconx-depth-small``), or one that ``completion_weights`` names."""

    name = "learned"

    def __init__(self, models: ModelCache | None = None) -> None:
        self._models = models or ModelCache()

    def with_models(self, models: ModelCache) -> LearnedCompleter:
        """The same completer, which takes its network from that cache."""
        return type(self)(models)

    @staticmethod
    def absence(config: PointmapConfig) -> str | None:
        """Why the network of the package is not there; None when it is, or when another one is named."""
        if config.completion_weights != SHIPPED_NAME:
            return None
        row = catalogue().get(SHIPPED_NAME)
        if row is None:
            return f"weights {SHIPPED_NAME} do not come with this package: install a release, or train your own"
        return None if find(row) is not None else how_to_get(row)

    def load(self, config: PointmapConfig, device: torch.device) -> LoadedCompletion:
        """The network that the configuration names; it stays loaded.

        Raises:
            WeightsError: when it is missing, damaged, or not the one that the catalogue knows.
            InvalidInputError: when it is another kind of network.
        """
        source = resolve(config.completion_weights, setting="pointmap.completion_weights")
        path = source.path / TRAINED_NAME if source.path.is_dir() else source.path
        return self._models.get(
            [source],
            "completion network",
            lambda: load_completion(path, device),
            dtype=torch.float32,
            device=device,
            size=lambda loaded: module_bytes(loaded.network),
            limit_bytes=limit_bytes(config.max_memory_gb) or 0,
        )

    def complete(
        self, views: Sequence[PointMap], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> list[Guess]:
        """As ``DepthCompleter``: two passes, the second with what the other views show."""
        loaded = self.load(config, device)
        size = loaded.network.config.size
        up_world = up_direction(config.up_axis)
        given = [completion_view(view, size, up_world) for view in views]
        at_once = max(1, min(4, int((limit_bytes(config.max_memory_gb) or 2**30) / _VIEW_BYTES)))
        found = predict(loaded.network, given, scene_scale(given) or 1.0, at_once=at_once, job=job)
        return [enlarged(loaded.calibrated(p), view.camera) for p, view in zip(found, views, strict=True)]


def enlarged(found: Prediction, camera: PinholeCamera) -> Guess:
    """A prediction on the grid of a view: smooth on surfaces, without values between two surfaces."""
    log = torch.log(found.depth)
    size = (camera.height, camera.width)
    smooth = nnf.interpolate(log[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    nearest = resize_nearest(log, camera.width, camera.height)
    depth = torch.exp(torch.where((smooth - nearest).abs() < _ONE_SURFACE, smooth, nearest))
    sure, log_scale = (resize_nearest(v, camera.width, camera.height) for v in (found.certainty, found.log_scale))
    return Guess(depth=depth, certainty=sure, scale=torch.exp(log_scale))
