"""Drawing on RGB arrays: smooth text, pictures in false colours, tidy rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reconx_ros.core import InvalidInputError, check_shape

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (32, 36, 44)
FAINT_INK: Colour = (118, 124, 134)
HAIRLINE: Colour = (226, 229, 233)
EMPTY: Colour = (240, 241, 243)
INPUT_CAMERA: Colour = (28, 94, 190)
PATH: Colour = (226, 74, 60)

_OVERSAMPLING = 4
_HERSHEY_HEIGHT = 22.0  # capital height of the Hershey fonts at scale 1, pixels


def blank(height: int, width: int, colour: Colour = PAPER) -> np.ndarray:
    """A canvas [H, W, 3] uint8 of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def text_width(text: str, size: int, *, bold: bool = False) -> int:
    """Width in pixels of a line of text whose capitals are ``size`` pixels high."""
    width, _, _, thickness = _text_size(_plain(text), size, bold)
    return _up(width + thickness) // _OVERSAMPLING


def put_text(
    canvas: np.ndarray, text: str, x: int, y: int, size: int, colour: Colour = INK, *, bold: bool = False
) -> int:
    """Write a line of text in place.

    Args:
        canvas: [H, W, 3] uint8.
        text: ASCII; other characters become "?".
        x, y: left end and top of the capitals, pixels; what lies outside is cut off.
        size: height of the capitals in pixels.
        colour: RGB.
        bold: thicker strokes.

    Returns:
        The x where the text ends.
    """
    mask = _text_mask(text, size, bold)  # [h, w] in [0, 1]
    top, left = max(y, 0), max(x, 0)
    part = mask[top - y : canvas.shape[0] - y, left - x : canvas.shape[1] - x]
    if part.size:
        area = canvas[top : top + part.shape[0], left : left + part.shape[1]]
        area[:] = np.rint(area * (1 - part[..., None]) + np.array(colour) * part[..., None]).astype(np.uint8)
    return x + mask.shape[1]


def _text_mask(text: str, size: int, bold: bool) -> np.ndarray:
    """Coverage [h, w] of the text, drawn larger and averaged down for finer strokes than OpenCV has."""
    import cv2

    plain = _plain(text)
    width, height, below, thickness = _text_size(plain, size, bold)
    large = np.zeros((_up(height + below + thickness), _up(width + thickness)), np.uint8)
    start = (thickness // 2, height + thickness // 2)
    scale = _OVERSAMPLING * size / _HERSHEY_HEIGHT
    cv2.putText(large, plain, start, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    small = (large.shape[1] // _OVERSAMPLING, large.shape[0] // _OVERSAMPLING)
    return cv2.resize(large, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")


def _text_size(plain: str, size: int, bold: bool) -> tuple[int, int, int, int]:
    """(width, height above, below the base line, stroke) of a text in oversampled pixels."""
    import cv2

    thickness = max(1, round(_OVERSAMPLING * size * (0.19 if bold else 0.115)))
    scale = _OVERSAMPLING * size / _HERSHEY_HEIGHT
    (width, height), below = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    return width, height, below, thickness


def _up(pixels: int) -> int:
    return -(-pixels // _OVERSAMPLING) * _OVERSAMPLING


def shortened(text: str, size: int, width: int) -> str:
    """The text, cut with "..." where it is wider than ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_width(text[:middle].rstrip() + "...", size) <= width:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip() + "..."


def paste(canvas: np.ndarray, picture: np.ndarray, x: int, y: int) -> None:
    """Put a picture [h, w, 3] on a canvas in place; what lies outside is cut off."""
    part = picture[: max(0, canvas.shape[0] - y), : max(0, canvas.shape[1] - x)]
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture [h, w, 3] scaled to fit into a box and centred in it, with the empty colour around."""
    import cv2

    check_shape("picture", picture, "H", "W", 3)
    ratio = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio)))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    box = blank(height, width, EMPTY)
    paste(box, scaled, (width - size[0]) // 2, (height - size[1]) // 2)
    return box


def chosen(count: int, most: int) -> list[int]:
    """At most so many indices below ``count``, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def shrunk(picture: np.ndarray, longest: int) -> np.ndarray:
    """A picture [h, w, 3], averaged down until no side has more than ``longest`` pixels; smaller ones stay."""
    import cv2

    ratio = longest / max(picture.shape[:2])
    if ratio >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def depth_picture(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth [H, W] in turbo colours, red near and blue far; unknown (0 or NaN) is light grey.

    Colours are even in inverse depth, so that what is near can be told apart; even in depth where ``near`` is 0.

    Raises:
        InvalidInputError: when far is not beyond near.
    """
    import cv2

    if not far > near:
        raise InvalidInputError(f"depth colours go from {near} to {far}, expected a rising range")
    known = np.isfinite(depth) & (depth > 0)
    within = np.clip(np.where(known, depth, near), near, far)
    share = (within - near) / (far - near) if near <= 0 else (1 / near - 1 / within) / (1 / near - 1 / far)
    colours = cv2.applyColorMap((255 * (1 - share)).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(known[..., None], colours, np.array(EMPTY, np.uint8))


def depth_range(depths: Sequence[np.ndarray]) -> tuple[float, float]:
    """Near and far (2nd and 98th percentile) of the known values of depth maps; (0, 1) where there are none."""
    known = [d[np.isfinite(d) & (d > 0)] for d in depths]
    values = np.concatenate(known) if known else np.zeros(0)
    if values.size == 0:
        return 0.0, 1.0
    near, far = np.percentile(values, [2, 98])
    return float(near), float(max(far, near * 1.01))


def confidence_picture(confidence: np.ndarray) -> np.ndarray:
    """Confidence [H, W] in [0, 1] in viridis colours, dark is low; exactly 0 is light grey."""
    import cv2

    levels = (255 * np.clip(np.nan_to_num(confidence), 0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return np.where((confidence > 0)[..., None], colours, np.array(EMPTY, np.uint8))


def colour_bar(kind: str, width: int, height: int) -> np.ndarray:
    """A horizontal bar of the colours of depth ("depth", near to far) or confidence ("confidence", low to high)."""
    ramp = np.tile(np.linspace(0.004, 1, width, dtype=np.float32), (height, 1))
    return depth_picture(ramp, 0.0, 1.0) if kind == "depth" else confidence_picture(ramp)
