"""``reconx train``: trains networks of this package on simulated rooms."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import yaml

from reconx_ros.cli.common import EXIT_OK, Progress, add_common_arguments, print_table, writable_folder, write_json
from reconx_ros.core import CancelledError, CancelToken, ConfigError, Job
from reconx_ros.core.settings import to_mapping, updated

if TYPE_CHECKING:
    from reconx_ros.pointmap.training.trainer import TrainingRun


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
        "pointmap.network_weights=DIR.",
        epilog="example: reconx train pointmap --out out/pointmap_net --difficulty easy --set batch=16",
    )
    _add_training_arguments(pointmap)
    pointmap.set_defaults(run=run_pointmap)


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights, the state and the log")
    parser.add_argument("--steps", type=int, help="optimiser steps, short for --set steps=N")
    parser.add_argument("--difficulty", default="easy", help="of the simulated views: easy, medium or hard")
    parser.add_argument("--size", default="96x64", metavar="WxH", help="of the training images in pixels")
    parser.add_argument("--device", default="auto", help="where torch computes: auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--tensorboard", action="store_true", help="also write a TensorBoard log")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="one setting: of the training (batch=16), network.NAME or data.NAME (repeatable)",
    )  # fmt: skip
    add_common_arguments(parser)


def run_pointmap(arguments: argparse.Namespace) -> int:
    """Train, compare with the baselines, save, summarise."""
    from reconx_ros.pipeline.selection import choose_device
    from reconx_ros.pointmap.training.trainer import Trainer

    run = _pointmap_run(arguments)
    writable_folder(run.folder)
    trainer = Trainer(run, choose_device(arguments.device), resume=arguments.resume)
    progress = Progress(quiet=arguments.quiet)
    try:
        with _cancelled_by_interrupt() as token:
            card = trainer.fit(Job(stage="train", on_progress=progress, token=token))
    except CancelledError:
        raise CancelledError(f"stopped after step {trainer.step}, saved in {run.folder}: --resume continues") from None
    finally:
        progress.close()
    comparison = trainer.comparison()
    card = {**card, "comparison": comparison}
    write_json(run.folder / "training_card.json", card)
    if arguments.json:
        write_json(arguments.json, card)
    rows = [(name, _scores(scores)) for name, scores in comparison.items()]
    print_table("reconx train pointmap: held-out rooms", rows)
    print(f"weights in {run.folder}")
    return EXIT_OK


def _pointmap_run(arguments: argparse.Namespace) -> TrainingRun:
    from reconx_ros.pointmap.training.config import NetworkSettings, TrainingConfig
    from reconx_ros.pointmap.training.trainer import TrainingRun
    from reconx_ros.sim.view_groups import RoomViewGroups, difficulty

    own, network, data = _overrides(arguments)
    config = updated(TrainingConfig(), own)
    width, height = _size(arguments.size)
    views = updated(replace(difficulty(arguments.difficulty), width=width, height=height), data)
    return TrainingRun(
        config=config,
        network=updated(NetworkSettings(), network).network_config(height, width),
        train=RoomViewGroups(views),
        validation=RoomViewGroups(replace(views, split="validation", groups_per_room=8)),
        folder=arguments.out,
        data={"source": "simulated rooms of reconx_ros", **to_mapping(views)},
        on_log=_log_writer(arguments),
    )


def _overrides(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings of the training, of the network and of the data."""
    groups: dict[str, dict[str, Any]] = {"": {}, "network": {}, "data": {}}
    if arguments.steps is not None:
        groups[""]["steps"] = arguments.steps
    for override in arguments.overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set got '{override}', expected NAME=VALUE")
        head, dot, rest = name.partition(".")
        group, key = (head, rest) if dot and head in groups else ("", name)
        groups[group][key] = yaml.safe_load(text)
    return groups[""], groups["network"], groups["data"]


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(s.isdigit() for s in sides):
        raise ConfigError(f"--size is '{text}', expected WIDTHxHEIGHT in pixels, as 96x64")
    return int(sides[0]), int(sides[1])


def _log_writer(arguments: argparse.Namespace) -> Callable[[Mapping[str, float]], None]:
    """What happens with rows of the log besides the file: nothing, or TensorBoard."""
    if not arguments.tensorboard:
        return lambda row: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "--tensorboard needs the Python package tensorboard, which is not installed: run pip install tensorboard, "
            "or leave the option out (log.jsonl holds the same values)"
        ) from None
    writer = SummaryWriter(str(arguments.out))

    def write(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, int(row["step"]))

    return write


@contextmanager
def _cancelled_by_interrupt() -> Iterator[CancelToken]:
    """A token that the first Ctrl-C cancels; the second one interrupts at once."""
    token = CancelToken()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        token.cancel()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield token
    finally:
        signal.signal(signal.SIGINT, before)


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
