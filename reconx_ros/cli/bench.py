"""``reconx bench``: speed of the stages, each against a named baseline in the same run."""

from __future__ import annotations

import argparse
from typing import Any

from reconx_ros.cli.common import EXIT_OK, add_common_arguments, write_json
from reconx_ros.pipeline.report import versions


def add_parser(commands: Any) -> None:
    """Add ``bench`` to the commands."""
    parser = commands.add_parser(
        "bench",
        help="measure speed against named baselines",
        description="Measure speed; every row is a ratio against a baseline measured in the same run.",
        epilog="example: reconx bench geometry --json bench.json",
    )
    parser.add_argument(
        "what", nargs="?", choices=("splatting", "geometry"), default="splatting", help="what to measure"
    )
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a table."""
    rows = _measured(arguments.what)
    print_rows(rows)
    if arguments.json:
        write_json(arguments.json, {"bench": arguments.what, "versions": versions(), "rows": rows})
    return EXIT_OK


def _measured(what: str) -> list[dict[str, Any]]:
    if what == "geometry":
        from reconx_ros.pointmap.bench import run_bench as bench_geometry

        return bench_geometry()
    from reconx_ros.splatting.bench import run_bench as bench_splatting

    return bench_splatting()


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table whose columns are the keys of the rows, in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
