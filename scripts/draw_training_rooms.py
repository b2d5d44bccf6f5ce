"""Draws docs/images/training_rooms.jpg: simulated rooms with their depth, beside photographs of a folder."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from reconx_ros.sim.view_groups import DIFFICULTIES, RoomViewGroups

SIZE = (240, 180)  # of one picture
ROWS, ROOMS = 5, 2  # rows, and rooms in a row
LARGEST_BYTES = 250_000


def depth_picture(depth_m: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 BGR: near is red, far is blue."""
    inverse = 1 / np.maximum(depth_m, 1e-3)
    low, high = np.percentile(inverse, (1, 99))
    shade = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(cv2.applyColorMap((255 * shade).astype(np.uint8), cv2.COLORMAP_TURBO))


def photograph(path: Path) -> np.ndarray:
    """The middle of a photograph, at the size of one picture; BGR."""
    image = np.asarray(cv2.imread(str(path)))
    height, width = image.shape[:2]
    side = min(width / SIZE[0], height / SIZE[1])
    w, h = round(side * SIZE[0]), round(side * SIZE[1])
    x, y = (width - w) // 2, (height - h) // 2
    return np.asarray(cv2.resize(image[y : y + h, x : x + w], SIZE, interpolation=cv2.INTER_AREA))


def main() -> None:
    """Draw the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path, help="as `reconx train depth --assets`")
    parser.add_argument("photographs", type=Path, help="folder of JPEG files")
    parser.add_argument("--out", type=Path, default=Path("docs/images/training_rooms.jpg"))
    arguments = parser.parse_args()
    config = replace(
        DIFFICULTIES["lifelike"],
        width=SIZE[0],
        height=SIZE[1],
        views=2,
        groups_per_room=1,
        assets=str(arguments.assets),
    )
    source, photos = RoomViewGroups(config), sorted(arguments.photographs.glob("*.jpg"))
    photos = photos[:: max(1, len(photos) // ROWS)][:ROWS]
    rows = []
    for row, path in enumerate(photos):
        cells = []
        for room in range(ROOMS):
            frame = source(ROOMS * row + room)[0]
            assert frame.depth_m is not None
            cells += [np.ascontiguousarray(frame.rgb_u8[..., ::-1]), depth_picture(frame.depth_m)]
        rows.append(np.concatenate([*cells, photograph(path)], axis=1))
    page = np.concatenate(rows)
    for quality in range(90, 30, -5):
        _, code = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(code) <= LARGEST_BYTES:
            break
    arguments.out.write_bytes(code.tobytes())


if __name__ == "__main__":
    main()
