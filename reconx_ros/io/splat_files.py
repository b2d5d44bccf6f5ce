"""Gaussian scenes in the two small formats of web viewers: ``.splat`` and ``.spz``.

Both lose precision, and both leave out provenance and confidence: keep ``scene.ply`` beside them. World axes stay as
they are in ``scene.ply``, which public programs take as x right, y down, z forward. A scene far from the origin is
written about its own centre, and one of small or large units to ``.spz`` in another power of ten; the log says so.
"""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path

import numpy as np
import torch

from reconx_ros.core import GaussianScene, InvalidInputError, check_finite
from reconx_ros.core.files import write_bytes
from reconx_ros.geometry.working_frame import in_single_precision

_SH_C0 = 0.28209479177387814
_SPLAT_DTYPE = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation_wxyz", "u1", 4)])
_SPZ_MAGIC, _SPZ_VERSION, _SPZ_ANTIALIASED = 0x5053474E, 2, 1
_SPZ_COLOR_SCALE = 0.15
_SPZ_MAX_FRACTION_BITS = 12  # a quarter of a millimetre in a metric world
_SPZ_MAX_POSITION = (1 << 23) - 1
_SPZ_LOG_SCALES = (-8.5, 4.5)  # typical ones; the format cuts off at -10 and 5.9
_SPZ_USUAL_LOG_SCALE = -4.6  # a standard deviation of 0.01
_log = logging.getLogger(__name__)
# Whether each harmonic of degree 1 to 3 changes its sign where y and z do, in the order of 3DGS.
_SPZ_SH_SIGNS = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)


def write_splat(path: Path, scene: GaussianScene) -> None:
    """Write the ``.splat`` format of antimatter15/splat; the file appears complete or not at all.

    32 bytes per Gaussian, little endian, no header: position 3 x float32, scale 3 x float32 (standard deviations),
    red green blue opacity 4 x uint8, rotation w x y z 4 x uint8 as ``128 + 128 q``. The most visible Gaussians (volume
    times opacity) come first, since viewers show a file while it loads. Higher harmonics are lost.

    Args:
        path: file to make or replace; its folder must exist.
        scene: N Gaussians.

    Raises:
        InvalidInputError: for a scene with NaN or infinity, or a quaternion of length 0.
        StorageError: when the file cannot be written; an older one is then untouched.
    """
    arrays = _arrays(path, scene)
    opacity = _sigmoid(arrays["logit_opacities"])
    table = np.empty(len(scene), _SPLAT_DTYPE)
    table["position"], table["scale"] = arrays["means"], np.exp(arrays["log_scales"].clip(-80, 80))
    table["rgba"][:, :3] = _bytes(255 * (0.5 + _SH_C0 * arrays["sh"][:, 0]))
    table["rgba"][:, 3] = _bytes(255 * opacity)
    table["rotation_wxyz"] = _bytes(128 + 128 * arrays["quats_wxyz"])
    order = np.argsort(-(arrays["log_scales"].sum(axis=-1) + np.log(np.maximum(opacity, 1e-12))), kind="stable")
    write_bytes(path, table[order].tobytes())


def write_spz(path: Path, scene: GaussianScene, *, antialiased: bool = False) -> None:
    """Write the ``.spz`` format of Niantic, version 2; the file appears complete or not at all.

    A gzip stream of a header of 16 bytes (magic "NGSP", version, count, degree, fraction bits, flags, reserved) and one
    block per attribute: positions (24-bit fixed point), opacities, colours, logarithmic scales (steps of 1/16 from
    -10), rotations (x y z as 8 bits each), higher harmonics (8 bits, steps of 1/128). The format's axes are x right,
    y up, z back: y and z change their sign, so that readers that convert to the axes of PLY files get ``scene.ply``.

    Args:
        path: file to make or replace; its folder must exist.
        scene: N Gaussians.
        antialiased: whether it was fitted with the antialiasing filter, which viewers should then use.

    Raises:
        InvalidInputError: for a scene with NaN or infinity, a quaternion of length 0, or positions beyond 8 million
            units.
        StorageError: when the file cannot be written; an older one is then untouched.
    """
    arrays = _in_fitting_unit(path, _arrays(path, scene))
    bits = _fraction_bits(arrays["means"])
    flags = _SPZ_ANTIALIASED if antialiased else 0
    header = struct.pack("<IIIBBBB", _SPZ_MAGIC, _SPZ_VERSION, len(scene), scene.sh_degree, bits, flags, 0)
    body = b"".join([header, *_spz_blocks(arrays, bits)])
    write_bytes(path, gzip.compress(body, mtime=0))


def _spz_blocks(arrays: dict[str, np.ndarray], bits: int) -> list[bytes]:
    """The attributes after the header, in order."""
    flip = np.array([1, -1, -1], np.float32)  # half a turn about x
    fixed = np.rint(arrays["means"] * flip * float(1 << bits)).astype("<i4")
    xyz = arrays["quats_wxyz"][:, 1:] * flip * np.where(arrays["quats_wxyz"][:, :1] < 0, -1, 1)  # with w >= 0
    higher = arrays["sh"][:, 1:] * _SPZ_SH_SIGNS[: arrays["sh"].shape[1] - 1, None]  # [N, K - 1, 3]
    return [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
        _bytes(255 * _sigmoid(arrays["logit_opacities"])).tobytes(),
        _bytes(255 * (0.5 + _SPZ_COLOR_SCALE * arrays["sh"][:, 0])).tobytes(),
        _bytes(16 * (arrays["log_scales"] + 10)).tobytes(),
        _bytes(127.5 + 127.5 * xyz).tobytes(),
        _bytes(128 + 128 * higher).tobytes(),
    ]


def _fraction_bits(means: np.ndarray) -> int:
    """How many bits after the point fit a fixed-point number of 24 bits for positions [N, 3]."""
    largest = float(np.abs(means).max(initial=0.0))
    for bits in range(_SPZ_MAX_FRACTION_BITS, -1, -1):
        if round(largest * (1 << bits)) <= _SPZ_MAX_POSITION:
            return bits
    raise InvalidInputError(
        f"a Gaussian lies {largest:.3g} units from the origin, expected at most {_SPZ_MAX_POSITION}"
    )


def _in_fitting_unit(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same Gaussians, enlarged or shrunk by a power of ten where the format's steps would not hold their sizes."""
    if not len(arrays["means"]):
        return arrays
    typical = float(np.median(arrays["log_scales"]))
    if _SPZ_LOG_SCALES[0] < typical < _SPZ_LOG_SCALES[1]:
        return arrays
    room = np.log10(_SPZ_MAX_POSITION / max(float(np.abs(arrays["means"]).max()), 1e-30))
    power = round(min((_SPZ_USUAL_LOG_SCALE - typical) / np.log(10), np.floor(room)))
    _log.warning("%s is written in units of 1e%d of the scene's", path, -power)
    return {
        **arrays,
        "means": arrays["means"] * np.float64(10) ** power,
        "log_scales": arrays["log_scales"] + np.float32(power * np.log(10)),
    }


def _arrays(path: Path, scene: GaussianScene) -> dict[str, np.ndarray]:
    """The parameters as float32, finite, with unit quaternions; about the scene's centre where the origin is far."""
    scene, local_from_world = in_single_precision(scene)
    if local_from_world is not None:
        _log.warning(
            "%s is about its own centre: add %s to its positions", path, (-local_from_world.translation).tolist()
        )
    arrays = {}
    for name in ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh"):
        arrays[name] = getattr(scene, name).detach().to("cpu", torch.float32).numpy()
        check_finite(f"gaussian {name}", arrays[name])
    length = np.linalg.norm(arrays["quats_wxyz"], axis=-1, keepdims=True)
    if not (length > 0).all():
        raise InvalidInputError(
            f"{int((length == 0).sum())} Gaussians have a quaternion of length 0, expected a rotation"
        )
    arrays["quats_wxyz"] = arrays["quats_wxyz"] / length
    return arrays


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * values)  # does not overflow


def _bytes(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to uint8."""
    return np.rint(values).clip(0, 255).astype(np.uint8)
