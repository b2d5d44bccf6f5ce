"""Gaussian scenes as PLY files in the layout that 3DGS viewers read.

Properties, all little-endian float: x y z, f_dc_0..2, f_rest_* (all higher harmonics of red, then green, then blue),
opacity (logit), scale_0..2 (natural logarithm), rot_0..3 (w x y z). Ours follow at the end, where public viewers ignore
them: confidence, provenance, keyframe_id.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reconx_ros.core import KIND_COMMENT, GaussianScene, InvalidInputError
from reconx_ros.geometry.working_frame import in_single_precision
from reconx_ros.io.cameras_json import load_json
from reconx_ros.io.compressed_ply import OTHER_ELEMENTS, is_compressed, unpacked
from reconx_ros.io.ply import kind_columns, read_ply_file, require_fields, write_ply

_EXTRA = ("confidence", "provenance", "keyframe_id")
_REST_COUNTS = (0, 9, 24, 45)
_OFFSET = "offset"
_log = logging.getLogger(__name__)


def scene_fields(bases: int) -> list[str]:
    """Names of the standard properties, in order, for ``bases`` spherical harmonics (1, 4, 9 or 16)."""
    return [
        *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(3 * (bases - 1))),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def write_scene_ply(path: Path, scene: GaussianScene, *, extra: bool = True) -> None:
    """Write a scene; the file appears complete or not at all.

    A scene in double precision, which lies far from the origin, is moved to it: viewers compute in single precision.
    The header's comment "offset X Y Z" says what to add; ``read_scene_ply`` does.

    Args:
        path: file to make or replace; its folder must exist.
        scene: N Gaussians.
        extra: also write confidence, provenance and keyframe_id; off gives exactly the public layout.

    Raises:
        StorageError: when the file cannot be written; an older one is then untouched.
    """
    scene, local_from_world = in_single_precision(scene)
    higher = scene.sh[:, 1:].transpose(1, 2).flatten(1)  # [N, 3 (K - 1)]
    columns = [scene.means, scene.sh[:, 0], higher, scene.logit_opacities[:, None], scene.log_scales, scene.quats_wxyz]
    names, comments = scene_fields(int(scene.sh.shape[1])), []
    if local_from_world is not None:
        comments.append(f"{_OFFSET} {' '.join(repr(-float(v)) for v in local_from_world.translation)}")
    if extra:
        columns += [getattr(scene, n)[:, None] for n in ("confidence", "provenance", "keyframe_ids")]
        names += _EXTRA
        comments.append(KIND_COMMENT)
    values = torch.cat([c.detach().cpu().float() for c in columns], dim=-1).numpy()  # [N, D]
    table = np.ascontiguousarray(values, "<f4").view(np.dtype([(n, "<f4") for n in names])).reshape(-1)
    write_ply(path, table, comments)


def read_scene_ply(path: Path, *, drop_bad: bool = False) -> GaussianScene:
    """Read a scene; files of other programs lack our properties. SuperSplat's compressed files are read, too.

    Without provenance in the file nothing says how their places are known: they are NONE, with confidence 0.

    Args:
        path: the file.
        drop_bad: leave out Gaussians with NaN or infinity instead of refusing the file.

    Raises:
        StorageError: when the file cannot be opened, or ends too early.
        InvalidInputError: when it is not a 3DGS file, or holds NaN or infinity.
    """
    file = read_ply_file(path, OTHER_ELEMENTS)
    table = unpacked(path, file) if is_compressed(file) else file.elements["vertex"]
    rest = [n for n in table.dtype.names or () if re.fullmatch(r"f_rest_\d+", n)]
    if len(rest) not in _REST_COUNTS:
        raise InvalidInputError(f"{path} has {len(rest)} properties f_rest_*, expected 0, 9, 24 or 45")
    bases = len(rest) // 3 + 1
    names = scene_fields(bases)
    require_fields(path, table, names)
    table = _finite(path, table, names, drop_bad)
    means, constant, higher, opacity, scales, quats = _columns(table, names).split([3, 3, len(rest), 1, 3, 4], dim=1)
    return GaussianScene(
        means=_placed(path, means, file.comments),
        quats_wxyz=quats,
        log_scales=scales,
        logit_opacities=opacity.squeeze(-1),
        sh=torch.cat([constant[:, None], higher.reshape(len(table), 3, bases - 1).transpose(1, 2)], dim=1),
        **_extra(path, table),
    )


def _finite(path: Path, table: np.ndarray, names: list[str], drop_bad: bool) -> np.ndarray:
    """The rows without NaN and infinity; unless bad ones are to be dropped, there must be no other."""
    bad = {name: ~np.isfinite(table[name].astype(np.float32)) for name in names}
    rows = np.flatnonzero(np.any(list(bad.values()), axis=0))
    if not len(rows):
        return table
    first = int(rows[0])
    name = next(name for name in names if bad[name][first])
    if not drop_bad:
        raise InvalidInputError(
            f"{path} holds {len(rows)} of {len(table)} Gaussians that are NaN or infinite, the first is number {first} "
            f"with {name} = {table[name][first]}, expected finite numbers; --drop-bad keeps the rest"
        )
    _log.warning("%s: %d of %d Gaussians are NaN or infinite and left out", path, len(rows), len(table))
    return np.delete(table, rows)


def _placed(path: Path, means: torch.Tensor, comments: Sequence[str]) -> torch.Tensor:
    """Positions [N, 3] in the world: a file of a scene far from the origin says in its header by what it was moved."""
    words = next((comment.split()[1:] for comment in comments if comment.startswith(f"{_OFFSET} ")), None)
    if words is None:
        return means
    try:
        offset = torch.tensor([float(word) for word in words], dtype=torch.float64)
        return means.double() + offset.reshape(3)
    except (ValueError, RuntimeError):
        raise InvalidInputError(
            f"{path} has the comment '{_OFFSET} {' '.join(words)}', expected three numbers"
        ) from None


def _columns(table: np.ndarray, names: list[str]) -> torch.Tensor:
    """Some properties side by side: [N, D] float32."""
    return torch.from_numpy(np.stack([table[n] for n in names], axis=-1).astype(np.float32))


def _extra(path: Path, table: np.ndarray) -> dict[str, torch.Tensor]:
    columns = kind_columns(path, table)
    return {
        "provenance": torch.from_numpy(columns["provenance"]),
        "confidence": torch.from_numpy(columns["confidence"]),
        "keyframe_ids": torch.from_numpy(columns["keyframe_ids"].astype(np.int64)),
    }


def fitted_antialiased(folder: Path) -> bool:
    """Whether the scene of a result folder was fitted antialiased; as by default where no report says so."""
    if not (folder / "report.json").is_file():
        return True
    config = load_json(folder / "report.json").get("config", {})
    return bool(config.get("splatting", {}).get("antialiased", True))
