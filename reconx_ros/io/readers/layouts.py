"""The layouts that are recognised, the more telling ones first."""

from __future__ import annotations

from pathlib import Path

from reconx_ros.core import InvalidInputError
from reconx_ros.io.readers import chunks, colmap_folder, dtu, indoor, llff, nerfstudio, photos, scene_folder, tum
from reconx_ros.io.readers.base import SceneLayout

OWN_LAYOUT = "reconx"
LAYOUTS = (
    SceneLayout(
        name=OWN_LAYOUT,
        looks="cameras.json and images/",
        recognise=scene_folder.is_scene_folder,
        read=scene_folder.read_scene_folder,
    ),
    SceneLayout(
        name="chunks",
        looks="index.json and *.torch, as pixelSplat has RealEstate10K",
        recognise=chunks.has_chunks,
        read=chunks.read_chunks,
    ),
    SceneLayout(
        name="nerfstudio",
        looks="transforms.json",
        recognise=nerfstudio.has_transforms,
        read=nerfstudio.read_nerfstudio,
    ),
    SceneLayout(
        name="tum",
        looks="rgb.txt and groundtruth.txt",
        recognise=tum.is_tum,
        read=tum.read_tum,
    ),
    SceneLayout(
        name="7scenes",
        looks="frame-*.pose.txt",
        recognise=indoor.is_seven_scenes,
        read=indoor.read_seven_scenes,
    ),
    SceneLayout(
        name="scannet",
        looks="color/, pose/ and intrinsic/",
        recognise=indoor.is_scannet,
        read=indoor.read_scannet,
    ),
    SceneLayout(
        name="dtu",
        looks="cams/*_cam.txt, or cameras*.npz",
        recognise=dtu.is_dtu,
        read=dtu.read_dtu,
    ),
    SceneLayout(
        name="colmap",
        looks="cameras and images as .bin or .txt, in sparse/0",
        recognise=colmap_folder.has_colmap_model,
        read=colmap_folder.read_colmap_folder,
    ),
    SceneLayout(
        name="llff",
        looks="poses_bounds.npy",
        recognise=llff.has_poses_bounds,
        read=llff.read_llff,
    ),
    SceneLayout(
        name="photos",
        looks="images alone",
        recognise=photos.has_photos,
        read=photos.read_photos,
    ),
)
LAYOUT_NAMES = tuple(layout.name for layout in LAYOUTS)


def layout_from_folder(folder: Path, name: str | None = None) -> SceneLayout:
    """The layout of a folder, by its content or by name.

    Raises:
        InvalidInputError: for an unknown name, or a folder that looks like none of them.
    """
    if name is not None:
        found = [layout for layout in LAYOUTS if layout.name == name]
        if not found:
            raise InvalidInputError(f"scene format is '{name}', expected one of {', '.join(LAYOUT_NAMES)}")
        return found[0]
    for layout in LAYOUTS:
        if layout.recognise(folder):
            return layout
    seen = photos.seen_instead(folder)
    if seen:
        raise InvalidInputError(
            f"folder {folder} holds no images and no scene, expected one folder of pictures: {seen}"
        )
    forms = "; ".join(f"{layout.name} ({layout.looks})" for layout in LAYOUTS)
    raise InvalidInputError(f"folder {folder} holds no images and no cameras.json or other scene, expected {forms}")
