"""Core types: invariants at birth, group laws of transforms, settings and registries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reconx_ros.core import SE3, ConfigError, Frame, GaussianScene, InvalidInputError, PinholeCamera, Sim3, check_shape
from reconx_ros.core.errors import BackendUnavailableError, CancelledError
from reconx_ros.core.job import CancelToken, Job
from reconx_ros.core.registry import BackendInfo, create
from reconx_ros.core.settings import Settings, from_mapping, section, setting, to_mapping, updated, walk
from reconx_ros.core.transforms import quaternion_wxyz_from_rotation, rotation_exp, rotation_log

# Angles are drawn from everywhere, near 0 and near pi, where formulas break.
_unit = st.floats(-1, 1, allow_nan=False)
_angle = st.one_of(st.floats(0, 3.1), st.floats(0, 1e-7), st.floats(3.1415925, 3.14159265))
_far = st.floats(-100, 100, allow_nan=False)


@st.composite
def rotation_vectors(draw: st.DrawFn) -> np.ndarray:
    axis = np.array([draw(_unit), draw(_unit), draw(_unit)])
    norm = np.linalg.norm(axis)
    axis = axis / norm if norm > 1e-3 else np.array([0.0, 0.0, 1.0])
    return axis * draw(_angle)


@st.composite
def transforms(draw: st.DrawFn) -> SE3:
    return SE3.exp(draw(rotation_vectors()), np.array([draw(_far), draw(_far), draw(_far)]))


@given(transforms(), transforms(), transforms())
@settings(max_examples=50, deadline=None)
def test_rigid_transforms_form_a_group(a: SE3, b: SE3, c: SE3) -> None:
    np.testing.assert_allclose(((a @ b) @ c).matrix, (a @ (b @ c)).matrix, atol=1e-9)
    np.testing.assert_allclose((a @ a.inverse()).matrix, np.eye(4), atol=1e-9)
    points = np.array([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose((a @ b).apply(points), a.apply(b.apply(points)), atol=1e-9)


@given(rotation_vectors())
@settings(max_examples=100, deadline=None)
def test_exp_and_log_of_rotations_undo_each_other(vector: np.ndarray) -> None:
    rotation = rotation_exp(vector)
    np.testing.assert_allclose(rotation_exp(rotation_log(rotation)), rotation, atol=1e-7)


@given(transforms())
@settings(max_examples=100, deadline=None)
def test_quaternions_round_trip_in_both_orders(a: SE3) -> None:
    again = SE3.from_quaternion_xyzw(a.translation, a.quaternion_xyzw)
    np.testing.assert_allclose(again.matrix, a.matrix, atol=1e-7)
    assert quaternion_wxyz_from_rotation(a.rotation)[0] >= 0
    np.testing.assert_allclose(a.quaternion_wxyz, np.roll(a.quaternion_xyzw, 1), atol=0)


@given(transforms(), transforms())
@settings(max_examples=50, deadline=None)
def test_interpolation_meets_its_ends_and_the_midpoint_is_halfway(a: SE3, b: SE3) -> None:
    np.testing.assert_allclose(a.interpolate(b, 0.0).matrix, a.matrix, atol=1e-7)
    np.testing.assert_allclose(a.interpolate(b, 1.0).matrix, b.matrix, atol=1e-6)
    middle = a.interpolate(b, 0.5)
    assert middle.angle_to(a) == pytest.approx(a.angle_to(b) / 2, abs=1e-6)


def test_similarity_composes_like_its_points() -> None:
    a = Sim3(scale=2.0, rotation=rotation_exp(np.array([0.1, 0.2, 0.3])), translation=np.array([1.0, 2.0, 3.0]))
    b = Sim3(scale=0.5, rotation=rotation_exp(np.array([0.0, -0.7, 0.3])), translation=np.array([-1.0, 0.0, 3.0]))
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose((a @ b).apply(points), a.apply(b.apply(points)))
    np.testing.assert_allclose(a.inverse().apply(a.apply(points)), points)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SE3(rotation=np.eye(3) * 2, translation=np.zeros(3)), "not a proper rotation"),
        (lambda: SE3(rotation=np.diag([1.0, 1, -1]), translation=np.zeros(3)), "determinant -1"),
        (lambda: SE3(rotation=np.eye(3), translation=np.array([0, np.nan, 0])), "translation has 1 values"),
        (lambda: SE3.from_quaternion_xyzw(np.zeros(3), np.zeros(4)), "no direction"),
        (lambda: SE3.from_matrix(np.eye(3)), "shape [3, 3], expected [4, 4]"),
        (lambda: PinholeCamera(width=4, height=4, fx=0.0, fy=1.0, cx=0.0, cy=0.0), "fx is 0.0"),
        (lambda: PinholeCamera(width=0, height=4, fx=1.0, fy=1.0, cx=0.0, cy=0.0), "0x4"),
        (lambda: PinholeCamera(width=4, height=4, fx=1.0, fy=1.0, cx=float("nan"), cy=0.0), "cx is nan"),
    ],
)
def test_bad_values_are_refused_by_name(build: object, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        build()  # type: ignore[operator]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resizing_a_camera_keeps_image_borders_and_rays() -> None:
    camera = PinholeCamera(width=640, height=480, fx=500.0, fy=505.0, cx=311.2, cy=250.5)
    half = camera.scaled_to(320, 240)
    assert (half.cx + 0.5) / 320 == pytest.approx((camera.cx + 0.5) / 640)
    left_ray = (-0.5 - camera.cx) / camera.fx
    assert (-0.5 - half.cx) / half.fx == pytest.approx(left_ray)
    assert camera.fitted_to(10_000).size == camera.size
    assert camera.fitted_to(320, multiple=8).size == (320, 240)
    corner = PinholeCamera.from_corner_origin(640, 480, 500.0, 505.0, 311.7, 251.0)
    np.testing.assert_allclose(corner.matrix, camera.matrix)
    np.testing.assert_allclose(corner.corner_origin_matrix[:2, 2], [311.7, 251.0])


def test_frames_refuse_images_that_are_not_what_their_camera_says() -> None:
    camera = PinholeCamera(width=4, height=3, fx=4.0, fy=4.0, cx=1.5, cy=1.0)
    with pytest.raises(InvalidInputError, match="float64, expected uint8"):
        Frame(rgb_u8=np.zeros((3, 4, 3)), camera=camera)
    with pytest.raises(InvalidInputError, match=r"\[4, 3, 3\], expected \[3, 4, 3\]"):
        Frame(rgb_u8=np.zeros((4, 3, 3), np.uint8), camera=camera)
    with pytest.raises(InvalidInputError, match="frame depth"):
        Frame(rgb_u8=np.zeros((3, 4, 3), np.uint8), camera=camera, depth_m=np.zeros((3, 3), np.float32))


def test_shape_names_bind_once() -> None:
    dims = check_shape("a", np.zeros((5, 3)), "N", 3)
    assert dims == {"N": 5}
    with pytest.raises(InvalidInputError, match="b has shape"):
        check_shape("b", np.zeros(4), "N", dims=dims)
    check_shape("c", torch.zeros(2, 7, 4, 4), "...", 4, 4)


def _scene(count: int, bases: int) -> GaussianScene:
    return GaussianScene(
        means=torch.rand(count, 3),
        quats_wxyz=torch.rand(count, 4),
        log_scales=torch.rand(count, 3),
        logit_opacities=torch.rand(count),
        sh=torch.rand(count, bases, 3),
        provenance=torch.ones(count, dtype=torch.uint8),
        confidence=torch.rand(count),
        keyframe_ids=torch.arange(count),
    )


def test_scenes_concatenate_across_sh_degrees() -> None:
    both = GaussianScene.concatenate([_scene(2, 1), _scene(3, 4)])
    assert len(both) == 5 and both.sh_degree == 1
    assert not both.sh[:2, 1:].any()
    assert len(both.select(both.keyframe_ids == 2)) == 1
    with pytest.raises(InvalidInputError, match="5 bases"):
        _scene(2, 5)


def test_a_cancelled_job_stops_at_its_next_step() -> None:
    seen: list[tuple[str, float, str]] = []
    token = CancelToken()
    job = Job(stage="fit", on_progress=lambda *event: seen.append(event), token=token)
    job.step(0.5, "halfway")
    token.cancel()
    with pytest.raises(CancelledError, match="fit was cancelled at 60 %"):
        job.step(0.6)
    assert seen == [("fit", 0.5, "halfway")]


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (0.25, 0.5), (0.6, 1.0)])
def test_parts_of_a_job_compose(start: float, stop: float) -> None:
    """A part of a part fills the part's part, and says whose it is."""
    seen: list[tuple[str, float, str]] = []
    job = Job(stage="fit", on_progress=lambda *event: seen.append(event))
    inner = job.part(start, stop, "clip 1, ").part(0.5, 1.0, "frame 2, ")
    for fraction in (-1.0, 0.0, 0.5, 1.0, 7.0):
        inner.step(fraction, "step")
    middle = (start + stop) / 2
    bounds = [middle, middle, (middle + stop) / 2, stop, stop]
    assert [share for _, share, _ in seen] == pytest.approx(bounds)
    assert {(stage, text) for stage, _, text in seen} == {("fit", "clip 1, frame 2, step")}


def test_parts_that_follow_each_other_fill_the_bar_without_gaps() -> None:
    seen: list[float] = []
    job = Job(on_progress=lambda _, share, __: seen.append(share))
    for k in range(7):
        part = job.part(k / 7, (k + 1) / 7)
        part.step(0.0)
        part.step(1.0)
    assert seen == sorted(seen) and (seen[0], seen[-1]) == (0.0, 1.0)
    assert seen[1:-1:2] == pytest.approx(seen[2::2])


def test_previews_and_cancellation_reach_through_all_parts() -> None:
    shown: list[np.ndarray] = []
    token = CancelToken()
    job = Job(stage="fit", token=token, on_preview=lambda picture: shown.append(picture()))
    part = job.part(0.0, 0.5, "a, ").for_stage("render").part(0.5, 1.0, "b, ")
    part.show(lambda: np.zeros((2, 3, 3), np.uint8))
    assert [picture.shape for picture in shown] == [(2, 3, 3)]
    token.cancel()
    with pytest.raises(CancelledError, match="render was cancelled at 38 %"):
        part.step(0.5)


@dataclass(frozen=True, kw_only=True)
class _Inner(Settings):
    size: int = setting(3, "A size.", unit="px", ge=1, le=9)
    mode: str = setting("a", "A mode.", choices=("a", "b"))


@dataclass(frozen=True, kw_only=True)
class _Outer(Settings):
    names: tuple[str, ...] = setting(("x",), "Names.")
    rate: float = setting(1.0, "A rate.", unit="Hz", ge=0.0)
    inner: _Inner = section(_Inner, "Inner.")


def test_settings_round_trip_and_accept_dotted_names() -> None:
    changed = updated(_Outer(), {"inner.size": 5, "rate": 2, "names": ["y", "z"]})
    assert (changed.inner.size, changed.rate, changed.names) == (5, 2.0, ("y", "z"))
    assert from_mapping(_Outer, to_mapping(changed)) == changed
    assert [name for name, _, _ in walk(changed)] == ["names", "rate", "inner.size", "inner.mode"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"inner": {"sise": 3}}, "unknown parameter inner.sise, the nearest known one is inner.size"),
        ({"inner.size": 10}, r"parameter inner.size is 10, expected a number in \[1, 9\]"),
        ({"inner.size": 2.5}, "inner.size is 2.5"),
        ({"inner.size": True}, "inner.size is True"),
        ({"inner.mode": "c"}, "expected one of a, b"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"names": "x"}, "expected a list"),
        ({"inner": 3}, "expected a group"),
    ],
)
def test_bad_settings_are_refused_by_name(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        updated(_Outer(), values)


def test_registry_names_the_cure() -> None:
    rows = {
        "ghost": BackendInfo(name="ghost", target="no:No", summary="", modules=("no_such_module",), extra="gpu"),
        "plain": BackendInfo(name="plain", target="reconx_ros.core.job:CancelToken", summary=""),
    }
    assert isinstance(create(rows, "plain", kind="thing"), CancelToken)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'reconx_ros\[gpu\]'"):
        create(rows, "ghost", kind="thing")
    with pytest.raises(ConfigError, match="unknown thing 'plan', the nearest known one is 'plain'"):
        create(rows, "plan", kind="thing")


def test_a_backend_for_a_gpu_says_so_where_there_is_none() -> None:
    row = BackendInfo(name="fast", target="reconx_ros.core.job:CancelToken", summary="", needs=("cuda",))
    reason = row.missing()
    if torch.cuda.is_available():
        assert reason is None
    else:
        assert reason == "backend 'fast' needs a CUDA GPU and PyTorch with CUDA, and none is visible here"
