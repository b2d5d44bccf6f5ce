"""``reconx evaluate BAG``: every k-th image is kept from the real nodes, drawn from their map and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconx_ros.cli.evaluate_bag import is_bag
from reconx_ros.cli.main import main
from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, Provenance, ReconstructionError
from reconx_ros.evaluation.bag_task import ScoredDrawing, bag_task, drawn_part, score_drawn, withheld_stamps
from reconx_ros.evaluation.layout import EvaluationFolder, metrics_from_json
from reconx_ros.evaluation.live_record import live_record
from reconx_ros.io.images import read_image

SMALL = ["pointmap.max_size=120", "pointmap.multiview.planes=48", "splatting.steps=40", "splatting.max_size=80",
         "splatting.max_gaussians=3000", "diffusion.frames=4", "output.novel_views=3", "output.novel_view_size=80",
         "coverage.min_keyframes=3"]  # fmt: skip
CAMERA = PinholeCamera(width=64, height=48, fx=60, fy=60, cx=31.5, cy=23.5)


def frame(k: int, *, posed: bool = True) -> Frame:
    rng = np.random.default_rng(k)
    pose = SE3(rotation=np.eye(3), translation=np.array([0.1 * k, 0.0, 0.0]))
    rgb = rng.integers(0, 255, (48, 64, 3), np.uint8)
    return Frame(rgb_u8=rgb, camera=CAMERA, stamp_ns=10 * k, world_from_cam=pose if posed else None)


def test_every_kth_image_is_withheld_in_order_of_time() -> None:
    assert withheld_stamps([30, 10, 20, 40, 50], 2) == {20, 40}
    assert withheld_stamps(range(9), 4) == {3, 7}
    with pytest.raises(InvalidInputError, match="expected 2 or more"):
        withheld_stamps([1, 2], 1)
    with pytest.raises(InvalidInputError, match="--every 4 withholds none"):
        withheld_stamps([1, 2], 4)


def test_keyframes_and_withheld_images_never_mix() -> None:
    frames = [frame(k) for k in range(8)]
    keyframes = {0: 0, 1: 20, 2: 40}
    task, unposed = bag_task("bag", frames, keyframes=keyframes, withheld={30, 70}, every=4, max_size=32)
    assert unposed == 0 and len(task.keyframes) == 3
    assert [f.stamp_ns for f in task.tests] == [30, 70]
    assert max(task.tests[0].camera.size) == 32
    with pytest.raises(InvalidInputError, match="1 withheld images of bag reached the nodes"):
        bag_task("bag", frames, keyframes=keyframes, withheld={20}, every=4, max_size=32)
    with pytest.raises(InvalidInputError, match="has a pose"):
        bag_task("bag", [frame(k, posed=k != 3) for k in range(8)], keyframes=keyframes, withheld={30}, every=4,
                 max_size=32)  # fmt: skip
    with pytest.raises(InvalidInputError, match="1 keyframes of bag"):
        bag_task("bag", frames, keyframes={0: 0}, withheld={30}, every=4, max_size=32)


def test_a_perfect_map_scores_perfectly_and_a_refused_view_is_told(tmp_path: Path) -> None:
    task, _ = bag_task("bag", [frame(k) for k in range(8)], keyframes={0: 0, 1: 10}, withheld={30, 70}, every=4,
                       max_size=64)  # fmt: skip
    everywhere = np.full((48, 64), int(Provenance.OBSERVED), np.uint8)
    perfect = ScoredDrawing(rgb_u8=task.tests[0].rgb_u8, provenance=everywhere)
    part, drawn, refused = drawn_part(task, [perfect, "there is no scene"])
    assert refused == {"there is no scene": 1} and len(part.tests) == 1
    folder = EvaluationFolder(root=tmp_path)
    ours, near = score_drawn(part, drawn, [None], folder=_run_folder(folder))
    assert ours.mean["psnr"] == float("inf") and ours.mean["ssim"] == pytest.approx(1) and ours.mean["filled"] == 1
    assert near.mean["psnr"] is not None and near.mean["psnr"] < 15
    assert np.array_equal(read_image(_run_folder(folder).picture(0, "ours")), task.tests[0].rgb_u8)
    with pytest.raises(ReconstructionError, match="no scene"):
        drawn_part(task, ["there is no scene", "there is no scene"])


def _run_folder(folder: EvaluationFolder) -> Any:
    from reconx_ros.evaluation.layout import RunSetting

    return folder.run(RunSetting(scene="bag", views=2, poses="tf", seed=0))


def test_what_is_a_bag(tmp_path: Path) -> None:
    (tmp_path / "scene" / "images").mkdir(parents=True)
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_0.mcap").touch()
    assert is_bag(tmp_path / "bag") and is_bag(tmp_path / "bag" / "bag_0.mcap")
    assert not is_bag(tmp_path / "scene") and not is_bag(tmp_path / "absent")


def test_a_bag_is_evaluated_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mcap").touch()
    assert main(["evaluate", str(tmp_path / "a.mcap"), str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "is a bag, which is evaluated by itself, not with 1 more" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of driving at 4 Hz, with depth."""
    pytest.importorskip("embreex")
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
    write_bag(path, recorder.recording(drive.stamps(4.0)), depth=True)
    return path


@pytest.mark.ros
def test_a_bag_through_the_real_nodes(bag: Path, tmp_path: Path, ros_domain: int) -> None:
    settings = [word for value in SMALL for word in ("--set", value)]
    out = tmp_path / "out"
    words = ["evaluate", str(bag), "--every", "5", "--rate", "2", "--size", "120", "--out", str(out)]
    assert main([*words, "--json", str(tmp_path / "scores.json"), "--quiet", *settings]) == 0
    metrics = metrics_from_json(json.loads((out / "metrics.json").read_text()))
    (run,) = metrics.runs
    record = live_record(run.live)
    assert record is not None and record.withheld == record.frames // 5 == len(run.tests) >= 6
    assert record.every == 5 and record.rate == 2 and not record.not_drawn
    assert run.method("ours") is not None and run.observed_by == "sensor depth"
    check_scores(run)
    check_times(record)
    check_files(EvaluationFolder(root=out), run)


def check_scores(run: Any) -> None:
    ours, nearest = run.method("ours"), run.method("nearest")
    assert ours.mean["psnr"] > nearest.mean["psnr"] + 1, "the map explains the withheld images better than a keyframe"
    assert ours.mean["psnr_observed"] > 15 and ours.mean["filled"] > 0.8
    assert all(0.2 < test.observed_share <= 1 for test in run.tests)


def check_times(record: Any) -> None:
    """A cloud comes after its image and after the first one; coverage rises when it does."""
    assert record.clouds and all(0 < wait <= at for at, wait in record.clouds)
    times, shares = zip(*record.coverage, strict=True)
    assert list(times) == sorted(times) and max(shares) > shares[0] + 0.3


def check_files(folder: EvaluationFolder, run: Any) -> None:
    place = folder.run(run.setting)
    for path in (folder.report_html, folder.metrics_csv, place.run_json, place.overview, place.root / "points.ply"):
        assert path.stat().st_size > 300, path
    for k in range(len(run.tests)):
        assert read_image(place.picture(k, "ours")).shape == read_image(place.picture(k, "truth")).shape
        assert place.layer(k, "ours", "provenance").is_file() and place.picture(k, "observed").is_file()
    page = folder.report_html.read_text()
    assert "map of the nodes" in page and "Covered share" in page
