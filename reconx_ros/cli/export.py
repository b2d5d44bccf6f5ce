"""``reconx export``: a result folder in the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reconx_ros.cli.common import EXIT_OK, add_common_arguments, add_drop_bad_argument, print_table, write_json
from reconx_ros.pipeline.export import FORMATS, export_result


def add_parser(commands: Any) -> None:
    """Add ``export`` to the commands."""
    parser = commands.add_parser(
        "export",
        help="write a result for other programs: .splat, .spz, plain 3DGS .ply, COLMAP",
        description="Write the scene of a result folder for web viewers, or its images and cameras as a COLMAP model.",
        epilog="example: reconx export out/kitchen --formats spz colmap",
    )
    parser.add_argument("result", type=Path, help="result folder of reconx demo, replay or reconstruct, or of the node")
    parser.add_argument(
        "--formats", nargs="+", choices=tuple(FORMATS), default=["spz"], metavar="FORMAT", help=", ".join(FORMATS)
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: RESULT/export)")
    add_drop_bad_argument(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write and list the files."""
    out = arguments.out or arguments.result / "export"
    written = export_result(arguments.result, arguments.formats, out, drop_bad=arguments.drop_bad)
    print_table("reconx export", [(name, str(path)) for name, path in zip(arguments.formats, written, strict=True)])
    if arguments.json:
        write_json(arguments.json, {n: str(p) for n, p in zip(arguments.formats, written, strict=True)})
    return EXIT_OK
