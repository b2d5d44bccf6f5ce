"""The completion network: its inputs, its laws, what it says about other views, its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from completion_scenes import CAMERA, TINY, WALL_M, at, left_half, tiny_network, wall_view

from reconx_ros.core import SE3, CancelledError, CancelToken, InvalidInputError, Job, PinholeCamera, WeightsError
from reconx_ros.pointmap.completion.inputs import (
    CHANNELS,
    OTHERS_CHANNELS,
    channels,
    completion_view,
    network_grid,
    scene_scale,
    without_measurements,
)
from reconx_ros.pointmap.completion.network import CompletionConfig, CompletionNetwork
from reconx_ros.pointmap.completion.others import DepthGuess, seen_from
from reconx_ros.pointmap.completion.picture_encoder import LEVEL_CHANNELS, PictureEncoder, read_published
from reconx_ros.pointmap.completion.predict import certainty, predict, stacked
from reconx_ros.pointmap.completion.weights import LoadedCompletion, load_completion, save_completion

UP = np.array([0.0, -1.0, 0.0])


def channel(values: torch.Tensor, name: str) -> torch.Tensor:
    return values[CHANNELS.index(name)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (256, 192)), ((480, 640), (192, 256)), ((2000, 300), (256, 32)), ((40, 3), (256, 16))],
)
def test_the_grid_keeps_the_picture_whole(size: tuple[int, int], expected: tuple[int, int]) -> None:
    camera = PinholeCamera(width=size[0], height=size[1], fx=500.0, fy=500.0, cx=size[0] / 2, cy=size[1] / 2)
    grid = network_grid(camera, 256)
    assert grid.size == expected
    assert grid.width / grid.fx == pytest.approx(camera.width / camera.fx)


def test_measurements_guesses_and_holes_are_told_apart() -> None:
    view = completion_view(wall_view(0.0, left_half()), 64)
    told = channels(view, WALL_M)
    measured, guessed = channel(told, "measured") > 0, channel(told, "guessed") > 0
    assert bool((measured == left_half()).all()) and bool((guessed == ~left_half()).all())
    assert torch.allclose(channel(told, "measured_log"), torch.zeros(48, 64))
    assert torch.allclose(channel(told, "guess_log")[guessed], torch.tensor(1.3).log())
    assert bool((channel(told, "cost") == 0.8).all())
    sensor = completion_view(wall_view(0.0, left_half(), evidence=False), 64)
    assert not bool((channel(channels(sensor, WALL_M), "guessed") > 0).any())  # a hole of a sensor holds nothing
    assert not without_measurements(view, left_half()).measured.any()


def test_inputs_do_not_depend_on_the_unit() -> None:
    told = []
    for unit in (1.0, 1000.0):
        view = completion_view(wall_view(0.2, left_half(), unit=unit), 64)
        scale = scene_scale([view])
        assert scale == pytest.approx(WALL_M * unit)
        told.append(channels(view, scale))
    assert torch.allclose(told[0], told[1], atol=1e-5)


def test_gravity_is_a_flag_and_the_height_of_each_ray() -> None:
    without = channels(completion_view(wall_view(), 64), 1.0)
    told = channels(completion_view(wall_view(), 64, UP), 1.0)
    assert not channel(without, "gravity_known").any() and not channel(without, "elevation").any()
    assert bool((channel(told, "gravity_known") == 1).all())
    rise = channel(told, "elevation")
    assert bool((rise[0] > 0).all()) and bool((rise[-1] < 0).all())  # row 0 looks up


def test_nothing_measured_has_no_scale() -> None:
    assert scene_scale([completion_view(wall_view(), 64)]) is None


def test_every_pixel_gets_a_finite_depth_and_scale() -> None:
    network = tiny_network()
    for height, width in ((48, 64), (16, 128), (16, 16)):
        out = network(torch.rand(2, 3, height, width), 50 * torch.randn(2, len(CHANNELS), height, width))
        assert out.log_depth.shape == out.log_scale.shape == (2, height, width)
        assert bool(torch.isfinite(out.log_depth).all()) and bool(torch.isfinite(out.log_scale).all())
    with pytest.raises(InvalidInputError, match="expected multiples of 16"):
        network(torch.rand(1, 3, 40, 64), torch.rand(1, len(CHANNELS), 40, 64))


def test_the_network_learns_from_gradients_everywhere() -> None:
    torch.manual_seed(0)
    network = CompletionNetwork(TINY)
    out = network(torch.rand(1, 3, 32, 32), torch.rand(1, len(CHANNELS), 32, 32))
    (out.log_depth.mean() + out.log_scale.mean()).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_features_may_be_given_again() -> None:
    network, rgb, told = tiny_network(), torch.rand(1, 3, 32, 32), torch.rand(1, len(CHANNELS), 32, 32)
    again = network(rgb, told, network.picture(rgb))
    assert torch.equal(network(rgb, told).log_depth, again.log_depth)


def guess(x: float, depth: float) -> DepthGuess:
    plane = torch.full((48, 64), depth)
    return DepthGuess(depth=plane, certainty=torch.full((48, 64), 0.7), camera=CAMERA, world_from_cam=at(x))


def test_another_view_of_the_wall_is_seen_where_it_overlaps() -> None:
    known, log, sure = seen_from(guess(0.0, 1.0), [guess(0.4, WALL_M)], 1.0)
    # 0.4 m to the right at two metres and a focal length of 50 are 10 pixels.
    assert bool((known[:, 10:] == 1).all()) and not bool(known[:, :10].any())
    assert torch.allclose(log[:, 10:], torch.tensor(WALL_M).log()) and torch.allclose(sure[:, 10:], torch.tensor(0.7))


def test_of_two_surfaces_the_nearer_is_seen_and_order_does_not_matter() -> None:
    others = [guess(0.0, 3.0), guess(0.0, WALL_M)]
    a, b = (seen_from(guess(0.0, 1.0), o, 1.0) for o in (others, others[::-1]))
    assert torch.equal(a, b) and torch.allclose(a[1], torch.tensor(WALL_M).log())
    assert not seen_from(guess(0.0, 1.0), [], 1.0).any()


def test_what_lies_behind_the_camera_is_not_seen() -> None:
    turned = replace(guess(0.0, 1.0), world_from_cam=SE3.exp(np.array([0, np.pi, 0]), np.zeros(3)))
    assert not seen_from(turned, [guess(0.0, WALL_M)], 1.0)[0].any()


def test_predictions_scale_with_the_world_and_do_not_depend_on_how_many_run_at_once() -> None:
    network = tiny_network()
    found = []
    for unit, at_once in ((1.0, 1), (1.0, 3), (1000.0, 2)):
        views = [completion_view(wall_view(x, left_half(), unit=unit), 64) for x in (0.0, 0.2, 0.4)]
        found.append([p.depth / unit for p in predict(network, views, WALL_M * unit, at_once=at_once)])
    for other in found[1:]:
        assert all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(found[0], other, strict=True))


def test_the_second_pass_sees_the_others() -> None:
    network = tiny_network()
    views = [completion_view(wall_view(x, left_half()), 64) for x in (0.0, 0.2)]
    alone = predict(network, views[:1], WALL_M)[0]
    both = predict(network, views, WALL_M)[0]
    hidden = predict(network, views, WALL_M, hidden=[CHANNELS.index(name) for name in OTHERS_CHANNELS])[0]
    assert not torch.allclose(alone.depth, both.depth)
    assert torch.allclose(alone.depth, hidden.depth, rtol=1e-4)


def test_views_of_several_sizes_go_through_one_by_one() -> None:
    small = replace(wall_view(0.1, left_half()), world_from_cam=at(0.1))
    views = [completion_view(wall_view(0.0, left_half()), 64), completion_view(small, 32)]
    assert [p.depth.shape for p in predict(tiny_network(), views, WALL_M)] == [(48, 64), (32, 32)]


def test_prediction_can_be_cancelled() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        predict(tiny_network(), [completion_view(wall_view(), 64)], 1.0, job=Job(stage="pointmap", token=token))


def test_certainty_is_the_chance_of_a_laplace_variable() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.05, 0.3):
        drawn = np.abs(rng.laplace(0, scale, 200_000)) <= 0.05
        assert float(certainty(torch.tensor(scale).log())) == pytest.approx(drawn.mean(), abs=0.01)


def test_stacked_inputs_have_one_row_per_view() -> None:
    rgb, told = stacked([completion_view(wall_view(x), 64) for x in (0.0, 0.1)], 1.0)
    assert rgb.shape == (2, 3, 48, 64) and told.shape == (2, len(CHANNELS), 48, 64)


def test_weights_and_card_come_back(tmp_path: Path) -> None:
    network, path = tiny_network(), tmp_path / "net.safetensors"
    save_completion(path, TINY, network.state_dict(), {"calibration": [[0.1, 0.2], [0.5, 0.4]]})
    loaded = load_completion(path)
    view = [completion_view(wall_view(0.0, left_half()), 64)]
    before, after = predict(network, view, WALL_M)[0], predict(loaded.network, view, WALL_M)[0]
    assert torch.allclose(before.depth, after.depth, rtol=0.02)  # half precision
    told = replace(before, certainty=torch.tensor([[0.0, 0.1, 0.3, 0.9]]))
    assert torch.allclose(loaded.calibrated(told).certainty, torch.tensor([[0.2, 0.2, 0.3, 0.4]]))
    assert LoadedCompletion(network=network, card={}).calibrated(told) is told


def test_weights_that_are_not_right_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_completion(path, TINY, tiny_network().state_dict(), {})
    card = json.loads(path.with_suffix(".json").read_text())
    for change, words in (
        ({"config": {**card["config"], "channels": ["red"]}}, "wants the inputs red"),
        ({"config": {**card["config"], "depth": 3}}, "depth"),
        ({"config": {**card["config"], "layers": 2}}, "do not fit their card: attention.1"),
    ):
        path.with_suffix(".json").write_text(json.dumps({**card, **change}))
        with pytest.raises(InvalidInputError, match=words):
            load_completion(path)
    path.with_suffix(".json").write_text("[1]")
    with pytest.raises(WeightsError, match="does not describe a completion network"):
        load_completion(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="expected JSON beside the weights"):
        load_completion(path)
    assert CompletionConfig.from_arguments(card["config"]) == TINY


def test_published_encoder_weights_fold_their_normalisation() -> None:
    encoder = PictureEncoder()
    state: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(1)

    def convolution(name: str, norm: str, weight: torch.Tensor) -> None:
        state[f"{name}.weight"] = torch.randn(weight.shape, generator=generator) * 0.1
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            state[f"{norm}.{part}"] = low + torch.rand(weight.shape[0], generator=generator)

    convolution("_conv_stem", "_bn0", encoder.stem.weight)
    for k, block in enumerate(encoder.blocks):
        parts = {name: module for name, module in block.named_children() if isinstance(module, torch.nn.Conv2d)}
        norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
        for name, module in parts.items():
            convolution(f"_blocks.{k}._{name}_conv", f"_blocks.{k}.{norms[name]}", module.weight)
    encoder.load_state_dict(read_published(state))
    rgb = torch.rand(1, 3, 32, 32, generator=generator)
    found = encoder(rgb)
    assert [f.shape[1] for f in found] == list(LEVEL_CHANNELS) and [f.shape[-1] for f in found] == [16, 8, 4, 2]
    x = torch.nn.functional.conv2d((rgb - 0.498) / 0.502, state["_conv_stem.weight"], stride=2, padding=1)
    norm = [state[f"_bn0.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    x = torch.nn.functional.batch_norm(x, *norm, eps=1e-3).clamp(0, 6)
    stem = torch.nn.functional.relu6(encoder.stem((rgb - encoder.mean) / encoder.deviation))
    assert torch.allclose(stem, x, atol=1e-5)
    del state["_bn0.bias"]
    with pytest.raises(InvalidInputError, match=r"lack '_bn0.bias'"):
        read_published(state)


def test_the_smooth_guess_is_an_input_and_a_bound_of_the_output() -> None:
    told = channels(completion_view(wall_view(0.0, left_half()), 64), 2 * WALL_M)
    assert bool((channel(told, "smooth_known") == 1).all())
    assert torch.allclose(channel(told, "smooth_log"), torch.tensor(0.5).log(), atol=0.02)
    blind = channels(completion_view(wall_view(), 64), WALL_M)
    assert not channel(blind, "smooth_known").any() and not channel(blind, "smooth_log").any()
    network = tiny_network()
    with torch.no_grad():
        network.head.bias[8:] = 50.0  # all of the share
    rgb = torch.rand(1, 3, 48, 64)
    assert torch.allclose(network(rgb, told[None]).log_depth[0], channel(told, "smooth_log"), atol=1e-4)
    assert not torch.allclose(network(rgb, blind[None]).log_depth[0], torch.zeros(48, 64), atol=1e-3)
