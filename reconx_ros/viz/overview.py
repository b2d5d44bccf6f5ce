"""One picture that tells what a reconstruction did: what came in, what came out, how sure it is, where it all lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reconx_ros.core import SE3, AlignedViews, PointCloud
from reconx_ros.io.images import write_image
from reconx_ros.viz import canvas as cv
from reconx_ros.viz.map_view import draw_map
from reconx_ros.viz.palette import KIND_LEGEND, provenance_picture

WIDTH = 1640
_EDGE = 40
_GAP = 14
_COLUMNS = 6
_MAP_HEIGHT = 560
_HEADING = 13
_CAPTION = 9


@dataclass(frozen=True, kw_only=True, eq=False)
class OverviewData:
    """What an overview shows; empty lists leave their row out.

    Attributes:
        title: what was reconstructed.
        lines: facts, one a line.
        inputs: camera images, [H, W, 3] uint8 each.
        input_captions: one short text per input; may be empty.
        novel: pictures from new places, [H, W, 3] uint8 each.
        novel_captions: one short text per picture; may be empty.
        truths: what a camera saw from those places, [H, W, 3] uint8 each, where that is known.
        depths: z-depth of the novel pictures, [H, W] each, 0 where unknown.
        confidences: [H, W] in [0, 1] each.
        provenances: [H, W] uint8 each.
        cloud: points in the world.
        input_poses, novel_poses: world_from_cam of the cameras and of the path.
        metric_scale: whether lengths are metres.
    """

    title: str
    lines: Sequence[str] = ()
    inputs: Sequence[np.ndarray] = ()
    input_captions: Sequence[str] = ()
    novel: Sequence[np.ndarray] = ()
    novel_captions: Sequence[str] = ()
    truths: Sequence[np.ndarray] = ()
    depths: Sequence[np.ndarray] = ()
    confidences: Sequence[np.ndarray] = ()
    provenances: Sequence[np.ndarray] = ()
    cloud: PointCloud = field(default_factory=PointCloud.empty)
    input_poses: Sequence[SE3] = ()
    novel_poses: Sequence[SE3] = ()
    metric_scale: bool = False


def overview_data(
    views: AlignedViews,
    novel: Sequence[np.ndarray],
    novel_poses: Sequence[SE3],
    cloud: PointCloud,
    *,
    title: str,
    lines: Sequence[str] = (),
    depths: Sequence[np.ndarray] = (),
    confidences: Sequence[np.ndarray] = (),
    provenances: Sequence[np.ndarray] = (),
) -> OverviewData:
    """The overview of a run, from what its stages hand out; without depths of novel views it shows the keyframes'.

    Args:
        views: stage 1's result: inputs, their poses and scale.
        novel, novel_poses: pictures [H, W, 3] uint8 along the path, and its poses.
        cloud: points of the world.
        title, lines: text.
        depths, confidences, provenances: of the novel pictures, as in OverviewData.
    """
    known = [np.where(v.valid.cpu().numpy(), v.depth.cpu().numpy(), 0) for v in views.views]
    trusted = [v.confidence.cpu().numpy() for v in views.views]
    return OverviewData(
        title=title,
        lines=lines,
        inputs=[(v.rgb.cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8) for v in views.views],
        input_captions=[f"keyframe {v.keyframe_id}" for v in views.views],
        novel=novel,
        depths=depths or known,
        confidences=confidences or trusted,
        provenances=provenances,
        cloud=cloud,
        input_poses=[v.world_from_cam for v in views.views],
        novel_poses=novel_poses,
        metric_scale=views.metric_scale,
    )


def draw_overview(data: OverviewData) -> np.ndarray:
    """The overview as [H, 1640, 3] uint8 RGB on white."""
    unit = "m" if data.metric_scale else "units"
    near, far = cv.depth_range(data.depths)
    parts = [
        _header(data),
        _row("Input keyframes", data.inputs, data.input_captions),
        _row("Withheld from the method", data.truths),
        _row("Drawn from there" if data.truths else "Novel views", data.novel, data.novel_captions),
        _row(
            "Depth",
            [cv.depth_picture(d, near, far) for d in _picked(data.depths)],
            key=_bar_key("depth", f"{near:.2g} {unit}", f"{far:.2g} {unit}"),
        ),
        _row(
            "Confidence",
            [cv.confidence_picture(c) for c in _picked(data.confidences)],
            key=_bar_key("confidence", "0", "1"),
        ),
        _row("Provenance", [provenance_picture(p) for p in _picked(data.provenances)], key=_provenance_key()),
        _map(data, unit),
    ]
    return np.concatenate([part for part in parts if part is not None] + [cv.blank(_EDGE // 2, WIDTH)])


def write_overview(path: Path | str, data: OverviewData) -> None:
    """Draw the overview into a PNG file.

    Raises:
        StorageError: when it cannot be written.
    """
    write_image(path, draw_overview(data))


def _header(data: OverviewData) -> np.ndarray:
    height = _EDGE + 34 + 22 * len(data.lines) + 8
    part = cv.blank(height, WIDTH)
    cv.put_text(part, cv.shortened(data.title, 20, WIDTH - 2 * _EDGE), _EDGE, _EDGE, 20, bold=True)
    for k, line in enumerate(data.lines):
        text = cv.shortened(line, 11, WIDTH - 2 * _EDGE)
        cv.put_text(part, text, _EDGE, _EDGE + 38 + 22 * k, 11, cv.FAINT_INK)
    return part


def _picked(items: Sequence[np.ndarray]) -> list[np.ndarray]:
    """At most one row of items, evenly chosen, the first and the last among them."""
    return [items[k] for k in cv.chosen(len(items), _COLUMNS)]


def _row(
    heading: str, pictures: Sequence[np.ndarray], captions: Sequence[str] = (), *, key: np.ndarray | None = None
) -> np.ndarray | None:
    """A heading with its key, and pictures side by side; None without pictures."""
    if not pictures:
        return None
    chosen = cv.chosen(len(pictures), _COLUMNS)
    width = (WIDTH - 2 * _EDGE - (_COLUMNS - 1) * _GAP) // _COLUMNS
    tallest = max(p.shape[0] / p.shape[1] for p in pictures)
    height = round(width * min(tallest, 1.2))
    caption = 24 if captions else 0
    part = cv.blank(52 + height + caption + 10, WIDTH)
    note = f"{len(chosen)} of {len(pictures)}" if len(pictures) > len(chosen) else ""
    _headline(part, heading, note, key)
    for column, k in enumerate(chosen):
        x = _EDGE + column * (width + _GAP)
        cv.paste(part, cv.fitted(pictures[k], width, height), x, 52)
        if captions:
            cv.put_text(part, cv.shortened(captions[k], _CAPTION, width), x, 52 + height + 9, _CAPTION, cv.FAINT_INK)
    return part


def _headline(part: np.ndarray, heading: str, note: str = "", key: np.ndarray | None = None) -> None:
    part[8:9, _EDGE : WIDTH - _EDGE] = cv.HAIRLINE
    end = cv.put_text(part, heading, _EDGE, 24, _HEADING, bold=True)
    cv.put_text(part, note, end + 12, 28, _CAPTION, cv.FAINT_INK)
    if key is not None:
        cv.paste(part, key, WIDTH - _EDGE - key.shape[1], 18)


def _bar_key(kind: str, low: str, high: str) -> np.ndarray:
    left, right = cv.text_width(low, _CAPTION), cv.text_width(high, _CAPTION)
    key = cv.blank(26, left + right + 160 + 20)
    cv.put_text(key, low, 0, 8, _CAPTION, cv.FAINT_INK)
    cv.paste(key, cv.colour_bar(kind, 160, 12), left + 10, 7)
    cv.put_text(key, high, left + 180, 8, _CAPTION, cv.FAINT_INK)
    return key


def _provenance_key() -> np.ndarray:
    return _swatches([(words, colour) for colour, words in KIND_LEGEND])


def _swatches(names: Sequence[tuple[str, cv.Colour]]) -> np.ndarray:
    widths = [cv.text_width(name, _CAPTION) + 44 for name, _ in names]
    key = cv.blank(26, sum(widths))
    x = 0
    for (name, colour), width in zip(names, widths, strict=True):
        key[6:20, x : x + 14] = tuple(max(0, c - 30) for c in colour)
        key[7:19, x + 1 : x + 13] = colour
        cv.put_text(key, name, x + 22, 8, _CAPTION, cv.FAINT_INK)
        x += width
    return key


def _map(data: OverviewData, unit: str) -> np.ndarray | None:
    if not (len(data.cloud) or data.input_poses or data.novel_poses):
        return None
    part = cv.blank(52 + _MAP_HEIGHT + 10, WIDTH)
    others = "withheld views" if data.truths else "path of the novel views"
    names = [("keyframes", cv.INPUT_CAMERA)] + ([(others, cv.PATH)] if data.novel_poses else [])
    _headline(part, "Map from above", f"{len(data.cloud):,} points", _swatches(names))
    drawn = draw_map(
        data.cloud,
        data.input_poses,
        data.novel_poses,
        width=WIDTH - 2 * _EDGE,
        height=_MAP_HEIGHT,
        unit=unit,
        joined=not data.truths,
    )
    cv.paste(part, drawn, _EDGE, 52)
    return part
