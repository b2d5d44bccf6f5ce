"""Stage 1 by a pairwise pointmap network and global alignment: published weights, or a network trained here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from reconx_ros.core import AlignedViews, InvalidInputError, Job, Keyframe
from reconx_ros.core.memory import limit_bytes
from reconx_ros.pointmap.alignment import AlignmentSettings, KnownGeometry, align, check_memory, to_aligned_views
from reconx_ros.pointmap.alignment.memory import estimate_memory
from reconx_ros.pointmap.alignment.pair_graphs import pair_graph
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.network.inference import predict_pairs
from reconx_ros.pointmap.network.memory import AUTO_SHARE, PairMemoryPlan, free_memory_budget, plan_memory
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.pointmap.network.preprocess import SQUARE_SIZE, NetworkImage, prepare_image
from reconx_ros.pointmap.network.settings import Dust3rSettings, PointmapNetSettings
from reconx_ros.pointmap.network.weights import CARD_FILE, PUBLISHED_NAME, LoadedNetwork, load_network
from reconx_ros.pointmap.stereo.consistency import confirmed
from reconx_ros.weights.cache import ModelCache, module_bytes
from reconx_ros.weights.resolve import how_to_get, resolve

PUBLISHED_CONFIDENCE = 3.0
_MOST_FOR_COMPLETE = 8
_LOADED, _PREDICTED = 0.1, 0.6  # of the progress
_MIB = 2**20


class Dust3rBackend:
    """Stage 1 by the published DUSt3R or MASt3R weights, which the user downloads; frames need no poses.

    Each keyframe is encoded once; each pair of the graph gives two pointmaps; alignment (eq. 2) makes one world of
    them. Intrinsics are those of the keyframes. Poses are held where every keyframe has one and
    ``network_holds_poses`` says so; otherwise they are found, up to a similarity. The grid of the result is the
    network's: its size, sides in multiples of the patch. Pixels are OBSERVED where another view's map confirms them,
    else INFERRED.
    """

    name = "dust3r"

    def __init__(self, models: ModelCache | None = None) -> None:
        self._models = models or ModelCache()

    def with_models(self, models: ModelCache) -> Dust3rBackend:
        """The same backend, which takes its network from that cache."""
        return type(self)(models)

    def reconstruct(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> AlignedViews:
        """Depth, confidence and camera of every keyframe, as ``PointmapBackend`` says.

        Raises:
            WeightsError: when no weights are named, or they cannot be read; the message says how to get them.
            InvalidInputError: when they are another model's; fewer than two keyframes; or the images do not fit into
                ``max_memory_gb``.
            ReconstructionError: when the pointmaps do not connect.
            CancelledError: when the job was cancelled.
        """
        if len(keyframes) < 2:
            raise InvalidInputError(f"{self.name} got {len(keyframes)} keyframe(s), expected at least 2")
        job.step(0.0, "loading the network")
        loaded = self.load(config, device)
        notes, min_confidence = loaded.notes, config.network_confidence or self.confidence(loaded)
        images = [_network_image(keyframe, loaded.network, config) for keyframe in keyframes]
        pairs = pair_graph(len(images), _graph(config.pair_graph, len(images)))
        plan = self._plan(loaded, images, pairs, config, device)
        job.step(_LOADED, f"{len(pairs)} pairs, at most {plan.peak_bytes / _MIB:.0f} MiB")
        predictions = predict_pairs(
            loaded.network,
            [image.tensor() for image in images],
            pairs,
            plan,
            precision=config.network_precision,
            job=_part(job, _LOADED, _PREDICTED),
        )
        self._leave_room(loaded, images, pairs, config, device)
        del loaded
        alignment = align(
            predictions,
            known=_known(keyframes, images, config),
            settings=AlignmentSettings(max_memory_gb=config.max_memory_gb),
            device=device,
            job=_part(job, _PREDICTED, 1.0),
        )
        views = to_aligned_views(
            alignment,
            [torch.from_numpy(image.rgb_u8).float() / 255 for image in images],
            [keyframe.id for keyframe in keyframes],
            backend=self.name,
            min_confidence=min_confidence,
        )
        views = confirmed(views, config.consistency)
        return replace(views, warnings=(*notes, *views.warnings))

    def estimate_bytes(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device
    ) -> float | None:
        """As ``EstimatesMemory``: the work is split so that it stays below the limit."""
        return None

    def load(self, config: PointmapConfig, device: torch.device) -> LoadedNetwork:
        """The network that the configuration names."""
        return self._resident(config.own(Dust3rSettings).weights, how_to_get(PUBLISHED_NAME), config, device)

    def _resident(self, weights: str, cure: str, config: PointmapConfig, device: torch.device) -> LoadedNetwork:
        source = resolve(weights, setting=f"pointmap.{self.name}.weights", cure=cure)
        return self._models.get(
            [source],
            "pointmap network",
            lambda: load_network(source.path, device),
            dtype=torch.float32,
            device=device,
            size=_weight_bytes,
            limit_bytes=limit_bytes(config.max_memory_gb) or 0,
        )

    def confidence(self, loaded: LoadedNetwork) -> float:
        """Raw confidence above which a point is valid, where the configuration leaves it open."""
        del loaded
        return PUBLISHED_CONFIDENCE

    def _plan(
        self,
        loaded: LoadedNetwork,
        images: Sequence[NetworkImage],
        pairs: Sequence[tuple[int, int]],
        config: PointmapConfig,
        device: torch.device,
    ) -> PairMemoryPlan:
        """How prediction is split; refuses here what prediction or alignment could not finish.

        Other resident models give way, so that their memory counts as free; the network's weights are no longer part
        of what is free, and part of what the plan counts.
        """
        weights, sizes = _weight_bytes(loaded), [image.size for image in images]
        spare = int(AUTO_SHARE * self._models.reclaimable_bytes(device, keep=loaded))
        budget = limit_bytes(config.max_memory_gb) or free_memory_budget(device) + spare + weights
        on_cpu = device.type == "cpu"
        plan = plan_memory(loaded.network.config, weights, sizes, pairs, budget, results_on_device=on_cpu)
        check_memory(pairs, sizes, config.max_memory_gb)
        self._models.make_room(plan.peak_bytes - weights, device, keep=loaded)
        return plan

    def _leave_room(
        self,
        loaded: LoadedNetwork,
        images: Sequence[NetworkImage],
        pairs: Sequence[tuple[int, int]],
        config: PointmapConfig,
        device: torch.device,
    ) -> None:
        """The network stays only where alignment, which works on the CPU too, has enough memory beside it."""
        needed = estimate_memory(pairs, [image.size for image in images]).total
        limit = limit_bytes(config.max_memory_gb)
        if device.type == "cpu" and limit is not None and limit < needed + _weight_bytes(loaded):
            self._models.forget(loaded)
        self._models.make_room(needed, torch.device("cpu"))


class PointmapNetBackend(Dust3rBackend):
    """The same by a network that ``reconx train pointmap`` made."""

    name = "pointmap_net"

    def load(self, config: PointmapConfig, device: torch.device) -> LoadedNetwork:
        """The network that the configuration names.

        Raises:
            WeightsError: when none is named, or it cannot be read.
            InvalidInputError: when it has no training card, as networks from elsewhere.
        """
        weights = config.own(PointmapNetSettings).weights
        cure = "run 'reconx train pointmap --out DIR' and set it to DIR"
        loaded = self._resident(weights, cure, config, device)
        if loaded.card is None:
            raise InvalidInputError(
                f"network {weights} has no {CARD_FILE}, expected one from 'reconx train pointmap' "
                "(published weights belong to the backend dust3r)"
            )
        return loaded

    def confidence(self, loaded: LoadedNetwork) -> float:
        """The median confidence on held-out rooms, out of the training card."""
        value = (loaded.card or {}).get("min_confidence")
        return float(value) if isinstance(value, int | float) else PUBLISHED_CONFIDENCE


def _network_image(keyframe: Keyframe, network: PointmapNetwork, config: PointmapConfig) -> NetworkImage:
    trained = network.config
    size = config.network_size or trained.size
    square = not config.network_size and trained.img_size == (SQUARE_SIZE, SQUARE_SIZE)
    frame = keyframe.frame
    return prepare_image(frame.rgb_u8, size, camera=frame.camera, square=square, patch=trained.patch_size)


def _weight_bytes(loaded: LoadedNetwork) -> int:
    return module_bytes(loaded.network)


def _graph(name: str, images: int) -> str:
    if name != "auto":
        return name
    return "complete" if images <= _MOST_FOR_COMPLETE else "swin-3-noncyclic"


def _known(keyframes: Sequence[Keyframe], images: Sequence[NetworkImage], config: PointmapConfig) -> KnownGeometry:
    """Intrinsics always; poses where every keyframe has one and they are to be held."""
    poses = [keyframe.frame.world_from_cam for keyframe in keyframes]
    held = config.network_holds_poses and all(pose is not None for pose in poses)
    return KnownGeometry(cameras=[image.camera for image in images], world_from_cams=poses if held else ())


def _part(job: Job, start: float, stop: float) -> Job:
    """A job whose progress is a part of another's."""

    def report(stage: str, fraction: float, message: str) -> None:
        job.on_progress(stage, start + fraction * (stop - start), message)

    return Job(stage=job.stage, on_progress=report, token=job.token)
