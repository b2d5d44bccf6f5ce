"""What the commands under ``reconx train`` share: arguments, settings, logs, and a Ctrl-C that keeps the last step."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import yaml

from reconx_ros.cli.common import Progress, add_common_arguments
from reconx_ros.core import CancelledError, CancelToken, ConfigError, Job


def add_training_arguments(parser: argparse.ArgumentParser, size: str, *, out_required: bool = True) -> None:
    """Arguments of every network's training; ``size`` is the default of --size."""
    parser.add_argument("--out", type=Path, required=out_required, help="folder of the weights, the state and the log")
    parser.add_argument("--steps", type=int, help="optimiser steps, short for --set steps=N")
    parser.add_argument("--difficulty", default="easy", help="of the simulated views: easy, medium, hard or lifelike")
    parser.add_argument("--size", default=size, metavar="WxH", help="of the training images in pixels")
    parser.add_argument("--device", default="auto", help="where torch computes: auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--tensorboard", action="store_true", help="also write a TensorBoard log")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="one setting: of the training (batch=16), network.NAME or data.NAME (repeatable)",
    )  # fmt: skip
    add_common_arguments(parser)


def overrides(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
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


def image_size(text: str) -> tuple[int, int]:
    """(width, height) of a text like 96x64. Raises ConfigError for any other."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(s.isdigit() for s in sides):
        raise ConfigError(f"--size is '{text}', expected WIDTHxHEIGHT in pixels, as 96x64")
    return int(sides[0]), int(sides[1])


def log_writer(arguments: argparse.Namespace) -> Callable[[Mapping[str, float]], None]:
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


class Trainable(Protocol):
    """A run that can be interrupted after any step."""

    step: int

    def fit(self, job: Job) -> dict[str, Any]:
        """Train, and return the card."""
        ...


def fit_with_progress(trainer: Trainable, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with a progress bar; the first Ctrl-C stops after a step that is kept.

    Returns:
        The training card.

    Raises:
        CancelledError: after Ctrl-C, with a sentence that says how to go on.
    """
    progress = Progress(quiet=arguments.quiet)
    try:
        with cancelled_by_interrupt() as token:
            return trainer.fit(Job(stage="train", on_progress=progress, token=token))
    except CancelledError:
        raise CancelledError(
            f"stopped after step {trainer.step}, saved in {arguments.out}: --resume continues"
        ) from None
    finally:
        progress.close()


@contextmanager
def cancelled_by_interrupt() -> Iterator[CancelToken]:
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
