"""The result folder of a reconstruction.

``points.ply`` (x y z, rgb, confidence, provenance, keyframe_id), ``scene.ply`` (3DGS layout), ``cameras.json`` and
``images/NNNN.png`` (the keyframes, so that the folder is a scene folder again), ``novel_views/NNNN.png`` with
``NNNN_depth.png`` (16-bit thousandths of a world unit, millimetres where the scale is metric; ``depth_unit_m`` in
cameras.json says another unit) and ``NNNN_confidence.png``, ``report.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core import SE3, PinholeCamera, StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.io.gaussians import write_scene_ply
from reconx_ros.io.images import MILLIMETRE, write_depth, write_image
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.pipeline.reconstructor import Reconstruction
from reconx_ros.splatting.render import RenderedView

_NEAR_AND_FAR = (0.1, 20.0)  # median depths whose maps fit 16 bits in thousandths


def save_reconstruction(result: Reconstruction, folder: Path) -> None:
    """Write a result folder. Every file is written whole or not at all; ``report.json`` comes last.

    Raises:
        StorageError: when the folder cannot be written or the disk is full; the sentence names the file.
    """
    try:
        for name in ("images", "novel_views"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"result folder {folder} cannot be made: {err.strerror}") from None
    write_point_cloud_ply(folder / "points.ply", result.cloud)
    write_scene_ply(folder / "scene.ply", result.scene)
    for pointmap in result.views.views:
        pixels = (255 * pointmap.rgb.clamp(0, 1)).round().to(torch.uint8)
        write_image(folder / _image_name(pointmap.keyframe_id), pixels.numpy())
    for index, view in enumerate(result.novel_views):
        save_view(folder / "novel_views", index, view, depth_unit(result.novel_views))
    write_bytes(folder / "cameras.json", _json(cameras(result)))
    write_bytes(folder / "report.json", _json(result.report))


def depth_unit(views: Sequence[RenderedView]) -> float:
    """World units per step of 16-bit depth: a thousandth, or the power of ten that holds very near or far scenes."""
    depths = np.concatenate([v.depth[v.depth > 0].ravel() for v in views] or [np.zeros(0)])
    typical = float(np.median(depths)) if len(depths) else 1.0
    return MILLIMETRE if _NEAR_AND_FAR[0] <= typical <= _NEAR_AND_FAR[1] else 10.0 ** np.floor(np.log10(typical) - 3)


def save_view(folder: Path, index: int, view: RenderedView, unit: float = MILLIMETRE) -> None:
    """Picture, depth in steps of ``unit`` and confidence of one rendered view."""
    write_image(folder / f"{index:04d}.png", view.rgb_u8)
    write_depth(folder / f"{index:04d}_depth.png", view.depth, unit)
    grey = np.round(255 * view.confidence).clip(0, 255).astype(np.uint8)
    write_image(folder / f"{index:04d}_confidence.png", np.repeat(grey[..., None], 3, axis=-1))


def cameras(result: Reconstruction) -> dict[str, Any]:
    """Cameras of inputs and novel views in the scene-folder form."""
    stamps = {k.id: {"timestamp": k.frame.stamp_ns / 1e9} for k in result.keyframes if k.frame.stamp_ns > 0}
    inputs = [
        _camera(
            v.camera,
            v.world_from_cam,
            file=_image_name(v.keyframe_id),
            keyframe_id=v.keyframe_id,
            **stamps.get(v.keyframe_id, {}),
        )
        for v in result.views.views
    ]
    novel = [
        _camera(v.camera, v.world_from_cam, file=f"novel_views/{i:04d}.png") for i, v in enumerate(result.novel_views)
    ]
    return {
        "convention": "OpenCV camera axes; c2w is 4x4 row-major camera-to-world; "
        "pixel (0, 0) is the centre of the first pixel",
        "metric_scale": result.metric_scale,
        **_other_unit(depth_unit(result.novel_views)),
        "images": inputs,
        "novel_views": novel,
    }


def _other_unit(unit: float) -> dict[str, float]:
    return {} if unit == MILLIMETRE else {"depth_unit_m": unit}


def _image_name(keyframe_id: int) -> str:
    return f"images/{keyframe_id:04d}.png"


def _camera(camera: PinholeCamera, pose: SE3, **extra: Any) -> dict[str, Any]:
    intrinsics = {n: getattr(camera, n) for n in ("width", "height", "fx", "fy", "cx", "cy")}
    return {**extra, **intrinsics, "c2w": pose.matrix.tolist()}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
