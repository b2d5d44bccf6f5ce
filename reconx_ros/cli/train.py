"""``reconx train``: trains networks of this package on simulated rooms."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reconx_ros.cli import train_depth, train_diffusion
from reconx_ros.cli.common import EXIT_OK, print_table, writable_folder, write_json
from reconx_ros.cli.training import add_training_arguments, fit_with_progress, image_size, log_writer, overrides
from reconx_ros.core.settings import to_mapping, updated

if TYPE_CHECKING:
    from reconx_ros.pointmap.training.trainer import PointmapTrainingRun


def add_parser(commands: Any) -> None:
    """Add ``train`` to the commands."""
    parser = commands.add_parser(
        "train",
        help="train a network of this package on simulated rooms",
        description="Train a network of this package on simulated rooms. Ctrl-C keeps the last step.",
        epilog="example: reconx train pointmap --out out/pointmap_net --steps 4000",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="NETWORK")
    pointmap = kinds.add_parser(
        "pointmap",
        help="two views in, a point and a confidence per pixel out",
        description="Train a pairwise pointmap network; use it with pointmap.backend=pointmap_net and "
        "pointmap.pointmap_net.weights=DIR.",
        epilog="example: reconx train pointmap --out out/pointmap_net --difficulty easy --set batch=16",
    )
    add_training_arguments(pointmap, "96x64")
    pointmap.set_defaults(run=run_pointmap)
    train_depth.add_parser(kinds)
    train_diffusion.add_parser(kinds)


def run_pointmap(arguments: argparse.Namespace) -> int:
    """Train, compare with the baselines, save, summarise."""
    from reconx_ros.pipeline.selection import choose_device
    from reconx_ros.pointmap.training.trainer import PointmapTrainer

    run = _pointmap_run(arguments)
    writable_folder(run.folder)
    trainer = PointmapTrainer(run, choose_device(arguments.device), resume=arguments.resume)
    card = fit_with_progress(trainer, arguments)
    comparison = trainer.comparison()
    card = {**card, "comparison": comparison}
    write_json(run.folder / "training_card.json", card)
    if arguments.json:
        write_json(arguments.json, card)
    rows = [(name, _scores(scores)) for name, scores in comparison.items()]
    print_table("reconx train pointmap: held-out rooms", rows)
    print(f"weights in {run.folder}")
    return EXIT_OK


def _pointmap_run(arguments: argparse.Namespace) -> PointmapTrainingRun:
    from reconx_ros.pointmap.training.config import PointmapNetworkSettings, PointmapTrainingConfig
    from reconx_ros.pointmap.training.trainer import PointmapTrainingRun
    from reconx_ros.sim.view_groups import DIFFICULTIES, RoomViewGroups, difficulty

    own, network, data = overrides(arguments)
    config = updated(PointmapTrainingConfig(), own)
    width, height = image_size(arguments.size)
    views = updated(replace(difficulty(arguments.difficulty, DIFFICULTIES), width=width, height=height), data)
    return PointmapTrainingRun(
        config=config,
        network=updated(PointmapNetworkSettings(), network).network_config(height, width),
        train=RoomViewGroups(views),
        validation=RoomViewGroups(replace(views, split="validation", groups_per_room=8)),
        folder=arguments.out,
        data={"source": "simulated rooms of reconx_ros", **to_mapping(views)},
        on_log=log_writer(arguments),
    )


def _scores(scores: Mapping[str, float | None]) -> str:
    """One line: errors of points (both views), of depth, and of the rotation where it was predicted."""
    parts = [
        f"points {scores['regression']:.3f} ({scores['regression_1']:.3f} + {scores['regression_2']:.3f})",
        f"depth abs rel {scores['depth_abs_rel']:.3f}",
        f"within 10 %: {scores['depth_within_10pct']:.0%}",
    ]
    if scores["rotation_deg"] is not None:
        parts.append(f"rotation {scores['rotation_deg']:.1f} deg")
    return ", ".join(parts)
