"""Textures, pictures and furniture from a folder of the user's, to make simulated rooms look like real ones.

The folder's sub-folders hold ``images/`` with ``images.json`` (entries with ``file`` and, for materials, ``category``)
or ``models/*.glb`` with ``models.json`` (entries with ``file``). What a sub-folder is for is told by its first letter:
``b_`` photographs, ``c_`` textures and paintings, ``d_`` furniture.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reconx_ros.core import StorageError

_LOG = logging.getLogger(__name__)
_LARGEST = 512  # px of a picture's longer side that is kept
_HELD_BACK = 10  # one of so many assets is for validation alone

KINDS: Mapping[str, tuple[str, ...]] = {
    "floor": ("WoodFloor", "Planks", "Tiles", "Carpet", "Marble", "Terrazzo", "Concrete", "Travertine"),
    "wall": ("Plaster", "Wallpaper", "Paint", "Concrete", "Bricks", "Tiles", "Fabric", "Paper"),
    "ceiling": ("OfficeCeiling", "Plaster", "Paint", "Concrete"),
    "wood": ("Wood", "Planks", "Bamboo", "Chipboard", "Cork"),
    "cloth": ("Fabric", "Carpet"),
    "hard": ("Metal", "Plastic", "Marble", "Granite", "Terrazzo", "Onyx", "Porcelain", "Clay", "Cardboard"),
}
"""What materials of which category are used for."""


@dataclass(frozen=True)
class Assets:
    """Paths by what they are for; empty where the folder has none.

    Attributes:
        textures: by a key of KINDS.
        pictures: photographs and paintings.
        models: GLB files of furniture.
    """

    textures: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()


@functools.cache
def find_assets(folder: str, split: str) -> Assets:
    """The assets of a folder for the rooms of a split; one in ten is for validation, the others for training.

    Lists that are too short to be divided serve both.

    Args:
        folder: "" for none.
        split: "train" or "validation".

    Raises:
        StorageError: for a folder that holds none.
    """
    if not folder:
        return Assets()
    root = Path(folder).expanduser()
    textures: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    pictures: list[Path] = []
    models: list[Path] = []
    for part in sorted(root.glob("*")):
        for path, category in _listed(part, "images.json", split):
            kinds = [kind for kind, names in KINDS.items() if category in names]
            for kind in kinds:
                textures[kind].append(path)
            if not kinds and part.name.startswith(("b_", "c_")) and not category:
                pictures.append(path)
        models += [path for path, _ in _listed(part, "models.json", split)]
    if not (any(textures.values()) or pictures or models):
        raise StorageError(
            f"asset folder {root} holds no images.json or models.json with files, expected sub-folders with some"
        )
    return Assets(
        textures={kind: tuple(paths) for kind, paths in textures.items()},
        pictures=tuple(pictures),
        models=tuple(models),
    )


def _listed(folder: Path, name: str, split: str) -> list[tuple[Path, str]]:
    """(path, category) of the files that a folder lists for a split."""
    listing = folder / name
    if not listing.is_file():
        return []
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
        files = [(folder / entry["file"], str(entry.get("category", ""))) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise StorageError(
            f"asset list {listing} cannot be read: {err}, expected a list of entries with a file"
        ) from None
    own = [row for row in sorted(files) if _is_held_back(row[0]) == (split == "validation")]
    return own if 0 < len(own) < len(files) else sorted(files)


def _is_held_back(path: Path) -> bool:
    return hashlib.sha256(path.name.encode()).digest()[0] % _HELD_BACK == 0


@functools.lru_cache(maxsize=256)
def read_picture(path: Path) -> np.ndarray:
    """A picture [H, W, 3] float32 in [0, 1], at most 512 pixels a side.

    Raises:
        StorageError: when it cannot be read.
    """
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise StorageError(f"picture {path} cannot be read, expected a JPEG or PNG file")
    scale = _LARGEST / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1], np.float32) / np.float32(255)


def tiled(path: Path, height: int, width: int, texel_m: float, tile_m: float) -> np.ndarray:
    """A seamless texture repeated over a surface: [height, width, 3].

    Args:
        path: of the picture.
        height, width: of the surface in texels.
        texel_m: edge of a texel.
        tile_m: edge of one repetition.
    """
    import cv2

    side = max(2, round(tile_m / texel_m))
    tile = cv2.resize(read_picture(path), (side, side), interpolation=cv2.INTER_AREA)
    rows, columns = -(-height // side), -(-width // side)
    return np.tile(tile, (rows, columns, 1))[:height, :width]


def stretched(path: Path, height: int, width: int) -> np.ndarray:
    """A picture over a whole surface: [height, width, 3]."""
    import cv2

    return np.asarray(cv2.resize(read_picture(path), (width, height), interpolation=cv2.INTER_AREA))
