"""Matchers: what holds for each, which are chosen, what is refused, and one that somebody else installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import third_party
import torch
import yaml
from pointmap_scenes import Scene, pinhole, plane, render, room
from test_structure_from_motion import CAMERA, arc, pair_errors_deg, unposed

import reconx_ros
from reconx_ros.cli.main import main
from reconx_ros.core import SE3, ConfigError, InvalidInputError, Job, Keyframe, ReconxError
from reconx_ros.core.settings import from_mapping
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pointmap.backends.structure_from_motion import StructureFromMotionBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.matching.base import (
    Matcher,
    choose_matchers,
    create_matcher,
    find_features,
    find_matches,
    registry,
)
from reconx_ros.pointmap.matching.features import Features, Matches
from reconx_ros.pointmap.sfm.looks import joined
from reconx_ros.pointmap.sfm.recover import recover_cameras
from reconx_ros.pointmap.sfm.refine import refine_poses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render(room(), [CAMERA] * 3, arc(3), noise=1.0)


@pytest.fixture(params=["sift", "sift_slanted"])
def matcher(request: pytest.FixtureRequest) -> Matcher:
    return create_matcher(request.param)


def with_picture(keyframe: Keyframe, rgb_u8: np.ndarray) -> Keyframe:
    camera = pinhole(rgb_u8.shape[1], rgb_u8.shape[0])
    return replace(keyframe, frame=replace(keyframe.frame, rgb_u8=rgb_u8, camera=camera))


def test_answers_do_not_depend_on_company_or_poses(matcher: Matcher, scene: Scene) -> None:
    together = list(find_features(matcher, scene.keyframes, device=CPU))
    alone = [next(find_features(matcher, [k], device=CPU)) for k in unposed(scene.keyframes)]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.uv, b.uv)
    pairs = [(together[0], together[1]), (together[1], together[2])]
    for one, pair in zip(find_matches(matcher, pairs, device=CPU), pairs, strict=True):
        again = next(find_matches(matcher, [pair], device=CPU))
        assert len(one) > 50 and np.array_equal(one.index, again.index) and np.array_equal(one.ratio, again.ratio)
        assert one.ratio.max() < 1


def test_an_image_matches_itself_in_place(matcher: Matcher, scene: Scene) -> None:
    (found,) = find_features(matcher, scene.keyframes[:1], device=CPU)
    (same,) = find_matches(matcher, [(found, found)], device=CPU)
    away = np.linalg.norm(found.uv[same.index[:, 0]] - found.uv[same.index[:, 1]], axis=1)
    assert len(same) > 50 and np.quantile(away, 0.95) < 1.0


@pytest.mark.parametrize(("width", "height", "size"), [(160, 120, 6.0), (2560, 1440, 24.0)])
def test_pixel_zero_is_the_centre_of_the_first_pixel(
    matcher: Matcher, scene: Scene, width: int, height: int, size: float
) -> None:
    """A blob is found where it stands, also in an image that is shrunk before it is looked at.

    But for a quarter of a pixel: OpenCV's SIFT doubles the picture first, without regard to the centres of pixels.
    """
    bias = 0.25 * max(1.0, width / 1280)
    at = np.array([0.4375 * width, 0.4333 * height])
    v, u = np.mgrid[0:height, 0:width]
    blob = np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / (2 * size**2))
    picture = np.repeat((40 + 200 * blob).astype(np.uint8)[..., None], 3, axis=2)
    (found,) = find_features(matcher, [with_picture(scene.keyframes[0], picture)], device=CPU)
    assert np.linalg.norm(found.uv - (at + bias), axis=1).min() < 0.1


def test_at_most_so_many_and_the_strongest(scene: Scene) -> None:
    (every,) = find_features(create_matcher("sift"), scene.keyframes[:1], device=CPU)
    (few,) = find_features(create_matcher("sift"), scene.keyframes[:1], device=CPU, limit=20)
    assert len(few) == 20 and np.array_equal(few.uv, every.uv[:20])
    assert every.sizes_px is not None and every.angles_deg is not None
    assert bool((every.sizes_px > 0).all()) and bool(((every.angles_deg >= 0) & (every.angles_deg <= 360)).all())


def test_a_blank_image_has_no_features_and_matches_nothing(matcher: Matcher, scene: Scene) -> None:
    blank = with_picture(scene.keyframes[0], np.full((90, 120, 3), 77, np.uint8))
    nothing, some = find_features(matcher, [blank, scene.keyframes[1]], device=CPU)
    assert len(nothing) == 0 and len(some) > 0
    assert [len(m) for m in find_matches(matcher, [(nothing, some), (some, nothing)], device=CPU)] == [0, 0]


def test_auto_is_all_that_can_run_the_cheapest_first() -> None:
    costs = [matcher.cost_s for matcher in choose_matchers("auto")]
    assert len(costs) == len(registry()) and costs == sorted(costs)
    assert [matcher.name for matcher in choose_matchers("sift_slanted")] == ["sift_slanted"]
    with pytest.raises(ConfigError, match="unknown matcher 'sitf', the nearest known one is 'sift'"):
        choose_matchers("sitf")


class WrongMatcher:
    """Answers as it is told."""

    name, cost_s, doubtful = "wrong", 1.0, False

    def __init__(self, answers: list[Matches]) -> None:
        self._answers = answers

    def features(
        self, keyframes: Sequence[Keyframe], *, device: torch.device, limit: int | None = None
    ) -> Iterator[Features]:
        """None at all."""
        del keyframes, device, limit
        return iter(())

    def match(self, pairs: Sequence[tuple[Features, Features]], *, device: torch.device) -> Iterator[Matches]:
        """What it was told."""
        del pairs, device
        return iter(self._answers)


def told(index: list[list[int]], ratio: list[float]) -> Matches:
    return Matches(index=np.array(index), ratio=np.array(ratio))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([told([[0, 5]], [0.1])], "names feature 5 of images with 4 and 5"),
        ([told([[-1, 0]], [0.1])], "names feature -1"),
        ([told([[0, 1], [1, 1]], [0.1, 0.2])], "matches a feature twice"),
        ([told([[0, 1], [1, 0]], [0.2, 0.1])], "gives matches in no order"),
        ([], "answered for 0 of 1 pairs"),
    ],
)
def test_a_matcher_that_breaks_its_word_is_named(answers: list[Matches], said: str) -> None:
    four, five = (Features(uv=np.zeros((n, 2)), camera=CAMERA) for n in (4, 5))
    with pytest.raises(InvalidInputError, match=f"matcher wrong {said}"):
        list(find_matches(WrongMatcher(answers), [(four, five)], device=CPU))


def test_a_matcher_that_loses_images_is_named(scene: Scene) -> None:
    with pytest.raises(InvalidInputError, match="matcher wrong answered for 0 of 3 images"):
        list(find_features(WrongMatcher([]), scene.keyframes, device=CPU))


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="features uv"):
        Features(uv=np.zeros((3, 3)), camera=CAMERA)
    with pytest.raises(InvalidInputError, match="NaN"):
        Features(uv=np.full((3, 2), np.nan), camera=CAMERA)
    with pytest.raises(InvalidInputError, match="sizes_px"):
        Features(uv=np.zeros((3, 2)), camera=CAMERA, sizes_px=np.ones(2))
    with pytest.raises(InvalidInputError, match="ratio"):
        told([[0, 0]], [])


def test_points_of_two_looks_keep_their_places() -> None:
    """Shared points are not doubled, points that share a place stay apart, and earlier ones keep their numbers."""
    rng = np.random.default_rng(3)
    places = rng.integers(0, 6, (30, 2)).astype(float)
    earlier, later = (Features(uv=uv, camera=CAMERA) for uv in (places[:20], places[5:]))
    both, place = joined(earlier, later)
    assert np.array_equal(both.uv[:20], earlier.uv)
    assert np.array_equal(both.uv[place], later.uv)
    assert len(np.unique(place)) == len(place)
    once, again = joined(both, later)
    assert np.array_equal(once.uv, both.uv) and np.array_equal(again, place)
    nothing, _ = joined(earlier, Features(uv=np.zeros((0, 2)), camera=CAMERA))
    assert np.array_equal(nothing.uv, earlier.uv)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package beside ours that registers ``oracle_matcher.py``."""
    with third_party.installed(tmp_path / "site", monkeypatch):
        yield


@pytest.mark.usefixtures("installed")
def test_a_matcher_of_a_third_party_finds_the_cameras() -> None:
    """Pictures of nothing: only who knows the answer can tell where they were taken."""
    config = from_mapping(ReconxConfig, {"pointmap": {"matcher": "oracle"}})
    wall = render([plane((1, 0, 0), 2.5)], [CAMERA] * 4, arc(4)).keyframes
    blank = [replace(k, frame=replace(k.frame, rgb_u8=np.full_like(k.frame.rgb_u8, 90))) for k in unposed(wall)]
    with pytest.raises(ReconxError, match="blank"):
        recover_cameras(blank, Job())
    found = recover_cameras(blank, Job(), matcher=config.pointmap.matcher)
    turn, swing = pair_errors_deg(found, wall)
    assert len(found.world_from_cam) == 4 and turn < 1e-3 and swing < 1e-2


@pytest.mark.usefixtures("installed")
def test_the_setting_reaches_structure_from_motion(scene: Scene) -> None:
    config = from_mapping(ReconxConfig, {"pointmap.matcher": "oracle", "pointmap.max_size": 64}).pointmap
    said: list[str] = []
    job = Job(on_progress=lambda _, __, text: said.append(text))
    views = StructureFromMotionBackend().reconstruct(unposed(scene.keyframes), config, device=CPU, job=job)
    assert len(views.views) == 3 and views.matchers == ("oracle",)
    assert any("(oracle)" in text for text in said) and not any("sift" in text for text in said)


@pytest.mark.usefixtures("installed")
def test_the_setting_reaches_the_command_from_a_file_and_from_the_line(scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "scene"
    (folder / "images").mkdir(parents=True)
    entries = []
    for k in scene.keyframes:
        cv2.imwrite(str(folder / f"images/{k.id}.png"), np.ascontiguousarray(k.frame.rgb_u8[..., ::-1]))
        lens = {name: getattr(k.frame.camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
        entries.append({"file": f"images/{k.id}.png", **lens})
    (folder / "cameras.json").write_text(json.dumps({"metric_scale": False, "images": entries}))
    values = {
        "device": "cpu", "pointmap": {"matcher": "oracle", "max_size": 64}, "diffusion": {"frames": 2},
        "splatting": {"steps": 3, "max_size": 32}, "output": {"novel_views": 1, "min_confidence": 0.05},
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    words = ["reconstruct", folder, "--poses", "none", "--quiet", "--config", tmp_path / "own.yaml"]
    for out, more in (("file", []), ("line", ["--set", "pointmap.matcher=oracle"])):
        assert main([str(w) for w in (*words, *more, "--out", tmp_path / out)]) == 0
        assert json.loads((tmp_path / out / "report.json").read_text())["matchers"] == ["oracle"]


@pytest.mark.usefixtures("installed")
def test_the_setting_reaches_the_refinement_of_poses(scene: Scene) -> None:
    nudged = [
        replace(k, frame=replace(k.frame, rgb_u8=np.full_like(k.frame.rgb_u8, 90), world_from_cam=pose @ small))
        for i, k in enumerate(scene.keyframes)
        if (pose := k.frame.world_from_cam) and (small := SE3.exp(np.full(3, 0.006 * i), np.zeros(3)))
    ]
    assert "too few matches" in refine_poses(nudged, PointmapConfig(), Job(), device=CPU).warnings[0]
    refined = refine_poses(nudged, PointmapConfig(matcher="oracle"), Job(), device=CPU)
    assert refined.before_px is not None and refined.after_px is not None
    assert refined.after_px < 0.1 * refined.before_px and refined.matcher == "oracle"


@pytest.mark.usefixtures("installed")
def test_a_third_party_is_listed_and_not_asked_unasked() -> None:
    assert registry()["oracle"].licence_code == "MIT"
    assert "oracle" not in [matcher.name for matcher in choose_matchers("auto")]
    package = Path(reconx_ros.__file__).parent
    assert not [p for p in package.rglob("*.py") if "oracle_matcher" in p.read_text(encoding="utf-8")]
