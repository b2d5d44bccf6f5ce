"""Training of depth completion: examples, what is changed about them, losses, scores, the loop and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from completion_scenes import CAMERA, TINY, WALL_M, at, left_half, wall_frame, wall_view

from reconx_ros.cli.main import main
from reconx_ros.core import (
    SE3,
    CancelledError,
    CancelToken,
    ConfigError,
    Frame,
    InvalidInputError,
    Job,
    ReconstructionError,
    StorageError,
)
from reconx_ros.core.settings import updated
from reconx_ros.learning import processes
from reconx_ros.learning.log import LOG_FILE
from reconx_ros.learning.processes import ProcessGroup
from reconx_ros.pointmap.completion.inputs import CHANNELS, CompletionView, completion_view
from reconx_ros.pointmap.completion.network import CompletedDepth
from reconx_ros.pointmap.completion.predict import Prediction, certainty
from reconx_ros.pointmap.completion.training import trainer as trainer_module
from reconx_ros.pointmap.completion.training.augment import (
    Augmentation,
    augmented,
    cropped,
    mirrored,
    smooth_noise,
    unmeasured,
)
from reconx_ros.pointmap.completion.training.batches import group, training_groups
from reconx_ros.pointmap.completion.training.config import CompletionTrainingConfig
from reconx_ros.pointmap.completion.training.evaluate import CompletionScores, calibration, scored, smooth_guess
from reconx_ros.pointmap.completion.training.examples import (
    ExampleMaker,
    ExampleView,
    example_paths,
    load_example,
    make_examples,
    save_example,
    stage_1,
)
from reconx_ros.pointmap.completion.training.losses import completion_loss
from reconx_ros.pointmap.completion.training.real_depth import read_rgbd, real_depth_groups
from reconx_ros.pointmap.completion.training.trainer import (
    CompletionTrainer,
    CompletionTrainingRun,
    hidden_channels,
)
from reconx_ros.pointmap.completion.weights import TRAINED_NAME, load_completion

CPU = torch.device("cpu")
JOB = Job(stage="train")
UP = np.array([0.0, -1.0, 0.0])


def wall(number: int) -> list[Frame]:
    """Three views of the wall; another baseline for each number."""
    step = 0.2 + 0.05 * (number % 3)
    return [wall_frame(step * k) for k in range(3)]


def example(x: float = 0.0) -> ExampleView:
    return ExampleView(given=completion_view(wall_view(x, left_half()), 64, UP), truth=torch.full((48, 64), WALL_M))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four training examples and two for validation."""
    folder = tmp_path_factory.mktemp("examples")
    maker = ExampleMaker(source=wall, grid=64, sizes=(64,), up_world=(0.0, -1.0, 0.0))
    for name, numbers in (("train", range(4)), ("validation", range(4, 6))):
        assert make_examples(maker, folder / name, numbers, workers=0, job=JOB) == len(numbers)
    return folder


def test_examples_hold_what_stage_1_found_and_the_truth(data: Path) -> None:
    examples = [load_example(path) for path in example_paths(data / "train")]
    assert np.mean([float(v.given.measured.float().mean()) for views in examples for v in views]) > 0.2
    for views in examples:
        assert 2 <= len(views) <= 3
        for view in views:
            assert torch.allclose(view.truth, torch.tensor(WALL_M)) and view.given.evidence is not None
            right = (view.given.depth / WALL_M - 1).abs()[view.given.measured]
            assert not len(right) or float(right.median()) < 0.01
            assert np.array_equal(view.given.up_world, UP)


def test_what_is_there_is_not_made_again(data: Path) -> None:
    def never(number: int) -> list[ExampleView]:
        raise AssertionError(number)

    assert make_examples(never, data / "train", range(4), workers=0, job=JOB) == 0
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        make_examples(never, data / "train", range(4), workers=0, job=Job(stage="x", token=token))


def test_a_number_is_always_the_same_example() -> None:
    maker = ExampleMaker(source=wall, grid=64, sizes=(48, 64))
    for a, b in zip(maker(1), maker(1), strict=True):
        assert torch.equal(a.given.depth, b.given.depth) and a.given.camera == b.given.camera


def test_an_example_comes_back_from_its_file(tmp_path: Path) -> None:
    views = [example(0.0), replace(example(0.2), given=unmeasured(example(0.2).given))]
    save_example(tmp_path / "a.npz", views)
    for before, after in zip(views, load_example(tmp_path / "a.npz"), strict=True):
        assert torch.allclose(before.given.depth, after.given.depth, rtol=1e-3)
        assert torch.equal(before.given.measured, after.given.measured)
        assert torch.allclose(before.given.rgb, after.given.rgb, atol=1 / 250)
        assert (before.given.evidence is None) == (after.given.evidence is None)
        assert before.given.camera == after.given.camera
    (tmp_path / "b.npz").write_bytes(b"no example")
    with pytest.raises(StorageError, match=r"b\.npz cannot be read"):
        load_example(tmp_path / "b.npz")


def test_where_stereo_finds_nothing_an_example_is_the_picture_alone() -> None:
    for frames in ([wall_frame()], [wall_frame(), wall_frame()]):
        for view in stage_1(frames, 64):
            assert not view.valid.any() and view.evidence is None
    with pytest.raises(InvalidInputError, match="has no depth"):
        ExampleMaker(source=lambda number: [replace(wall_frame(), depth_m=None)] * 2)(0)


def projected(view: ExampleView, other: ExampleView) -> np.ndarray:
    """Pixels of another view [48, 64, 2] that a view's true points fall on."""
    height, width = view.truth.shape
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    camera, depth = view.given.camera, view.truth.numpy()
    points = np.stack([(u - camera.cx) / camera.fx * depth, (v - camera.cy) / camera.fy * depth, depth], axis=-1)
    cam = (other.given.world_from_cam.inverse() @ view.given.world_from_cam).apply(points)
    lens = other.given.camera
    return np.stack([cam[..., 0] / cam[..., 2] * lens.fx + lens.cx, cam[..., 1] / cam[..., 2] * lens.fy + lens.cy], -1)


def test_a_mirror_keeps_the_geometry_and_mirrored_twice_is_the_same() -> None:
    a, b = example(0.0), example(0.3)
    turned = at(0.3) @ SE3.exp(np.array([0.02, 0.05, 0.01]), np.zeros(3))
    b = replace(b, given=replace(b.given, world_from_cam=turned))
    before, after = projected(a, b), projected(mirrored(a), mirrored(b))
    assert np.allclose(after[:, ::-1, 0], 63 - before[..., 0]) and np.allclose(after[:, ::-1, 1], before[..., 1])
    twice = mirrored(mirrored(b))
    assert np.allclose(twice.given.world_from_cam.matrix, b.given.world_from_cam.matrix)
    assert torch.equal(twice.given.depth, b.given.depth) and twice.given.camera == b.given.camera
    assert np.allclose(twice.given.up_world, b.given.up_world)


def test_a_window_keeps_the_geometry() -> None:
    a, b = example(0.0), example(0.3)
    window = cropped(b, (32, 16), np.random.default_rng(3))
    x, y = b.given.camera.cx - window.given.camera.cx, b.given.camera.cy - window.given.camera.cy
    assert np.allclose(projected(a, window), projected(a, b) - [x, y])
    assert window.truth.shape == window.given.depth.shape == (16, 32)
    assert cropped(b, (500, 500), np.random.default_rng(0)).truth.shape == (48, 64)


def test_augmented_examples_stay_consistent_and_sometimes_see_less() -> None:
    kinds = set()
    for seed in range(60):
        views = augmented([example(0.0), example(0.3)], (64, 48), np.random.default_rng(seed), Augmentation())
        for view in views:
            given = view.given
            known = given.measured
            assert bool((given.rgb >= 0).all()) and bool((given.rgb <= 1).all())
            assert bool((given.depth[known] > 0).all())
            error = (given.depth / view.truth - 1).abs()[known]
            assert not len(error) or float(error.max()) < 0.1  # what is called measured is right
            gravity = "gravity" if given.up_world is not None else "no gravity"
            source = "alone" if not given.depth.any() else "sensor" if given.evidence is None else "stereo"
            kinds |= {gravity, source, "thinned" if 0 < float(known.float().mean()) < 0.4 else "whole"}
        assert (len(views) == 1) == ("alone" in {"alone" if not v.given.depth.any() else "" for v in views})
    assert kinds == {"gravity", "no gravity", "alone", "sensor", "stereo", "thinned", "whole"}


def test_smooth_noise_is_smooth() -> None:
    noise = smooth_noise((48, 64), np.random.default_rng(0), 16.0)
    assert noise.shape == (48, 64) and np.abs(np.diff(noise, axis=1)).max() < 0.6 < noise.std() * 3


def test_groups_are_in_units_of_their_scene() -> None:
    views = [example(0.0), example(0.3)]
    made, doubled = group(views), group(views, 2.0)
    assert made.unit == pytest.approx(WALL_M) and torch.allclose(made.log_truth, torch.zeros(2, 48, 64))
    assert torch.allclose(doubled.log_truth, torch.full((2, 48, 64), -math.log(2)))
    alone = group([replace(views[0], given=unmeasured(views[0].given))])
    assert alone.unit == pytest.approx(WALL_M) and not alone.measured.any()


def test_a_steps_groups_do_not_depend_on_where_training_starts(data: Path) -> None:
    paths = [example_paths(data / "train")]
    whole = list(training_groups(paths, [1.0], range(4), groups=2, seed=1, workers=0))
    rest = list(training_groups(paths, [1.0], range(2, 4), groups=2, seed=1, workers=0))
    for a, b in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(x.channels, y.channels) for x, y in zip(a, b, strict=True))
    with pytest.raises(InvalidInputError, match="folder without examples"):
        next(training_groups([[]], [1.0], range(1), groups=1, seed=0, workers=0))


def test_the_loss_is_least_at_the_truth_and_counts_no_unknown_pixel() -> None:
    truth = torch.randn(2, 16, 16) * 0.3
    known = torch.rand(2, 16, 16) > 0.3
    scale = torch.full((2, 16, 16), -3.0)
    measured = torch.zeros_like(known)

    def loss(offset: torch.Tensor) -> float:
        found = CompletedDepth(log_depth=torch.where(known, truth + offset, 99.0), log_scale=scale)
        return float(completion_loss(found, truth, known, measured))

    best = loss(torch.zeros(2, 16, 16))
    assert best == pytest.approx(-3.0)
    signs = torch.where(torch.rand(2, 16, 16) > 0.5, 1.0, -1.0)
    assert loss(0.1 * signs) > loss(torch.full((2, 16, 16), 0.1)) > best  # a wrong shape is worse
    nothing = CompletedDepth(log_depth=truth, log_scale=scale)
    assert float(completion_loss(nothing, truth, torch.zeros_like(known), measured)) == 0


def said(depth: float, log_scale: float) -> Prediction:
    scale = torch.full((48, 64), log_scale)
    return Prediction(depth=torch.full((48, 64), depth), certainty=certainty(scale), log_scale=scale)


def test_scores_tell_measured_from_inferred_and_claims_from_truth() -> None:
    scores = CompletionScores()
    scores.add(example(), said(1.15 * WALL_M, -5.0))
    found = scores.summary()
    assert found["inferred_share"] == 0.5 and found["inferred_median"] == pytest.approx(0.15, abs=1e-3)
    assert (found["inferred_within_10pct"], found["inferred_within_20pct"], found["all_within_10pct"]) == (0, 1, 0.5)
    assert found["calibration_gap"] > 0.9  # it claimed to be right
    (row,) = scores.deciles()
    assert row["right"] == 0 and row["pixels"] == 48 * 32
    assert CompletionScores().summary() == {} and CompletionScores().measured_median() == np.inf
    assert scores.measured_median() == 0


def test_calibration_is_what_claims_turned_out_to_be_in_sound_scenes() -> None:
    right, wrong = CompletionScores(), CompletionScores()
    for scale in (-5.0, -2.5):
        right.add(example(), said(WALL_M, scale))
        wrong.add(example(), said(1.15 * WALL_M, scale))
    low, high = calibration([right, wrong])
    assert low[0] == pytest.approx(float(certainty(torch.tensor(-2.5)))) and high[0] > 0.99
    assert low[1] == high[1] == 0.5  # half of the scenes are right
    misled = CompletionScores()
    misled.add(replace(example(), truth=torch.full((48, 64), 2 * WALL_M)), said(WALL_M, -5.0))
    assert calibration([right, misled]) == calibration([right]) and calibration([misled]) == []


def test_examples_without_a_measurement_have_no_score() -> None:
    def predictor(views: Sequence[CompletionView], unit: float) -> list[Prediction]:
        return [said(unit, -3.0) for _ in views]

    blind = [replace(example(), given=unmeasured(example().given))]
    assert scored(predictor, [blind]).summary() == {}
    assert scored(predictor, [blind, [example()]]).summary()["all_within_10pct"] == 1


def test_the_guess_without_learning_extends_the_wall() -> None:
    assert scored(smooth_guess, [[example()]]).summary()["inferred_within_5pct"] == 1
    assert float(smooth_guess([unmeasured(example().given)], 3.0)[0].depth.mean()) == 3


def run_of(data: Path, folder: Path, **settings: Any) -> CompletionTrainingRun:
    short = {"steps": 4, "groups": 2, "workers": 0, "validate_every": 2, "checkpoint_every": 2, "log_every": 1}
    config = updated(CompletionTrainingConfig(), {**short, **settings})
    folder.mkdir(parents=True, exist_ok=True)
    return CompletionTrainingRun(
        config=config, network=TINY, train=[data / "train"], real=[data / "validation"],
        validation={"rooms": data / "validation"}, folder=folder,
    )  # fmt: skip


def test_training_learns_the_wall(data: Path, tmp_path: Path) -> None:
    run = run_of(
        data, tmp_path, steps=24, groups=1, learning_rate=5e-3, warmup_steps=3, validate_every=24, checkpoint_every=24
    )
    card = CompletionTrainer(run, CPU).fit(JOB)
    losses = [row["loss"] for row in map(json.loads, (tmp_path / LOG_FILE).read_text().splitlines()) if "loss" in row]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.3
    assert card["steps_done"] == 24 and card["validation"]["rooms.inferred_share"] > 0
    assert load_completion(tmp_path / TRAINED_NAME).card["parameters"] == card["parameters"]


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(data: Path, tmp_path: Path) -> None:
    whole = CompletionTrainer(run_of(data, tmp_path / "a"), CPU)
    whole.fit(JOB)
    token = CancelToken()
    first = CompletionTrainer(
        replace(run_of(data, tmp_path / "b"), on_log=lambda row: token.cancel() if row["step"] == 2 else None), CPU
    )
    with pytest.raises(CancelledError):
        first.fit(Job(stage="train", token=token))
    second = CompletionTrainer(run_of(data, tmp_path / "b"), CPU, resume=True)
    assert second.step == 2
    second.fit(JOB)
    for name, value in whole.network.state_dict().items():
        assert torch.allclose(value, second.network.state_dict()[name], atol=1e-6), name
    with pytest.raises(InvalidInputError, match="cannot be resumed with other settings"):
        CompletionTrainer(run_of(data, tmp_path / "b", learning_rate=0.5), CPU, resume=True)


def test_processes_share_a_step_and_their_gradients(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [example_paths(data / "train")]
    (whole,) = training_groups(paths, [1.0], range(1), groups=2, seed=1, workers=0)
    halves = [
        next(training_groups(paths, [1.0], range(1), groups=2, seed=1, workers=0, share=ProcessGroup(rank=k, count=2)))
        for k in range(2)
    ]
    assert [torch.equal(a.channels, half[0].channels) for a, half in zip(whole, halves, strict=True)] == [True, True]
    with pytest.raises(InvalidInputError, match="expected a multiple of the 2 processes"):
        next(training_groups(paths, [1.0], range(1), groups=3, seed=1, workers=0, share=ProcessGroup(rank=0, count=2)))
    monkeypatch.setattr(processes.dist, "all_reduce", lambda flat: flat.mul_(3.0))  # as if the other had twice as much
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    ProcessGroup(rank=0, count=2).mean_gradients(layer.parameters())
    assert all(bool((p.grad == 1.5).all()) for p in layer.parameters() if p.grad is not None)


def test_a_process_finds_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.join_processes(CPU) == ProcessGroup() and ProcessGroup().is_main
    started: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(processes.dist, "init_process_group", started.append)
    monkeypatch.setattr(processes.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(processes.torch, "set_num_threads", lambda count: started.append(str(count > 0)))
    assert processes.join_processes(CPU) == ProcessGroup(rank=1, count=2) and started == ["gloo", "True"]
    assert not ProcessGroup(rank=1, count=2).is_main


def test_a_kept_picture_encoder_does_not_change(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = trainer_module.CompletionNetwork(TINY).picture.state_dict()
    run = replace(run_of(data, tmp_path, steps=2, precision="bf16"), picture=published)
    trainer = CompletionTrainer(run, CPU)
    trainer.fit(JOB)
    assert all(torch.equal(trainer.network.picture.state_dict()[name], value) for name, value in published.items())


def test_a_loss_that_is_no_number_ends_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = CompletionTrainer(run_of(data, tmp_path), CPU)
    monkeypatch.setattr(trainer_module, "completion_loss", lambda found, *rest: found.log_depth.sum() * torch.nan)
    with pytest.raises(ReconstructionError, match="loss is nan at step 0"):
        trainer.fit(JOB)


def test_hidden_inputs_have_names() -> None:
    assert hidden_channels("") == [] and hidden_channels("cost, margin") == [
        CHANNELS.index(n) for n in ("cost", "margin")
    ]
    with pytest.raises(ConfigError, match="hide names the input 'colour'"):
        hidden_channels("colour")


def rgbd_folder(folder: Path, *, posed: bool) -> Path:
    """Four RGB-D pictures of the wall in the layout of ``read_rgbd``."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for k in range(4):
        frame = wall_frame(0.2 * k)
        assert frame.depth_m is not None and frame.world_from_cam is not None
        cv2.imwrite(str(folder / f"images/{k}.png"), frame.rgb_u8[..., ::-1])
        cv2.imwrite(str(folder / f"images/{k}d.png"), (frame.depth_m * 1000).astype(np.uint16))
        entry = {"file": f"images/{k}.png", "depth": f"images/{k}d.png", "fx": CAMERA.fx, "fy": CAMERA.fy,
                 "cx": CAMERA.cx, "cy": CAMERA.cy}  # fmt: skip
        entries.append(entry | ({"c2w": frame.world_from_cam.matrix.tolist()} if posed else {}))
    (folder / "cameras.json").write_text(json.dumps({"images": entries}))
    return folder


def test_real_depth_with_poses_is_grouped_as_it_is(tmp_path: Path) -> None:
    folder = rgbd_folder(tmp_path / "a_wall", posed=True)
    groups = real_depth_groups(folder, JOB)
    assert len(groups) > 4 and {len(groups(k)) for k in range(len(groups))} == {2, 3, 4}
    assert all(f.world_from_cam is not None and f.depth_m is not None for f in groups(0))
    (folder / "cameras.json").write_text("{}")
    with pytest.raises(StorageError, match=r"expected cameras\.json and its files"):
        read_rgbd(folder)


def test_real_depth_without_poses_that_cannot_be_found_gives_no_groups(tmp_path: Path) -> None:
    """Structure from motion refuses a flat wall of 64 pixels."""
    assert len(real_depth_groups(rgbd_folder(tmp_path / "a_wall", posed=False), JOB)) == 0


def test_the_command_makes_data_trains_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgbd_folder(tmp_path / "assets" / "a_wall", posed=True)
    (tmp_path / "assets" / "c_x" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "assets/c_x/images/a.png"), np.full((8, 8, 3), 90, np.uint8))
    (tmp_path / "assets/c_x/images.json").write_text(json.dumps([{"file": "images/a.png", "category": "Plaster"}]))
    (tmp_path / "assets/c_x/SOURCE.txt").write_text("licence: CC0 1.0\nattribution line to print: Nobody: CC0.\n")
    data, small = tmp_path / "data", ["--set", "data.open_rooms=1", "--set", "data.texel_m=0.1", "--size", "48x32"]
    code = main(["train", "depth", "--make-data", str(data), "--groups", "2", "--workers", "0", "--quiet", *small,
                 "--assets", str(tmp_path / "assets"), "--validation-groups", "1"])  # fmt: skip
    assert code == 0 and len(example_paths(data / "train")) == 2 and len(example_paths(data / "validation")) == 1
    assert len(example_paths(data / "real_validation" / "a_wall")) > 4
    described = json.loads((data / "data.json").read_text())
    assert described["rooms"] == "lifelike"
    assert described["licences"] == {"c_x": {"licence": "CC0 1.0", "attribution": "Nobody: CC0."}}
    train = ["train", "depth", "--data", str(data), "--out", str(tmp_path / "out"), "--quiet", "--picture-weights",
             "none", "--set", "workers=0", "--set", "groups=1", "--set", "network.layers=1", "--set", "network.size=64",
             "--set", "validation_groups=1"]  # fmt: skip
    assert main([*train, "--steps", "1", "--json", str(tmp_path / "card.json")]) == 0
    assert json.loads((tmp_path / "card.json").read_text())["steps_done"] == 1
    assert main([*train, "--steps", "1", "--resume"]) == 0
    further = [word if word != str(tmp_path / "out") else str(tmp_path / "further") for word in train]
    assert main([*further, "--steps", "1", "--weights", str(tmp_path / "out")]) == 0
    card = load_completion(tmp_path / "further" / TRAINED_NAME).card
    assert card["started_from"]["steps_done"] == 1 and card["started_from"]["started_from"] is None
    assert "weights in" in capsys.readouterr().out
    assert main(["train", "depth", "--data", str(data)]) != 0
    (data / "data.json").write_text("{")
    assert main([*further, "--steps", "1"]) != 0
    assert "data.json cannot be read" in capsys.readouterr().err
    assert main(["train", "depth", "--data", str(data)]) != 0
    assert main(["train", "depth", "--make-data", str(data), "--assets", str(tmp_path / "gone")]) != 0
    errors = capsys.readouterr().err
    assert "needs --data and --out" in errors and "gone does not exist" in errors
