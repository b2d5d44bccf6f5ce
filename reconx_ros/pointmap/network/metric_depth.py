"""Metric depth of single images by a network in the format of transformers: a source of scale, not of geometry.

Two families are read: Depth Anything V2 with a metric head (Yang et al., NeurIPS 2024) and Depth Pro (Bochkovskii et
al., ICLR 2025). Weights are the user's to choose and fetch, and their licences differ with their size. Nothing is
downloaded here.
"""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf

from reconx_ros.core import BackendUnavailableError, InvalidInputError, PinholeCamera, WeightsError, check_shape
from reconx_ros.weights.cache import ModelCache, module_bytes
from reconx_ros.weights.resolve import resolve

_SETTING = "pointmap.metric_network"

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic")  # by the number that Pillow gives them


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the network's input; the fields are those of preprocessor_config.json.

    Attributes:
        height, width: size asked for, pixels.
        multiple: sides become multiples of this.
        keep_aspect: scale both sides alike, by the factor that changes the size less.
        mean, std: per channel, of images in [0, 1].
        mode: "bicubic" or "bilinear".
        antialias: low-pass filter when shrinking, as Pillow does.
    """

    height: int = 518
    width: int = 518
    multiple: int = 14
    keep_aspect: bool = True
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    mode: str = "bicubic"
    antialias: bool = True

    @classmethod
    def from_json(cls, content: dict[str, Any], *, antialias: bool = True) -> Preprocessing:
        """From the content of preprocessor_config.json.

        Raises:
            InvalidInputError: for a size or resampling that is not understood.
        """
        size = content.get("size", {"height": 518, "width": 518})
        try:
            height, width = int(size["height"]), int(size["width"])
            mode = _RESAMPLING[int(content.get("resample", 3))]
        except (KeyError, TypeError, ValueError, IndexError):
            raise InvalidInputError(
                f"preprocessor_config.json has size {size!r} and resample {content.get('resample')!r}, "
                "expected a height and width, and resample 2 (bilinear) or 3 (bicubic)"
            ) from None
        if mode not in ("bicubic", "bilinear"):
            raise InvalidInputError(f"preprocessor_config.json has resample {mode}, expected bilinear or bicubic")
        return cls(
            height=height,
            width=width,
            multiple=int(content.get("ensure_multiple_of", 1)),
            keep_aspect=bool(content.get("keep_aspect_ratio", False)),
            mean=tuple(content.get("image_mean", _IMAGENET_MEAN)),
            std=tuple(content.get("image_std", _IMAGENET_STD)),
            mode=mode,
            antialias=antialias,
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the network's input for an image of a size."""
        tall, wide = self.height / height, self.width / width
        if self.keep_aspect:
            tall = wide = wide if abs(1 - wide) < abs(1 - tall) else tall
        sides = (tall * height, wide * width)
        rows, columns = (max(self.multiple, round(s / self.multiple) * self.multiple) for s in sides)
        return rows, columns

    def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
        """The network's input [1, 3, h, w] of an image [H, W, 3] in [0, 1]."""
        image = rgb.permute(2, 0, 1)[None]
        size = self.input_size(int(rgb.shape[0]), int(rgb.shape[1]))
        small = nnf.interpolate(image, size, mode=self.mode, align_corners=False, antialias=self.antialias).clamp(0, 1)
        mean, std = (torch.tensor(v, device=rgb.device)[:, None, None] for v in (self.mean, self.std))
        return (small - mean) / std


class MetricDepthNetwork:
    """A metric depth network, ready to run.

    Args:
        folder: with config.json, preprocessor_config.json and safetensors weights.
        device: where it runs.

    Raises:
        BackendUnavailableError: when transformers is not installed.
        WeightsError: when the network cannot be read.
        InvalidInputError: when it does not estimate metric depth.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        if importlib.util.find_spec("transformers") is None:
            raise BackendUnavailableError(
                "the metric depth network needs the Python package transformers: run pip install 'reconx_ros[models]'"
            )
        self._canonical_inverse, self._preprocessing, self._model = _load(folder)
        self._model.to(device)
        self._device = device

    @property
    def size_bytes(self) -> int:
        """Of its parameters."""
        return module_bytes(self._model)

    @torch.inference_mode()
    def depth_m(self, rgb: torch.Tensor, camera: PinholeCamera) -> torch.Tensor:
        """Depth in metres of one image; where the network is not finite or positive, 0.

        Args:
            rgb: [H, W, 3] in [0, 1].
            camera: of this image; Depth Pro needs its focal length.

        Returns:
            [H, W] float32 on the CPU.
        """
        check_shape("image", rgb, camera.height, camera.width, 3)
        raw = self._model(pixel_values=self._preprocessing(rgb.to(self._device))).predicted_depth.float()  # [1, h, w]
        size = (camera.height, camera.width)
        full = nnf.interpolate(raw[:, None], size, mode="bilinear", align_corners=False)[0, 0]
        depth = metric_from_canonical(full, camera) if self._canonical_inverse else full
        return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0).cpu()


def resident_network(
    weights: str, models: ModelCache, device: torch.device | str = "cpu", limit_bytes: int = 0
) -> MetricDepthNetwork:
    """The network that a setting names, out of a cache.

    Args:
        weights: name of the catalogue, folder, or a hub name that is in the local cache.
        models: the cache.
        device: where it runs.
        limit_bytes: what metric depth networks may take together; 0 sets no limit.

    Raises:
        WeightsError, InvalidInputError, BackendUnavailableError: as ``MetricDepthNetwork``, and where there is none.
    """
    source = resolve(weights, setting=_SETTING, cure="name the folder of a metric depth network")
    return models.get(
        [source],
        "metric depth network",
        lambda: MetricDepthNetwork(source.path, device),
        dtype=torch.float32,
        device=torch.device(device),
        size=lambda network: network.size_bytes,
        limit_bytes=limit_bytes,
    )


def metric_from_canonical(canonical_inverse: torch.Tensor, camera: PinholeCamera) -> torch.Tensor:
    """Metres from Depth Pro's canonical inverse depth C: ``fx / (width C)`` (ICLR 2025, sec. 3.1)."""
    return camera.fx / (camera.width * canonical_inverse.clamp(1e-4, 1e4))


def _load(folder: Path) -> tuple[bool, Preprocessing, Any]:
    """(output is canonical inverse depth, preprocessing, model)."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForDepthEstimation

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as err:
        raise WeightsError(f"metric depth network {folder} has no config.json that can be read: get it again") from err
    kind = str(config.model_type)
    head = str(getattr(config, "depth_estimation_type", "metric"))
    if kind not in ("depth_anything", "depth_pro") or head != "metric":
        raise InvalidInputError(
            f"metric depth network {folder} is a {kind} with {head} depth, expected metric depth_anything or depth_pro"
        )
    preprocessing = _preprocessing(folder, kind, config)
    try:
        model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as err:
        raise WeightsError(
            f"metric depth network {folder} cannot be read, expected complete safetensors weights: "
            f"{str(err).splitlines()[0]}"
        ) from err
    return kind == "depth_pro", preprocessing, model.eval()


def _preprocessing(folder: Path, kind: str, config: Any) -> Preprocessing:
    try:
        content = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise WeightsError(
            f"metric depth network {folder} has no readable preprocessor_config.json, expected it beside config.json"
        ) from err
    if kind == "depth_pro":
        return Preprocessing.from_json({"resample": 2, **content}, antialias=False)
    patch = int(getattr(config, "patch_size", 1) or 1)
    multiple = math.lcm(patch, int(content.get("ensure_multiple_of", patch)))
    return Preprocessing.from_json({**content, "ensure_multiple_of": multiple})
