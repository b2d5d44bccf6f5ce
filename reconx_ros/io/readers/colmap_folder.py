"""Folders with a COLMAP model beside its pictures (COLMAP, 3DGS, mip-NeRF 360, and what ``reconx export`` writes)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reconx_ros.core import InvalidInputError
from reconx_ros.io.colmap import ColmapView, read_colmap
from reconx_ros.io.plausible import rounding_moves
from reconx_ros.io.readers.base import PictureFile, Request, scene_from_pictures
from reconx_ros.io.readers.picture_folders import name_in, picture_folder, picture_paths
from reconx_ros.io.scene_views import Scene
from reconx_ros.io.splits import every_eighth_split

_MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "dense/sparse", "dense/0/sparse", ".")
_WORTH_CORRECTING = 1e-3  # of the cameras' spread


def has_colmap_model(root: Path) -> bool:
    """Whether there is a model in one of the usual places."""
    return _model_folder(root) is not None


def read_colmap_folder(request: Request) -> Scene:
    """Pictures of a COLMAP model, in the order of their names; distorted ones become pinhole pictures.

    Every 8th picture is held out, as 3DGS and mip-NeRF 360 do.

    Raises:
        StorageError: when a file of the model is missing or ends too early, or a picture is missing.
        InvalidInputError: when there is no model or no folder of pictures, or a number in it cannot be.
    """
    root = request.root
    model = _model_folder(root)
    if model is None:
        raise InvalidInputError(f"folder {root} holds no COLMAP model, expected one in sparse/0, sparse or itself")
    found = {view.name: view for view in sorted(read_colmap(model), key=lambda view: view.name)}
    if not found:
        raise InvalidInputError(f"COLMAP model {model} has no posed images, expected at least one")
    folder = _picture_folder(request, model)
    files, by_order = picture_paths(folder, list(found))
    by_name = {name_in(path, root): (path, found[key]) for key, path in files.items()}
    moves = rounding_moves(view.world_from_cam for view in found.values())
    scene = scene_from_pictures(
        request,
        {name: path for name, (path, _) in by_name.items()},
        lambda name: _picture(name, *by_name[name]),
        metric_scale=False,
        layout="colmap",
        pose_source="COLMAP model",
        splits=every_eighth_split,
        notes=(*_other_models(model), *by_order, *_coarse(moves)),
    )
    return replace(scene, coarse_positions=moves > _WORTH_CORRECTING)


def _model_folder(root: Path) -> Path | None:
    for name in _MODEL_FOLDERS:
        folder = root / name
        if any(all((folder / f"{part}{end}").is_file() for part in ("cameras", "images")) for end in (".bin", ".txt")):
            return folder
    return None


def _picture_folder(request: Request, model: Path) -> Path:
    """The folder asked for, or images/ beside or above the model."""
    if request.images is None:
        for place in (model, *model.parents):
            if (place / "images").is_dir():
                return place / "images"
            if place == request.root:
                break
    return picture_folder(request.root, request.images)


def _coarse(moves: float) -> tuple[str, ...]:
    if moves <= _WORTH_CORRECTING:
        return ()
    return (
        f"so far from the origin, rounding of 1e-8 in a rotation moves a camera by {100 * moves:.2g} % of the cameras' "
        "spread; reconx reconstruct and evaluate ask the pictures whether it did",
    )


def _other_models(model: Path) -> tuple[str, ...]:
    others = [p.name for p in model.parent.iterdir() if p.is_dir() and p.name.isdecimal() and p.name != model.name]
    if not model.name.isdecimal() or not others:
        return ()
    return (f"COLMAP made {1 + len(others)} models, read is {model.name}; the pictures of the others are left out",)


def _picture(name: str, path: Path, view: ColmapView) -> PictureFile:
    return PictureFile(name=name, path=path, lens=view.lens, world_from_cam=view.world_from_cam)
