"""Sources of clips: simulated rooms, scene folders, videos in pixelSplat's chunk layout, stored clips, experiment."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from reconx_ros.cli.main import main
from reconx_ros.core import SE3, ConfigError, Frame, InvalidInputError, Job, PinholeCamera, StorageError
from reconx_ros.diffusion.training.experiment import ARMS, RELIANCE, as_markdown, summarised
from reconx_ros.diffusion.training.store import StoredClips, record_clips
from reconx_ros.io.clips import ChunkClips, SceneClips, clip_places, cropped_frame
from reconx_ros.io.images import encode_jpeg
from reconx_ros.io.scenes import write_scene
from reconx_ros.io.video_chunks import ChunkDataset, read_chunk
from reconx_ros.sim.clips import CLIP_DIFFICULTIES, RoomClips, bowed_path
from reconx_ros.sim.view_groups import difficulty

WIDTH, HEIGHT, LENGTH = 48, 32, 12


def pose(k: int) -> SE3:
    return SE3.exp(np.array([0.0, 0.02 * k, 0.0]), np.array([0.1 * k, 0.0, 0.05]))


def picture(k: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 10 * k, np.uint8)


def chunk_item(key: str = "video_a", length: int = LENGTH) -> dict[str, Any]:
    rows = []
    for k in range(length):
        world_to_camera = pose(k).inverse().matrix[:3]
        rows.append([0.8, 1.2, 0.5, 0.5, 0.0, 0.0, *world_to_camera.reshape(-1)])
    images = [torch.frombuffer(bytearray(encode_jpeg(picture(k), 95)), dtype=torch.uint8) for k in range(length)]
    stamps = torch.arange(length) * 33_000
    return {"key": key, "url": "", "timestamps": stamps, "cameras": torch.tensor(rows).float(), "images": images}


def write_chunks(folder: Path, *chunks: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    index = {}
    for number, chunk in enumerate(chunks):
        torch.save(chunk, folder / f"{number:06d}.torch")
        index.update({item["key"]: f"{number:06d}.torch" for item in chunk})
    (folder / "index.json").write_text(json.dumps(index))
    return folder


# Chunks ---------------------------------------------------------------------------------------------------------


def test_chunk_gives_pictures_poses_and_intrinsics(tmp_path: Path) -> None:
    data = ChunkDataset(write_chunks(tmp_path / "train", [chunk_item()], [chunk_item("b"), chunk_item("c", 5)]))
    assert data.keys == ("video_a", "b", "c") and [len(data.video(k)) for k in range(3)] == [LENGTH, LENGTH, 5]
    frame = data.video(0).frame(3)
    assert np.abs(frame.rgb_u8.astype(int) - 30).max() <= 2 and frame.stamp_ns == 99_000_000
    assert frame.world_from_cam is not None
    assert np.allclose(frame.world_from_cam.matrix, pose(3).matrix, atol=1e-6)
    assert frame.camera.fx == pytest.approx(0.8 * WIDTH) and frame.camera.fy == pytest.approx(1.2 * HEIGHT)
    assert frame.camera.cx == pytest.approx(WIDTH / 2 - 0.5)  # the layout has its origin at the corner


def test_chunk_clips_follow_the_interval(tmp_path: Path) -> None:
    clips = ChunkClips(write_chunks(tmp_path / "train", [chunk_item()]), 4, (24, 24), max_step=3)
    for interval, step in ((0.0, 1), (0.5, 2), (1.0, 3)):
        frames = clips(5, interval)
        stamps = np.diff([frame.stamp_ns for frame in frames]) / 33_000_000
        assert np.allclose(stamps, step) and all(frame.camera.size == (24, 24) for frame in frames)
    again = copy.deepcopy(clips)
    assert all(np.array_equal(a.rgb_u8, b.rgb_u8) for a, b in zip(clips(9, 0.2), again(9, 0.2), strict=True))
    with pytest.raises(InvalidInputError, match=r"video 'video_a' has 12 pictures, expected at least the 13 of a clip"):
        ChunkClips(tmp_path / "train", 13, (24, 24))(0)


def test_files_that_are_no_chunks_are_named(tmp_path: Path) -> None:
    folder = write_chunks(tmp_path / "train", [chunk_item()])
    path = folder / "000000.torch"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match=r"chunk .* cannot be read .*expected a complete file"):
        ChunkDataset(folder).video(0)
    for content, message in (
        ({"a": 1}, "holds a dict, expected a list"),
        ([{"key": "x"}], "has no cameras, images"),
        ([{**chunk_item(), "cameras": torch.zeros(3, 18)}], r"cameras of shape \[3, 18\], expected \[12, 18\]"),
    ):
        torch.save(content, path)
        with pytest.raises(InvalidInputError, match=message):
            read_chunk(path)
    torch.save([chunk_item("other")], path)
    with pytest.raises(InvalidInputError, match=r"has no video 'video_a', which index.json says"):
        ChunkDataset(folder).video(0)
    broken = chunk_item()
    broken["cameras"][0, 7] = torch.nan
    torch.save([broken], path)
    with pytest.raises(InvalidInputError, match="picture 0 of video 'video_a' has numbers that are not finite"):
        ChunkDataset(folder).video(0).frame(0)
    (folder / "index.json").write_text("[]")
    with pytest.raises(InvalidInputError, match="is not a list of chunks by video"):
        ChunkDataset(folder)
    with pytest.raises(StorageError, match=r"index\.json"):
        ChunkDataset(tmp_path / "nothing")


def test_chunks_run_no_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path(tmp_path / "ran").touch, ())  # type: ignore[return-value]

    torch.save([Bomb()], tmp_path / "x.torch")
    with pytest.raises(StorageError, match="cannot be read"):
        read_chunk(tmp_path / "x.torch")
    assert not (tmp_path / "ran").exists()


# Recorded scenes and cropping -----------------------------------------------------------------------------------


def recorded(k: int) -> Frame:
    camera = PinholeCamera(width=WIDTH, height=HEIGHT, fx=40.0, fy=40.0, cx=23.5, cy=15.5)
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    return Frame(rgb_u8=picture(k), camera=camera, world_from_cam=pose(k), depth_m=depth)


def test_scene_folder_gives_clips_with_depth(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", [recorded(k) for k in range(6)], metric_scale=True)
    frames = SceneClips([tmp_path / "scene"], 3, (16, 16), max_step=2)(0, 1.0)
    assert len(frames) == 3 and all(f.depth_m is not None and f.depth_m.shape == (16, 16) for f in frames)
    shown = [int(f.rgb_u8[0, 0, 0]) // 10 for f in frames]
    assert shown[1] - shown[0] == shown[2] - shown[1] == 2
    with pytest.raises(InvalidInputError, match="no scene folders"):
        SceneClips([], 3, (16, 16))


def test_cropping_keeps_every_ray() -> None:
    frame = recorded(1)
    small = cropped_frame(frame, (16, 16))
    # The middle 32x32 of 48x32, halved: the ray through the crop's left border is that of column 8's left border.
    assert (-0.5 - small.camera.cx) / small.camera.fx == pytest.approx((7.5 - 23.5) / 40.0)
    assert small.camera.fx == pytest.approx(20.0) and small.camera.cy == pytest.approx(7.5)
    with pytest.raises(InvalidInputError, match="picture is 48x32, expected at least 64x64"):
        cropped_frame(frame, (64, 64))


def test_clip_places_stay_in_the_video() -> None:
    rng = np.random.default_rng(0)
    for length in (4, 5, 30):
        for interval in (0.0, 0.4, 1.0):
            places = clip_places(length, 4, 8, interval, rng, "x")
            assert places[0] >= 0 and places[-1] < length and len(set(np.diff(places))) == 1
    with pytest.raises(InvalidInputError, match=r"interval of a clip is 1.5"):
        clip_places(9, 4, 8, 1.5, rng, "x")


# Simulated rooms ------------------------------------------------------------------------------------------------

SMALL = replace(CLIP_DIFFICULTIES["medium"], frames=4, width=16, height=12, open_rooms=1, clips_per_room=4, texel_m=0.1)


@pytest.fixture(scope="module")
def rooms() -> RoomClips:
    pytest.importorskip("embreex")
    return RoomClips(SMALL)


def test_simulated_clip_is_as_asked_and_reproducible(rooms: RoomClips) -> None:
    for interval, low, high in ((0.0, 0.8 * 0.15, 0.15), (1.0, 0.8, 1.0)):
        frames = rooms(1, interval)
        poses = [frame.world_from_cam for frame in frames]
        assert poses[0] is not None and poses[-1] is not None
        assert low - 1e-6 <= poses[0].distance_to(poses[-1]) <= high + 1e-6
        assert [frame.depth_m is not None for frame in frames] == [True, False, False, True]
        assert all(frame.camera.size == (16, 12) for frame in frames)
        assert all(b.stamp_ns > a.stamp_ns for a, b in pairwise(frames))
    rooms(0, 0.3)  # what was asked before does not matter
    again = rooms(1, 1.0)
    assert all(np.array_equal(a.rgb_u8, b.rgb_u8) for a, b in pairwise_of(frames, again))
    assert not np.array_equal(rooms(2, 1.0)[0].rgb_u8, frames[0].rgb_u8)


def pairwise_of(a: list[Frame], b: list[Frame]) -> list[tuple[Frame, Frame]]:
    assert len(a) == len(b)
    return list(zip(a, b, strict=True))


def test_bowed_path_keeps_its_ends_and_leaves_the_line_sideways() -> None:
    first, last = pose(0), pose(9)
    path = bowed_path(first, last, 9, 0.3, np.random.default_rng(1))
    assert path[0] is first and path[-1] is last
    way = last.translation - first.translation
    aside = [p.translation - first.interpolate(last, k / 8).translation for k, p in enumerate(path)]
    assert all(abs(float(a @ way)) < 1e-9 for a in aside)
    sizes = [float(np.linalg.norm(a)) for a in aside]
    assert sizes[4] == max(sizes) > 0 and sizes[4] <= 0.3 * np.linalg.norm(way) + 1e-9
    straight = bowed_path(first, last, 9, 0.0, np.random.default_rng(1))
    assert np.allclose(straight[3].translation, first.interpolate(last, 3 / 8).translation)


def test_clips_that_rooms_do_not_have_are_refused(rooms: RoomClips) -> None:
    with pytest.raises(InvalidInputError, match="interval of a clip is -1"):
        rooms(0, -1)
    with pytest.raises(ConfigError, match="difficulty is 'silly', expected one of easy"):
        difficulty("silly", CLIP_DIFFICULTIES)


# Stored clips and the experiment --------------------------------------------------------------------------------


def moving(number: int, interval: float = 1.0) -> list[Frame]:
    return [replace(recorded(number + k), stamp_ns=k * 1000) for k in range(3)]


def test_stored_clips_come_back_in_a_new_order_every_turn(tmp_path: Path) -> None:
    path = tmp_path / "clips.npz"
    record_clips(path, moving, lambda n: 0.5, 6, description="six", workers=0, job=Job())
    stored = StoredClips(path)
    assert len(stored) == 6 and stored.description == "six"
    for a, b in zip(stored(4), moving(4), strict=True):
        assert np.array_equal(a.rgb_u8, b.rgb_u8) and a.camera == b.camera and a.stamp_ns == b.stamp_ns
        assert a.world_from_cam is not None and b.world_from_cam is not None
        assert np.allclose(a.world_from_cam.matrix, b.world_from_cam.matrix, rtol=0, atol=1e-12)
    assert stored(4)[1].depth_m is None and stored(4)[2].depth_m is not None
    shuffled = StoredClips(path, seed=1)
    turns = [[int(shuffled(6 * turn + k)[0].rgb_u8[0, 0, 0]) for k in range(6)] for turn in range(3)]
    assert all(sorted(turn) == [0, 10, 20, 30, 40, 50] for turn in turns) and turns[0] != turns[1]
    path.write_bytes(b"x")
    with pytest.raises(StorageError, match="expected a file of `reconx train diffusion`"):
        StoredClips(path)
    with pytest.raises(InvalidInputError, match="lacks a pose, or depth at an end"):
        record_clips(path, blind, lambda n: 0.5, 1, description="", workers=0, job=Job())


def blind(number: int, interval: float = 1.0) -> list[Frame]:
    return [replace(frame, depth_m=None) for frame in moving(number)]


def test_summary_is_the_mean_and_spread_over_seeds() -> None:
    own, other = ARMS
    rows = {
        own: {0: {"loss": 1.0, "psnr": 20.0}, 1: {"loss": 2.0, "psnr": 22.0}},
        other: {0: {"loss": 1.5, "psnr": 19.0}, 1: {"loss": 1.9, "psnr": 20.0}},
        RELIANCE: {0: {"loss": 3.0, "psnr": 10.0}, 1: {"loss": 3.0, "psnr": 10.0}},
    }
    found = summarised(rows)
    assert found["mean"][own] == {"loss": 1.5, "psnr": 21.0}
    assert found["spread"][own]["psnr"] == pytest.approx(2**0.5)
    assert found["gain"]["loss"] == {
        "mean": pytest.approx(0.2),
        "spread": pytest.approx(0.3 * 2**0.5),
        "positive": 1,
        "seeds": 2,
    }
    assert found["gain"]["psnr"]["mean"] == pytest.approx(1.5) and found["gain"]["psnr"]["positive"] == 2
    text = as_markdown(found)
    assert "| own points | 1.5000 ± 0.7071 | 21.0000 ± 1.4142 |" in text
    alone = summarised({name: {0: seeds[0]} for name, seeds in rows.items()})
    assert alone["spread"][own]["loss"] is None and "| own points | 1.0000 | 20.0000 |" in as_markdown(alone)


TINY = [
    "--frames", "3", "--size", "16x16", "--steps", "2", "--device", "cpu", "--quiet",
    "--set", "batch=2", "--set", "validation_clips=2", "--set", "sample_steps=1", "--set", "points=16",
    "--set", "validation_levels=[500]", "--set", "network.width=32", "--set", "network.levels=[1]",
    "--set", "network.head_dim=16", "--set", "network.structure_tokens=4", "--set", "network.structure_width=16",
    "--set", "data.open_rooms=1", "--set", "data.texel_m=0.1", "--set", "workers=0",
]  # fmt: skip


def test_experiment_runs_every_arm_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("embreex", "diffusers", "accelerate"):
        pytest.importorskip(module)
    out = tmp_path / "experiment"
    command = ["train", "diffusion", "--experiment", "structure", "--out", str(out), "--seeds", "1", *TINY]
    assert main(command) == 0
    report = json.loads((out / "results.json").read_text())
    assert set(report["scores"]) == {*ARMS, RELIANCE} and (out / "results.md").is_file()
    assert "gain of own points" in capsys.readouterr().out
    stamp = (out / "own_0" / "training_state.pt").stat().st_mtime_ns
    assert main(command) == 0
    assert (out / "own_0" / "training_state.pt").stat().st_mtime_ns == stamp  # nothing is trained again
    assert main([*command, "--set", "data.bow=0.1"]) == 1
    assert "were made with other settings" in capsys.readouterr().err


def without(command: list[str], prefix: str) -> list[str]:
    """A command without the settings that start so."""
    dropped = {k for k, word in enumerate(command) if word.startswith(prefix)}
    return [word for k, word in enumerate(command) if k not in dropped and k + 1 not in dropped]


def test_command_trains_on_scenes_and_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("diffusers", "accelerate"):
        pytest.importorskip(module)
    write_scene(tmp_path / "scene", [recorded(k) for k in range(6)], metric_scale=True)
    scene, settings = str(tmp_path / "scene"), without(TINY, "data.")
    base = ["train", "diffusion", "--out", str(tmp_path / "net"), *settings]
    assert main([*base, "--scenes", scene, "--held-out", scene]) == 0
    assert "held-out clips" in capsys.readouterr().out and (tmp_path / "net" / "unet").is_dir()
    further = ["train", "diffusion", "--out", str(tmp_path / "further"), "--weights", str(tmp_path / "net")]
    further += without(settings, "network.")
    assert main([*further, "--scenes", scene, "--held-out", scene]) == 0  # small weights can be the start of a run
    card = json.loads((tmp_path / "further" / "training_card.json").read_text())
    assert card["model"]["loaded_from"] == str(tmp_path / "net")
    capsys.readouterr()
    for extra, message in (
        (["--scenes", scene], "--held-out is missing"),
        (["--scenes", scene, "--chunks", scene], "expected one source of clips"),
        (["--preset", "reconx"], "expected --weights DIR"),
        (["--preset", "none"], "expected one of small, reconx"),
        (["--scenes", scene, "--held-out", scene, "--set", "data.bow=1"], "unknown setting data.bow"),
    ):
        assert main([*base, *extra]) == 1
        assert message in capsys.readouterr().err


def test_png_of_the_contact_sheet_is_rgb(tmp_path: Path) -> None:
    from reconx_ros.diffusion.training.trainer import write_png

    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    write_png(tmp_path / "a" / "x.png", red)
    assert cv2.imread(str(tmp_path / "a" / "x.png"))[0, 0].tolist() == [0, 0, 200]
