"""How scenes are read: the arguments that commands on scenes share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reconx_ros.io.readers.layouts import LAYOUT_NAMES

_NAMES = ("format", "images", "video", "index", "drop_leaked")


def add_scene_arguments(parser: argparse.ArgumentParser) -> None:
    """--format, --images, --video, --index and --drop-leaked."""
    parser.add_argument(
        "--format", choices=LAYOUT_NAMES, help="layout of the scene; told by its content where it is not given"
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="folder of the pictures in the scene, such as images_4 for shrunken copies"
    )
    parser.add_argument("--video", metavar="KEY", help="which video, for folders of RealEstate10K or DL3DV chunks")
    parser.add_argument(
        "--index",
        type=Path,
        metavar="FILE",
        help="pixelSplat's evaluation index: which pictures of the video are given and tested, at 256x256",
    )
    parser.add_argument(
        "--drop-leaked",
        action="store_true",
        default=None,
        help="leave out tests of the index that are inputs, too, instead of refusing the video",
    )


def scene_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user gave of them, as options of ``reconx_ros.io.scenes.read_scene``."""
    given = {name: getattr(arguments, name) for name in _NAMES}
    return {name: value for name, value in given.items() if value is not None}
