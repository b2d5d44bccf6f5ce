"""The benchmark's rows."""

from __future__ import annotations

import pytest
import torch
from native_oracle import ISAS, rasterizer

from reconx_ros.splatting.bench import TimedRasterizer, fit_row, random_scene, run_bench


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer(monkeypatch, ISAS[0])
    rows = run_bench(cases=[(32, 24, 100)], ssim_sizes=[(32, 24)], repeats=1, baseline_repeats=1, fit_steps=0)
    assert [(row["what"], row["size"], row["gaussians"]) for row in rows] == [
        ("rasterizer", "32x24", 100),
        ("ssim", "32x24", None),
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["torch_ms"] / row["native_ms"])
        assert row["native_ms"] > 0


@pytest.mark.slow
def test_the_fit_knows_its_rasterizer_share(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer(monkeypatch, ISAS[0])
    row = fit_row(48, 32, 200, steps=5)
    assert row["what"] == "fit, 5 steps" and row["size"] == "48x32" and row["native_ms"] > 0
    assert 0 < row["rasterizer_share"] < 1


def test_the_stopwatch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = rasterizer(monkeypatch, ISAS[0])
    scene, gradients = random_scene(32, 24, 50), []
    timed = TimedRasterizer(plain)
    for used in (plain, timed):
        scene["means"] = scene["means"].detach().requires_grad_()
        used.render(**scene).rgb.square().sum().backward()
        gradients.append(scene["means"].grad)
    assert torch.equal(*gradients) and timed.seconds > 0


def test_scene_fills_the_picture() -> None:
    scene = random_scene(64, 48, 500)
    spot = scene["means"] @ scene["intrinsics"][0].T
    pixels = spot[:, :2] / spot[:, 2:]
    assert bool((pixels > -0.501).all()) and bool((pixels < torch.tensor([63.501, 47.501])).all())
