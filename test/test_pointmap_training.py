"""Training of pointmap networks: losses, batches, baselines, the loop, and ``reconx train pointmap``."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dust3r_networks import random_images, small_config

from reconx_ros.cli.main import main
from reconx_ros.cli.training import cancelled_by_interrupt
from reconx_ros.core import (
    SE3,
    CancelledError,
    CancelToken,
    Frame,
    InvalidInputError,
    Job,
    PinholeCamera,
    ReconstructionError,
    StorageError,
)
from reconx_ros.learning.log import LOG_FILE
from reconx_ros.learning.stream import Reuse
from reconx_ros.learning.weights import AveragedWeights, parameter_groups
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.pointmap.network.weights import load_network
from reconx_ros.pointmap.training import evaluate
from reconx_ros.pointmap.training.config import PointmapNetworkSettings, PointmapTrainingConfig
from reconx_ros.pointmap.training.data import (
    GroupBatch,
    collated,
    directed_pairs,
    group_arrays,
    group_batches,
    training_batches,
)
from reconx_ros.pointmap.training.losses import PairTargets, confidence_loss, pixel_errors, regression_loss
from reconx_ros.pointmap.training.schedule import learning_rate
from reconx_ros.pointmap.training.step import predict_groups
from reconx_ros.pointmap.training.trainer import PointmapTrainer, PointmapTrainingRun

CPU = torch.device("cpu")
SIZE = (24, 16)  # width, height


def room(number: int) -> list[Frame]:
    """Two views of a slanted plane whose colour tells its depth; a source of groups without a simulator."""
    rng = np.random.default_rng(number)
    slope, distance = rng.uniform(-0.5, 0.5, 2), rng.uniform(1.5, 3.0)
    camera = PinholeCamera(width=SIZE[0], height=SIZE[1], fx=20.0, fy=20.0, cx=11.5, cy=7.5)
    v, u = np.indices((SIZE[1], SIZE[0]))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], -1)
    normal = np.array([slope[0], slope[1], 1.0])
    frames = []
    for shift in (0.0, float(rng.uniform(0.1, 0.4))):
        pose = SE3.exp(np.array([0.0, -0.1 * shift, 0.0]), np.array([shift, 0.0, 0.0]))
        depth = (distance - normal @ pose.translation) / ((rays @ pose.rotation.T) @ normal)
        grey = np.clip(60 * depth, 0, 255).astype(np.uint8)
        frames.append(
            Frame(
                rgb_u8=np.repeat(grey[..., None], 3, -1), camera=camera, world_from_cam=pose,
                depth_m=depth.astype(np.float32),
            )
        )  # fmt: skip
    return frames


def batch_of(*numbers: int) -> GroupBatch:
    return collated([group_arrays(room(n)) for n in numbers])


def random_targets(seed: int = 0) -> tuple[PairTargets, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = [torch.randn(2, 4, 5, 3, generator=generator).double() + 2 for _ in range(4)]
    valid = [torch.rand(2, 4, 5, generator=generator) > 0.3 for _ in range(2)]
    return PairTargets(pts3d_1=points[0], valid_1=valid[0], pts3d_2=points[1], valid_2=valid[1]), points[2], points[3]


# Losses ---------------------------------------------------------------------------------------------------------


def confidence_loss_plainly(
    points: Sequence[torch.Tensor], confidences: Sequence[torch.Tensor], targets: PairTargets, alpha: float
) -> torch.Tensor:
    """Readable twin of the loss: pixel by pixel."""
    true, valid = (targets.pts3d_1, targets.pts3d_2), (targets.valid_1, targets.valid_2)
    total = points[0].new_zeros(())
    for view in range(2):
        values = []
        for n in range(len(true[0])):
            scales = []
            for cloud in (points, true):
                lengths = [cloud[k][n][valid[k][n]].norm(dim=-1) for k in range(2)]
                scales.append(torch.cat(lengths).mean())
            for row, column in valid[view][n].nonzero().tolist():
                difference = points[view][n, row, column] / scales[0] - true[view][n, row, column] / scales[1]
                confidence = confidences[view][n, row, column]
                values.append(confidence * difference.norm() - alpha * confidence.log())
        total = total + torch.stack(values).mean()
    return total


def test_confidence_loss_equals_its_plain_twin_with_gradients() -> None:
    targets, first, second = random_targets()
    inputs = [first.requires_grad_(), second.requires_grad_()]
    confidences = [(1 + torch.rand(2, 4, 5, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    fast = confidence_loss(first, confidences[0], second, confidences[1], targets, 0.3)
    slow = confidence_loss_plainly(inputs, confidences, targets, 0.3)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-6)
    for a, b in zip(
        torch.autograd.grad(fast, [*inputs, *confidences]),
        torch.autograd.grad(slow, [*inputs, *confidences]),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-7)


def test_loss_laws() -> None:
    targets, first, second = random_targets()
    loss = regression_loss(first, second, targets)
    assert float(regression_loss(5 * first, 5 * second, targets)) == pytest.approx(float(loss), rel=1e-6)
    exact = [targets.pts3d_1.clone().requires_grad_(), targets.pts3d_2.clone().requires_grad_()]
    perfect = regression_loss(exact[0], exact[1], targets)
    assert perfect.item() == pytest.approx(0, abs=1e-9)
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(perfect, exact))
    invalid = torch.where(targets.valid_1[..., None], first, torch.inf)
    assert torch.equal(regression_loss(invalid, second, targets), loss)
    nothing = replace(targets, valid_1=torch.zeros_like(targets.valid_1), valid_2=torch.zeros_like(targets.valid_2))
    assert float(regression_loss(first, second, nothing)) == 0


def test_best_confidence_is_alpha_over_the_error() -> None:
    targets, first, second = random_targets()
    errors = pixel_errors(first, second, targets)
    alpha = 3.0
    best = [alpha / error.clamp_min(1e-3) for error in errors]

    def loss(factor: float) -> float:
        return float(confidence_loss(first, factor * best[0], second, factor * best[1], targets, alpha))

    assert loss(1.0) < min(loss(0.9), loss(1.1))


# Batches --------------------------------------------------------------------------------------------------------


def test_points_of_one_view_fall_on_the_surface_of_the_other() -> None:
    batch = batch_of(0, 1, 2)
    moved = batch.points_in(0, 1)
    for n in range(3):
        normal, *_ = torch.linalg.lstsq(batch.points_cam[n, 0].flatten(0, 1), torch.ones(SIZE[0] * SIZE[1], 1))
        assert torch.allclose(moved[n].flatten(0, 1) @ normal, torch.tensor(1.0), atol=1e-3)
    targets = batch.targets(directed_pairs(2))
    assert torch.equal(targets.pts3d_1[3:], batch.points_cam[:, 1])
    assert torch.allclose(targets.pts3d_2[:3], moved)


def test_mirrored_batch_is_a_world_of_its_own() -> None:
    batch = batch_of(3, 4)
    mirrored = batch.mirrored()
    flip = torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(mirrored.points_in(1, 0), batch.points_in(1, 0).flip(-2) * flip, atol=1e-5)
    assert torch.allclose(mirrored.rays * mirrored.points_cam[..., 2:], mirrored.points_cam, atol=1e-5)
    assert torch.det(mirrored.world_from_cam).min() > 0
    again = mirrored.mirrored()
    assert torch.equal(again.images, batch.images) and torch.allclose(again.world_from_cam, batch.world_from_cam)


def test_groups_that_cannot_be_used() -> None:
    frame = room(0)[0]
    small, camera = np.zeros((8, 8, 3), np.uint8), frame.camera.scaled_to(8, 8)
    other = Frame(rgb_u8=small, camera=camera, world_from_cam=SE3.identity(), depth_m=np.ones((8, 8), np.float32))
    for frames, told in (
        ([frame], "at least 2"),
        ([frame, replace(frame, depth_m=None)], "view 1 has no pose or no depth"),
        ([frame, replace(frame, world_from_cam=None)], "view 1 has no pose or no depth"),
        ([frame, other], "expected one size"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            group_arrays(frames)


def test_batches_do_not_depend_on_workers() -> None:
    numbers = range(5, 16)
    alone = list(group_batches(room, numbers, 4, workers=0))
    shared = list(group_batches(room, numbers, 4, workers=2))
    assert len(alone) == len(shared) == 2
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, shared, strict=True))


def test_every_step_has_its_groups() -> None:
    reuse = Reuse(batch=6, times=3, window=20, seed=1)
    drawn = [reuse.drawn(step) for step in range(200)]
    assert all(len(set(d)) == 6 for d in drawn)
    assert all(set(d) <= set(reuse.available(step)) for step, d in enumerate(drawn))
    counts = np.bincount(np.concatenate(drawn))[50:350]
    assert counts.mean() == pytest.approx(3, rel=0.1)
    whole = list(training_batches(room, range(12), reuse, workers=0))
    rest = list(training_batches(room, range(7, 12), reuse, workers=0))
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[7:], rest, strict=True))
    once = Reuse(batch=4, times=1, window=1, seed=0)
    assert [once.drawn(step) for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


# Scores and baselines -------------------------------------------------------------------------------------------


def test_truth_scores_zero_and_a_plane_fits_planes() -> None:
    batches = [batch_of(0, 1), batch_of(2, 3)]

    def truth(batch: GroupBatch, pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        targets = batch.targets(pairs)
        return 3 * targets.pts3d_1, 3 * targets.pts3d_2

    scores = evaluate.score(truth, batches, pose=True)
    assert scores.regression < 1e-5 and scores.depth_abs_rel < 1e-5 and scores.depth_within_10pct == 1
    assert scores.rotation_deg is not None and scores.rotation_deg < 0.1
    mean = evaluate.mean_maps(batches)
    rows = {name: evaluate.score(predict, batches) for name, predict in evaluate.baselines(mean).items()}
    assert rows["best plane per view, true cameras"].regression < 1e-3
    assert rows["constant depth, true cameras"].depth_abs_rel > 0.02
    assert all(math.isfinite(row.regression) for row in rows.values())
    same = [batch_of(5)]
    known = evaluate.baselines(evaluate.mean_maps(same))
    assert evaluate.score(known["mean training depth, true cameras"], same).depth_abs_rel < 0.2

    def broken(batch: GroupBatch, pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        points = batch.targets(pairs).pts3d_1 * torch.nan
        return points, points

    with pytest.raises(ReconstructionError, match="not finite"):
        evaluate.score(broken, batches)


def test_rotation_error_is_that_of_the_points() -> None:
    batch = batch_of(0)
    turn = torch.tensor(SE3.exp(np.array([0.0, math.radians(7), 0.0]), np.zeros(3)).rotation.tolist())

    def turned(batch: GroupBatch, pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        targets = batch.targets(pairs)
        return targets.pts3d_1, targets.pts3d_2 @ turn.T

    assert evaluate.score(turned, [batch], pose=True).rotation_deg == pytest.approx(7, abs=0.05)


# The loop -------------------------------------------------------------------------------------------------------


def small_run(folder: Path, **changes: Any) -> PointmapTrainingRun:
    settings = {"steps": 6, "batch": 2, "reuse": 1, "warmup_steps": 2, "workers": 0, "validate_every": 3,
                "validation_groups": 2, "checkpoint_every": 2, "log_every": 1}  # fmt: skip
    return PointmapTrainingRun(
        config=PointmapTrainingConfig(**{**settings, **changes}),
        network=small_config(img_size=(16, 24)),
        train=room,
        validation=lambda number: room(10_000 + number),
        folder=folder,
        data={"source": "planes"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_learning_rate_rises_and_falls() -> None:
    config = PointmapTrainingConfig(steps=100, warmup_steps=10, learning_rate=1e-3, final_rate=1e-5)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[9] == rates[10] == pytest.approx(1e-3) and rates[0] == pytest.approx(1e-4)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5)


def test_averaged_weights_follow() -> None:
    layer = torch.nn.Linear(2, 2)
    average = AveragedWeights(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for step in range(200):
        average.update(layer, step)
    assert torch.allclose(average.state["weight"], torch.ones(2, 2), atol=1e-4)
    assert [len(g["params"]) for g in parameter_groups(layer, 0.1)] == [1, 1]


def test_training_learns(folder: Path) -> None:
    rows: list[dict[str, float]] = []
    run = replace(
        small_run(folder, steps=60, batch=8, learning_rate=5e-3, average=0.9), on_log=lambda r: rows.append(dict(r))
    )
    trainer = PointmapTrainer(run, CPU)
    card = trainer.fit(Job())
    losses = [row["regression"] for row in rows if "regression" in row]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert card["steps_done"] == 60 and card["data"] == {"source": "planes"}
    assert card["validation"]["step"] == 60 and card["min_confidence"] > 1
    loaded = load_network(folder)
    batch = batch_of(77)
    assert torch.equal(
        predict_groups(loaded.network, batch).pts3d_1, predict_groups(trainer.averaged_network(), batch).pts3d_1
    )
    assert loaded.card is not None and loaded.card["steps_done"] == 60
    comparison = trainer.comparison()
    assert comparison["network"]["regression"] == pytest.approx(card["validation"]["regression"])
    assert len(comparison) == 5
    assert len((folder / LOG_FILE).read_text().splitlines()) == len(rows)


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    changes = {"reuse": 2, "window": 4}
    whole = PointmapTrainer(small_run(tmp_path / "whole", **changes), CPU)
    whole.fit(Job())
    token = CancelToken()

    def cancel_at_three(stage: str, fraction: float, message: str) -> None:
        if message.startswith("step 3 "):
            token.cancel()

    with pytest.raises(CancelledError):
        PointmapTrainer(small_run(tmp_path / "parts", **changes), CPU).fit(
            Job(on_progress=cancel_at_three, token=token)
        )
    resumed = PointmapTrainer(small_run(tmp_path / "parts", **changes), CPU, resume=True)
    assert 3 <= resumed.step < 6
    resumed.fit(Job())
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
        assert torch.equal(whole.average.state[name], resumed.average.state[name]), name


def test_what_a_run_refuses(folder: Path) -> None:
    with pytest.raises(StorageError, match="to resume from"):
        PointmapTrainer(small_run(folder), CPU, resume=True)
    PointmapTrainer(small_run(folder, steps=2), CPU).fit(Job())
    with pytest.raises(InvalidInputError, match=r"batch was 2 and is 3"):
        PointmapTrainer(small_run(folder, steps=2, batch=3), CPU, resume=True)
    PointmapTrainer(small_run(folder, steps=2, log_every=5), CPU, resume=True)
    state = folder / "training_state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(StorageError, match="complete file"):
        PointmapTrainer(small_run(folder, steps=2), CPU, resume=True)


def test_loss_that_is_not_finite_stops_the_run(folder: Path) -> None:
    trainer = PointmapTrainer(small_run(folder), CPU)
    with torch.no_grad():
        trainer.network.downstream_head1.proj.bias.fill_(torch.nan)
    with pytest.raises(ReconstructionError, match="step 0"):
        trainer.fit(Job())


def test_every_pair_sees_the_features_of_its_views() -> None:
    trainer_network = PointmapNetworkSettings(
        width=32, depth=1, decoder_width=32, decoder_depth=1, patch=8
    ).network_config(16, 24)

    torch.manual_seed(0)
    network = PointmapNetwork(trainer_network).eval().requires_grad_(False)
    batch = replace(batch_of(0, 1), images=random_images(4, 16, 24).unflatten(0, (2, 2)))
    together = predict_groups(network, batch)
    for k, (i, j) in enumerate(directed_pairs(2)):
        alone = network(batch.images[:, i], batch.images[:, j])
        assert torch.allclose(together.pts3d_2[2 * k : 2 * k + 2], alone.pts3d_2, atol=1e-5)


# Command line ---------------------------------------------------------------------------------------------------

SMALL = ["--size", "48x32", "--quiet"] + [
    word
    for setting in (
        "batch=2", "reuse=2", "workers=0", "validation_groups=2", "log_every=1", "network.width=32", "network.depth=1",
        "network.decoder_width=32", "network.decoder_depth=1", "data.open_rooms=1", "data.texel_m=0.1",
    )
    for word in ("--set", setting)
]  # fmt: skip


def test_command_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "net", tmp_path / "report.json"
    assert main(["train", "pointmap", "--out", str(out), "--steps", "2", "--json", str(report), *SMALL]) == 0
    card = json.loads(report.read_text())
    assert card == json.loads((out / "training_card.json").read_text())
    assert card["steps_done"] == 2 and set(card["comparison"]) >= {"network", "mean training pointmaps"}
    assert card["data"]["split"] == "train" and card["licence"] == "Apache-2.0"
    assert "held-out rooms" in capsys.readouterr().out
    assert load_network(out).network.config.img_size == (32, 48)
    assert main(["train", "pointmap", "--out", str(out), "--steps", "2", "--resume", *SMALL, "--set", "batch=1"]) == 1
    assert "batch was 2 and is 1" in capsys.readouterr().err


def test_interrupt_cancels_first_and_interrupts_then() -> None:
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with cancelled_by_interrupt() as token:
            signal.raise_signal(signal.SIGINT)
            assert token.cancelled
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


def test_interrupted_command_can_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = PointmapTrainer.advance

    def interrupted(trainer: PointmapTrainer, batch: GroupBatch) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return advance(trainer, batch)

    monkeypatch.setattr(PointmapTrainer, "advance", interrupted)
    assert main(["train", "pointmap", "--out", str(tmp_path / "net"), "--steps", "9", *SMALL]) == 1
    assert "stopped after step 1" in capsys.readouterr().err
    assert load_network(tmp_path / "net").card is not None


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_is_optional(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pointmap", "--out", str(tmp_path / "net"), "--tensorboard", *SMALL]) == 1
    assert "pip install tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--size", "48"], "WIDTHxHEIGHT"),
        (["--size", "50x32"], "img_size"),
        (["--difficulty", "brutal"], "easy, medium, hard"),
        (["--set", "batch"], "NAME=VALUE"),
        (["--set", "btch=3"], "nearest known one is batch"),
        (["--set", "network.width=33"], "enc_embed_dim"),
        (["--set", "data.views=1"], "views"),
    ],
)
def test_command_refuses_bad_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["train", "pointmap", "--out", str(tmp_path / "net"), "--quiet", *words]) == 1
    error = capsys.readouterr().err
    assert told in error and len(error.strip().splitlines()) == 1
