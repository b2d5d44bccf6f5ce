"""``reconx evaluate``: scores on held-out views of scene folders."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from reconx_ros.cli.common import (
    EXIT_OK,
    Progress,
    add_common_arguments,
    add_config_arguments,
    load_config,
    print_table,
    write_json,
)
from reconx_ros.core import Job
from reconx_ros.evaluation.heldout import HeldOutTask
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.report import versions


def add_parser(commands: Any) -> None:
    """Add ``evaluate`` to the commands."""
    parser = commands.add_parser(
        "evaluate",
        help="score scene folders: held-out views, or cameras and depth",
        description="Reconstruct scene folders from a few views and score pictures of the views that were held back, "
        "or (--geometry) cameras and depth of stage 1.",
        epilog="example: reconx evaluate scenes/fern scenes/kitchen --views 3,6 --ablation --json out/scores.json",
    )
    parser.add_argument("scenes", nargs="+", type=Path, metavar="SCENE", help="scene folder with suggested splits")
    parser.add_argument(
        "--views", type=_counts, default=(3,), metavar="N[,N...]", help="numbers of input images, for example 2,3,6,9"
    )
    parser.add_argument(
        "--poses",
        type=_words,
        default=("given",),
        metavar="KIND[,KIND...]",
        help="poses of the inputs: given, odometry or (with --geometry) none",
    )
    parser.add_argument("--size", type=int, default=320, help="longer side of the pictures in pixels")
    parser.add_argument("--geometry", action="store_true", help="score cameras and depth instead of pictures")
    parser.add_argument("--ablation", action="store_true", help="also leave out each term of stage 3 in turn")
    parser.add_argument("--extras", action="store_true", help="also switch on each term that is off by default")
    add_config_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def _counts(text: str) -> tuple[int, ...]:
    if not all(word.isdigit() and int(word) >= 2 for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers from 2 on, expected one like 2,3,6,9")
    return tuple(int(word) for word in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def run(arguments: argparse.Namespace) -> int:
    """Score every scene."""
    size = {"max_size": arguments.size}
    config = load_config(arguments, {"splatting": size, "pointmap": size})
    started = time.perf_counter()
    scores = _geometry(arguments, config) if arguments.geometry else _pictures(arguments, config)
    if arguments.json:
        write_json(arguments.json, {**scores, "seconds": time.perf_counter() - started, "versions": versions()})
    return EXIT_OK


def _geometry(arguments: argparse.Namespace, config: ReconxConfig) -> dict[str, Any]:
    """Cameras and depth; one row per scene, kind of poses and number of views."""
    from reconx_ros.evaluation.geometry_table import geometry_markdown, geometry_table

    def show(row: dict[str, Any]) -> None:
        if not arguments.quiet:
            print(f"{row['scene']}, {row['views']} views, poses {row['poses']}: {row['status']}", file=sys.stderr)

    rows = geometry_table(arguments.scenes, config=config, views=arguments.views, poses=arguments.poses, on_row=show)
    print(geometry_markdown(rows), end="")
    return {"rows": rows}


def _pictures(arguments: argparse.Namespace, config: ReconxConfig) -> dict[str, Any]:
    """Pictures of held-out views; per protocol every scene, then the mean."""
    from reconx_ros.evaluation.ablation import FULL, variants
    from reconx_ros.evaluation.heldout import heldout_task

    configs = variants(config, extras=arguments.extras)
    if not arguments.ablation:
        configs = {n: c for n, c in configs.items() if n == FULL or n.startswith("with ")}
    protocols = []
    for poses in arguments.poses:
        for views in arguments.views:
            tasks = [heldout_task(s, views, poses=poses, max_size=arguments.size) for s in arguments.scenes]
            protocols.append(_protocol(tasks, configs, quiet=arguments.quiet))
    return {"protocols": protocols}


def _protocol(tasks: list[HeldOutTask], configs: dict[str, ReconxConfig], *, quiet: bool) -> dict[str, Any]:
    from reconx_ros.evaluation.ablation import ablate, mean_rows

    results = {}
    for task in tasks:
        progress = Progress(quiet=quiet)
        results[task.scene] = ablate(task, configs, job=Job(stage="evaluate", on_progress=progress))
        progress.close()
        _print(f"{task.scene} ({task.protocol})", results[task.scene])
    mean = mean_rows(list(results.values()))
    if len(tasks) > 1:
        _print(f"mean of {len(tasks)} scenes ({tasks[0].protocol})", mean)
    return {"protocol": tasks[0].protocol, "scenes": results, "mean": mean}


def _print(title: str, rows: dict[str, dict[str, Any]]) -> None:
    print_table(title, [(name, f"{row['psnr']:6.2f} dB   SSIM {row['ssim']:.3f}") for name, row in rows.items()])
