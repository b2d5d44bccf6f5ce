"""The evaluation of a small scene: method, baselines, ablation, files, resumption, and the command."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pointmap_scenes import pinhole, room_scene

from reconx_ros.cli.main import main
from reconx_ros.core import SE3, CancelledError, CancelToken, InvalidInputError, Job
from reconx_ros.core.settings import updated
from reconx_ros.evaluation.ablation import method_rows
from reconx_ros.evaluation.baselines import nearest_picture
from reconx_ros.evaluation.heldout import heldout_task, posed
from reconx_ros.evaluation.layout import (
    BASELINES,
    NEAREST,
    OURS,
    SPARSE,
    WARPED,
    EvaluationFolder,
    MethodResult,
    Metrics,
    Run,
    RunSetting,
    as_json,
    metrics_from_json,
)
from reconx_ros.evaluation.suite import Suite, csv_text, finished, run_suite
from reconx_ros.evaluation.summary import markdown, summarise
from reconx_ros.io.images import read_image
from reconx_ros.io.scenes import write_scene
from reconx_ros.pipeline.config import ReconxConfig

QUICK = updated(
    ReconxConfig(),
    {
        "device": "cpu",
        "splatting": {"steps": 30, "max_gaussians": 3000, "max_size": 96},
        "pointmap": {"max_size": 96, "multiview": {"planes": 48}},
        "diffusion": {"frames": 2},
    },
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room seen from seven places side by side, with depth; every other picture is held back."""
    folder = tmp_path_factory.mktemp("room")
    room = room_scene(7, pinhole(96, 72))
    frames = [replace(k.frame, depth_m=d.astype(np.float32)) for k, d in zip(room.keyframes, room.depths, strict=True)]
    write_scene(folder, frames, metric_scale=True)
    document = json.loads((folder / "cameras.json").read_text())
    names = [entry["file"] for entry in document["images"]]
    for k, entry in enumerate(document["images"]):
        moved = np.array(entry["c2w"])
        moved[:3, 3] += [0.01 * (-1) ** k, 0.005, 0]
        entry["c2w_dataset"] = moved.tolist()
    document["suggested_splits"] = {"4": {"inputs": names[::2], "test": names[1::2]}}
    (folder / "cameras.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def done(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Metrics, EvaluationFolder]:
    """Two kinds of poses, evaluated into a folder."""
    out = tmp_path_factory.mktemp("out")
    suite = Suite(scenes=(scene,), views=(4,), poses=("given", "odometry"), max_size=96)
    return run_suite(suite, QUICK, out=out, command="reconx evaluate"), EvaluationFolder(root=out)


def test_rows_differ_in_one_thing_and_say_what_they_lack() -> None:
    rows = {r.key: r for r in method_rows(ReconxConfig(), ablation=True, extras=True)}
    assert rows[OURS].config == ReconxConfig() and rows[SPARSE].start == "points"
    assert not rows["no_confidence"].config.splatting.use_confidence
    assert rows["with_pose_refinement"].config.splatting.refine_poses
    for key in ("video", "no_3d_condition"):
        assert "no weights of a video model" in rows[key].unavailable
    assert "no LPIPS weights" in rows["no_lpips"].unavailable
    off = updated(ReconxConfig(), {"splatting": {"weight_ssim": 0.0}})
    assert "no_ssim" not in {r.key for r in method_rows(off, ablation=True)}
    there = updated(ReconxConfig(), {"splatting": {"lpips_trunk": "a", "lpips_heads": "b"}, "diffusion.weights": "w"})
    rows = {r.key: r for r in method_rows(there, ablation=True)}
    assert not any(r.unavailable for r in rows.values()) and rows["no_lpips"].config.splatting.weight_lpips == 0
    assert rows["video"].config.diffusion.structure_points == 0 and rows["video"].regenerate


def test_the_nearest_picture_is_the_input_next_to_the_view(scene: Path) -> None:
    task = heldout_task(scene, 4, max_size=96)
    for keyframe in task.keyframes:
        picture = nearest_picture(task, keyframe.frame.camera, posed(keyframe.frame))
        assert np.array_equal(picture, keyframe.frame.rgb_u8)


def test_the_method_beats_the_baselines_and_figures_carry_their_protocol(done: tuple) -> None:
    metrics, _ = done
    given, odometry = metrics.runs
    assert given.status == odometry.status == "ok" and given.observed_by == "sensor depth"
    assert "poses given" in given.protocol and given.lpips.startswith("unavailable")
    psnr = {m.key: m.mean.get("psnr") for m in given.methods}
    assert set(BASELINES) < set(psnr)
    assert psnr[OURS] > max(psnr[NEAREST], psnr[SPARSE]) + 1 and psnr[WARPED] > psnr[NEAREST] + 1
    assert {m.protocol for m in given.methods} == {"given poses"}
    assert [m.key for m in odometry.methods][:2] == [OURS, f"{OURS}_optimised"]
    assert odometry.method(f"{OURS}_optimised").protocol == "test poses optimised"
    assert odometry.method(OURS).protocol == "Sim(3)-aligned poses"


def test_geometry_is_scored_where_the_scene_knows_it(done: tuple) -> None:
    given, odometry = done[0].runs
    assert not given.poses and 0 < odometry.poses["ate"] < 0.02 and odometry.poses["auc_20"] > 0.5
    assert given.depth["abs_rel"] < 0.1 and given.depth["delta_1"] > 0.9
    assert given.cloud["f_5cm"] > given.cloud["f_1cm"] >= 0 and given.cloud["alignment"] == "none"
    assert all(t.observed_share is not None and 0.5 < t.observed_share <= 1 for t in given.tests)


def test_every_picture_is_where_the_layout_says(done: tuple) -> None:
    metrics, folder = done
    run = metrics.runs[0]
    place = folder.run(run.setting)
    truth = [read_image(place.picture(i, "truth")) for i in range(len(run.tests))]
    assert [read_image(place.input(i)).shape for i in range(len(run.inputs))] == [t.shape for t in truth] + [
        (72, 96, 3)
    ]
    for method in (m for m in run.methods if m.status == "ok"):
        for i, wanted in enumerate(truth):
            picture = read_image(place.picture(i, method.key))
            assert picture.shape == wanted.shape and place.layer(i, method.key, "error").is_file()
            mse = float(((picture.astype(float) - wanted) ** 2).mean())
            assert method.views[i].psnr == pytest.approx(10 * math.log10(255**2 / mse))
    for layer in ("provenance", "confidence"):
        assert place.layer(0, OURS, layer).is_file() and not place.layer(0, NEAREST, layer).exists()
    assert place.picture(0, "observed").is_file() and place.picture(0, WARPED).is_file()


def test_files_hold_what_was_measured(done: tuple) -> None:
    metrics, folder = done
    document = json.loads(folder.metrics_json.read_text())
    assert metrics_from_json(document) == metrics_from_json(as_json(metrics))
    assert document["runs"][0]["methods"][0]["mean"]["psnr"] == metrics.runs[0].method(OURS).mean["psnr"]
    lines = list(csv.DictReader(folder.metrics_csv.read_text().splitlines()))
    assert len(lines) == sum(len(r.methods) for r in metrics.runs)
    assert float(lines[0]["psnr"]) == pytest.approx(metrics.runs[0].method(OURS).mean["psnr"], rel=1e-5)


def test_what_is_done_is_not_done_again_and_what_changed_is(scene: Path, done: tuple) -> None:
    metrics, folder = done
    suite = Suite(scenes=(scene,), views=(4,), poses=("given", "odometry"), max_size=96)
    token = CancelToken()
    token.cancel()
    found: list[bool] = []
    again = run_suite(suite, QUICK, out=folder.root, on_run=lambda run, was: found.append(was), job=Job(token=token))
    assert found == [True, True] and again.runs[0].methods[0].mean == metrics.runs[0].methods[0].mean
    other = updated(QUICK, {"splatting": {"steps": 31}})
    with pytest.raises(CancelledError):
        run_suite(suite, other, out=folder.root, job=Job(token=token))
    assert folder.run(metrics.runs[0].setting).run_json.is_file(), "a stopped run leaves the old record"


def test_a_record_that_was_cut_off_does_not_count(done: tuple) -> None:
    metrics, folder = done
    place = folder.run(metrics.runs[0].setting)
    assert finished(place, metrics.runs[0].fingerprint) is not None
    assert finished(place, "another") is None
    whole = place.run_json.read_text()
    for broken in ("", whole[: len(whole) // 2], "[]", "{}"):
        place.run_json.write_text(broken)
        assert finished(place, metrics.runs[0].fingerprint) is None
    place.run_json.write_text(whole)


def test_a_method_that_refuses_is_a_row_beside_its_baseline(scene: Path, tmp_path: Path) -> None:
    """All cameras in one place: there is no depth to see."""
    document = json.loads((scene / "cameras.json").read_text())
    write_scene(tmp_path, [k.frame for k in room_scene(7, pinhole(96, 72)).keyframes], metric_scale=True)
    still = json.loads((tmp_path / "cameras.json").read_text())
    for entry in still["images"]:
        entry["c2w"] = SE3.identity().matrix.tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({**still, "suggested_splits": document["suggested_splits"]}))
    (run,) = run_suite(Suite(scenes=(tmp_path,), views=(4,), max_size=96), QUICK).runs
    assert run.status == "refused" and [m.key for m in run.methods] == [OURS, NEAREST]
    assert run.method(OURS).message and run.method(NEAREST).status == "ok"
    assert "refused" in markdown(summarise([run]))


def result(key: str, psnr: float, status: str = "ok") -> MethodResult:
    mean = {"psnr": psnr, "ssim": 0.5} if status == "ok" else {}
    return MethodResult(key=key, title=key, kind="method", status=status, mean=mean)


def entry(scene: str, seed: int, *methods: MethodResult) -> Run:
    return Run(
        setting=RunSetting(scene=scene, views=3, poses="given", seed=seed), protocol="p", fingerprint="f",
        methods=methods,
    )  # fmt: skip


def test_means_and_spreads_over_seeds_and_scenes() -> None:
    runs = [
        entry("a", 0, result(OURS, 20.0), result(NEAREST, 10.0)),
        entry("a", 1, result(OURS, 22.0), result(NEAREST, math.inf)),
        entry("b", 0, result(OURS, 30.0), result(NEAREST, 0, "failed")),
    ]
    rows = {(r.scene, r.key): r for r in summarise(runs)}
    assert rows["a", OURS].mean["psnr"] == 21 and rows["a", OURS].spread["psnr"] == pytest.approx(math.sqrt(2))
    assert rows["b", OURS].spread == {} and rows["b", NEAREST].status == "failed"
    assert rows["mean", OURS].mean["psnr"] == 25.5
    assert ("mean", NEAREST) not in rows, "a mean over other scenes would mislead"
    assert "21.00 ± 1.41 / 0.500" in markdown(summarise(runs))
    assert "inf" in csv_text(runs) and ",failed," in csv_text(runs)
    assert metrics_from_json(as_json(Metrics(runs=tuple(runs), summary=()))).runs[1].methods[1].mean["psnr"] == math.inf


def test_file_names_are_safe_whatever_a_scene_is_called() -> None:
    setting = RunSetting(scene="../a b/ä", views=3, poses="none", seed=1)
    assert setting.folder_name == "_a_b_-3views-none-seed1"
    assert replace(setting, scene="...").folder_name == "scene-3views-none-seed1"


def test_the_command_prints_what_it_writes(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(scene), "--views", "4", "--size", "64", "--quiet", "--json", str(tmp_path / "s.json")]
    for setting in ("splatting.steps=5", "splatting.max_gaussians=1000", "diffusion.frames=2"):
        words += ["--set", setting]
    assert main([*words, "--seeds", "2", "--ablation"]) == 0
    document = json.loads((tmp_path / "s.json").read_text())
    out = capsys.readouterr().out
    assert [r["setting"]["seed"] for r in document["runs"]] == [0, 1]
    assert document["runs"][0]["protocol"] in out and "unavailable: no weights of a video model" in out
    assert f"{document['runs'][1]['methods'][0]['mean']['psnr']:.2f} dB" in out
    assert main([*words, "--geometry", "--poses", "given"]) == 0
    assert "| 4 | given | multiview |" in capsys.readouterr().out


def test_bad_usage_is_named(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(scene), "--views", "1,x"])
    assert ended.value.code == 2 and "'1,x' is no list of numbers from 2 on" in capsys.readouterr().err
    assert main(["evaluate", str(scene), "--views", "9", "--quiet"]) == 1
    assert "no split '9'" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--quiet"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert run_suite(Suite(scenes=(scene,), views=(9,), skip_missing=True), QUICK).runs == ()
    with pytest.raises(InvalidInputError, match="poses are 'guessed'"):
        run_suite(Suite(scenes=(scene,), views=(4,), poses=("guessed",)), QUICK)
