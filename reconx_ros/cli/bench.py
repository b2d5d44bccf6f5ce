"""``reconx bench``: speed of the stages, each against a named baseline in the same run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from reconx_ros.cli.bench_result import cell, compare, read_result, result, write_section
from reconx_ros.cli.common import EXIT_OK, add_common_arguments, write_json
from reconx_ros.core import ConfigError, ReconxError
from reconx_ros.core.machine import load_average

BENCHES = ("splatting", "geometry", "ros")
_EPILOG = """\
example: reconx bench all --json new.json --compare old.json
         reconx bench --from new.json --doc docs/performance.md"""


def add_parser(commands: Any) -> None:
    """Add ``bench`` to the commands."""
    parser = commands.add_parser(
        "bench",
        help="measure speed against named baselines",
        description="Measure speed; a row is a ratio against a baseline measured in the same run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=(*BENCHES, "all"), default="all", help="what to measure")
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the load (ros)")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="source", help="take a result of --json, measure nothing"
    )
    parser.add_argument("--compare", type=Path, metavar="OLD", help="show ratios old / new against a result of --json")
    parser.add_argument("--doc", type=Path, metavar="FILE", help="write the tables between the marks in a document")
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure or read, print tables."""
    if not arguments.seconds >= 1:
        raise ConfigError(f"--seconds is {arguments.seconds:g}, expected at least 1")
    old = None if arguments.compare is None else read_result(arguments.compare)
    new = read_result(arguments.source) if arguments.source is not None else _run_all(arguments)
    for name in dict.fromkeys(row["bench"] for row in new["rows"]):
        print(f"\n{name}")
        print_rows([{k: v for k, v in row.items() if k != "bench"} for row in new["rows"] if row["bench"] == name])
    if arguments.json:
        write_json(arguments.json, new)
    if arguments.doc:
        write_section(arguments.doc, new)
    if old is not None:
        _print_comparison(new, old)
    return EXIT_OK


def _run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every bench that was asked for; in "all", one that cannot run here is noted and left out."""
    names = BENCHES if arguments.what == "all" else (arguments.what,)
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    load_before = load_average()
    for name in names:
        if not arguments.quiet:
            print(f"bench {name} ...", file=sys.stderr, flush=True)
        try:
            rows += [{"bench": name, **row} for row in _measured(name, arguments.seconds)]
        except ReconxError as err:
            if len(names) == 1:
                raise
            missing[name] = str(err)
            print(f"bench {name} did not run: {err}", file=sys.stderr)
    return result(rows, missing, load_before)


def _print_comparison(new: dict[str, Any], old: dict[str, Any]) -> None:
    comparison = compare(new, old)
    print("\nold / new: above 1, a time became shorter")
    print_rows(list(comparison.rows))
    for note in comparison.notes:
        print(f"note: {note}")


def _measured(what: str, seconds: float) -> list[dict[str, Any]]:
    if what == "ros":
        from reconx_ros.ros.graph.environment import require_ros

        require_ros()
        from reconx_ros.ros.tools.bench import run_bench as bench_ros

        return bench_ros(seconds)
    if what == "geometry":
        from reconx_ros.pointmap.bench import run_bench as bench_geometry

        return bench_geometry()
    from reconx_ros.splatting.bench import run_bench as bench_splatting

    return bench_splatting()


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table whose columns are the keys of the rows, in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
