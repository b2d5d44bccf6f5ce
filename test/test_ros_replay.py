"""``reconx replay`` on a bag of the simulator: through the real nodes over DDS, and without ROS, also when damaged."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from reconx_ros.cli.main import main
from reconx_ros.io.images import read_image
from reconx_ros.io.ply import read_point_cloud_ply

pytest.importorskip("embreex")

SMALL = ["pointmap.max_size=120", "pointmap.multiview.planes=48", "splatting.steps=40", "splatting.max_size=80",
         "splatting.max_gaussians=3000", "diffusion.frames=4", "output.novel_views=3", "output.novel_view_size=80",
         "coverage.min_keyframes=3"]  # fmt: skip
KEYS = {"frames_in", "frames_dropped", "keyframes", "reconstructions", "coverage_before", "coverage_after", "points",
        "novel_views", "metric_scale", "backends", "stages", "callback_ms"}  # fmt: skip


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of driving, with depth."""
    from reconx_ros.sim.bag import write_bag
    from reconx_ros.sim.path import Drive, DriveConfig, default_camera
    from reconx_ros.sim.raycast import RenderConfig, RoomRenderer
    from reconx_ros.sim.recording import DriveRecorder
    from reconx_ros.sim.room import RoomConfig, make_room

    room = make_room(RoomConfig(seed=1))
    drive = Drive(room, DriveConfig(duration_s=8.0))
    recorder = DriveRecorder(
        RoomRenderer(room, RenderConfig(texel_m=0.02)), drive, default_camera(160, 120), supersample=1
    )
    path = tmp_path_factory.mktemp("bags") / "drive"
    write_bag(path, recorder.recording(drive.stamps(5.0)), depth=True)
    return path


def replay(bag: Path, out: Path, *words: str) -> dict[str, Any]:
    settings = [word for value in SMALL for word in ("--set", value)]
    report = out.with_suffix(".json")
    assert main(["replay", str(bag), "--out", str(out), "--json", str(report), "--quiet", *settings, *words]) == 0
    summary = json.loads(report.read_text())
    assert summary.keys() >= KEYS
    assert {"name", "backend", "seconds", "peak_mb"} <= summary["stages"][0].keys()
    return summary


def check_folder(out: Path, summary: dict[str, Any]) -> None:
    cloud = read_point_cloud_ply(out / "points.ply")
    assert len(cloud) == summary["points"] > 1000
    assert set(cloud.provenance) == {1} and cloud.confidence.min() >= 0.5
    pictures = [f for f in sorted((out / "novel_views").glob("*.png")) if f.stem.isdigit()]
    assert len(pictures) == summary["novel_views"] == 3
    assert all(read_image(f).std() > 10 for f in pictures), "a novel view is blank"
    for name in ("scene.ply", "cameras.json", "overview.png", "report.html", "report.json"):
        assert (out / name).stat().st_size > 1000, name


@pytest.mark.ros
def test_a_bag_through_the_real_nodes(bag: Path, tmp_path: Path, ros_domain: int) -> None:
    summary = replay(bag, tmp_path / "out", "--rate", "2")
    assert summary["frames_in"] > 30 and summary["reconstructions"] >= 1
    assert summary["metric_scale"] is True
    assert summary["depth"]["median"] < 0.02, "the depth in the bag was withheld, and is met all the same"
    assert summary["coverage_after"] > summary["coverage_before"] + 0.3
    check_folder(tmp_path / "out", summary)


def test_a_bag_without_ros(bag: Path, tmp_path: Path) -> None:
    summary = replay(bag, tmp_path / "out", "--no-ros")
    assert summary["depth"]["median"] < 0.02
    assert (summary["backends"]["pointmap"], summary["backends"]["diffusion"]) == ("multiview", "warp")
    check_folder(tmp_path / "out", summary)


def test_a_bag_with_its_depth_used(bag: Path, tmp_path: Path) -> None:
    summary = replay(bag, tmp_path / "out", "--no-ros", "--use-depth")
    assert summary["backends"]["pointmap"] == "depth_sensor"
    assert summary["depth"]["median"] < 0.01
    assert "between the keyframes, which the map was not made of" in summary["depth_note"]


def test_a_bag_cut_off_in_the_middle_gives_what_it_holds(bag: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in bag.iterdir():
        content = file.read_bytes()
        (cut / file.name).write_bytes(content[: len(content) * 2 // 3] if file.suffix == ".db3" else content)
    summary = replay(cut, tmp_path / "out", "--no-ros")
    assert 5 < summary["frames_in"] < 40
    assert "damaged or cut off" in summary["bag_problem"]
    assert summary["bag_problem"] in summary["warnings"]


def test_topics_that_the_bag_has_not_are_named(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["replay", str(bag), "--out", str(tmp_path), "--no-ros", "--image", "/left", "--camera-info", "/info"]
    assert main(words) == 1
    assert "has no topic /left, it has /camera/camera_info" in capsys.readouterr().err
    assert main([*words[:-4], "--camera-info", "/tf"]) == 1
    assert "topic /tf has type tf2_msgs/msg/TFMessage, expected sensor_msgs/msg/CameraInfo" in capsys.readouterr().err


def test_a_run_without_keyframes_ends_with_the_first_reason(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", str(bag), "--out", str(tmp_path), "--no-ros", "--quiet"]
    assert main([*words, "--set", "ros.map_frame=moon"]) == 1
    said = capsys.readouterr().err
    assert "frames have no pose: frame 'moon' is not in the transform tree" in said and "set ros.map_frame: map" in said
    assert main([*words, "--set", "keyframes.max_overlap=0.0", "--set", "keyframes.min_rotation_deg=180.0",
                 "--set", "keyframes.min_baseline_ratio=100.0"]) == 1  # fmt: skip
    assert "frames, not kept: 40 similar; too few keyframes for a reconstruction: 1" in capsys.readouterr().err


def test_one_missing_depth_image_costs_one_keyframes_depth(bag: Path, tmp_path: Path) -> None:
    holed = shutil.copytree(bag, tmp_path / "holed")
    with contextlib.closing(sqlite3.connect(next(holed.glob("*.db3")))) as connection, connection:
        depth = "(select id from topics where name = '/camera/depth')"
        first = f"(select id from messages where topic_id = {depth} order by timestamp limit 1)"
        connection.execute(f"delete from messages where id = {first}")
    summary = replay(holed, tmp_path / "out", "--no-ros", "--use-depth")
    assert summary["backends"]["pointmap"] == "depth_sensor"
    assert summary["frames_dropped"] == {"frame_without_depth": 1}
    assert any("keyframe 0 has no depth image" in w for job in summary["jobs"] for w in job["warnings"])
    whole = replay(bag, tmp_path / "whole", "--no-ros", "--use-depth")
    assert summary["points"] > 0.6 * whole["points"]
