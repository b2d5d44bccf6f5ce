"""``reconx evaluate``: scores on held-out views of scenes, beside baselines."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from reconx_ros.cli.common import (
    EXIT_FAILED,
    EXIT_OK,
    Progress,
    add_common_arguments,
    add_config_arguments,
    load_config,
    print_table,
    writable_folder,
    write_json,
)
from reconx_ros.cli.evaluate_bag import add_bag_arguments, check_bag_arguments, evaluate_bag, live_rows
from reconx_ros.cli.scene_options import add_scene_arguments, scene_options
from reconx_ros.core import Job
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.report import versions

_EPILOG = """\
example: reconx evaluate scenes/fern scenes/kitchen --views 3,6 --ablation --out out/scores
docs/evaluation.md says what each figure means; a stopped run goes on where it was with the same command."""


def add_parser(commands: Any) -> None:
    """Add ``evaluate`` to the commands."""
    parser = commands.add_parser(
        "evaluate",
        help="score scenes: held-out views, or cameras and depth",
        description="Reconstruct scenes from a few views and score pictures of the views that were held back, beside "
        "the nearest input, that input warped by depth, and plain 3DGS from sparse points; or (--geometry) score "
        "cameras and depth of stage 1.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scenes", nargs="+", type=Path, metavar="SCENE", help="scene with few-view splits, or one ROS 2 bag"
    )
    parser.add_argument(
        "--views", type=_counts, default=(3,), metavar="N[,N...]", help="numbers of input images, for example 2,3,6,9"
    )
    parser.add_argument(
        "--poses",
        type=_words,
        default=("given",),
        metavar="KIND[,KIND...]",
        help="poses of the inputs: given, odometry or none; without given ones test cameras are placed by a Sim(3) "
        "of the input poses, and beside that by optimising them",
    )
    parser.add_argument(
        "--seeds", type=_positive, default=1, metavar="N", help="runs with seeds 0 to N-1: mean, spread"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=320,
        help="longer side of the pictures in pixels; cameras that are not given are found from inputs of up to "
        "keyframes.max_size",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write metrics.json, metrics.csv, report.html and all pictures here"
    )
    parser.add_argument("--geometry", action="store_true", help="score cameras and depth instead of pictures")
    parser.add_argument("--ablation", action="store_true", help="also the rows of the paper's ablation table")
    parser.add_argument("--extras", action="store_true", help="also switch on each term that is off by default")
    parser.add_argument("--skip-missing", action="store_true", help="leave out splits and odometry a scene lacks")
    add_scene_arguments(parser)
    add_bag_arguments(parser)
    add_config_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def _counts(text: str) -> tuple[int, ...]:
    if not all(word.isdigit() and int(word) >= 2 for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers from 2 on, expected one like 2,3,6,9")
    return tuple(int(word) for word in text.split(","))


def _positive(text: str) -> int:
    if not (text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def run(arguments: argparse.Namespace) -> int:
    """Score every scene, or the bag."""
    bag = check_bag_arguments(arguments.scenes)
    if bag is not None:
        return _bag(bag, arguments)
    size = {"max_size": arguments.size}
    config = load_config(arguments, {"splatting": size, "pointmap": size})
    return _geometry(arguments, config) if arguments.geometry else _pictures(arguments, config)


def _geometry(arguments: argparse.Namespace, config: ReconxConfig) -> int:
    """Cameras and depth; one row per scene, kind of poses and number of views."""
    from reconx_ros.evaluation.geometry_table import geometry_markdown, geometry_table

    def show(row: dict[str, Any]) -> None:
        if not arguments.quiet:
            print(f"{row['scene']}, {row['views']} views, poses {row['poses']}: {row['status']}", file=sys.stderr)

    started = time.perf_counter()
    rows = geometry_table(arguments.scenes, config=config, views=arguments.views, poses=arguments.poses, on_row=show)
    print(geometry_markdown(rows), end="")
    if arguments.json:
        seconds = time.perf_counter() - started
        write_json(arguments.json, {"rows": rows, "seconds": seconds, "versions": versions()})
    return EXIT_OK


def _pictures(arguments: argparse.Namespace, config: ReconxConfig) -> int:
    """Pictures of held-out views; 1 when the method itself failed everywhere."""
    from reconx_ros.evaluation.layout import OURS, Run, as_json
    from reconx_ros.evaluation.suite import run_suite
    from reconx_ros.evaluation.summary import ALL_SCENES

    out = None if arguments.out is None else writable_folder(arguments.out)
    progress = Progress(quiet=arguments.quiet)

    def show(run: Run, found: bool) -> None:
        progress.close()
        _print_run(run, found)

    metrics = run_suite(
        _suite(arguments), config, out=out, command=shlex.join(["reconx", *sys.argv[1:]]), on_run=show,
        job=Job(stage="evaluate", on_progress=progress),
    )  # fmt: skip
    progress.close()
    if out is not None:
        _write_page(out)
    for row in metrics.summary:
        if row.scene == ALL_SCENES and row.key == OURS:
            _print_summary([r for r in metrics.summary if r.scene == ALL_SCENES and r.views == row.views
                            and r.poses == row.poses])  # fmt: skip
    if arguments.json:
        write_json(arguments.json, as_json(metrics))
    good = [m for run in metrics.runs for m in run.methods if m.key == OURS and m.status == "ok"]
    return EXIT_OK if good else EXIT_FAILED


def _write_page(out: Path) -> None:
    from reconx_ros.evaluation.report.page import write_evaluation_page

    print(f"\nreport: {write_evaluation_page(out)}")


def _bag(bag: Path, arguments: argparse.Namespace) -> int:
    """Every k-th image of a bag, drawn from the map of the nodes."""
    from reconx_ros.evaluation.layout import as_json

    out = writable_folder(arguments.out or Path("out/evaluation") / bag.name)
    metrics = evaluate_bag(bag, out, arguments, command=shlex.join(["reconx", *sys.argv[1:]]))
    _print_run(metrics.runs[0], found=False)
    print_table("nodes", [*live_rows(metrics), ("report", str(out / "report.html"))])
    if arguments.json:
        write_json(arguments.json, as_json(metrics))
    return EXIT_OK


def _suite(arguments: argparse.Namespace) -> Any:
    from reconx_ros.evaluation.suite import Suite

    return Suite(
        scenes=tuple(arguments.scenes),
        views=arguments.views,
        poses=arguments.poses,
        seeds=arguments.seeds,
        max_size=arguments.size,
        ablation=arguments.ablation,
        extras=arguments.extras,
        reading=scene_options(arguments),
        skip_missing=arguments.skip_missing,
    )


def _print_run(run: Any, found: bool) -> None:
    from reconx_ros.evaluation.metrics import in_words

    done = ", done before" if found else f", {run.seconds:.0f} s"
    title = f"{run.setting.scene} ({run.protocol}, seed {run.setting.seed}{done})"
    rows = [(m.title, in_words(m.mean, "   ") if m.status == "ok" else f"{m.status}: {m.message}") for m in run.methods]
    for name, figures in (("cameras", run.poses), ("depth", run.depth), ("cloud", run.cloud)):
        text = _geometry_text(name, figures)
        rows += [(name, text)] if text else []
    print_table(title, rows)
    sys.stdout.flush()


def _geometry_text(name: str, figures: Any) -> str:
    """The headlines of what stage 1 made; empty where there is nothing to compare with."""
    if name == "cameras" and "ate" in figures:
        return (
            f"registered {100 * figures['registered']:.0f} %   ATE {figures['ate']:.4g}   "
            f"AUC@5/10/20 {figures['auc_5']:.2f}/{figures['auc_10']:.2f}/{figures['auc_20']:.2f}"
        )
    if name == "depth" and figures:
        return f"abs-rel {figures['abs_rel']:.4f}   delta<1.25 {figures['delta_1']:.3f}"
    if name == "cloud" and figures:
        scores = "/".join(f"{figures[f'f_{t}cm']:.2f}" for t in (1, 2, 5))
        return f"F-score at 1/2/5 cm {scores}"
    return ""


def _print_summary(rows: list[Any]) -> None:
    from reconx_ros.evaluation.metrics import in_words

    title = f"mean over scenes ({rows[0].views} views, poses {rows[0].poses})"
    print_table(title, [(r.title, in_words(r.mean, "   ")) for r in rows])
