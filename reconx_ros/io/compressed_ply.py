"""SuperSplat's compressed PLY files (PlayCanvas): Gaussians in 16 bytes each.

Element ``chunk``: per 256 Gaussians the bounds of their positions, logarithmic scales and, in newer files, colours.
Element ``vertex``: ``packed_position`` and ``packed_scale`` (11, 10 and 11 bits of x, y, z within the bounds),
``packed_rotation`` (2 bits say which of w, x, y, z is largest and left out, 10 bits for each of the others, within
+-sqrt(1/2)), ``packed_color`` (8 bits each of red, green, blue within the bounds, and of opacity). Element ``sh``,
where there is one: higher harmonics as bytes, from -4 to 4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.io.ply import PlyFile, require_fields

OTHER_ELEMENTS = ("chunk", "sh")
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_CHUNK = 256
_SH_C0 = 0.28209479177387814
_SH_REACH = 8.0
_MOST_OPAQUE = 16.0  # logit of an opacity of 255 / 255


def is_compressed(file: PlyFile) -> bool:
    """Whether a file is SuperSplat's."""
    return "chunk" in file.elements and set(_PACKED) <= set(file.elements["vertex"].dtype.names or ())


def unpacked(path: Path, file: PlyFile) -> np.ndarray:
    """The Gaussians [N] as a table with the properties of 3DGS (``reconx_ros.io.gaussians``).

    Raises:
        InvalidInputError: for fewer chunks, or rows of harmonics, than the Gaussians need.
    """
    vertices, chunks, harmonics = file.elements["vertex"], file.elements["chunk"], file.elements.get("sh")
    count = len(vertices)
    if len(chunks) * _CHUNK < count:
        raise InvalidInputError(
            f"{path} has {len(chunks)} chunks, expected {-(-count // _CHUNK)} for {count} Gaussians"
        )
    if harmonics is not None and len(harmonics) != count:
        raise InvalidInputError(f"{path} has {len(harmonics)} rows of harmonics, expected {count}, one per Gaussian")
    chunk = chunks[np.arange(count) // _CHUNK]
    colour = _bits(vertices["packed_color"], (8, 8, 8, 8))
    positions = _within(path, chunk, "", "xyz", _bits(vertices["packed_position"], (11, 10, 11)))
    columns = {**dict(zip("xyz", positions, strict=True)), **_colours(path, chunk, colour)}
    if harmonics is not None:
        columns |= {name: _harmonic(harmonics[name]) for name in harmonics.dtype.names or ()}
    columns["opacity"] = _logits(colour[3])
    scales = _within(path, chunk, "scale_", "xyz", _bits(vertices["packed_scale"], (11, 10, 11)))
    columns |= {f"scale_{i}": values for i, values in enumerate(scales)}
    columns |= {f"rot_{i}": values for i, values in enumerate(_rotations(vertices["packed_rotation"]))}
    table = np.empty(count, [(name, "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values
    return table


def _bits(packed: np.ndarray, widths: tuple[int, ...]) -> list[np.ndarray]:
    """Shares in [0, 1] of the parts of 32 bits, the highest first."""
    parts, shift = [], 32
    for width in widths:
        shift -= width
        largest = (1 << width) - 1
        parts.append((packed.astype(np.uint32) >> shift & largest) / largest)
    return parts


def _within(path: Path, chunk: np.ndarray, kind: str, axes: str, shares: list[np.ndarray]) -> list[np.ndarray]:
    names = [(f"min_{kind}{axis}", f"max_{kind}{axis}") for axis in axes]
    require_fields(path, chunk, [name for pair in names for name in pair])
    return [chunk[low] * (1 - t) + chunk[high] * t for (low, high), t in zip(names, shares, strict=False)]


def _colours(path: Path, chunk: np.ndarray, shares: list[np.ndarray]) -> dict[str, np.ndarray]:
    bounded = "min_r" in (chunk.dtype.names or ())
    rgb = _within(path, chunk, "", "rgb", shares[:3]) if bounded else shares[:3]
    return {f"f_dc_{i}": (values - 0.5) / _SH_C0 for i, values in enumerate(rgb)}


def _harmonic(byte: np.ndarray) -> np.ndarray:
    share = np.where(byte == 0, 0.0, np.where(byte == 255, 1.0, (byte + 0.5) / 256))
    return (share - 0.5) * _SH_REACH


def _logits(opacity: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.clip(-np.log(1 / opacity - 1), -_MOST_OPAQUE, _MOST_OPAQUE)


def _rotations(packed: np.ndarray) -> list[np.ndarray]:
    """w, x, y, z."""
    largest = packed.astype(np.uint32) >> 30
    parts = [((packed >> shift & 1023) / 1023 - 0.5) * 2**0.5 for shift in (20, 10, 0)]
    missing = np.sqrt(np.maximum(0, 1 - sum(part * part for part in parts)))
    quaternion = np.empty((4, len(packed)))
    for k in range(4):
        of_kind = largest == k
        for place, part in zip([i for i in range(4) if i != k], parts, strict=True):
            quaternion[place, of_kind] = part[of_kind]
        quaternion[k, of_kind] = missing[of_kind]
    return list(quaternion)
