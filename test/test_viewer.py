"""The viewer without a browser: what is loaded, filtered, coloured, measured and rendered; errors of its command."""

from __future__ import annotations

import importlib.util
import json
import math
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from viewer_results import BLUE, DISTANCE, RED, STEP, camera_pose, wall_cloud, wall_scene, write_result

from reconx_ros.cli.main import main
from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, PointCloud, Provenance, ReconxError, StorageError
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.viz.canvas import shrunk
from reconx_ros.viz.palette import KIND_COLOURS
from reconx_ros.viz.viewer import geometry, model
from reconx_ros.viz.viewer.data import RenderedPicture, ViewerCamera, ViewerData, load_result
from reconx_ros.viz.viewer.measure import Measurement, picked_point
from reconx_ros.viz.viewer.model import Selection
from reconx_ros.viz.viewer.rendering import picture_from_render, scene_renderer
from reconx_ros.viz.viewer.server import usable_port
from reconx_ros.viz.viewer.worker import NewestOnly

CAMERA = PinholeCamera(width=64, height=48, fx=60, fy=60, cx=31.5, cy=23.5)


# Loading --------------------------------------------------------------------------------------------------------


def test_a_result_is_loaded_with_its_cameras_pictures_and_scale(tmp_path: Path) -> None:
    data = load_result(write_result(tmp_path / "wall"))
    assert (data.title, data.unit, data.antialiased, data.notes) == ("wall", "m", False, ())
    assert len(data.cloud) == len(wall_cloud()) and data.scene is not None
    assert [c.name for c in data.keyframes] == ["0000", "0001", "0002"] and len(data.novel) == 4
    assert data.keyframes[1].stamp_ns == 1_001_500_000_000 and data.novel[0].stamp_ns is None
    assert data.keyframes[0].world_from_cam.distance_to(camera_pose(-0.4)) < 1e-9
    picture = data.keyframes[0].rgb_u8()
    assert picture is not None and tuple(picture[0, 0]) == RED


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    data = load_result(write_result(tmp_path / "a", scene=False, cameras=False))
    assert data.scene is None and data.metric_scale is None and data.unit == "units"
    assert any("scene.ply" in n for n in data.notes) and any("cameras.json" in n for n in data.notes)
    (write_result(tmp_path / "b") / "points.ply").unlink()
    assert any("points.ply" in n for n in load_result(tmp_path / "b").notes)


def test_a_map_of_the_node_is_loaded_with_its_poses(tmp_path: Path) -> None:
    write_point_cloud_ply(tmp_path / "points.ply", wall_cloud())
    pose = camera_pose(0.5)
    keyframe = {"id": 7, "translation": pose.translation.tolist(), "quaternion_xyzw": pose.quaternion_xyzw.tolist()}
    (tmp_path / "map.json").write_text(json.dumps({"metric_scale": True, "keyframes": [keyframe]}))
    data = load_result(tmp_path)
    assert data.metric_scale is True
    assert [c.name for c in data.keyframes] == ["0007"] and data.keyframes[0].camera is None
    assert data.keyframes[0].world_from_cam.distance_to(pose) < 1e-9


def test_damaged_results_are_refused_with_the_file_named(tmp_path: Path) -> None:
    folder = write_result(tmp_path / "cut")
    whole = (folder / "scene.ply").read_bytes()
    (folder / "scene.ply").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match=r"scene\.ply is truncated"):
        load_result(folder)
    (folder / "scene.ply").write_bytes(b"no ply at all")
    with pytest.raises(InvalidInputError, match=r"scene\.ply does not start with 'ply'"):
        load_result(folder)
    (folder / "scene.ply").write_bytes(whole)
    (folder / "cameras.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"cameras\.json is not valid JSON"):
        load_result(folder)
    (folder / "cameras.json").write_text(json.dumps({"images": [{"file": "x.png", "c2w": [[1]]}]}))
    with pytest.raises(InvalidInputError, match="unusable pose"):
        load_result(folder)


MEASURED = frozenset({Provenance.OBSERVED})

# Filters and colours --------------------------------------------------------------------------------------------


def test_generated_and_unsure_points_are_left_out_on_request() -> None:
    cloud = wall_cloud()
    seen = model.shown_points(cloud, Selection(kinds=MEASURED), 10**6)
    assert len(seen) == int((cloud.provenance == Provenance.OBSERVED).sum()) and (seen.rgb_u8 == RED).all()
    sure = model.shown_points(cloud, Selection(min_confidence=0.5), 10**6)
    assert len(sure) == int((cloud.confidence >= 0.5).sum()) and (sure.points[:, 2] >= 1 - 1e-6).all()
    assert (sure.passed, sure.total) == (len(sure), len(cloud))


def test_what_other_programs_made_is_shown_until_it_is_hidden() -> None:
    cloud, scene = wall_cloud(), wall_scene()
    for part in (cloud.provenance, cloud.confidence, scene.provenance, scene.confidence):
        part[:] = 0
    assert len(model.shown_points(cloud, Selection(), 10**6)) == len(cloud)
    assert len(model.shown_splats(scene, Selection(), 10**6)) == len(scene)
    grey = model.shown_points(cloud, Selection(colour=model.PROVENANCE), 10**6).rgb_u8
    assert (grey == KIND_COLOURS[Provenance.NONE]).all()
    assert len(model.shown_points(cloud, Selection(kinds=MEASURED), 10**6)) == 0
    assert len(model.shown_splats(scene, Selection(kinds=MEASURED), 10**6)) == 0


def test_the_budget_thins_evenly_and_never_flickers() -> None:
    cloud = wall_cloud()
    half = model.shown_points(cloud, Selection(), len(cloud) // 2)
    assert len(half) == len(cloud) // 2 and half.passed == len(cloud)
    assert abs(float(half.points[:, 1].mean())) < 0.05  # as many left as right
    some = model.shown_points(cloud, Selection(min_confidence=0.2), len(cloud) // 2)
    kept_before = {tuple(p) for p in half.points.tolist() if p[2] >= 0.4}
    assert kept_before <= {tuple(p) for p in some.points.tolist()}
    assert "over the limit" in model.counts_line("points", len(half), half.passed, half.total)


def test_a_million_points_are_filtered_to_the_budget() -> None:
    rng = np.random.default_rng(0)
    count = 1_200_000
    cloud = PointCloud(
        points=rng.normal(size=(count, 3)).astype(np.float32),
        rgb_u8=np.zeros((count, 3), np.uint8),
        confidence=rng.random(count).astype(np.float32),
        provenance=np.ones(count, np.uint8),
        keyframe_ids=np.zeros(count, np.uint32),
    )
    cloud.points[5] = np.nan
    shown = model.shown_points(cloud, Selection(colour=model.CONFIDENCE), model.DEFAULT_BUDGET)
    assert len(shown) == model.DEFAULT_BUDGET and shown.passed == count - 1
    assert np.isfinite(shown.points).all()
    line = model.counts_line("points", len(shown), shown.passed, shown.total)
    assert line == "1,000,000 of 1,200,000 points (1 filtered out, 199,999 over the limit)"


def test_colours_show_confidence_and_provenance() -> None:
    cloud = wall_cloud()
    by_kind = model.shown_points(cloud, Selection(colour=model.PROVENANCE), 10**6).rgb_u8
    assert (by_kind[cloud.provenance == Provenance.OBSERVED] == KIND_COLOURS[Provenance.OBSERVED]).all()
    assert (by_kind[cloud.provenance == Provenance.GENERATED] == KIND_COLOURS[Provenance.GENERATED]).all()
    by_trust = model.shown_points(cloud, Selection(colour=model.CONFIDENCE), 10**6).rgb_u8.astype(int)
    assert by_trust[cloud.confidence == 1].mean() > by_trust[cloud.confidence == 0].mean() + 50
    assert "inferred: seen by a camera" in model.legend_html(model.PROVENANCE) and model.legend_html(model.RGB) == ""


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_gaussians_survive_half_floats_at_any_scale(size: float) -> None:
    scene = wall_scene()
    scene = type(scene)(**{**vars(scene), "means": scene.means * size, "log_scales": scene.log_scales + math.log(size)})
    shown = model.shown_splats(scene, Selection(), 10**6)
    halved = shown.covariances.astype(np.float16).astype(np.float64) * shown.unit**2
    np.testing.assert_allclose(np.sqrt(halved[:, 0, 0]), 0.6 * STEP * size, rtol=2e-3)
    np.testing.assert_allclose(shown.centres * shown.unit, scene.means.numpy(), rtol=1e-5, atol=1e-6 * size)
    assert np.abs(shown.rgb_u8[0].astype(int) - RED).max() <= 1


def test_the_budget_of_gaussians_keeps_the_largest_and_filters_apply() -> None:
    scene = wall_scene()
    scene.log_scales[:10] += 1.0
    few = model.shown_splats(scene, Selection(), 10)
    np.testing.assert_allclose(few.centres * few.unit, scene.means[:10].numpy(), rtol=1e-5)
    assert (few.passed, few.total) == (len(scene), len(scene))
    seen = model.shown_splats(scene, Selection(kinds=MEASURED, colour=model.PROVENANCE), 10**6)
    assert len(seen) == int((scene.provenance == 1).sum()) and (seen.rgb_u8 == KIND_COLOURS[Provenance.OBSERVED]).all()
    assert len(model.shown_splats(scene, Selection(min_confidence=1.0, kinds=MEASURED), 10**6)) == 31


# Measuring ------------------------------------------------------------------------------------------------------


def test_a_click_picks_the_surface_in_front() -> None:
    wall = wall_cloud().points
    both = np.concatenate([wall + np.array([2, 0, 0]), wall]).astype(np.float32)  # a second wall behind
    place = picked_point(both, np.array([0.0, 0.0, 1.0]), np.array([3.0, 0.501, 0.25]))
    assert place is not None
    np.testing.assert_allclose(place, [DISTANCE, 0.5, 1.25], atol=1e-5)
    assert picked_point(both, np.array([0.0, 0.0, 1.0]), np.array([-1.0, 0, 0])) is None
    assert picked_point(both, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0, 1.0])) is None
    assert picked_point(np.zeros((0, 3), np.float32), np.zeros(3), np.array([1.0, 0, 0])) is None


def test_lengths_are_metres_only_where_the_scale_is_known() -> None:
    ends = {"start": np.zeros(3), "end": np.array([0.0, 3.0, 4.0])}
    assert Measurement(**ends, metric_scale=True).text == "5 m"
    assert Measurement(**ends, metric_scale=False).text == "5 units"
    assert Measurement(**ends, metric_scale=None).text == "5 units"


def test_clicks_mean_what_is_shown() -> None:
    cloud, scene = wall_cloud(), wall_scene()
    scene.logit_opacities[:5] = -3.0
    assert len(model.pickable(cloud, scene, Selection(kinds=MEASURED))) == int((cloud.provenance == 1).sum())
    assert len(model.pickable(cloud, scene, Selection(layer=model.SPLATS))) == len(scene) - 5
    assert len(model.pickable(cloud, None, Selection(layer=model.SPLATS))) == len(cloud)
    assert len(model.pickable(PointCloud.empty(), None, Selection())) == 0


# Geometry -------------------------------------------------------------------------------------------------------


def data_of(scene: bool = True) -> ViewerData:
    keyframes = tuple(
        ViewerCamera(name=f"{k}", world_from_cam=camera_pose(0.4 * k - 0.4), camera=CAMERA) for k in range(3)
    )
    return ViewerData(
        title="wall", cloud=wall_cloud(), scene=wall_scene() if scene else None, keyframes=keyframes,
        novel=keyframes, metric_scale=True, antialiased=False,
    )  # fmt: skip


def test_sizes_follow_the_scene() -> None:
    sizes = geometry.scene_sizes(data_of())
    assert sizes.distance == pytest.approx(DISTANCE) and sizes.spacing == pytest.approx(0.4)
    assert sizes.pixel == pytest.approx(DISTANCE / 60)
    assert 0 < sizes.frustum <= 0.6
    assert geometry.scene_sizes(ViewerData(title="nothing")).extent == pytest.approx(1.0)


def test_the_first_view_sees_cameras_and_scene() -> None:
    data = data_of()
    view = geometry.first_viewpoint(data, geometry.scene_sizes(data))
    ahead = (view.look_at - view.position) / np.linalg.norm(view.look_at - view.position)
    np.testing.assert_allclose(view.up, [0, 0, 1], atol=1e-6)
    for place in [*wall_cloud().points[::200], *(c.world_from_cam.translation for c in data.keyframes)]:
        direction = place - view.position
        assert direction @ ahead / np.linalg.norm(direction) > math.cos(0.65)
    alone = geometry.first_viewpoint(ViewerData(title="", cloud=wall_cloud()), geometry.scene_sizes(data))
    assert np.isfinite(alone.position).all() and np.linalg.norm(alone.position - alone.look_at) > 1


def test_a_window_on_a_keyframe_shows_its_whole_picture() -> None:
    assert geometry.fitting_fov(CAMERA, 2.0) == pytest.approx(geometry.vertical_fov(CAMERA))
    tall = geometry.window_camera(geometry.fitting_fov(CAMERA, 0.5), 0.5, 640)
    assert (tall.width, tall.height) == (320, 640)
    assert tall.width / (2 * tall.fx) == pytest.approx(CAMERA.width / (2 * CAMERA.fx))
    pose = camera_pose(0.3)
    again = geometry.window_pose(pose.translation, pose.quaternion_wxyz)
    assert again.distance_to(pose) == 0 and again.angle_to(pose) < 1e-7
    view = geometry.camera_viewpoint(data_of().keyframes[0], 2.0)
    np.testing.assert_allclose(view.look_at - view.position, [2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(view.up, [0, 0, 1], atol=1e-9)


# Rendering ------------------------------------------------------------------------------------------------------


def test_the_scene_is_rendered_in_every_layer() -> None:
    render = scene_renderer(data_of())
    assert render is not None and scene_renderer(data_of(scene=False)) is None
    drawn = render(geometry.window_camera(0.5, 4 / 3, 64), camera_pose(0.0))
    picture = picture_from_render(drawn, "picture")
    assert (
        np.abs(picture[24, 10].astype(int) - RED).max() < 20 and np.abs(picture[24, 54].astype(int) - BLUE).max() < 20
    )
    assert float(np.median(drawn.depth[20:28, 10:54])) == pytest.approx(DISTANCE, rel=0.02)
    assert tuple(picture_from_render(drawn, "provenance")[24, 10]) == KIND_COLOURS[Provenance.OBSERVED]
    assert tuple(picture_from_render(drawn, "provenance")[24, 54]) == KIND_COLOURS[Provenance.GENERATED]
    assert picture_from_render(drawn, "depth").shape == picture_from_render(drawn, "confidence").shape == picture.shape
    untold = RenderedPicture(rgb_u8=drawn.rgb_u8, depth=drawn.depth, provenance=drawn.provenance)
    with pytest.raises(InvalidInputError, match="without confidence"):
        picture_from_render(untold, "confidence")


def test_pictures_are_only_ever_shrunken() -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    assert shrunk(picture, 32).shape == (24, 32, 3) and shrunk(picture, 100).shape == (48, 64, 3)


# Worker and server ----------------------------------------------------------------------------------------------


def test_requests_while_drawing_count_as_one_and_errors_end_nothing() -> None:
    started, go_on = threading.Event(), threading.Event()
    runs, errors = [], []

    def work() -> None:
        runs.append(len(runs))
        started.set()
        assert go_on.wait(10)
        if len(runs) == 1:
            raise ValueError("broken")

    worker = NewestOnly(work, errors.append)
    worker.ask()
    assert started.wait(10)
    for _ in range(20):
        worker.ask()
    assert not worker.wait_idle(0.0)
    go_on.set()
    assert worker.wait_idle(10)
    worker.close()
    assert len(runs) == 2 and [str(e) for e in errors] == ["broken"]


def test_ports_and_hosts_are_checked() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StorageError, match="is in use: choose another one with --port"):
            usable_port("127.0.0.1", taken.getsockname()[1])
    assert usable_port("127.0.0.1", 0) > 0
    with pytest.raises(InvalidInputError, match="expected 0 to 65535"):
        usable_port("127.0.0.1", 70_000)
    with pytest.raises(InvalidInputError, match="expected an address of this computer"):
        usable_port("no such host", 0)


# Command --------------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["view", *(str(w) for w in words)])
    return code, capsys.readouterr().err


def test_the_command_refuses_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("viser", reason="viser is not installed: pip install 'reconx_ros[viewer]'")
    folder = write_result(tmp_path / "wall")
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, said in (
            ([tmp_path / "empty"], "is no result folder"),
            ([tmp_path / "nowhere"], "is no folder"),
            ([folder, "--port", port], f"port {port} of 127.0.0.1 is in use"),
            ([folder, "--port", 0, "--max-points", 0], "limit of points is 0"),
        ):
            code, err = run(capsys, *words, "--no-browser")
            assert code == 1 and said in err and err.count("\n") == 1
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, err = run(capsys, folder, "--port", 0, "--no-browser")
    assert code == 1 and "pip install 'reconx_ros[viewer]'" in err
    code, err = run(capsys, folder, "--rerun", tmp_path / "a.rrd")
    assert code == 1 and "pip install 'reconx_ros[rerun]'" in err and not (tmp_path / "a.rrd").exists()


@pytest.mark.parametrize("words", [[], ["here", "--live"], ["--live", "--rerun", "a.rrd"]])
def test_the_command_wants_a_folder_or_a_node(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["view", *words])
    assert ended.value.code == 2


# The page, driven from the server's side -------------------------------------------------------------------------


@pytest.fixture
def viewer():  # noqa: ANN201
    pytest.importorskip("viser", reason="viser is not installed: pip install 'reconx_ros[viewer]'")
    from reconx_ros.viz.viewer.app import Viewer

    data = data_of()
    made = Viewer(data, port=0, render=scene_renderer(data), budget=1000)
    yield made
    made.close()


def test_controls_change_what_is_served(viewer) -> None:  # noqa: ANN001
    assert viewer.wait_drawn(30)
    counts = viewer.panel._counts
    assert "1,000 of 2,501 points (1,501 over the limit)" in counts.content
    viewer.panel.kinds[Provenance.GENERATED].value = False
    viewer.panel.min_confidence.value = 0.9
    assert viewer.wait_drawn(30)
    kept = wall_cloud()
    left = int(((kept.provenance == 1) & (kept.confidence >= 0.9)).sum())
    assert f"{left} of 2,501 points" in counts.content
    served = viewer.server.scene.get_handle_by_name("/points")
    assert len(served.points) == left and (served.colors == RED).all()
    viewer.panel.layer.value = model.SPLATS
    assert viewer.wait_drawn(30)
    assert "Gaussians" in counts.content and "points" not in counts.content
    assert not served.visible and viewer.server.scene.get_handle_by_name("/splats").visible


def test_cameras_are_drawn_and_taken_away_with_the_data(viewer) -> None:  # noqa: ANN001
    assert viewer.wait_drawn(30)
    scene = viewer.server.scene
    assert scene.get_handle_by_name("/keyframes/2").visible
    viewer.panel.cameras.value = False
    assert viewer.wait_drawn(30) and not scene.get_handle_by_name("/keyframes/2").visible
    data = data_of()
    viewer.show(ViewerData(title="less", cloud=data.cloud, keyframes=data.keyframes[:1]))
    assert viewer.wait_drawn(30)
    assert scene.get_handle_by_name("/keyframes/2") is None and scene.get_handle_by_name("/keyframes/0") is not None
    assert scene.get_handle_by_name("/novel_views") is None


def test_two_clicks_measure_and_a_third_starts_anew(viewer) -> None:  # noqa: ANN001
    viewer.panel.measuring.value = True
    eye = np.array([0.0, 0.0, 1.0])
    assert viewer.click(eye, np.array([3.0, 1.0, 0.0])) is None
    measured = viewer.click(eye, np.array([3.0, -1.0, 0.0]))
    assert measured is not None and measured.text == "2 m"
    assert viewer.server.scene.get_handle_by_name("/measure/line") is not None
    assert viewer.click(eye, np.array([-1.0, 0.0, 0.0])) is None  # nothing there
    assert viewer.click(eye, np.array([3.0, 0.0, 0.5])) is None
    assert viewer.server.scene.get_handle_by_name("/measure/line") is None


def test_rendering_needs_gaussians(viewer) -> None:  # noqa: ANN001
    camera = geometry.window_camera(0.5, 1.0, 32)
    assert viewer.rendered(camera, camera_pose(0.0)).shape == (32, 32, 3)
    viewer._render = None
    with pytest.raises(ReconxError, match=r"no scene\.ply"):
        viewer.rendered(camera, SE3.identity())


def test_torch_comes_not_with_the_viewer() -> None:
    pytest.importorskip("viser", reason="viser is not installed: pip install 'reconx_ros[viewer]'")
    from importlib import metadata

    needed = [r for r in metadata.requires("viser") or [] if "extra ==" not in r]
    assert needed and not any(r.lower().startswith("torch") for r in needed)
