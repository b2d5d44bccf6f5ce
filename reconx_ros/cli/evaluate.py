"""``reconx evaluate``: scores on held-out views of scene folders."""

from __future__ import annotations

import argparse
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
from reconx_ros.evaluation.heldout import POSE_KEYS
from reconx_ros.pipeline.report import versions


def add_parser(commands: Any) -> None:
    """Add ``evaluate`` to the commands."""
    parser = commands.add_parser(
        "evaluate",
        help="score held-out views of scene folders",
        description="Reconstruct scene folders from a few views and score pictures of the views that were held back.",
        epilog="example: reconx evaluate scenes/fern scenes/kitchen --views 3 --ablation --json out/scores.json",
    )
    parser.add_argument("scenes", nargs="+", type=Path, metavar="SCENE", help="scene folder with suggested splits")
    parser.add_argument("--views", type=int, default=3, help="number of input images; the scene must have that split")
    parser.add_argument("--poses", choices=tuple(POSE_KEYS), default="given", help="poses of the inputs")
    parser.add_argument("--size", type=int, default=320, help="longer side of the pictures in pixels")
    parser.add_argument("--ablation", action="store_true", help="also leave out each term of stage 3 in turn")
    parser.add_argument("--extras", action="store_true", help="also switch on each term that is off by default")
    add_config_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score every scene, then the mean."""
    from reconx_ros.evaluation.ablation import FULL, ablate, mean_rows, variants
    from reconx_ros.evaluation.heldout import heldout_task

    config = load_config(
        arguments, {"splatting": {"max_size": arguments.size}, "pointmap": {"max_size": arguments.size}}
    )
    configs = variants(config, extras=arguments.extras)
    if not arguments.ablation:
        configs = {n: c for n, c in configs.items() if n == FULL or n.startswith("with ")}
    tasks = [heldout_task(s, arguments.views, poses=arguments.poses, max_size=arguments.size) for s in arguments.scenes]
    started, results = time.perf_counter(), {}
    for task in tasks:
        progress = Progress(quiet=arguments.quiet)
        results[task.scene] = ablate(task, configs, job=Job(stage="evaluate", on_progress=progress))
        progress.close()
        _print(f"{task.scene} ({task.protocol})", results[task.scene])
    mean = mean_rows(list(results.values()))
    if len(tasks) > 1:
        _print(f"mean of {len(tasks)} scenes", mean)
    if arguments.json:
        write_json(
            arguments.json,
            {
                "protocol": tasks[0].protocol,
                "scenes": results,
                "mean": mean,
                "seconds": time.perf_counter() - started,
                "versions": versions(),
            },
        )
    return EXIT_OK


def _print(title: str, rows: dict[str, dict[str, Any]]) -> None:
    print_table(title, [(name, f"{row['psnr']:6.2f} dB   SSIM {row['ssim']:.3f}") for name, row in rows.items()])
