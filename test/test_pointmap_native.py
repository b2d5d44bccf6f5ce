"""The compiled stereo kernels against their torch twins: every instruction set, odd sizes, degenerate inputs."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from native_oracle import ISAS
from pointmap_scenes import pinhole, room_scene

from reconx_ros.core import SE3, BackendUnavailableError, ConfigError, InvalidInputError, Job
from reconx_ros.native import build_native, library
from reconx_ros.pointmap.backends.multiview import MultiviewBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.consistency import DepthMap
from reconx_ros.pointmap.stereo.filters import connected_components, median_filter
from reconx_ros.pointmap.stereo.kernels import StereoKernels, TorchKernels, select_kernels
from reconx_ros.pointmap.stereo.native import NativeKernels
from reconx_ros.pointmap.stereo.native_checks import native_components
from reconx_ros.pointmap.stereo.settings import MultiviewSettings
from reconx_ros.pointmap.stereo.sgm import Choice, Smoothness, choose, smooth_costs
from reconx_ros.pointmap.stereo.sweep import UNSEEN_COST, inverse_depth_planes, sweep
from reconx_ros.pointmap.stereo.views import MatchView, normalised, prepare_views

CPU = torch.device("cpu")
SMOOTH = Smoothness(p1=0.05, p2=1.0, p2_min=0.1, edge=0.06)
SIZES = [(1, 1), (1, 9), (7, 1), (3, 5), (33, 47)]


def kernels(monkeypatch: pytest.MonkeyPatch, isa: str, threads: int | None = None) -> NativeKernels:
    """Kernels of one instruction set; the test is skipped where there is no compiler."""
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    try:
        return NativeKernels(threads=threads)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def random_views(height: int, width: int, count: int = 4, seed: int = 0) -> list[MatchView]:
    """Views of noise, turned and moved at random; each source one pixel larger than the one before."""
    rng = np.random.default_rng(seed)
    views = []
    for i in range(count):
        rgb = torch.from_numpy(rng.random((height + i, width + i, 3)).astype(np.float32))
        camera = pinhole(width + i, height + i, 0.8 + 0.1 * i)
        pose = SE3.exp(0.06 * rng.standard_normal(3), 0.15 * rng.standard_normal(3))
        views.append(MatchView(rgb=rgb, grey=rgb.mean(dim=-1), camera=camera, world_from_cam=pose, keyframe_id=i))
    return views


def room_views(width: int = 96, height: int = 72, count: int = 4) -> list[MatchView]:
    return normalised(prepare_views(room_scene(count, pinhole(width, height)).keyframes, width, CPU))[0]


def planes(count: int) -> torch.Tensor:
    return torch.linspace(0.0, 0.9, count)[:, None, None]


def unpacked(volume: torch.Tensor, count: int) -> torch.Tensor:
    """[D, H, W] of the kernels' [H, W, P]; what pads it is infinite."""
    assert bool(torch.isinf(volume[..., count:]).all())
    return volume[..., :count].permute(2, 0, 1).contiguous()


def assert_close_but_for_borders(ours: torch.Tensor, truth: torch.Tensor, tolerance: float = 3e-4) -> None:
    """Equal, but for one in a thousand: a match on the very edge of a source may be inside for one and outside for the
    other."""
    assert ours.shape == truth.shape
    assert bool(torch.isfinite(ours).all())
    far = (ours - truth).abs() > tolerance
    assert float(far.float().mean()) < 1e-3, f"largest difference {float((ours - truth).abs().max()):.2g}"


@pytest.mark.parametrize("isa", ISAS)
def test_costs_equal_the_twin(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    native = kernels(monkeypatch, isa)
    for index, (height, width) in enumerate(SIZES):
        views = random_views(height, width, seed=index)
        for window, keep, sources in ((5, 2, 3), (3, 1, 3), (7, 2, 1), (15, 2, 2), (31, 2, 3)):
            ours = native.sweep(views[0], views[1 : 1 + sources], planes(19), window, keep=keep)
            truth = sweep(views[0], views[1 : 1 + sources], planes(19), window, keep=keep)
            assert_close_but_for_borders(unpacked(ours, 19), truth)


@pytest.mark.parametrize("isa", ISAS)
def test_costs_of_hypotheses_per_pixel_equal_the_twin(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    native = kernels(monkeypatch, isa)
    for height, width in SIZES:
        views = random_views(height, width)
        rng = torch.Generator().manual_seed(1)
        inverse = 0.1 + 0.5 * torch.rand(9, height, width, generator=rng)
        ours = native.sweep(views[0], views[1:], inverse, 5)
        assert_close_but_for_borders(unpacked(ours, 9), sweep(views[0], views[1:], inverse, 5))


@pytest.mark.parametrize("isa", ISAS)
def test_smoothing_and_choice_equal_the_twin(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    native = kernels(monkeypatch, isa)
    for index, (height, width) in enumerate(SIZES):
        rng = torch.Generator().manual_seed(index)
        for count in (1, 2, 3, 4, 16, 33):
            cost, image = torch.rand(count, height, width, generator=rng), torch.rand(height, width, generator=rng)
            volume = torch.full((height, width, -(-count // 16) * 16), torch.inf)
            volume[..., :count] = cost.permute(1, 2, 0)
            smoothed = smooth_costs(cost, image, SMOOTH)
            ours = unpacked(native.smooth(volume, count, image, SMOOTH), count)
            torch.testing.assert_close(ours, smoothed, atol=2e-6, rtol=0)
            assert_same_choice(native.choose(volume, count, image, SMOOTH), choose(cost, smoothed))


def assert_same_choice(ours: Choice, truth: Choice) -> None:
    torch.testing.assert_close(ours.label, truth.label, atol=1e-3, rtol=0)
    torch.testing.assert_close(ours.cost, truth.cost, atol=0, rtol=0)
    torch.testing.assert_close(ours.margin, truth.margin, atol=1e-5, rtol=0)


@pytest.mark.parametrize("isa", ISAS)
def test_a_room_gets_the_same_depth(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    native, views = kernels(monkeypatch, isa), room_views()
    grid = inverse_depth_planes(1.5, 30.0, 48)
    ours, truth = (k.match(views[0], views[1:], grid, 5, SMOOTH) for k in (native, TorchKernels()))
    assert float((ours.label.round() == truth.label.round()).float().mean()) > 0.995
    assert float((ours.label - truth.label).abs().median()) < 1e-4
    assert_close_but_for_borders(ours.margin, truth.margin, 1e-3)


@pytest.mark.parametrize("isa", ISAS)
def test_agreement_equals_the_twin(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    native = kernels(monkeypatch, isa)
    scene = room_scene(4, pinhole(61, 43))
    rng = torch.Generator().manual_seed(0)
    views = []
    for keyframe, truth in zip(scene.keyframes, scene.depths, strict=True):
        depth = torch.from_numpy(truth).float() * (1 + 0.01 * torch.randn(truth.shape, generator=rng))
        pose = keyframe.frame.world_from_cam
        assert pose is not None
        usable = torch.rand(truth.shape, generator=rng) > 0.05
        views.append(DepthMap(depth=depth, usable=usable, camera=keyframe.frame.camera, world_from_cam=pose))
    ours, truth = (k.agreement(views[1], [views[0], *views[2:]], 0.02) for k in (native, TorchKernels()))
    assert float(truth.agrees.max()) == 3 and float(truth.denies.max()) >= 1
    for name in ("sees", "agrees", "denies", "depth", "angle_deg"):
        assert_close_but_for_borders(getattr(ours, name), getattr(truth, name), 2e-3)
    alone = native.agreement(views[0], [], 0.02)
    assert not alone.sees.any() and torch.equal(alone.depth, views[0].depth)


@pytest.mark.parametrize("isa", ISAS)
def test_clean_up_equals_the_twin(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    native = kernels(monkeypatch, isa)
    for index, (height, width) in enumerate([*SIZES, (64, 70)]):
        rng = torch.Generator().manual_seed(index)
        values, mask = torch.rand(height, width, generator=rng), torch.rand(height, width, generator=rng) < 0.7
        assert torch.equal(native.median_filter(values), median_filter(values))
        depth = 1 + 0.1 * torch.randint(0, 3, (height, width), generator=rng)
        kept = native.without_speckles(depth, mask, tolerance=0.05, min_pixels=4)
        assert torch.equal(kept, TorchKernels().without_speckles(depth, mask, tolerance=0.05, min_pixels=4))
        labels = native_components(library.load_library(), depth, mask, 0.05)
        assert torch.equal(labels, connected_components(depth, mask, 0.05))


def test_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    views, results = random_views(70, 53), []
    for threads in (1, 2, 8):
        native = kernels(monkeypatch, ISAS[0], threads)
        choice = native.match(views[0], views[1:], planes(37), 5, SMOOTH)
        own, others = (
            [DepthMap(depth=1 + v.grey, usable=v.grey > 0.2, camera=v.camera, world_from_cam=v.world_from_cam)]
            for v in views[:2]
        )
        told = native.agreement(own[0], others, 0.3)
        median = native.median_filter(views[0].grey)
        results.append([choice.label, choice.cost, choice.margin, told.depth, told.agrees, told.angle_deg, median])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def both(monkeypatch: pytest.MonkeyPatch) -> tuple[StereoKernels, StereoKernels]:
    return kernels(monkeypatch, ISAS[0]), TorchKernels()


def test_a_source_that_looks_away_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    views = random_views(20, 24, 2)
    turn = SE3.exp(np.array([0.0, np.pi, 0.0]), np.zeros(3))
    behind = replace(views[1], world_from_cam=views[0].world_from_cam @ turn)
    native = kernels(monkeypatch, ISAS[0])
    costs = unpacked(native.sweep(views[0], [behind], planes(5), 5), 5)
    assert torch.equal(costs, torch.full_like(costs, UNSEEN_COST))
    assert torch.equal(costs, sweep(views[0], [behind], planes(5), 5))


def test_images_without_texture_match_everywhere_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = [replace(v, grey=torch.full_like(v.grey, 0.4)) for v in random_views(20, 24, 3)]
    costs = unpacked(kernels(monkeypatch, ISAS[0]).sweep(flat[0], flat[1:], planes(5), 5), 5)
    assert_close_but_for_borders(costs, sweep(flat[0], flat[1:], planes(5), 5), 1e-3)
    assert bool((((costs - 0.5).abs() < 1e-3) | (costs >= 0.5)).all())


def test_one_plane_always_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    views = random_views(9, 12, 2)
    for one in both(monkeypatch):
        choice = one.match(views[0], views[1:], planes(1), 5, SMOOTH)
        assert not choice.label.any() and bool((choice.margin == 1).all())


def test_bad_inputs_are_refused_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    views = random_views(9, 12, 2)
    holed = replace(views[1], grey=torch.where(views[1].grey > 0.5, torch.nan, views[1].grey))
    for one in both(monkeypatch):
        for sources, grid, window, text in (
            ([], planes(4), 5, "no source views"),
            ([holed], planes(4), 5, "keyframe 1"),
            (views[1:], planes(4)[:0], 5, "no inverse depths"),
            (views[1:], planes(4), 4, "window is 4 pixels"),
        ):
            with pytest.raises(InvalidInputError, match=text):
                one.match(views[0], sources, grid, window, SMOOTH)
        with pytest.raises(InvalidInputError, match="keyframe 1"):
            one.match(holed, views[:1], planes(4), 5, SMOOTH)
        cut = replace(views[1], grey=views[1].grey[1:])
        with pytest.raises(InvalidInputError, match="grey image of keyframe 1"):
            one.match(views[0], [cut], planes(4), 5, SMOOTH)
    native = kernels(monkeypatch, ISAS[0])
    shape = (views[0].camera.height, views[0].camera.width)
    small = DepthMap(
        depth=torch.ones(shape)[1:],
        usable=torch.ones(shape, dtype=torch.bool),
        camera=views[0].camera,
        world_from_cam=views[0].world_from_cam,
    )
    with pytest.raises(InvalidInputError, match="depth of a view"):
        native.agreement(replace(small, depth=torch.ones(shape)), [small], 0.02)
    with pytest.raises(InvalidInputError, match="expected at most 31"):
        native.match(views[0], views[1:], planes(4), 33, SMOOTH)
    with pytest.raises(InvalidInputError, match="inverse depths of a sweep"):
        native.match(views[0], views[1:], torch.ones(4, 9, 11), 5, SMOOTH)
    with pytest.raises(InvalidInputError, match="number of threads is 0"):
        NativeKernels(threads=0)


def test_hypotheses_that_are_not_numbers_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    views = random_views(9, 12, 2)
    inverse = torch.full((3, 9, 12), 0.3)
    inverse[0], inverse[1] = torch.nan, torch.inf
    costs = unpacked(kernels(monkeypatch, ISAS[0]).sweep(views[0], views[1:], inverse, 5), 3)
    assert bool((costs[:2] == UNSEEN_COST).all())


def test_progress_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    native, views, seen = kernels(monkeypatch, ISAS[0]), random_views(24, 20, 2), []
    monkeypatch.setattr("reconx_ros.pointmap.stereo.native._CHUNK_MATCHES", 1)
    whole = native.sweep(views[0], views[1:], planes(40), 5, on_chunk=seen.append)
    assert seen == [16 / 40, 32 / 40, 1.0]
    monkeypatch.undo()
    assert torch.equal(whole, kernels(monkeypatch, ISAS[0]).sweep(views[0], views[1:], planes(40), 5))


@pytest.mark.skipif(build_native.find_compiler() is None, reason="needs a C compiler")
def test_branches_of_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What aarch64 compiles, without intrinsics, gives the same costs, choices and agreement here."""
    own = ("agreement.c", "filters.c", "sgm.c", "sweep.c", "simd.h", "stereo.h")
    command = [str(build_native.find_compiler()), *build_native.FLAGS, "-Werror", "-DRECONX_GENERIC"]
    sources = [str(build_native.SOURCE_DIR / name) for name in own if name.endswith(".c")]
    build_native._run([*command, *build_native.LINK_FLAGS, *sources, "-o", str(tmp_path / "generic.so"), "-lm"])
    generic = library.declare_stereo(ctypes.CDLL(str(tmp_path / "generic.so")))
    native = kernels(monkeypatch, ISAS[0])
    views = random_views(33, 47)
    truth = native.match(views[0], views[1:], planes(19), 5, SMOOTH)
    monkeypatch.setattr(library, "load_library", lambda: generic)
    ours = NativeKernels().match(views[0], views[1:], planes(19), 5, SMOOTH)
    assert float(((ours.label - truth.label).abs() < 1e-2).float().mean()) > 0.99
    assert torch.equal(NativeKernels().median_filter(views[0].grey), median_filter(views[0].grey))


def test_auto_says_what_it_chose(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    kernels(monkeypatch, ISAS[0])
    with caplog.at_level(logging.INFO):
        assert select_kernels("auto", CPU).name == "native"
        assert select_kernels("auto", torch.device("cuda")).name == "torch"
        monkeypatch.setattr(library, "unavailable_reason", lambda: "there is no C compiler: install one")
        assert select_kernels("auto", CPU).name == "torch"
    assert [r.message.partition(": ")[2] for r in caplog.records] == [
        "chose native, the fastest for device cpu",
        "chose torch, which runs on device cuda",
        "chose torch, which is slow on the CPU, because there is no C compiler: install one",
    ]


def test_named_kernels_that_cannot_run_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match="run on the CPU, not on 'cuda'"):
        select_kernels("native", torch.device("cuda"))
    with pytest.raises(ConfigError, match="'fast', expected auto, native or torch"):
        select_kernels("fast", CPU)
    monkeypatch.setenv(library.ISA_VARIABLE, "mmx")
    config = PointmapConfig().with_own(MultiviewSettings(kernels="native"))
    with pytest.raises(BackendUnavailableError, match="mmx"):
        MultiviewBackend().reconstruct(room_scene(2, pinhole(48, 36)).keyframes, config, device=CPU, job=Job())


def test_a_whole_reconstruction_equals_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, ISAS[0])
    scene, found = room_scene(3, pinhole(96, 72)), []
    for name in ("native", "torch"):
        config = PointmapConfig(max_size=96).with_own(MultiviewSettings(planes=48, kernels=name))
        found.append(MultiviewBackend().reconstruct(scene.keyframes, config, device=CPU, job=Job()).views)
    for ours, truth in zip(*found, strict=True):
        valid = ours.valid & truth.valid
        assert float((ours.valid == truth.valid).float().mean()) > 0.99
        assert float((ours.depth / truth.depth - 1).abs()[valid].quantile(0.98)) < 1e-3
        assert float((ours.confidence - truth.confidence).abs().mean()) < 5e-3
