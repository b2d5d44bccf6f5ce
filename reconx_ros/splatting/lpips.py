"""LPIPS, the learned perceptual distance of Zhang et al. 2018 (arXiv:1801.03924), version 0.1 on VGG16.

The network is ours; its weights are files that the user brings. The trunk is what torchvision publishes as
``vgg16-397923af.pth`` (keys ``features.N.weight``, ``features.N.bias``); the linear heads are what the lpips package
holds as ``weights/v0.1/vgg.pth`` (keys ``lin0.model.1.weight`` to ``lin4.model.1.weight``). ``.safetensors`` files with
the same tensors do as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as nnf

from reconx_ros.core import ConfigError, InvalidInputError, check_finite, check_shape
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.weights.cache import ModelCache, module_bytes
from reconx_ros.weights.resolve import resolve
from reconx_ros.weights.tensors import read_tensors

MIN_SIDE_PX = 16  # four poolings halve the picture
# Width and torchvision's indices of the convolutions of each block; a block ends where LPIPS taps the trunk (relu1_2,
# relu2_2, relu3_3, relu4_3, relu5_3) and all but the first begin with a pooling.
_BLOCKS = ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21)), (512, (24, 26, 28)))
_SHIFT = (-0.030, -0.088, -0.188)  # of red, green, blue in [-1, 1]: ImageNet's mean
_SCALE = (0.458, 0.448, 0.450)  # ImageNet's standard deviation
_UNUSED_PREFIX = "classifier."  # torchvision's file also holds the classifier
_EPSILON = 1e-10
_LOG = logging.getLogger(__name__)


def trunk_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the trunk's tensors: 3x3 convolutions and their biases."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for width, indices in _BLOCKS:
        for index in indices:
            shapes[f"features.{index}.weight"] = (width, channels, 3, 3)
            shapes[f"features.{index}.bias"] = (width,)
            channels = width
    return shapes


def head_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the heads' tensors: a weight per channel of each tap."""
    return {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, (width, _) in enumerate(_BLOCKS)}


class Lpips(torch.nn.Module):
    """Perceptual distance of two pictures; a ``PerceptualLoss`` for ``fit``.

    Weights are fixed; they follow the first picture to its device and type. Gradients flow to the pictures.

    Args:
        trunk: tensors of ``trunk_shapes``, and any of torchvision's classifier, which are ignored.
        heads: tensors of ``head_shapes``.

    Raises:
        InvalidInputError: for a tensor that is missing, unknown, of another shape, or not finite.
    """

    def __init__(self, trunk: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        kept = {name: value for name, value in trunk.items() if not name.startswith(_UNUSED_PREFIX)}
        _check_weights("LPIPS trunk (VGG16)", kept, trunk_shapes())
        _check_weights("LPIPS heads", heads, head_shapes())
        for name, value in (*kept.items(), *heads.items()):
            self.register_buffer(_buffer(name), value.detach().float().clone(), persistent=False)
        self.register_buffer("shift", torch.tensor(_SHIFT), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE), persistent=False)

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Distance per pixel.

        Each of the five layers' maps is enlarged to the size of the picture (bilinear), so that a weight per pixel
        applies to it; the mean of the result is ``distance`` up to that enlargement's treatment of odd sizes.

        Args:
            image: [H, W, 3] in [0, 1]; H and W at least 16.
            target: [H, W, 3] in [0, 1].

        Returns:
            [H, W] >= 0 for weights as published.

        Raises:
            InvalidInputError: for pictures of different shapes, or smaller than 16 px.
        """
        size = image.shape[:2]
        maps = [
            nnf.interpolate(layer[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
            for layer in self.layer_maps(image, target)
        ]
        return torch.stack(maps).sum(dim=0)

    def distance(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The published LPIPS number: the layers' spatial means, added. Arguments and errors as ``forward``."""
        return torch.stack([layer.mean() for layer in self.layer_maps(image, target)]).sum()

    def layer_maps(self, image: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        """Distance [H / 2^k, W / 2^k] at each of the five taps k = 0..4. Arguments and errors as ``forward``."""
        dims = check_shape("LPIPS image", image, "H", "W", 3)
        check_shape("LPIPS target", target, "H", "W", 3, dims=dims)
        if min(dims["H"], dims["W"]) < MIN_SIDE_PX:
            raise InvalidInputError(
                f"LPIPS image is {dims['W']}x{dims['H']}, expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX} pixels"
            )
        self.to(image)
        pairs = zip(self._taps(image), self._taps(target.to(image)), strict=True)
        return [self._head(i, (ours - theirs).square()) for i, (ours, theirs) in enumerate(pairs)]

    def _taps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Features [D, h, w] of a picture at each tap, of length 1 at every pixel."""
        scaled = (2 * image - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        x, taps = scaled.permute(2, 0, 1)[None], []
        for block, (_, indices) in enumerate(_BLOCKS):
            x = nnf.max_pool2d(x, 2) if block else x
            for index in indices:
                x = nnf.relu(nnf.conv2d(x, self._weight(index, "weight"), self._weight(index, "bias"), padding=1))
            length = torch.linalg.vector_norm(x[0], dim=0)  # unlike sqrt, has a gradient (0) where all features are 0
            taps.append(x[0] / (length + _EPSILON))
        return taps

    def _head(self, tap: int, squares: torch.Tensor) -> torch.Tensor:
        return torch.tensordot(self.get_buffer(_buffer(f"lin{tap}.model.1.weight")).flatten(), squares, dims=1)

    def _weight(self, index: int, kind: str) -> torch.Tensor:
        return self.get_buffer(_buffer(f"features.{index}.{kind}"))


def _buffer(name: str) -> str:
    return name.replace(".", "_")


def _check_weights(name: str, weights: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    missing = [key for key in shapes if key not in weights]
    if missing:
        raise InvalidInputError(f"{name} lacks {len(missing)} of {len(shapes)} tensors, the first is '{missing[0]}'")
    extra = [key for key in weights if key not in shapes]
    if extra:
        raise InvalidInputError(f"{name} has {len(extra)} unknown tensors, the first is '{extra[0]}'")
    for key, shape in shapes.items():
        check_shape(f"{name} tensor '{key}'", weights[key], *shape)
        check_finite(f"{name} tensor '{key}'", weights[key])


def load_lpips(path_trunk: Path | str, path_heads: Path | str) -> Lpips:
    """LPIPS from two weight files; see the top of this module for which.

    Args:
        path_trunk: VGG16.
        path_heads: linear heads.

    Raises:
        WeightsError: when a file is missing or damaged.
        InvalidInputError: when it does not hold exactly these tensors.
    """
    return Lpips(read_tensors(Path(path_trunk).expanduser()), read_tensors(Path(path_heads).expanduser()))


def perceptual_from_config(
    config: SplattingConfig, models: ModelCache | None = None, device: torch.device | str = "cpu"
) -> Lpips | None:
    """The perceptual loss that a configuration asks for; None where it names no files, or the term's weight is 0.

    Args:
        config: names the files.
        models: where the network is taken from; None loads it for this call.
        device: where pictures will be compared.

    Raises:
        ConfigError: when only one of the two files is named.
        WeightsError, InvalidInputError: as ``load_lpips``.
    """
    if bool(config.lpips_trunk) != bool(config.lpips_heads):
        named, other = ("lpips_trunk", "lpips_heads") if config.lpips_trunk else ("lpips_heads", "lpips_trunk")
        raise ConfigError(f"{named} is '{getattr(config, named)}' but {other} is empty, expected both files or none")
    if not config.lpips_trunk or config.weight_lpips == 0:
        return None
    _LOG.info("LPIPS with weights %s and %s", config.lpips_trunk, config.lpips_heads)
    return resident_lpips(config, models or ModelCache(), device)


def resident_lpips(config: SplattingConfig, models: ModelCache, device: torch.device | str = "cpu") -> Lpips:
    """The network whose files a configuration names, out of a cache.

    Raises:
        WeightsError, InvalidInputError: as ``load_lpips``.
    """
    trunk = resolve(config.lpips_trunk, setting="splatting.lpips_trunk")
    heads = resolve(config.lpips_heads, setting="splatting.lpips_heads")
    return models.get(
        [trunk, heads],
        "LPIPS",
        lambda: load_lpips(trunk.path, heads.path).to(device),
        dtype=torch.float32,
        device=torch.device(device),
        size=module_bytes,
    )
