"""The table of stage 1's errors: on a simulated scene folder, on results made up, and with failures as rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pointmap_scenes import pinhole, room_scene

from reconx_ros.core import SE3, AlignedViews, CancelledError, CancelToken, InvalidInputError, Job, PointMap, Sim3
from reconx_ros.core.transforms import rotation_exp
from reconx_ros.evaluation.geometry_table import (
    GeometryTask,
    evaluate_geometry,
    geometry_markdown,
    geometry_table,
    geometry_task,
    score_geometry,
)
from reconx_ros.io.scenes import read_scene, write_scene
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.scale import transformed
from reconx_ros.pointmap.stereo.settings import MultiviewSettings

SMALL = ReconxConfig(device="cpu", pointmap=PointmapConfig(max_size=64).with_own(MultiviewSettings(planes=48)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four exact views of a room with depth, a split for three, and odometry that is off by known amounts."""
    root = tmp_path_factory.mktemp("scenes") / "room"
    scene = room_scene(4, pinhole(64, 48))
    frames = [
        replace(k.frame, depth_m=d.astype(np.float32)) for k, d in zip(scene.keyframes, scene.depths, strict=True)
    ]
    write_scene(root, frames, metric_scale=True, pose_source="exact")
    document = json.loads((root / "cameras.json").read_text())
    names = [entry["file"] for entry in document["images"]]
    for i, entry in enumerate(document["images"]):
        odometry = np.array(entry["c2w"])
        odometry[2, 3] += 0.01 * (-1) ** i
        entry["c2w_dataset"] = odometry.tolist()
    document["suggested_splits"] = {"3": {"inputs": names[1:], "test": names[:1]}}
    (root / "cameras.json").write_text(json.dumps(document))
    return root


def perfect(task: GeometryTask) -> AlignedViews:
    views = []
    for i, (keyframe, pose) in enumerate(zip(task.keyframes, task.truth, strict=True)):
        depth = torch.from_numpy(task.depths[i].copy())
        views.append(
            PointMap(
                rgb=keyframe.frame.rgb(),
                depth=depth,
                confidence=torch.ones_like(depth),
                valid=torch.ones_like(depth, dtype=torch.bool),
                provenance=torch.ones_like(depth, dtype=torch.uint8),
                camera=keyframe.frame.camera,
                world_from_cam=pose,
                keyframe_id=i,
            )
        )
    return AlignedViews(views=tuple(views), metric_scale=True, scale_source="poses", backend="made up")


def test_inputs_are_the_split_or_spread_and_depth_is_withheld(folder: Path) -> None:
    scene = read_scene(folder)
    assert [k.frame.stamp_ns for k in geometry_task(scene, 3, "given").keyframes] == [
        f.stamp_ns for f in scene.frames[1:]
    ]
    spread = geometry_task(scene, 2, "none")
    assert np.array_equal(spread.truth[1].matrix, scene.frames[3].world_from_cam.matrix)
    assert all(k.frame.world_from_cam is None and k.frame.depth_m is None for k in spread.keyframes)
    assert all(d is not None for d in spread.depths)
    odometry = geometry_task(scene, 2, "odometry", use_depth=True)
    assert odometry.keyframes[0].frame.world_from_cam.distance_to(odometry.truth[0]) == pytest.approx(0.01)
    assert odometry.keyframes[0].frame.depth_m is not None


def test_a_perfect_result_has_no_error_and_a_similar_one_only_that_of_its_scale(folder: Path) -> None:
    task = geometry_task(read_scene(folder), 4, "given")
    row = score_geometry(perfect(task), task)
    assert row["registered"] == 1 and row["confident_share"] == 1
    for key in ("rotation_deg_max", "direction_deg_max", "position", "position_before", "scale_error", "depth_median"):
        assert row[key] == pytest.approx(0, abs=1e-5), key
    assert row["auc_5"] == pytest.approx(1) and row["depth_within_2pct"] == 1 and row["auc_30_binned"] == 1
    other = Sim3(scale=1.1, rotation=rotation_exp(np.array([1.0, 2, 0])), translation=np.array([5.0, 0, 1]))
    enlarged = replace(perfect(task), views=tuple(transformed(v, other) for v in perfect(task).views))
    row = score_geometry(enlarged, task)
    assert row["scale_error"] == pytest.approx(0.1) and row["depth_median"] == pytest.approx(0.1, rel=1e-3)
    assert row["rotation_deg_max"] == pytest.approx(0, abs=1e-5) and row["position"] > 0.01
    unknown = replace(enlarged, metric_scale=False, scale_source=None)
    row = score_geometry(unknown, task)
    assert "scale_error" not in row and row["position"] == pytest.approx(0, abs=1e-6)
    assert row["depth_median"] == pytest.approx(0, abs=1e-5)


def test_views_that_are_missing_count_against_recall_but_not_against_accuracy(folder: Path) -> None:
    task = geometry_task(read_scene(folder), 4, "none")
    whole = perfect(task)
    row = score_geometry(replace(whole, views=whole.views[:3]), task)
    assert row["registered"] == 0.75 and row["rotation_deg_max"] == pytest.approx(0, abs=1e-5)
    assert row["auc_5"] == pytest.approx(0.5, abs=1e-6)
    alone = score_geometry(replace(whole, views=whole.views[:1]), task)
    assert alone["registered"] == 0.25 and "rotation_deg_max" not in alone


def test_a_wrong_pose_has_the_error_that_was_made(folder: Path) -> None:
    task = geometry_task(read_scene(folder), 2, "none")
    result = perfect(task)
    pose = result.views[1].world_from_cam
    turned = SE3(rotation=pose.rotation @ rotation_exp(np.radians([0, 4.0, 0])), translation=pose.translation)
    row = score_geometry(
        replace(result, views=(result.views[0], replace(result.views[1], world_from_cam=turned))), task
    )
    assert row["rotation_deg_median"] == row["rotation_deg_max"] == pytest.approx(4.0)
    assert row["direction_deg_max"] == pytest.approx(0, abs=1e-6)
    assert row["auc_5"] == pytest.approx((0.5 * 4 + 1) / 5)


def test_the_table_runs_on_a_scene_folder(folder: Path) -> None:
    seen: list[dict] = []
    rows = geometry_table([folder], config=SMALL, views=(3, 9), poses=("given", "odometry"), on_row=seen.append)
    assert rows == seen and [(r["views"], r["poses"], r["status"]) for r in rows] == [
        (3, "given", "ok"),
        (3, "odometry", "ok"),
    ]
    given, odometry = rows
    assert given["position"] < 0.005 and given["depth_median"] < 0.03 and given["scale_source"] == "poses"
    assert given["scale_error"] < 0.01
    assert odometry["position_before"] == pytest.approx(0.0094, abs=0.001)
    text = geometry_markdown(rows)
    assert text.count("\n") == 4 and "| room | 3 | odometry | multiview | - | 100 |" in text


def test_sensor_depth_may_be_an_input(folder: Path) -> None:
    row = evaluate_geometry(folder, 2, "given", SMALL, use_depth=True)
    assert row["backend"] == "depth_sensor" and row["depth_median"] < 1e-3 and row["depth_input"]


def test_failures_are_rows_with_their_sentence(folder: Path, tmp_path: Path) -> None:
    still = tmp_path / "still"
    frames = [read_scene(folder).frames[0]] * 2
    write_scene(still, frames, metric_scale=True)
    row = evaluate_geometry(still, 2, "given", SMALL)
    assert row["status"] == "refused" and "same place" in row["message"] and "registered" not in row
    assert "refused: all 2 keyframes stand at the same place" in geometry_markdown([row])
    assert evaluate_geometry(still, 2, "odometry", SMALL)["status"] == "failed"
    unknown = evaluate_geometry(folder, 3, "guessed", SMALL)
    assert unknown["status"] == "failed" and "poses are 'guessed'" in unknown["message"]
    assert "9 views are asked for, expected 2 to 4" in evaluate_geometry(folder, 9, "given", SMALL)["message"]
    rows = geometry_table([still], config=SMALL, views=(2,), poses=("odometry", "given"))
    assert [r["poses"] for r in rows] == ["given"]


def test_cancelling_is_not_a_row(folder: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        evaluate_geometry(folder, 3, "given", SMALL, job=Job(token=token))


def test_a_scene_without_reference_is_refused(folder: Path) -> None:
    scene = read_scene(folder, poses=None)
    with pytest.raises(InvalidInputError, match="has no pose c2w"):
        geometry_task(scene, 3, "none")


@pytest.mark.slow
def test_a_simulated_drive_is_evaluated_as_its_folder_says(tmp_path: Path) -> None:
    """A robot drives through a room: exact poses score better than its drifting odometry, and depth is right."""
    from reconx_ros.sim.dataset import write_scene as write_recording
    from reconx_ros.sim.noise import NoiseConfig
    from reconx_ros.sim.path import Drive, DriveConfig, default_camera
    from reconx_ros.sim.raycast import RenderConfig, RoomRenderer
    from reconx_ros.sim.recording import DriveRecorder, evenly
    from reconx_ros.sim.room import RoomConfig, make_room

    room = make_room(RoomConfig(seed=0))
    motion = Drive(room, DriveConfig(duration_s=6.0, pose_rate_hz=10.0))
    renderer = RoomRenderer(room, RenderConfig(texel_m=0.01, light_spacing_m=0.5))
    noise = NoiseConfig(drift_translation=0.05, drift_yaw_deg=1.0)
    recorder = DriveRecorder(renderer, motion, default_camera().fitted_to(160), noise, supersample=1)
    write_recording(tmp_path / "drive", recorder.recording(evenly(motion.stamps(10.0), 21)))
    config = replace(SMALL, pointmap=replace(SMALL.pointmap, max_size=160))
    rows = geometry_table([tmp_path / "drive"], config=config, views=(3,), poses=("given", "odometry"))
    assert [r["status"] for r in rows] == ["ok", "ok"]
    assert rows[0]["position"] < 0.01 and rows[0]["depth_median"] < 0.03
    assert rows[0]["position_before"] < 1e-9 < rows[1]["position_before"]
