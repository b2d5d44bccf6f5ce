"""Lifelike rooms: assets, furniture from files, plain paint, bright windows, floors that mirror, camera faults."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, StorageError
from reconx_ros.sim.assets import Assets, find_assets, read_picture, stretched, tiled
from reconx_ros.sim.camera_faults import jpeg_compressed, rendered_with_faults, with_pose_noise
from reconx_ros.sim.lifelike import lifelike_room
from reconx_ros.sim.meshes import PlacedMesh, read_mesh
from reconx_ros.sim.patterns import Canvas
from reconx_ros.sim.raycast import RenderConfig, RoomRenderer, Twist
from reconx_ros.sim.room import Room, RoomConfig, make_room
from reconx_ros.sim.textures import paint
from reconx_ros.sim.view_groups import DIFFICULTIES, RoomViewGroups

COARSE = RenderConfig(texel_m=0.05, light_spacing_m=0.6)
CAMERA = PinholeCamera(width=48, height=36, fx=36.0, fy=36.0, cx=23.5, cy=17.5)
DOWN = SE3(rotation=np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), translation=np.array([0, 0, 1.2]))
# Optical axes in a level camera that looks along +x.


def tilted(degrees: float, height: float = 1.2) -> SE3:
    """A camera in the middle that looks along +x and down by some degrees."""
    return SE3(rotation=DOWN.rotation, translation=np.array([0, 0, height])) @ SE3.exp(
        np.array([-np.deg2rad(degrees), 0, 0]), np.zeros(3)
    )


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two textures, a picture, a box as GLB furniture and a file that is none."""
    trimesh = pytest.importorskip("trimesh")
    folder = tmp_path_factory.mktemp("assets")
    tiles = [("images/floor.png", "Tiles"), ("images/wall.png", "Plaster")]
    for name, entries in (
        ("c_tiles", [{"file": file, "category": category} for file, category in tiles]),
        ("b_rooms", [{"file": "images/photo.png"}]),
    ):
        (folder / name / "images").mkdir(parents=True)
        (folder / name / "images.json").write_text(json.dumps(entries))
        for number, entry in enumerate(entries):
            colours = np.full((16, 32, 3), 60 + 90 * number, np.uint8)
            colours[:, :16] += 40
            cv2.imwrite(str(folder / name / entry["file"]), colours)
    models = folder / "d_things" / "models"
    models.mkdir(parents=True)
    listed = [{"file": "models/box.glb"}, {"file": "models/bad.glb"}]
    (folder / "d_things" / "models.json").write_text(json.dumps(listed))
    box = trimesh.creation.box((0.6, 0.9, 0.4))  # y is up in glTF
    box.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[200, 40, 40, 255])
    )
    (models / "box.glb").write_bytes(box.export(file_type="glb"))
    (models / "bad.glb").write_bytes(b"no model")
    return folder


def empty_room(**changes: object) -> Room:
    """A room without furniture."""
    room = make_room(RoomConfig(furnished=False, variation=0.0))
    return replace(room, **changes)


def test_assets_are_found_by_what_they_are_for(assets: Path) -> None:
    found = find_assets(str(assets), "train")
    assert [p.name for p in found.textures["floor"]] == ["floor.png"]
    assert "wall.png" in [p.name for p in found.textures["wall"]]
    assert [p.name for p in found.pictures] == ["photo.png"] and found.models
    assert find_assets("", "train") == Assets()


def test_a_tenth_of_many_assets_is_held_back(tmp_path: Path) -> None:
    folder = tmp_path / "c_many"
    folder.mkdir()
    (folder / "images.json").write_text(json.dumps([{"file": f"{k}.png", "category": "Wood"} for k in range(200)]))
    train, held_out = (set(find_assets(str(tmp_path), split).textures["wood"]) for split in ("train", "validation"))
    assert not train & held_out and len(train | held_out) == 200 and 8 < len(held_out) < 40


@pytest.mark.parametrize("content", ["{", "[3]", json.dumps([{"category": "Wood"}])])
def test_an_asset_list_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "c_bad").mkdir()
    (tmp_path / "c_bad" / "images.json").write_text(content)
    with pytest.raises(StorageError, match=r"c_bad/images\.json cannot be read"):
        find_assets(str(tmp_path), "train")


def test_an_empty_asset_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no images\.json or models\.json"):
        find_assets(str(tmp_path), "train")


def test_pictures_are_repeated_or_stretched(assets: Path) -> None:
    path = assets / "b_rooms/images/photo.png"
    assert read_picture(path).shape == (16, 32, 3)
    wide = tiled(path, 40, 100, 0.01, 0.2)
    assert wide.shape == (40, 100, 3) and np.array_equal(wide[:20, :20], wide[20:, 80:])
    assert stretched(path, 5, 7).shape == (5, 7, 3)
    large = assets / "large.png"
    cv2.imwrite(str(large), np.zeros((40, 2000, 3), np.uint8))
    assert read_picture(large).shape == (10, 512, 3)
    with pytest.raises(StorageError, match=r"gone\.png cannot be read"):
        read_picture(assets / "gone.png")


def test_materials_from_files_and_plain_paint(assets: Path) -> None:
    canvas = Canvas(height=20, width=30, texel_m=0.02, seed=3)
    tint = np.array([0.8, 0.7, 0.6])
    path = assets / "b_rooms/images/photo.png"
    for material in (f"texture:0.4:{path}", f"picture:{path}", "paint", "glow"):
        assert paint(material, canvas, tint).shape == (20, 30, 3)
    plain = paint("paint", canvas, tint)
    assert np.abs(plain - plain.mean(axis=(0, 1))).max() * 255 < 4 < 255 * paint("plaster", canvas, tint).std()
    assert paint("glow", canvas, tint).min() > 0.85


def test_furniture_from_a_file_stands_upright_in_metres(assets: Path) -> None:
    mesh = read_mesh(assets / "d_things/models/box.glb")
    assert mesh is not None
    assert np.allclose(mesh.size_m, (0.6, 0.4, 0.9)) and np.isclose(mesh.corners[..., 2].min(), 0)
    assert np.allclose(mesh.texture.reshape(-1, 3).mean(axis=0) * 255, (200, 40, 40), atol=60)
    assert mesh.texel_m > 0
    placed = PlacedMesh(mesh=mesh, yaw_rad=np.pi / 2, offset=(1.0, -1.0, 0.0), scale=2.0)
    flat = placed.corners.reshape(-1, 3)
    assert np.allclose(flat.min(axis=0), (0.6, -1.6, 0)) and np.allclose(flat.max(axis=0), (1.4, -0.4, 1.8))
    assert placed.bounds.contains(flat * 0.999 + np.array([1.0, -1.0, 0.9]) * 0.001).all()


def test_furniture_that_is_no_model_is_left_out_with_a_warning(assets: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_mesh.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert read_mesh(assets / "d_things/models/bad.glb") is None
    assert "bad.glb is left out" in caplog.text


def test_furniture_from_a_file_is_seen_where_it_stands(assets: Path) -> None:
    mesh = read_mesh(assets / "d_things/models/box.glb")
    assert mesh is not None
    room = empty_room(meshes=(PlacedMesh(mesh=mesh, yaw_rad=0.0, offset=(1.5, 0.0, 0.0)),))
    image = RoomRenderer(room, COARSE).render(CAMERA, tilted(10))
    before = RoomRenderer(empty_room(), COARSE).render(CAMERA, tilted(10))
    box = np.abs(image.depth_m - before.depth_m) > 0.01
    assert 0.02 < box.mean() < 0.6 and image.depth_m[box].min() > 1.0
    red = image.rgb_u8[box].astype(float)
    assert (red[:, 0] > 1.5 * red[:, 1]).mean() > 0.9
    assert not room.is_free(np.array([[1.5, 0.0, 0.4]])).any() and room.is_free(np.array([[0.0, 0.0, 1.0]])).all()
    assert room.clearance(np.array([[1.5, 0.0]])) == 0


def test_a_floor_that_mirrors_changes_colours_and_no_depth() -> None:
    dull, glossy = (RoomRenderer(empty_room(gloss=g), COARSE).render(CAMERA, tilted(35)) for g in (0.0, 0.4))
    assert np.array_equal(dull.depth_m, glossy.depth_m)
    assert np.abs(dull.rgb_u8.astype(float) - glossy.rgb_u8).max(axis=2)[-10:].mean() > 3


def test_a_rolling_shutter_moves_the_rows_and_not_the_middle() -> None:
    renderer = RoomRenderer(make_room(RoomConfig(seed=4)), COARSE)
    still = renderer.render(CAMERA, tilted(0))
    none = renderer.render(CAMERA, tilted(0), shutter=Twist(turn_rad=(0, 0, 0), move_m=(0, 0, 0)))
    assert np.allclose(still.depth_m, none.depth_m, rtol=1e-4)
    turning = renderer.render(CAMERA, tilted(0), shutter=Twist(turn_rad=(0.0, 0.3, 0.0), move_m=(0, 0, 0)))
    top = renderer.render(CAMERA, tilted(0) @ SE3.exp(np.array([0.0, 0.3 * (0.5 / 36 - 0.5), 0.0]), np.zeros(3)))
    assert np.allclose(turning.depth_m[0], top.depth_m[0], rtol=1e-3)
    with pytest.raises(InvalidInputError, match="and 1 with a shutter"):
        renderer.render(CAMERA, tilted(0), supersample=2, shutter=Twist(turn_rad=(0, 0, 0), move_m=(0, 0, 0)))


def test_camera_faults_change_pictures_and_keep_depth_true() -> None:
    renderer = RoomRenderer(make_room(RoomConfig(seed=4)), COARSE)
    sharp = renderer.render(CAMERA, tilted(5))
    blurred = [rendered_with_faults(renderer, CAMERA, tilted(5), 0.5, np.random.default_rng(k)) for k in range(6)]
    assert any(not np.array_equal(b.rgb_u8, sharp.rgb_u8) for b in blurred)
    assert all(np.median(np.abs(b.depth_m / sharp.depth_m - 1)) < 0.05 for b in blurred)
    none = rendered_with_faults(renderer, CAMERA, tilted(5), 0.0, np.random.default_rng(0))
    assert np.array_equal(none.rgb_u8, sharp.rgb_u8)
    assert jpeg_compressed(sharp.rgb_u8, 40).shape == sharp.rgb_u8.shape


def test_pose_noise_is_odometrys_and_leaves_the_first() -> None:
    frames = [Frame(rgb_u8=np.zeros((36, 48, 3), np.uint8), camera=CAMERA, stamp_ns=0, world_from_cam=DOWN)] * 3
    moved, exact = [], 0
    for seed in range(40):
        noisy = with_pose_noise(frames, 1.0, np.random.default_rng(seed))
        poses = [f.world_from_cam for f in noisy]
        assert poses[0] is not None and poses[1] is not None and np.array_equal(poses[0].matrix, DOWN.matrix)
        moved.append(poses[1].distance_to(DOWN))
        exact += moved[-1] == 0
    assert 0 < np.max(moved) < 0.04 and 5 < exact < 35


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_lifelike_rooms_are_reproducible_and_leave_air(seed: int) -> None:
    room, again = lifelike_room(seed, Assets()), lifelike_room(seed, Assets())
    assert room.size_m == again.size_m and [s.centre for s in room.solids] == [s.centre for s in again.solids]
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (400, 3)) * room.size_m + [0, 0, room.size_m[2] / 2]
    assert room.is_free(points).mean() > 0.3
    centres = np.abs([s.centre for s in room.solids]).reshape(-1, 3)
    assert (centres <= np.array([room.size_m[0] / 2 + 0.1, room.size_m[1] / 2 + 0.1, room.size_m[2]])).all()


def test_lifelike_groups_use_the_assets_and_are_plainer(assets: Path) -> None:
    config = replace(
        DIFFICULTIES["lifelike"], width=48, height=36, views=2, open_rooms=1, texel_m=0.05, assets=str(assets)
    )
    source = RoomViewGroups(config)
    rooms = [lifelike_room(source.room_seed(k), find_assets(str(assets), "train")) for k in range(6)]
    materials = [s.material for room in rooms for s in room.surfaces()]
    assert sum(m == "paint" for m in materials) > 0.2 * len(materials)
    assert any(m.startswith("texture:") for m in materials) and any(m.startswith("picture:") for m in materials)
    assert any(room.meshes for room in rooms)
    assert any(lifelike_room(seed, Assets()).gloss > 0 for seed in range(9))
    for number in range(2):
        first, second = source(number)
        assert first.depth_m is not None and first.depth_m.min() > 0 and first.rgb_u8.std() > 0
        again = RoomViewGroups(config)(number)
        assert np.array_equal(again[1].rgb_u8, second.rgb_u8)
