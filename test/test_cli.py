"""The command line: help, exit codes, one sentence per error, JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from reconx_ros.cli.common import plain, write_json
from reconx_ros.cli.main import build_parser, main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(w) for w in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write_scene(folder: Path, count: int = 3, **changes: object) -> Path:
    """A scene folder of noise images."""
    (folder / "images").mkdir(parents=True)
    images = []
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i:04d}.png"), noise)
        pose = np.eye(4)
        pose[0, 3] = 0.1 * i
        entry = {
            "file": f"images/{i:04d}.png",
            "width": 32,
            "height": 24,
            "fx": 30.0,
            "fy": 30.0,
            "cx": 15.5,
            "cy": 11.5,
        }
        images.append({**entry, "c2w": pose.tolist(), **changes})
    (folder / "cameras.json").write_text(json.dumps({"metric_scale": True, "images": images}))
    return folder


@pytest.mark.parametrize(
    "command", ["demo", "replay", "reconstruct", "evaluate", "export", "view", "train", "convert", "bench", "doctor"]
)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert f"example: reconx {command}" in capsys.readouterr().out


def test_bad_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["fly"], ["replay"], ["reconstruct", "x", "--poses", "guess"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    assert "invalid choice: 'guess'" in capsys.readouterr().err


def test_doctor_says_what_runs_and_what_would_enable_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "doctor", "--json", tmp_path / "doctor.json")
    assert code == 0
    assert "multiview" in out and "gsplat" in out
    diagnosis = json.loads((tmp_path / "doctor.json").read_text())
    rows = {r["name"]: r for r in diagnosis["backends"]["splatting"]}
    assert rows["reference"]["ready"]
    assert rows["gsplat"]["ready"] or "gsplat" in rows["gsplat"]["reason"]
    assert rows["reference"]["licence"] == "Apache-2.0"
    assert [r["name"] for r in diagnosis["backends"]["matching"]] == ["sift", "sift_slanted"] and "sift_slanted" in out


@pytest.mark.parametrize(
    ("make", "words", "said"),
    [
        (lambda p: p, [], "no images"),
        (lambda p: p / "nowhere", [], "does not exist"),
        (lambda p: write_scene(p / "s", fx=0.0), [], "fx is 0"),
        (lambda p: write_scene(p / "s", camera_model="OPENCV_FISHEYE_X"), [], "camera model"),
        (lambda p: write_scene(p / "s"), ["--views", "9"], "9 views are asked for, expected 2 to 3"),
        (lambda p: write_scene(p / "s"), ["--views", "1"], "1 views are asked for"),
        (lambda p: write_scene(p / "s"), ["--views", "3", "--set", "splating.steps=3"], "one is splatting"),
        (lambda p: write_scene(p / "s"), ["--views", "3", "--set", "splatting.steps=-1"], "splatting.steps is -1"),
        (lambda p: write_scene(p / "s"), ["--views", "3", "--set", "splatting.rasterizer=x"], "unknown rasterizer"),
        (lambda p: write_scene(p / "s"), ["--views", "3", "--preset", "warp9"], "unknown preset"),
        (lambda p: write_scene(p / "s"), ["--views", "3", "--set", "device=cuda:77"], "cuda:77"),
    ],

)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_1(
    make: object, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make(tmp_path)  # type: ignore[operator]
    code, _, err = run(capsys, "reconstruct", scene, "--out", tmp_path / "out", "--quiet", *words)
    last = err.strip().splitlines()[-1]
    assert code == 1
    assert said in last, err
    assert last.startswith("reconx reconstruct: ") and "Traceback" not in err


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "s")
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(capsys, "reconstruct", scene, "--views", 3, "--out", tmp_path / "file" / "out", "--quiet")
    assert code == 1 and "is not writable" in err and str(tmp_path / "file" / "out") in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "s")
    (tmp_path / "out").mkdir(mode=0o500)
    code, _, err = run(capsys, "reconstruct", scene, "--views", 3, "--out", tmp_path / "out", "--quiet")
    assert code == 1 and "is not writable" in err


def test_a_missing_bag_and_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "replay", tmp_path / "none", "--out", tmp_path / "out", "--no-ros")
    assert code == 1 and "does not exist" in err
    code, _, err = run(capsys, "replay", tmp_path, "--out", tmp_path / "out", "--no-ros")
    assert code == 1 and str(tmp_path) in err and len(err.strip().splitlines()) == 1


def test_json_is_valid_and_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": (1, 2)})
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == {"a": None, "b": [None, 1.5], "c": [1, 2]}
    assert plain({1: float("-inf")}) == {"1": None}
    assert not list((tmp_path / "deep").glob("*.tmp"))


def test_a_camera_that_only_turns_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "s")
    content = json.loads((scene / "cameras.json").read_text())
    for i, image in enumerate(content["images"]):
        turn = np.eye(4)
        turn[:3, :3] = cv2.Rodrigues(np.array([0.0, 0.1 * i, 0.0]))[0]
        image["c2w"] = turn.tolist()
    (scene / "cameras.json").write_text(json.dumps(content))
    code, _, err = run(capsys, "reconstruct", scene, "--views", 3, "--out", tmp_path / "out", "--quiet")
    assert code == 1
    assert "baseline" in err or "parallax" in err or "turn" in err, err
    shutil.rmtree(scene)
