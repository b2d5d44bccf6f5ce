"""PLY files: tables of vertices in and out, and coloured point clouds.

Written files are binary little endian and appear complete or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from reconx_ros.core import KIND_COMMENT, InvalidInputError, PointCloud, StorageError, check_provenance
from reconx_ros.core.files import write_bytes

_KINDS = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
_NAMES = dict(zip(_KINDS, ("char", "uchar", "short", "ushort", "int", "uint", "float", "double"), strict=True))
_SIZED_NAMES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
_TYPES = dict(zip((*_NAMES.values(), *_SIZED_NAMES), (*_KINDS, *_KINDS), strict=True))
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_MAX_HEADER_BYTES = 1 << 16


def _cloud_dtype(position: str) -> np.dtype:
    return np.dtype(
        [
            *((n, position) for n in "xyz"),
            *((n, "u1") for n in ("red", "green", "blue")),
            *(("confidence", "<f4"), ("provenance", "u1"), ("keyframe_id", "<u4")),
        ]
    )


def write_ply(path: Path, vertices: np.ndarray, comments: Iterable[str] = ()) -> None:
    """Write a table of vertices.

    The file is written beside its place and then renamed: on any failure an older file of that name stays as it was.

    Args:
        path: file to make or replace; its folder must exist.
        vertices: [P] structured array; each field is a scalar of 1, 2, 4 or 8 bytes.
        comments: lines for the header.

    Raises:
        InvalidInputError: for an array that PLY cannot hold.
        StorageError: when the file cannot be written.
    """
    if vertices.dtype.names is None or vertices.ndim != 1:
        raise InvalidInputError(f"PLY vertices have type {vertices.dtype}, expected a one-dimensional structured array")
    packed = vertices.astype(_packed(vertices.dtype), copy=False)
    fields = [f"property {_NAMES[packed.dtype[n].str[1:]]} {n}" for n in packed.dtype.names or ()]
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
    header = "\n".join([*lines, f"element vertex {len(packed)}", *fields, "end_header", ""])
    write_bytes(path, header.encode("ascii", "replace"), np.ascontiguousarray(packed).tobytes())


def _packed(dtype: np.dtype) -> np.dtype:
    """The same fields, little endian, without gaps."""
    fields = [(name, dtype[name].newbyteorder("<")) for name in dtype.names or ()]
    for name, kind in fields:
        if kind.str[1:] not in _NAMES:
            raise InvalidInputError(f"PLY property {name} has type {kind}, which PLY does not have")
    return np.dtype(fields)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlyFile:
    """What a PLY file holds.

    Attributes:
        comments: lines of the header, without the word itself.
        elements: those asked for, by name: structured arrays [P] with the file's own property names, little endian.
    """

    comments: tuple[str, ...]
    elements: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class _Element:
    """A table as the header describes it: ``properties`` are the words behind "property"."""

    name: str
    count: int
    properties: tuple[tuple[str, ...], ...]

    @property
    def has_lists(self) -> bool:
        return any(words[:1] == ("list",) for words in self.properties)


def read_ply(path: Path) -> np.ndarray:
    """Read the vertices of a PLY file (ASCII or binary; other elements, before or behind them, are skipped).

    Returns:
        [P] structured array with the file's own property names, little endian.

    Raises:
        StorageError, InvalidInputError: as ``read_ply_file``.
    """
    return read_ply_file(path).elements["vertex"]


def read_ply_file(path: Path, others: Sequence[str] = ()) -> PlyFile:
    """Read the vertices of a PLY file and, where it has them, other elements by name.

    Raises:
        StorageError: when the file cannot be opened, or ends too early.
        InvalidInputError: when it is not a PLY file, has no vertices, or has properties that cannot be read.
    """
    try:
        with path.open("rb") as file:
            lines = _header_lines(path, file)
            body = file.read()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    words = [line.split() for line in lines]
    formats = [w[1] for w in words if len(w) == 3 and w[0] == "format"]
    if len(formats) != 1 or formats[0] not in _ORDERS:
        raise InvalidInputError(f"{path} has PLY format {formats or None}, expected one of {', '.join(_ORDERS)}")
    comments = tuple(line.strip()[len("comment") :].strip() for line in lines if line.split()[:1] == ["comment"])
    read = _ascii_elements if formats[0] == "ascii" else _binary_elements
    return PlyFile(
        comments=comments, elements=read(path, body, _elements(path, words), {"vertex", *others}, _ORDERS[formats[0]])
    )


def _elements(path: Path, words: Sequence[Sequence[str]]) -> list[_Element]:
    """The tables of a header; there are vertices among them."""
    starts = [i for i, w in enumerate(words) if w[:1] == ["element"]]
    found = []
    for start, end in pairwise([*starts, len(words)]):
        name, count = (*words[start][1:3], "", "")[:2]
        if not count.isdigit():
            raise InvalidInputError(f"{path} has {count!r} of element '{name}', expected a whole number")
        rows = tuple(tuple(w[1:]) for w in words[start:end] if w[:1] == ["property"])
        if not rows:
            raise InvalidInputError(f"{path} has element '{name}' without properties, expected at least one property")
        found.append(_Element(name=name, count=int(count), properties=rows))
    if "vertex" not in [element.name for element in found]:
        raise InvalidInputError(f"{path} has no 'element vertex COUNT', expected vertices")
    return found


def _header_lines(path: Path, file: BinaryIO) -> list[str]:
    if file.readline(16).rstrip() != b"ply":
        raise InvalidInputError(f"{path} does not start with 'ply', expected a PLY file")
    lines: list[str] = []
    size = 0
    while size < _MAX_HEADER_BYTES:
        line = file.readline(_MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            break
        if line.strip() == b"end_header":
            return lines
        size += len(line)
        lines.append(line.decode("ascii", "replace"))
    raise InvalidInputError(f"{path} has no line 'end_header', expected a complete PLY header")


def _dtype_of(path: Path, element: _Element, order: str) -> np.dtype:
    fields = []
    for words in element.properties:
        if len(words) != 2 or words[0] not in _TYPES:
            raise InvalidInputError(f"{path} has the {element.name} property {' '.join(words)!r}, expected 'TYPE NAME'")
        fields.append((words[1], order + _TYPES[words[0]]))
    names = [name for name, _ in fields]
    if len(set(names)) != len(names):
        raise InvalidInputError(
            f"{path} names a {element.name} property twice, expected {', '.join(sorted(set(names)))} once"
        )
    return np.dtype(fields)


def _binary_elements(
    path: Path, body: bytes, elements: Sequence[_Element], wanted: set[str], order: str
) -> dict[str, np.ndarray]:
    found, at = {}, 0
    last = max(i for i, element in enumerate(elements) if element.name in wanted)
    for element in elements[: last + 1]:
        if element.has_lists and element.name not in wanted:
            at = _behind_lists(path, body, at, element, order)
            continue
        dtype = _dtype_of(path, element, order)
        size = element.count * dtype.itemsize
        if len(body) - at < size:
            raise StorageError(
                f"{path} is truncated: {len(body) - at} bytes, expected {size} for {element.count} of '{element.name}'"
            )
        if element.name in wanted:
            table = np.frombuffer(body, dtype, element.count, at)
            found[element.name] = table.astype(_packed(dtype), copy=False)
        at += size
    return found


def _behind_lists(path: Path, body: bytes, at: int, element: _Element, order: str) -> int:
    """Where the next element begins: rows with lists have no common length."""
    for _ in range(element.count):
        for words in element.properties:
            kinds = [np.dtype(order + _TYPES[w]) for w in words[:-1] if w in _TYPES]
            if len(kinds) != len(words[:-1]) - (words[0] == "list"):
                raise InvalidInputError(
                    f"{path} has the {element.name} property {' '.join(words)!r}, expected 'TYPE NAME'"
                )
            if words[0] != "list":
                at += kinds[0].itemsize
                continue
            if at + kinds[0].itemsize > len(body):
                raise StorageError(f"{path} is truncated: it ends in element '{element.name}'")
            length = int(np.frombuffer(body, kinds[0], 1, at)[0])
            at += kinds[0].itemsize + length * kinds[1].itemsize
    return at


def _ascii_elements(
    path: Path, body: bytes, elements: Sequence[_Element], wanted: set[str], order: str
) -> dict[str, np.ndarray]:
    """A row is a line."""
    found, at = {}, 0
    lines = body.splitlines()
    for element in elements:
        if element.name in wanted:
            rows = lines[at : at + element.count]
            found[element.name] = _parse_ascii(path, b"\n".join(rows), element, _dtype_of(path, element, order))
        at += element.count
    return found


def _parse_ascii(path: Path, body: bytes, element: _Element, dtype: np.dtype) -> np.ndarray:
    names, count = dtype.names or (), element.count
    wanted = count * len(names)
    words = body.split(maxsplit=min(wanted, len(body)))[:wanted]
    if len(words) < wanted:
        raise StorageError(f"{path} is truncated: {len(words)} values, expected {wanted} for {count} of {element.name}")
    table = np.empty(count, _packed(dtype))
    try:
        for i, name in enumerate(names):
            table[name] = np.array(words[i :: len(names)], dtype="S").astype(np.float64)
    except (ValueError, OverflowError):
        raise InvalidInputError(f"{path} has a {element.name} value that is no number, expected numbers") from None
    return table


def require_fields(path: Path, vertices: np.ndarray, names: Iterable[str]) -> None:
    """Raise InvalidInputError, naming what is absent, unless the table has all these properties."""
    absent = [n for n in names if n not in (vertices.dtype.names or ())]
    if absent:
        raise InvalidInputError(f"{path} lacks the vertex properties {', '.join(absent)}")


def write_point_cloud_ply(path: Path, cloud: PointCloud) -> None:
    """Write x y z (world), red green blue, confidence, provenance (values of Provenance), keyframe_id.

    x, y and z are float, or double for a cloud in double precision, which lies far from the origin.

    Raises:
        StorageError: when the file cannot be written.
    """
    table = np.empty(len(cloud), _cloud_dtype("<f8" if cloud.points.dtype == np.float64 else "<f4"))
    for i, name in enumerate("xyz"):
        table[name] = cloud.points[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        table[name] = cloud.rgb_u8[:, i]
    table["confidence"], table["provenance"] = cloud.confidence, cloud.provenance
    table["keyframe_id"] = cloud.keyframe_ids
    write_ply(path, table, [KIND_COMMENT])


def read_point_cloud_ply(path: Path) -> PointCloud:
    """Read a cloud: one that ``write_point_cloud_ply`` wrote, or any other with x, y, z, red, green and blue.

    Without provenance in the file nothing says how the places are known: they are NONE, with confidence 0.

    Raises:
        StorageError: when the file cannot be opened, or ends too early.
        InvalidInputError: without position or colour, or for a provenance or confidence that there is not.
    """
    table = read_ply(path)
    require_fields(path, table, ("x", "y", "z", "red", "green", "blue"))
    position = np.float64 if table.dtype["x"] == np.float64 else np.float32
    return PointCloud(
        points=np.stack([table[n] for n in "xyz"], axis=-1).astype(position),
        rgb_u8=np.stack([table[n] for n in ("red", "green", "blue")], axis=-1).astype(np.uint8),
        **kind_columns(path, table),
    )


def kind_columns(path: Path, table: np.ndarray) -> dict[str, np.ndarray]:
    """``provenance``, ``confidence`` and ``keyframe_ids`` [P] of the vertices of a file.

    Without provenance all are 0: what other programs call confidence is not ours.

    Raises:
        InvalidInputError: for values that are no provenance, or a confidence outside of [0, 1].
    """
    if "provenance" not in (table.dtype.names or ()):
        table = np.zeros(len(table), [("provenance", "u1")])
    check_provenance(str(path), table["provenance"])
    confidence = _column(table, "confidence", np.float32)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise InvalidInputError(f"{path} has a confidence outside of [0, 1]")
    return {
        "provenance": _column(table, "provenance", np.uint8),
        "confidence": confidence,
        "keyframe_ids": _column(table, "keyframe_id", np.uint32),
    }


def _column(table: np.ndarray, name: str, kind: type) -> np.ndarray:
    """One property [P]; zeros where the file has none."""
    return table[name].astype(kind) if name in (table.dtype.names or ()) else np.zeros(len(table), kind)
