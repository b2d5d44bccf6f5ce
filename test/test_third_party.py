"""A backend that another package registers is configured and run like our own, and no file of ours names it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import third_party
import yaml
from pointmap_scenes import render, room
from test_structure_from_motion import CAMERA, arc

from reconx_ros.cli.doctor import diagnose
from reconx_ros.cli.main import main
from reconx_ros.core import BackendUnavailableError, ConfigError
from reconx_ros.core.registry import create
from reconx_ros.core.settings import from_mapping, to_mapping, updated, walk
from reconx_ros.io.scenes import write_scene as write_scene_folder
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.parameter_files import parameters_markdown, preset_yaml
from reconx_ros.pointmap.registry import registry

SMALL = {"splatting": {"steps": 3, "max_size": 32}, "diffusion": {"frames": 2}, "output": {"novel_views": 1}}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with third_party.installed(tmp_path / "site", monkeypatch) as folder:
        yield folder


def write_scene(folder: Path) -> Path:
    """A folder of two noise images, 0.2 m apart."""
    (folder / "images").mkdir(parents=True)
    images = []
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), noise)
        pose = np.eye(4)
        pose[0, 3] = 0.2 * i
        size = {"width": 32, "height": 24, "fx": 30.0, "fy": 30.0, "cx": 15.5, "cy": 11.5}
        images.append({"file": f"images/{i}.png", **size, "c2w": pose.tolist()})
    (folder / "cameras.json").write_text(json.dumps({"metric_scale": True, "images": images}))
    return folder


def test_without_the_package_nobody_knows_it() -> None:
    assert "flat" not in registry() and not any(name.startswith("pointmap.flat") for name, _, _ in walk(ReconxConfig()))
    with pytest.raises(ConfigError, match=r"unknown parameter pointmap\.flat"):
        updated(ReconxConfig(), {"pointmap.flat.distance": 3.0})


def test_its_settings_stand_in_the_tree_in_files_and_in_the_documentation(site: Path) -> None:
    leaves = {name: (value, meta) for name, value, meta in walk(ReconxConfig())}
    value, meta = leaves["pointmap.flat.distance"]
    assert value == 2.0 and (meta.unit, meta.node, meta.dynamic) == ("m", "server", True)
    config = updated(ReconxConfig(), {"pointmap.flat.distance": 3})
    assert to_mapping(config)["pointmap"]["flat"] == {"distance": 3.0, "trust": 0.9}
    assert from_mapping(ReconxConfig, to_mapping(config)) == config != ReconxConfig()
    assert yaml.safe_load(preset_yaml("cpu"))["/**"]["ros__parameters"]["pointmap"]["flat"]["trust"] == 0.9
    assert "| `pointmap.flat.distance` | `2.0` | m | 0.1 to 100 | server | yes |" in parameters_markdown()
    for values, said in (
        ({"pointmap.flat.distance": 0.0}, r"parameter pointmap\.flat\.distance is 0\.0, expected a number in"),
        ({"pointmap.distance": 1.0}, r"unknown parameter pointmap\.distance, .* is pointmap\.flat\.distance"),
        ({"pointmap.flt.distance": 1.0}, r"unknown parameter pointmap\.flt, .* is pointmap\.flat"),
    ):
        with pytest.raises(ConfigError, match=said):
            updated(ReconxConfig(), values)


def test_doctor_tells_of_it_and_of_one_that_cannot_be_loaded(site: Path) -> None:
    rows = {row["name"]: row for row in diagnose()["backends"]["pointmap"]}
    assert rows["flat"]["ready"] and rows["flat"]["licence"] == "MIT"
    assert not rows["wrecked"]["ready"] and "NOT_THERE" in rows["wrecked"]["reason"]
    with pytest.raises(BackendUnavailableError, match="'wrecked' is registered by an installed package but cannot be"):
        create(registry(), "wrecked", kind="pointmap backend")


def test_it_runs_from_a_parameter_file_and_from_the_command_line(site: Path, tmp_path: Path) -> None:
    scene, out = write_scene(tmp_path / "scene"), tmp_path / "out"
    values = {**SMALL, "device": "cpu", "pointmap": {"backend": "flat", "flat": {"distance": 3.25, "trust": 0.6}}}
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    words = ["reconstruct", scene, "--views", 2, "--config", tmp_path / "flat.yaml", "--quiet", "--out", out]
    assert main([str(w) for w in words]) == 0
    assert main([str(w) for w in (*words, "--set", "pointmap.flat.distance=1.5", "--out", tmp_path / "near")]) == 0
    for folder, distance in ((out, 3.25), (tmp_path / "near", 1.5)):
        report = json.loads((folder / "report.json").read_text())
        assert report["backends"]["pointmap"] == "flat" and report["licences"]["pointmap"]["code"] == "MIT"
        assert report["config"]["pointmap"]["flat"] == {"distance": distance, "trust": 0.6}
        assert report["points"] == 2 * 32 * 24


@pytest.fixture(scope="module")
def room_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four views of a room where the matcher that is installed thinks they are; the last is held out."""
    scene = render(room(), [CAMERA] * 4, arc(4), noise=1.0)
    folder = tmp_path_factory.mktemp("room")
    write_scene_folder(folder, [k.frame for k in scene.keyframes], metric_scale=True)
    document = json.loads((folder / "cameras.json").read_text())
    names = [image["file"] for image in document["images"]]
    document["suggested_splits"] = {"3": {"inputs": names[:3], "test": names[3:]}}
    (folder / "cameras.json").write_text(json.dumps(document))
    return folder


def test_reports_name_the_matcher_that_joined_the_cameras(site: Path, room_folder: Path, tmp_path: Path) -> None:
    """From a parameter file, from the command line which counts before it, and in an evaluation."""
    values = {**SMALL, "device": "cpu", "pointmap": {"matcher": "oracle", "max_size": 96}}
    (tmp_path / "oracle.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    common = ["--config", str(tmp_path / "oracle.yaml"), "--quiet", "--views", "3", "--poses", "none"]
    for said, words in (("oracle", []), ("sift", ["--set", "pointmap.matcher=sift"])):
        out = tmp_path / said
        assert main(["reconstruct", str(room_folder), *common, *words, "--out", str(out)]) == 0
        report = json.loads((out / "report.json").read_text())
        assert report["matchers"] == [said] == [report["config"]["pointmap"]["matcher"]]
        assert f">Cameras by matches of</dt><dd>{said}<" in (out / "report.html").read_text()
    given = ["reconstruct", str(room_folder), *common[:-1], "given", "--out", str(tmp_path / "given")]
    assert main(given) == 0
    assert json.loads((tmp_path / "given" / "report.json").read_text())["matchers"] == []
    assert main(["evaluate", str(room_folder), *common, "--out", str(tmp_path / "scores")]) == 0
    (run,) = json.loads((tmp_path / "scores" / "metrics.json").read_text())["runs"]
    assert run["matchers"] == ["oracle"]
    assert "The input cameras come from matches of oracle." in (tmp_path / "scores" / "report.html").read_text()


def test_the_nodes_settings_load_no_torch_for_it(site: Path) -> None:
    code = (
        "import sys; from reconx_ros.core.settings import updated; from reconx_ros.pipeline.config import ReconxConfig;"
        "updated(ReconxConfig(), {'pointmap.flat.trust': 0.5}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
