"""``reconx convert``: public weights to a folder that this package loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import EXIT_OK, Progress, add_common_arguments, print_table, write_json
from reconx_ros.core import Job

if TYPE_CHECKING:
    from reconx_ros.diffusion.conversion.convert import Additions, Conversion

_CAMERA_CHANNELS = 128
_EPIPOLAR_LEVELS = (1, 2)  # the finest level has too many cells for masks between all of them


def add_parser(commands: Any) -> None:
    """Add ``convert`` to the commands."""
    parser = commands.add_parser(
        "convert",
        help="turn public weights into a folder that diffusers loads",
        description="Convert DynamiCrafter 512 / 512_interp / 1024 and ViewCrafter checkpoints (.ckpt, .safetensors).",
        epilog="example: reconx convert dynamicrafter model.ckpt --settings inference_512.yaml --out models/reconx",
    )
    parser.add_argument(
        "layout", choices=("dynamicrafter",), help="layout of the checkpoint; ViewCrafter's is the same"
    )
    parser.add_argument("checkpoint", help="model.ckpt, a pruned .safetensors file, or a name of `reconx weights list`")
    parser.add_argument("--out", type=Path, required=True, help="folder to be made")
    parser.add_argument(
        "--settings", type=Path, metavar="YAML", help="settings published with it; without, those of DynamiCrafter 512"
    )
    parser.add_argument(
        "--dtype",
        choices=("keep", "float32", "float16", "bfloat16"),
        default="keep",
        help="of the written weights (default: as in the checkpoint)",
    )
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="CLIP tokenizer to copy in, for prompts")
    parser.add_argument("--without-structure", action="store_true", help="leave ReconX's structure branch out")
    parser.add_argument("--camera", action="store_true", help="add a camera encoder and epipolar attention, untrained")
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert, print what was used and what was not."""
    from reconx_ros.diffusion.conversion.convert import convert_dynamicrafter
    from reconx_ros.diffusion.network.architecture import read_settings
    from reconx_ros.weights.resolve import resolve

    checkpoint = resolve(arguments.checkpoint, setting="the checkpoint").path
    progress = Progress(quiet=arguments.quiet)
    try:
        conversion = convert_dynamicrafter(
            checkpoint,
            arguments.out,
            settings=read_settings(arguments.settings) if arguments.settings else None,
            dtype=_dtype(arguments.dtype),
            additions=_additions(arguments),
            tokenizer=arguments.tokenizer,
            job=Job(stage="convert", on_progress=progress),
        )
    finally:
        progress.close()
    _show(conversion)
    if arguments.json:
        write_json(arguments.json, _content(conversion))
    return EXIT_OK


def _dtype(name: str) -> Any:
    import torch

    return None if name == "keep" else getattr(torch, name)


def _additions(arguments: argparse.Namespace) -> Additions:
    from reconx_ros.diffusion.conversion.convert import Additions
    from reconx_ros.diffusion.network.structure_encoder import StructureConfig

    return Additions(
        structure=None if arguments.without_structure else StructureConfig(),
        camera_channels=_CAMERA_CHANNELS if arguments.camera else 0,
        epipolar_levels=_EPIPOLAR_LEVELS if arguments.camera else (),
    )


def _show(conversion: Conversion) -> None:
    rows = [(name, f"{size / 1e6:,.1f} MB") for name, size in conversion.written.items()]
    print_table(f"{conversion.folder}: {conversion.consumed} weights used", rows)
    if conversion.ignored:
        print_table("weights left out", [(str(n), reason) for reason, n in conversion.ignored.items()])
    for note in conversion.notes:
        print(f"note: {note}")


def _content(conversion: Conversion) -> dict[str, Any]:
    return {
        "folder": str(conversion.folder),
        "consumed": conversion.consumed,
        "ignored": conversion.ignored,
        "written_bytes": conversion.written,
        "notes": list(conversion.notes),
    }
