"""``reconx train depth``: the network that completes depth, on lifelike rooms and on real depth."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
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
from reconx_ros.core import ConfigError, Job, StorageError
from reconx_ros.core.settings import to_mapping, updated
from reconx_ros.weights.catalogue import NOT_KNOWN

if TYPE_CHECKING:
    from reconx_ros.pointmap.completion.training.trainer import CompletionTrainingRun
    from reconx_ros.sim.view_groups import ViewGroupConfig

TRAINING_VARIABLE = "RECONX_TRAINING"
_REAL_TRAIN = ("a_cmu_aims_lab", "a_icl_nuim_livingroom")
_TRAIN, _VALIDATION, _REAL, _REAL_VALIDATION = "train", "validation", "real", "real_validation"
_DESCRIPTION, _DONE = "data.json", "done.json"


def add_parser(kinds: Any) -> None:
    """Add ``depth`` to the networks that can be trained."""
    parser = kinds.add_parser(
        "depth",
        help="a picture and what stereo measured in, a depth for every pixel out",
        description="Train the network that completes depth (pointmap.completion). First make examples with the real "
        "stage 1 (--make-data), then train on them. Textures, furniture and real RGB-D come from the folder that "
        f"{TRAINING_VARIABLE} or --assets names; without it, rooms are drawn and there is no real depth.",
        epilog="example: reconx train depth --make-data data/depth --groups 3000 --workers 8; "
        "reconx train depth --data data/depth --out out/depth_net",
    )
    add_training_arguments(parser, "320x240", out_required=False)
    parser.set_defaults(difficulty="lifelike", run=run_depth)
    parser.add_argument("--make-data", type=Path, metavar="DIR", help="make examples in this folder, train nothing")
    parser.add_argument("--groups", type=int, default=3000, help="groups of views to make")
    parser.add_argument("--validation-groups", type=int, default=64, help="groups of held-out rooms to make")
    parser.add_argument("--workers", type=int, default=2, help="processes that make them")
    parser.add_argument("--assets", type=Path, default=None, metavar="DIR", help="textures, furniture and real RGB-D")
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="DIR", help="folders from --make-data")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="--out of an earlier run that this one starts from")
    parser.add_argument(
        "--picture-weights", default="efficientnet-lite0", metavar="NAME",
        help="published weights that the picture encoder starts with and keeps; none trains it from scratch",
    )  # fmt: skip


def run_depth(arguments: argparse.Namespace) -> int:
    """Make data, or train, save and summarise.

    Raises:
        ConfigError: for options that do not go together.
    """
    if arguments.make_data:
        return _make_data(arguments)
    if not arguments.out or not arguments.data:
        raise ConfigError("reconx train depth needs --data and --out, or --make-data to make data first")
    return _train(arguments)


def _assets(arguments: argparse.Namespace) -> Path | None:
    named = arguments.assets or os.environ.get(TRAINING_VARIABLE)
    if named and not Path(named).is_dir():
        raise StorageError(f"asset folder {named} does not exist, expected one with textures, furniture and RGB-D")
    return Path(named) if named else None


def _views(arguments: argparse.Namespace, assets: Path | None) -> ViewGroupConfig:
    from reconx_ros.sim.view_groups import DIFFICULTIES, difficulty

    width, height = image_size(arguments.size)
    base = replace(difficulty(arguments.difficulty, DIFFICULTIES), width=width, height=height, views=4)
    return updated(replace(base, assets=str(assets or "")), overrides(arguments)[2])


def _make_data(arguments: argparse.Namespace) -> int:
    """Examples of both splits, and those of real depth."""
    from reconx_ros.pointmap.completion.training.examples import ExampleMaker, make_examples
    from reconx_ros.sim.view_groups import RoomViewGroups

    folder, assets = writable_folder(arguments.make_data), _assets(arguments)
    views = _views(arguments, assets)
    held_out = replace(views, split="validation", groups_per_room=4)
    progress = Progress(quiet=arguments.quiet)
    try:
        with cancelled_by_interrupt() as token:
            job = Job(stage="data", on_progress=progress, token=token)
            made = 0
            for name, config, count in (
                (_VALIDATION, held_out, arguments.validation_groups),
                (_TRAIN, views, arguments.groups),
            ):
                maker = ExampleMaker(source=RoomViewGroups(config))
                made += make_examples(maker, folder / name, range(count), workers=arguments.workers, job=job)
            made += _make_real(folder, assets, job) if assets else 0
    finally:
        progress.close()
    description = {"source": "simulated rooms of reconx_ros", "groups": arguments.groups, **to_mapping(views)}
    used = {"assets": assets.name if assets else "", "licences": _licences(assets) if assets else {}}
    write_json(folder / _DESCRIPTION, {**description, **used})
    print(f"{made} examples made now, all in {folder}")
    return EXIT_OK


def _licences(assets: Path) -> dict[str, dict[str, str]]:
    """Licence and attribution of each sub-folder, as its SOURCE.txt gives them."""
    found = {}
    for path in sorted(assets.glob("*/SOURCE.txt")):
        lines = [line.partition(": ") for line in path.read_text(encoding="utf-8").splitlines()]
        told = {name: text for name, _, text in lines}
        found[path.parent.name] = {
            "licence": told.get("licence", NOT_KNOWN), "attribution": told.get("attribution line to print", NOT_KNOWN)
        }  # fmt: skip
    return found


def _make_real(folder: Path, assets: Path, job: Job) -> int:
    """Examples of the RGB-D folders among the assets; some are for validation alone."""
    from reconx_ros.pointmap.completion.training.examples import ExampleMaker, make_examples
    from reconx_ros.pointmap.completion.training.real_depth import read_rgbd, real_depth_groups

    made = 0
    for scene in sorted(path.parent for path in assets.glob("a_*/cameras.json")):
        target = folder / (_REAL if scene.name in _REAL_TRAIN else _REAL_VALIDATION) / scene.name
        if (target / _DONE).is_file() or len(read_rgbd(scene)) < 2:
            continue
        groups = real_depth_groups(scene, job)
        maker = ExampleMaker(source=groups, up_world=None)
        made += make_examples(maker, target, range(len(groups)), workers=0, job=job) if len(groups) else 0
        write_json(target / _DONE, {"groups": len(groups)})
    return made


def _train(arguments: argparse.Namespace) -> int:
    from reconx_ros.pipeline.selection import choose_device
    from reconx_ros.pointmap.completion.training.trainer import CompletionTrainer

    run = _run(arguments)
    writable_folder(run.folder)
    trainer = CompletionTrainer(run, choose_device(arguments.device), resume=arguments.resume)
    card = fit_with_progress(trainer, arguments)
    if not trainer.is_main:
        return EXIT_OK
    baseline = trainer.comparison()
    card = {**card, "without_learning": baseline}
    if arguments.json:
        write_json(arguments.json, card)
    flat = {f"{name} without learning.{key}": v for name, row in baseline.items() for key, v in row.items()}
    rows = _rows({**card["validation"], **flat})
    if rows:
        print_table("reconx train depth: held-out examples", rows)
    print(f"weights in {run.folder}")
    return EXIT_OK


def _run(arguments: argparse.Namespace) -> CompletionTrainingRun:
    from reconx_ros.pointmap.completion.network import CompletionConfig
    from reconx_ros.pointmap.completion.training.config import CompletionTrainingConfig
    from reconx_ros.pointmap.completion.training.trainer import CompletionTrainingRun
    from reconx_ros.pointmap.completion.weights import TRAINED_NAME, load_completion

    own, network, _ = overrides(arguments)
    folders: list[Path] = arguments.data
    real = [path for folder in folders for path in sorted((folder / _REAL).glob("*/"))]
    held_out = [path for folder in folders for path in sorted((folder / _REAL_VALIDATION).glob("*/"))]
    validation = {"rooms": folders[0] / _VALIDATION, **{path.name: path for path in held_out}}
    return CompletionTrainingRun(
        config=updated(CompletionTrainingConfig(), own),
        network=CompletionConfig.from_arguments({**CompletionConfig().as_arguments(), **network}),
        train=[folder / _TRAIN for folder in folders],
        real=real,
        validation=validation,
        folder=arguments.out,
        start=load_completion(arguments.weights / TRAINED_NAME) if arguments.weights else None,
        picture=_picture(arguments.picture_weights),
        data=_described(folders),
        on_log=log_writer(arguments),
    )


def _picture(name: str) -> Mapping[str, Any] | None:
    """Parameters of the picture encoder of a name of the catalogue or a file; None for "none"."""
    from reconx_ros.pointmap.completion.picture_encoder import read_published
    from reconx_ros.weights.resolve import resolve
    from reconx_ros.weights.tensors import read_tensors

    if name == "none":
        return None
    return read_published(read_tensors(resolve(name, setting="--picture-weights").path))


def _described(folders: list[Path]) -> dict[str, Any]:
    """What --make-data wrote about each folder, for the card.

    Raises:
        StorageError: for a description that is damaged.
    """
    found: dict[str, Any] = {}
    for path in (folder / _DESCRIPTION for folder in folders):
        if not path.is_file():
            continue
        try:
            found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise StorageError(f"{path} cannot be read ({err}), expected what --make-data writes") from None
    return found


def _rows(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """One line per folder of held-out examples."""
    names = dict.fromkeys(key.split(".")[0] for key in scores if "." in key)
    return [
        (
            name,
            f"inferred: median {scores[f'{name}.inferred_median']:.1%}, within 10 %: "
            f"{scores[f'{name}.inferred_within_10pct']:.0%}; all within 10 %: {scores[f'{name}.all_within_10pct']:.0%}",
        )
        for name in names
        if f"{name}.inferred_median" in scores
    ]
