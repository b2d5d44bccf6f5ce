"""``reconx reconstruct``: a scene folder to a result folder, without ROS."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.cli.common import (
    EXIT_OK,
    Progress,
    add_common_arguments,
    add_config_arguments,
    headlines,
    load_config,
    print_table,
    writable_folder,
    write_json,
)
from reconx_ros.cli.scene_options import add_scene_arguments, scene_options
from reconx_ros.core import BY_TRUST, InvalidInputError, Job, Keyframe, Provenance, StorageError
from reconx_ros.io.cameras_json import POSE_KINDS, pose_key
from reconx_ros.io.readers.layouts import LAYOUT_NAMES, layout_from_folder
from reconx_ros.io.scenes import Scene, read_scene
from reconx_ros.pipeline.keyframes import chosen_keyframe
from reconx_ros.pipeline.reconstructor import Reconstruction, Reconstructor
from reconx_ros.pipeline.result import save_reconstruction
from reconx_ros.pipeline.sound_positions import require_sound_positions

_MAX_SIDE = 1600  # px; larger pictures are shrunk when read
_VIEWS = 6


def add_parser(commands: Any) -> None:
    """Add ``reconstruct`` to the commands."""
    parser = commands.add_parser(
        "reconstruct",
        help="reconstruct a scene or a folder of photos, without ROS",
        description="Reconstruct a scene from a few of its images: a folder with images/ and cameras.json, in the "
        f"layout of a public data set ({', '.join(LAYOUT_NAMES[1:-1])}; docs/datasets.md), or of photos alone.",
        epilog="example: reconx reconstruct scenes/kitchen --views 6 --poses given --out out/kitchen",
    )
    parser.add_argument("input", type=Path, help="folder of a scene, or of photos")
    parser.add_argument(
        "--views",
        type=int,
        help=f"number of input images (the scene's own split where it has one); {_VIEWS}, or all where there are fewer",
    )
    parser.add_argument(
        "--poses",
        choices=tuple(POSE_KINDS),
        default=None,
        help="which poses of the scene: given (c2w in cameras.json), odometry (c2w_dataset there, refined by the "
        "images), or none, which recovers them from the images; given, but none for photos",
    )
    parser.add_argument(
        "--fov",
        type=float,
        metavar="DEG",
        help="horizontal field of view of photos without cameras.json; else taken from EXIF, or estimated",
    )
    parser.add_argument(
        "--use-depth", action="store_true", help="use the scene's sensor depth instead of withholding it"
    )
    parser.add_argument("--out", type=Path, default=Path("out/reconstruction"), help="result folder")
    add_scene_arguments(parser)
    add_config_arguments(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reconstruct, save, summarise."""
    noisy = arguments.poses == "odometry"
    config = load_config(arguments, {"pointmap": {"refine_poses": True}} if noisy else None)
    scene = read_input(arguments.input, arguments.poses, arguments.fov, **scene_options(arguments))
    keyframes = scene_keyframes(scene, arguments.views, use_depth=arguments.use_depth)
    require_sound_positions(scene, keyframes, config)
    folder = writable_folder(arguments.out)
    progress = Progress(quiet=arguments.quiet)
    started = time.perf_counter()
    result = Reconstructor(config).run(
        keyframes, metric_poses=scene.metric_scale, job=Job(stage="reconstruct", on_progress=progress)
    )
    progress.close()
    save_reconstruction(result, folder)
    summary = {
        **result.report,
        "input": str(arguments.input),
        "inputs": [scene.names[k.id] for k in keyframes],
        "out": str(folder),
        "seconds": time.perf_counter() - started,
        "depth": depth_errors(result, scene),
        "layout": scene.layout,
        "notes": list(scene.notes),
    }
    draw(result, folder, title=f"{arguments.input.name}, {len(keyframes)} views", report=summary)
    _print(summary)
    if arguments.json:
        write_json(arguments.json, summary)
    return EXIT_OK


def read_input(folder: Path, poses: str | None, fov_deg: float | None, **options: Any) -> Scene:
    """The scene with the poses asked for; options as ``read_scene``.

    Raises:
        InvalidInputError: for poses of a folder that has none, and as ``read_scene``.
        StorageError: as ``read_scene``.
    """
    if not folder.is_dir():
        raise StorageError(f"scene folder {folder} does not exist")
    layout = layout_from_folder(folder, options.get("format")).name
    chosen = poses or ("none" if layout == "photos" else "given")
    key = pose_key(chosen)
    if key is not None and layout == "photos":
        raise InvalidInputError(
            f"folder {folder} has no cameras.json, so --poses is '{chosen}' where only none is possible"
        )
    scene = read_scene(folder, poses=key, fov_deg=fov_deg, max_size=_MAX_SIDE, **options)
    if key is not None and all(view.world_from_cam is None for view in scene.views):
        raise InvalidInputError(
            f"cameras.json of {folder} has no {key} poses, which --poses {chosen} takes: expected some, or --poses none"
        )
    return scene


def scene_keyframes(scene: Scene, count: int | None, *, use_depth: bool) -> list[Keyframe]:
    """The scene's own split of that size, or images spread evenly over it; ids are indices into the scene.

    Without a count, 6 images or as many as there are.

    Raises:
        InvalidInputError: when the scene has fewer images, or count is below 2.
    """
    names = scene.inputs(min(_VIEWS, max(len(scene.names), 2)) if count is None else count)
    frames = [scene.frame(name) if use_depth else replace(scene.frame(name), depth_m=None) for name in names]
    return [chosen_keyframe(scene.names.index(name), frame) for name, frame in zip(names, frames, strict=True)]


def depth_errors(result: Reconstruction, scene: Scene) -> dict[str, float] | None:
    """Relative depth errors of the confident measured pixels against the scene's (withheld) depth.

    None where the scene has no depth, or the result is not in metres.
    """
    from reconx_ros.evaluation.depth import depth_statistics, relative_depth_errors

    if not result.metric_scale:
        return None
    errors = []
    for view in result.views.views:
        truth = scene.frames[view.keyframe_id].depth_m
        if truth is not None:
            errors.append(relative_depth_errors(view, truth, min_confidence=0.5, kind=Provenance.OBSERVED))
    return depth_statistics(np.concatenate(errors)) if errors else None


def draw(result: Reconstruction, folder: Path, *, title: str, report: dict[str, Any]) -> None:
    """overview.png and report.html of a result."""
    from reconx_ros.viz.overview import overview_data
    from reconx_ros.viz.pages import write_pages

    novel = result.novel_views
    data = overview_data(
        result.views,
        [v.rgb_u8 for v in novel],
        [v.world_from_cam for v in novel],
        result.cloud,
        title=title,
        lines=headlines(report),
        depths=[v.depth for v in novel],
        confidences=[v.confidence for v in novel],
        provenances=[v.provenance for v in novel],
    )
    write_pages(folder, data, report)


def _by_kind(summary: dict[str, Any], what: str) -> str:
    return ", ".join(f"{summary[f'{what}_{kind.word}']:,} {kind.word}" for kind in BY_TRUST)


def _print(summary: dict[str, Any]) -> None:
    unit = "m" if summary["metric_scale"] else "scene units"
    rows = [
        ("input images", ", ".join(summary["inputs"])),
        ("points", f"{_by_kind(summary, 'points')} ({unit})"),
        *([("cameras matched by", ", then ".join(summary["matchers"]))] if summary["matchers"] else []),
        ("confident pixels", f"{100 * summary['confident_share']:.0f} %"),
        ("Gaussians", _by_kind(summary, "gaussians")),
        ("PSNR on inputs", f"{summary['psnr_inputs']:.2f} dB"),
    ]
    if summary["depth"]:
        depth = summary["depth"]
        rows.append(
            ("depth vs sensor", f"median {100 * depth['median']:.2f} %, within 2 %: {100 * depth['within_2pct']:.0f} %")
        )
    rows += [
        (f"stage {s['name']}", f"{s['backend']}, {s['seconds']:.1f} s, {s['peak_mb']:.0f} MiB")
        for s in summary["stages"]
    ]
    rows += [("note", n) for n in summary["notes"]]
    rows += [("warning", w) for w in summary["warnings"]]
    rows.append(("result", summary["out"]))
    print_table("reconx reconstruct", rows)
