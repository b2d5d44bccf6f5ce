"""The ``reconx`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from reconx_ros.native.threads import set_wait_policy


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each module adds its own."""
    from reconx_ros.cli import bench, convert, demo, doctor, evaluate, export, reconstruct, replay, train, view, weights

    parser = argparse.ArgumentParser(
        prog="reconx",
        description="Sparse-view 3-D reconstruction for robots: few images in, metric cloud and views out.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (demo, replay, reconstruct, evaluate, export, view, train, convert, weights, bench, doctor):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad usage."""
    set_wait_policy()
    from reconx_ros.cli.common import run_command

    arguments = build_parser().parse_args(argv)
    return run_command(arguments.run, arguments)


if __name__ == "__main__":
    sys.exit(main())
