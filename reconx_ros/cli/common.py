"""What all commands share: configuration, progress, JSON, error reporting."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from reconx_ros.core.errors import ConfigError, ReconxError, StorageError
from reconx_ros.core.files import write_text
from reconx_ros.core.settings import updated
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.presets import preset_values

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
STANDARD_OUTPUT = Path("-")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """--json, --debug and --quiet, which every command has."""
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write everything that is printed as JSON; - prints that instead"
    )
    parser.add_argument("--debug", action="store_true", help="show log messages, and tracebacks of errors")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_drop_bad_argument(parser: argparse.ArgumentParser) -> None:
    """--drop-bad, for commands that read Gaussians of other programs."""
    parser.add_argument(
        "--drop-bad", action="store_true", help="leave out Gaussians that are NaN or infinite instead of refusing them"
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """--preset, --config and --set, for commands that reconstruct."""
    parser.add_argument(
        "--preset", default="", help="named settings to start from: default, cpu, gpu, tethered or evaluation"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML with /**: ros__parameters:, as the nodes take"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides",
        help="one parameter, for example splatting.steps=300 (repeatable)",
    )  # fmt: skip


def load_config(arguments: argparse.Namespace, defaults: dict[str, Any] | None = None) -> ReconxConfig:
    """Configuration from preset, then a command's own defaults, then --config, then --set.

    Raises:
        ConfigError: for an unknown name, or a value of the wrong type or range.
    """
    config = updated(ReconxConfig(), preset_values(arguments.preset))
    config = updated(config, defaults or {})
    if arguments.config is not None:
        config = updated(config, read_parameters(arguments.config))
    for override in arguments.overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set got '{override}', expected NAME=VALUE")
        config = updated(config, {name: yaml.safe_load(text)})
    return config


def read_parameters(path: Path) -> dict[str, Any]:
    """Nested parameters of a ROS parameter file; the first ``ros__parameters`` found is taken.

    Raises:
        StorageError: when the file cannot be read.
        ConfigError: when it is not a parameter file.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as err:
        raise StorageError(f"configuration {path} cannot be read: {err.strerror}") from None
    except yaml.YAMLError as err:
        raise ConfigError(f"configuration {path} is not YAML: {str(err).splitlines()[0]}") from None
    for node in tree.values() if isinstance(tree, dict) else ():
        if isinstance(node, dict) and isinstance(node.get("ros__parameters"), dict):
            return dict(node["ros__parameters"])
    raise ConfigError(f"configuration {path} has no 'ros__parameters' group, expected /**: ros__parameters: ...")


class Progress:
    """One bar per stage on a terminal, a plain line per stage elsewhere; a callback for core.Job."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stage = ""
        self._started = 0.0
        self._bar: Any = None

    def __call__(self, stage: str, fraction: float, message: str) -> None:
        """Show progress; a new stage ends the line of the one before."""
        if self._quiet:
            return
        if stage != self._stage:
            self.close()
            self._stage, self._started = stage, time.perf_counter()
            self._open(stage)
        if self._bar is not None:
            self._bar.n = round(100 * fraction)
            self._bar.set_postfix_str(message[:40])

    def _open(self, stage: str) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=100, desc=f"{stage:<10}", bar_format="{desc} |{bar:30}| {n:3.0f} % {elapsed} {postfix}"
            )
        else:
            print(f"{stage} ...", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish the line of the present stage."""
        if self._bar is not None:
            self._bar.n = 100
            self._bar.close()
            self._bar = None
        elif self._stage and not self._quiet:
            seconds = time.perf_counter() - self._started
            print(f"{self._stage} done in {seconds:.1f} s", file=sys.stderr, flush=True)
        self._stage = ""


def plain(value: Any) -> Any:
    """A value with NaN and infinity turned to None, so that the JSON is valid everywhere."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically, creating folders; STANDARD_OUTPUT prints it, where ``run_command`` prints nothing else.

    Raises:
        StorageError: when the place is not writable or the disk is full.
    """
    text = json.dumps(plain(content), indent=2) + "\n"
    sys.stdout.flush()  # the path may be /dev/stdout
    if path == STANDARD_OUTPUT:
        print(text, end="", file=sys.__stdout__, flush=True)
    else:
        write_text(path, text)


def writable_folder(path: Path) -> Path:
    """Create a folder for results and prove that it can be written, before any work is done.

    Raises:
        StorageError: when it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".reconx_probe"
        probe.write_text("")
        probe.unlink()
    except OSError as err:
        raise StorageError(f"output folder {path} is not writable: {err.strerror}") from None
    return path


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A two-column summary on standard output."""
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}\n{'-' * len(title)}")
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def headlines(report: dict[str, Any]) -> list[str]:
    """Two lines that say what a run did, for the head of its overview."""
    backends = " > ".join(report["backends"].values())
    seconds = sum(s["seconds"] for s in report["stages"])
    scale = "metric scale" if report["metric_scale"] else "unknown scale"
    facts = [f"{report['points']:,} points", f"{report['novel_views']} novel views"]
    depth = report.get("depth") or {}
    if depth.get("median") is not None:
        facts.append(f"depth error against the sensor: median {100 * depth['median']:.1f} %")
    if report.get("depth_within_2pct") is not None:
        facts.append(f"{100 * report['depth_within_2pct']:.0f} % of the points within 2 % of the truth")
    if report.get("psnr_heldout") is not None:
        facts.append(f"novel views {report['psnr_heldout']:.1f} dB")
    return [f"{backends}  |  {seconds:.0f} s in the stages  |  {scale}", "  |  ".join(facts)]


def run_command(function: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command; errors of ours become one sentence on stderr and exit code 1."""
    level = logging.DEBUG if arguments.debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for_people = sys.stderr if getattr(arguments, "json", None) == STANDARD_OUTPUT else sys.stdout
    try:
        with contextlib.redirect_stdout(for_people):
            return function(arguments)
    except ReconxError as err:
        if arguments.debug:
            raise
        print(f"reconx {arguments.command}: {err}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"reconx {arguments.command}: interrupted", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:  # as with `| head`: who reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as err:
        if arguments.debug:
            raise
        print(
            f"reconx {arguments.command}: unexpected {type(err).__name__}: {err} (run again with --debug for details)",
            file=sys.stderr,
        )
        return EXIT_FAILED
