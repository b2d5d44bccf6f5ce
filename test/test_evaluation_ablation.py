"""Held-out scores of the whole method and of the method without one of its terms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pointmap_scenes import pinhole, room_scene

from reconx_ros.cli.main import main
from reconx_ros.core.settings import updated
from reconx_ros.evaluation.ablation import FULL, NEAREST, ablate, mean_rows, nearest_pictures, variants
from reconx_ros.evaluation.heldout import HeldOutTask, heldout_task
from reconx_ros.io.scenes import write_scene
from reconx_ros.pipeline.config import ReconxConfig

QUICK = updated(
    ReconxConfig(),
    {
        "device": "cpu",
        "splatting": {"steps": 20, "max_gaussians": 2000, "max_size": 64},
        "pointmap": {"max_size": 64},
        "diffusion": {"frames": 2},
    },
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room seen from seven places side by side; every other picture is held back."""
    folder = tmp_path_factory.mktemp("room")
    frames = [k.frame for k in room_scene(7, pinhole(96, 72)).keyframes]
    write_scene(folder, frames, metric_scale=True)
    document = json.loads((folder / "cameras.json").read_text())
    names = [entry["file"] for entry in document["images"]]
    document["suggested_splits"] = {"4": {"inputs": names[::2], "test": names[1::2]}}
    (folder / "cameras.json").write_text(json.dumps(document))
    return folder


def test_only_one_setting_differs_and_terms_that_are_off_are_left_out() -> None:
    rows = variants(ReconxConfig(), extras=True)
    assert rows[FULL] == ReconxConfig() and "no LPIPS" not in rows
    assert not rows["no confidence"].splatting.use_confidence
    assert rows["with pose refinement"].splatting.refine_poses
    off = updated(ReconxConfig(), {"splatting": {"weight_ssim": 0.0}})
    assert "no SSIM" not in variants(off) and "with depth term" not in variants(off)
    named = updated(ReconxConfig(), {"splatting": {"lpips_trunk": "a", "lpips_heads": "b"}})
    assert variants(named)["no LPIPS"].splatting.weight_lpips == 0


def test_the_nearest_picture_is_the_least_to_beat(scene: Path) -> None:
    task = heldout_task(scene, 4, max_size=64)
    pictures = nearest_pictures(task)
    assert [p.shape for p in pictures] == [f.rgb_u8.shape for f in task.tests]
    truth = replace(task, tests=tuple(k.frame for k in task.keyframes[:3]))
    for picture, frame in zip(nearest_pictures(truth), truth.tests, strict=True):
        assert np.array_equal(picture, frame.rgb_u8)


def test_rows_of_one_scene(scene: Path) -> None:
    task: HeldOutTask = heldout_task(scene, 4, max_size=64)
    configs = {FULL: QUICK, "no SSIM": updated(QUICK, {"splatting": {"weight_ssim": 0.0}})}
    rows = ablate(task, configs)
    assert list(rows) == [NEAREST, FULL, "no SSIM"]
    assert rows[FULL]["psnr"] > rows[NEAREST]["psnr"] + 1
    assert rows[FULL]["terms"]["ssim"] == "on" and rows["no SSIM"]["terms"]["ssim"] == "off"
    assert len(rows[FULL]["images"]) == len(task.tests)
    mean = mean_rows([rows, {FULL: rows[FULL]}])
    assert mean[FULL]["psnr"] == pytest.approx(rows[FULL]["psnr"]) and mean_rows([]) == {}


def test_the_command_writes_what_it_prints(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["splatting.steps=5", "splatting.max_gaussians=1000", "diffusion.frames=2"]
    words = ["evaluate", str(scene), "--views", "4", "--size", "64", "--quiet", "--json", str(tmp_path / "scores.json")]
    for setting in settings:
        words += ["--set", setting]
    assert main(words) == 0
    (protocol,) = json.loads((tmp_path / "scores.json").read_text())["protocols"]
    (rows,) = protocol["scenes"].values()
    out = capsys.readouterr().out
    assert protocol["protocol"] in out and f"{rows[FULL]['psnr']:.2f} dB" in out
    assert main([*words, "--geometry", "--poses", "given"]) == 0
    assert "| 4 | given | multiview |" in capsys.readouterr().out


def test_bad_usage_is_named(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(scene), "--views", "1,x"])
    assert ended.value.code == 2 and "'1,x' is no list of numbers from 2 on" in capsys.readouterr().err
    assert main(["evaluate", str(scene), "--views", "9", "--quiet"]) == 1
    assert "no split '9'" in capsys.readouterr().err
