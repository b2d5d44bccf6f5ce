"""Points of a COLMAP sparse model, and which pictures see them (https://colmap.github.io/format.html)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import check_shape

_UNKNOWN_ERROR = -1.0  # COLMAP's own mark for a reprojection error that was not computed
_CORNER = 0.5  # COLMAP puts the centre of the first pixel there


@dataclass(frozen=True, kw_only=True, eq=False)
class ColmapPoints:
    """Points of a model.

    Attributes:
        points: [P, 3] world frame.
        rgb_u8: [P, 3] uint8.
        seen: of each view of the model, the indices [S] of the points it sees.
        pixels: of each view, where it sees them [S, 2]; pixel (0, 0) is the centre of the first pixel.
    """

    points: np.ndarray
    rgb_u8: np.ndarray
    seen: Sequence[np.ndarray]
    pixels: Sequence[np.ndarray]

    def __post_init__(self) -> None:
        dims = check_shape("COLMAP points", self.points, "P", 3)
        check_shape("COLMAP colours", self.rgb_u8, "P", 3, dims=dims)

    @classmethod
    def none(cls, views: int) -> ColmapPoints:
        """A model of some views without points."""
        empty = np.zeros((0, 3))
        nothing = [np.zeros(0, np.int64)] * views, [np.zeros((0, 2))] * views
        return cls(points=empty, rgb_u8=empty.astype(np.uint8), seen=nothing[0], pixels=nothing[1])

    @property
    def tracks(self) -> list[list[tuple[int, int]]]:
        """Of each point, the numbers of the pictures (from 1) that see it, and its place in the picture's list."""
        tracks: list[list[tuple[int, int]]] = [[] for _ in self.points]
        for number, seen in enumerate(self.seen, 1):
            for place, point in enumerate(seen.tolist()):
                tracks[point].append((number, place))
        return tracks

    def binary_view(self, view: int) -> bytes:
        """The points of one picture as they stand at the end of its record of images.bin."""
        table = np.empty(len(self.seen[view]), [("uv", "<f8", 2), ("point", "<i8")])
        table["uv"], table["point"] = self.pixels[view] + _CORNER, self.seen[view] + 1
        return struct.pack("<Q", len(table)) + table.tobytes()

    def text_view(self, view: int) -> str:
        """The line of points that follows one picture's line of images.txt."""
        rows = zip((self.pixels[view] + _CORNER).tolist(), (self.seen[view] + 1).tolist(), strict=True)
        return " ".join(f"{u!r} {v!r} {point}" for (u, v), point in rows)

    def binary(self) -> bytes:
        """points3D.bin."""
        rows = [struct.pack("<Q", len(self.points))]
        for number, (xyz, rgb, track) in enumerate(self._rows(), 1):
            rows.append(struct.pack("<Q3d3BdQ", number, *xyz, *rgb, _UNKNOWN_ERROR, len(track)))
            rows.append(struct.pack(f"<{2 * len(track)}I", *(value for pair in track for value in pair)))
        return b"".join(rows)

    def text(self) -> str:
        """The lines of points3D.txt."""
        lines = []
        for number, (xyz, rgb, track) in enumerate(self._rows(), 1):
            values = (number, *xyz, *rgb, _UNKNOWN_ERROR, *(value for pair in track for value in pair))
            lines.append(" ".join(map(repr, values)) + "\n")
        return "".join(lines)

    def _rows(self) -> list[tuple[list[float], list[int], list[tuple[int, int]]]]:
        places = np.asarray(self.points, np.float64).tolist()
        return list(zip(places, self.rgb_u8.tolist(), self.tracks, strict=True))
