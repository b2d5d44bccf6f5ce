"""``reconx train diffusion``: the video network, from scratch on a CPU or from converted public weights."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import EXIT_OK, Progress, print_table, writable_folder, write_json
from reconx_ros.cli.training import (
    add_training_arguments,
    cancelled_by_interrupt,
    fit_with_progress,
    image_size,
    log_writer,
    overrides,
)
from reconx_ros.core import CancelledError, ConfigError, Frame, InvalidInputError, Job
from reconx_ros.core.settings import to_mapping, updated

if TYPE_CHECKING:
    import numpy as np

    from reconx_ros.diffusion.training.clips import ClipSource, PointSource
    from reconx_ros.diffusion.training.config import VideoNetworkSettings, VideoTrainingConfig
    from reconx_ros.diffusion.training.model import Prepared
    from reconx_ros.diffusion.training.trainer import VideoTrainingRun

_EXPERIMENT_CLIPS = 1600
# What the experiment changes of the small preset: all runs see stored clips at intervals that are even in [0, 1).
_EXPERIMENT = {
    "reuse": 1, "window": 1, "workers": 0, "smooth_share": 0.0, "growth_share": 0.0, "late": 4.0,
    "validation_clips": 128, "validate_every": 1000, "cameras": False, "known": "first", "drop": 0.0,
}  # fmt: skip
# Wide baselines; straight ways, since a bow would be told by nothing where cameras are hidden.
_EXPERIMENT_DATA = {"min_baseline_m": 0.5, "max_baseline_m": 1.2, "min_overlap": 0.3, "bow": 0.0}


def add_parser(kinds: Any) -> None:
    """Add ``diffusion`` to the networks that can be trained."""
    parser = kinds.add_parser(
        "diffusion",
        help="two pictures and points in, the frames between them out",
        description="Train the video network: a small one from scratch on simulated rooms, or the converted public one "
        "by the recipe of ReconX. With N GPUs: torchrun --nproc_per_node N -m reconx_ros.cli train diffusion ...",
        epilog="example: reconx train diffusion --out out/video_net --steps 3000",
    )
    add_training_arguments(parser, "32x32")
    parser.set_defaults(difficulty="medium", run=run_diffusion)
    parser.add_argument("--preset", default="small", help="small (from scratch, CPU) or reconx (needs --weights)")
    parser.add_argument("--frames", type=int, default=8, help="pictures of a clip")
    parser.add_argument("--weights", metavar="DIR", help="model to start from, by `reconx convert` or this command")
    parser.add_argument("--scenes", type=Path, nargs="+", metavar="DIR", help="scene folders in place of rooms")
    parser.add_argument("--chunks", type=Path, metavar="DIR", help="videos in pixelSplat's layout in place of rooms")
    parser.add_argument(
        "--held-out", type=Path, nargs="+", default=[], metavar="DIR", help="folder(s) to validate on, of the same kind"
    )
    parser.add_argument(
        "--points", default="depth", metavar="BACKEND",
        help="where points come from: depth (of the pictures), or a stage-1 backend as multiview",
    )  # fmt: skip
    parser.add_argument(
        "--experiment", choices=("structure",), help="instead of one run: does the structure condition help?"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm of the experiment")


def run_diffusion(arguments: argparse.Namespace) -> int:
    """Train, save, summarise; or run the experiment."""
    return _experiment(arguments) if arguments.experiment else _train(arguments)


def _train(arguments: argparse.Namespace) -> int:
    from reconx_ros.diffusion.training.trainer import VideoTrainer
    from reconx_ros.pipeline.selection import choose_device

    run = _run(arguments)
    writable_folder(run.folder)
    trainer = VideoTrainer(run, choose_device(arguments.device), resume=arguments.resume)
    card = fit_with_progress(trainer, arguments)
    if not trainer.processes.is_main:
        return EXIT_OK
    if arguments.json:
        write_json(arguments.json, card)
    rows = [(name, f"{value:.4f}") for name, value in (card["validation"] or {}).items()]
    print_table("reconx train diffusion: held-out clips", rows)
    print(f"model in {run.folder}")
    return EXIT_OK


def _config(arguments: argparse.Namespace, changes: dict[str, Any]) -> VideoTrainingConfig:
    from reconx_ros.diffusion.training.config import PRESETS

    if arguments.preset not in PRESETS:
        raise ConfigError(f"--preset is '{arguments.preset}', expected one of {', '.join(PRESETS)}")
    return updated(updated(PRESETS[arguments.preset], changes), overrides(arguments)[0])


def _run(arguments: argparse.Namespace) -> VideoTrainingRun:
    from reconx_ros.diffusion.training.trainer import VideoTrainingRun

    config = _config(arguments, {})
    prepared, save, licence = _model(arguments, config)
    train, validation, data = _sources(arguments)
    return VideoTrainingRun(
        config=config,
        prepared=prepared,
        save=save,
        train=train,
        validation=validation,
        folder=arguments.out,
        data={**data, "points": arguments.points},
        point_source=_points_from_name(arguments.points),
        licence=licence,
        on_log=log_writer(arguments),
    )


def _network(arguments: argparse.Namespace) -> VideoNetworkSettings:
    from reconx_ros.diffusion.training.config import VideoNetworkSettings

    return updated(VideoNetworkSettings(), overrides(arguments)[1])


def _model(arguments: argparse.Namespace, config: VideoTrainingConfig) -> tuple[Prepared, Callable[..., None], str]:
    """Model, what saves it, and its licence."""
    from reconx_ros.diffusion.model_folders import is_folded
    from reconx_ros.diffusion.training.backends import folder, pretrained
    from reconx_ros.weights.resolve import resolve

    if arguments.weights is None:
        if arguments.preset == "reconx":
            raise ConfigError("--preset reconx fine-tunes a converted model, expected --weights DIR")
        return folder.fresh(_network(arguments), arguments.frames, config.seed), folder.save_small, "Apache-2.0"
    if overrides(arguments)[1]:
        raise ConfigError("--set network.* is for training from scratch, but --weights brings its own network")
    weights = resolve(arguments.weights, setting="--weights").path
    if is_folded(str(weights)):
        return folder.load_small(weights), folder.save_small, "that of the model it started from"
    return (
        pretrained.load_pretrained(weights),
        pretrained.save_pretrained,
        "that of the weights it started from",
    )


def _sources(arguments: argparse.Namespace) -> tuple[ClipSource, ClipSource, dict[str, Any]]:
    """Training clips, held-out clips, and their description."""
    size, frames = image_size(arguments.size), arguments.frames
    if arguments.scenes and arguments.chunks:
        raise ConfigError("--scenes and --chunks were both given, expected one source of clips")
    if not (arguments.scenes or arguments.chunks):
        return _simulated(arguments, size, frames)
    from reconx_ros.io.clips import ChunkClips, SceneClips

    data = overrides(arguments)[2]
    unknown = sorted(set(data) - {"max_step", "seed"})
    if unknown:
        raise ConfigError(f"unknown setting data.{unknown[0]}, expected data.max_step or data.seed for recorded clips")
    if not arguments.held_out:
        raise ConfigError("--held-out is missing, expected a folder that training does not see")
    description = {"frames": frames, "size": arguments.size, **data}
    if arguments.scenes:
        train: ClipSource = SceneClips(arguments.scenes, frames, size, **data)
        names = [str(folder) for folder in arguments.scenes]
        return train, SceneClips(arguments.held_out, frames, size, **data), {"source": ", ".join(names), **description}
    if len(arguments.held_out) != 1:
        raise ConfigError(f"--held-out has {len(arguments.held_out)} folders, expected one with --chunks")
    train = ChunkClips(arguments.chunks, frames, size, **data)
    return (
        train,
        ChunkClips(arguments.held_out[0], frames, size, **data),
        {"source": str(arguments.chunks), **description},
    )


def _simulated(
    arguments: argparse.Namespace, size: tuple[int, int], frames: int, changes: Mapping[str, Any] | None = None
) -> tuple[ClipSource, ClipSource, dict[str, Any]]:
    from reconx_ros.sim.clips import CLIP_DIFFICULTIES, RoomClips
    from reconx_ros.sim.view_groups import difficulty

    base = replace(difficulty(arguments.difficulty, CLIP_DIFFICULTIES), width=size[0], height=size[1], frames=frames)
    config = updated(updated(base, changes or {}), overrides(arguments)[2])
    held_out = replace(config, split="validation", clips_per_room=4)
    return RoomClips(config), RoomClips(held_out), {"source": "simulated rooms of reconx_ros", **to_mapping(config)}


def _points_from_name(name: str) -> PointSource:
    from reconx_ros.diffusion.training.clips import points_from_depth

    return points_from_depth if name == "depth" else _StageOne(name)


class _StageOne:
    """Points of a first and a last picture by a stage-1 backend; survives being sent to another process."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def __call__(self, first: Frame, last: Frame) -> np.ndarray:
        import torch

        from reconx_ros.core import Keyframe
        from reconx_ros.core.registry import create
        from reconx_ros.geometry.projection import pointmap_world
        from reconx_ros.pointmap.config import PointmapConfig
        from reconx_ros.pointmap.registry import registry

        backend = create(registry(), self._backend, kind="pointmap backend")
        keyframes = [Keyframe(id=k, frame=frame, sharpness=0.0) for k, frame in enumerate((first, last))]
        views = backend.reconstruct(keyframes, PointmapConfig(), device=torch.device("cpu"), job=Job()).views
        points = torch.cat([pointmap_world(view)[view.valid] for view in views]).double().numpy()
        found: np.ndarray = views[0].world_from_cam.inverse().apply(points)
        return found


def _make_clips(path: Path, source: ClipSource, data: Mapping[str, Any], job: Job) -> None:
    """The training clips of an experiment, unless they are there already."""
    from reconx_ros.diffusion.training.store import StoredClips, record_clips
    from reconx_ros.diffusion.training.trainer import spread_interval

    description = json.dumps(data, sort_keys=True)
    if not path.is_file():
        record_clips(path, source, spread_interval, data["clips"], description=description, workers=1, job=job)
    elif StoredClips(path).description != description:
        raise InvalidInputError(f"clips {path} were made with other settings, expected another --out, or the same ones")


def _experiment(arguments: argparse.Namespace) -> int:
    from reconx_ros.diffusion.training.backends import folder
    from reconx_ros.diffusion.training.experiment import StructureExperiment
    from reconx_ros.pipeline.selection import choose_device

    if arguments.weights or arguments.scenes or arguments.chunks:
        raise ConfigError(
            "--experiment trains small models on simulated rooms, expected no --weights, --scenes, --chunks"
        )
    config, network = _config(arguments, _EXPERIMENT), _network(arguments)
    train, validation, data = _simulated(arguments, image_size(arguments.size), arguments.frames, _EXPERIMENT_DATA)
    count = max(config.batch, min(_EXPERIMENT_CLIPS, config.steps * config.batch))
    clips = writable_folder(arguments.out) / "clips.npz"
    progress = Progress(quiet=arguments.quiet)
    experiment = StructureExperiment(
        config=config,
        make_model=lambda seed: folder.fresh(network, arguments.frames, seed),
        save=folder.save_small,
        clips=clips,
        validation=validation,
        folder=arguments.out,
        seeds=range(arguments.seeds),
        data={**data, "clips": count},
    )
    try:
        with cancelled_by_interrupt() as token:
            _make_clips(clips, train, experiment.data, Job(stage="make clips", on_progress=progress, token=token))
            report = experiment.run(
                choose_device(arguments.device), Job(stage="train", on_progress=progress, token=token)
            )
    except CancelledError:
        raise CancelledError(f"stopped, saved in {arguments.out}: the same command continues") from None
    finally:
        progress.close()
    if arguments.json:
        write_json(arguments.json, report)
    rows = [
        (m, f"{g['mean']:+.4f}, positive in {g['positive']} of {g['seeds']} seeds") for m, g in report["gain"].items()
    ]
    print_table("reconx train diffusion: gain of own points over another scene's", rows)
    print(f"table in {arguments.out / 'results.md'}")
    return EXIT_OK
