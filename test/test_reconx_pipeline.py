"""The video pipeline from end to end with small random weights: what it returns, refuses, reports and fits into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from video_models import TINY, relative_l2, tiny_pipeline

from reconx_ros.core import (
    SE3,
    CancelledError,
    CancelToken,
    InvalidInputError,
    Job,
    PinholeCamera,
    ReconstructionError,
    Trajectory,
)
from reconx_ros.diffusion.network.cost import Cost, plan_memory

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

FULL = replace(TINY, structure_dim=32, camera_channels=8, epipolar_levels=(1,))
SIZE = 64
LARGE = 10**12  # bytes


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))


def points(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(5)) + torch.tensor([0.0, 0.0, 4.0])


def path(frames: int = 4) -> Trajectory:
    camera = PinholeCamera(width=SIZE, height=SIZE, fx=60.0, fy=60.0, cx=31.5, cy=31.5)
    poses = [SE3.exp(np.array([0.0, 0.05 * k, 0.0]), np.array([0.1 * k, 0.0, 0.0])) for k in range(frames)]
    return Trajectory(camera=camera, world_from_cams=tuple(poses))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline(FULL)


def run(pipeline: Any, *pictures: torch.Tensor, seed: int = 0, **settings: Any) -> Any:
    settings = {"steps": 2, "memory_limit_bytes": LARGE, **settings}
    return pipeline(*pictures, generator=torch.Generator().manual_seed(seed), **settings)


def test_known_frames_come_back_bit_for_bit(pipeline: Any) -> None:
    first, last = picture(0), picture(1)
    result = run(pipeline, first, last)
    assert result.frames.shape == (4, SIZE, SIZE, 3) and result.frames.dtype == torch.float32
    assert result.known_frames == (0, 3) and result.warnings == ()
    assert torch.equal(result.frames[0], first) and torch.equal(result.frames[3], last)
    assert float(result.frames.min()) >= 0 and float(result.frames.max()) <= 1
    assert not torch.equal(result.frames[1], result.frames[2])


def test_second_picture_in_the_middle_extrapolates(pipeline: Any) -> None:
    result = run(pipeline, picture(0), picture(1), last_frame=2)
    assert result.known_frames == (0, 2) and torch.equal(result.frames[2], picture(1))
    with pytest.raises(InvalidInputError, match="last_frame is 4, expected 1 to 3"):
        run(pipeline, picture(0), picture(1), last_frame=4)


def test_same_seed_same_frames_and_every_condition_matters(pipeline: Any) -> None:
    pair = picture(0), picture(1)
    base = run(pipeline, *pair, points=points(), steps=1)
    assert torch.equal(run(pipeline, *pair, points=points(), steps=1).frames, base.frames)
    for change in (
        {"seed": 1, "points": points()},
        {},
        {"points": points() * torch.tensor([1.0, 1.0, 3.0])},
        {"points": points(), "structure_guidance": 1.0},
        {"points": points(), "trajectory": path()},
        {"points": points(), "fps": 3},
        {"points": points(), "prompt_ids": torch.arange(77)},
    ):
        assert not torch.equal(run(pipeline, *pair, steps=1, **change).latents, base.latents)


def test_equal_guidance_of_both_kinds_is_the_one_scale(pipeline: Any) -> None:
    settings = {"points": points(), "image_guidance": 3.0, "eta": 0.0}
    one = run(pipeline, picture(0), picture(1), **settings)
    other = run(pipeline, picture(0), picture(1), structure_guidance=3.0, **settings)
    assert torch.equal(one.latents, other.latents)


def test_untrained_branches_give_the_frames_of_the_backbone() -> None:
    extended, backbone = tiny_pipeline(FULL), tiny_pipeline(TINY)
    fresh = type(extended.unet)(**{n: getattr(FULL, n) for n in FULL.__dataclass_fields__}).eval()
    fresh.load_state_dict(backbone.unet.state_dict(), strict=False)
    extended.register_modules(unet=fresh)
    pair = picture(0), picture(1)
    conditioned = run(extended, *pair, points=points(), trajectory=path())
    assert torch.equal(conditioned.latents, run(backbone, *pair).latents)


def test_other_lengths_than_trained_and_identical_pictures_are_said(pipeline: Any) -> None:
    longer = run(pipeline, picture(0), picture(1), frames=8, steps=1)
    assert longer.frames.shape[0] == 8
    assert "8 frames from a model trained on 4: the image tokens' latents are interpolated" in longer.warnings[0]
    shorter = run(pipeline, picture(0), picture(0), frames=2, steps=1)
    assert "2 frames from a model trained on 4" in shorter.warnings[0] and "identical" in shorter.warnings[1]


def test_save_load_and_bfloat16(pipeline: Any, tmp_path: Path) -> None:
    from reconx_ros.diffusion.network.pipeline import ReconXPipeline

    pipeline.save_pretrained(tmp_path)
    base = run(pipeline, picture(0), picture(1), points=points())
    again = ReconXPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(run(again, picture(0), picture(1), points=points()).frames, base.frames)
    settings = {"points": points(), "steps": 1}
    base = run(again, picture(0), picture(1), **settings)
    result = run(again.to(dtype=torch.bfloat16), picture(0), picture(1), **settings)
    assert relative_l2(result.latents, base.latents) < 0.2
    assert torch.equal(result.frames[0], picture(0))


@pytest.mark.slow
def test_half_precision(pipeline: Any) -> None:
    base = run(pipeline, picture(0), picture(1), points=points(), eta=0.0)
    half = tiny_pipeline(FULL).to(dtype=torch.float16)
    assert relative_l2(run(half, picture(0), picture(1), points=points(), eta=0.0).latents, base.latents) < 0.1


def test_progress_rises_and_every_step_can_be_cancelled(pipeline: Any) -> None:
    seen: list[tuple[float, str]] = []
    job = Job(stage="views", on_progress=lambda _, share, text: seen.append((share, text)))
    run(pipeline, picture(0), picture(1), job=job, steps=3)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert [text for _, text in seen if text.startswith("step")] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    token = CancelToken()
    job = Job(token=token, on_progress=lambda _, __, text: token.cancel() if text == "step 2 of 3" else None)
    with pytest.raises(CancelledError):
        run(pipeline, picture(0), picture(1), job=job, steps=3)


def test_refuses_what_does_not_fit_into_memory_and_says_what_would(pipeline: Any) -> None:
    plan = pipeline.plan(64, SIZE, SIZE, limit_bytes=LARGE)
    assert not plan.tiled and plan.peak_bytes > plan.step_bytes > 0
    tight = plan.peak_bytes // 2
    with pytest.raises(
        ReconstructionError, match=r"64 frames of 64x64 need .* GB, .* GB are free; 3\d frames would fit"
    ):
        run(pipeline, picture(0), picture(1), frames=64, memory_limit_bytes=tight)


def test_large_frames_are_decoded_in_tiles_when_memory_is_short() -> None:
    step = Cost(weights=1, weight_bytes=4, activation_bytes=100, flops=1)
    common: dict[str, Any] = {"step": step, "moved_bytes": 0, "tile_bytes": 200, "frames": 4, "size": "64x64"}
    assert not plan_memory(decode_bytes=900, available=2000, **common).tiled
    assert not plan_memory(decode_bytes=900, available=None, **common).tiled
    tiled = plan_memory(decode_bytes=900, available=500, **common)
    assert tiled.tiled and tiled.decode_bytes == 200 and "tile by tile" in tiled.notes[0]
    with pytest.raises(ReconstructionError, match="not even 2 frames"):
        plan_memory(decode_bytes=900, available=40, **common)


def test_tiled_decoding_stays_near(pipeline: Any) -> None:
    latents = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    plan = pipeline.plan(4, SIZE, SIZE, limit_bytes=LARGE)
    pipeline.vae.tile_latent_min_size, pipeline.vae.tile_sample_min_size = 4, 32
    try:
        whole = pipeline.decode(latents, plan, Job())
        tiles = pipeline.decode(latents, replace(plan, tiled=True), Job())
    finally:
        pipeline.vae.tile_latent_min_size, pipeline.vae.tile_sample_min_size = 64, 512
    assert not torch.equal(tiles, whole) and tiles.shape == whole.shape


@pytest.mark.gpu
def test_cpu_offload_gives_the_same_frames() -> None:
    pytest.importorskip("accelerate")
    pipeline = tiny_pipeline(FULL)
    base = run(pipeline, picture(0), picture(1), points=points())
    pipeline.enable_model_cpu_offload()
    assert relative_l2(run(pipeline, picture(0), picture(1), points=points()).latents, base.latents) < 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": torch.zeros(60, 64, 3), "last": None}, "64x60, expected width and height to be multiples of 16"),
        ({"first": torch.zeros(3, 64, 64)}, "first picture has shape"),
        ({"first": torch.full((64, 64, 3), 2.0)}, r"first picture has values from 2 to 2, expected \[0, 1\]"),
        ({"last": torch.full((64, 64, 3), torch.nan)}, "last picture has 12288 values that are NaN"),
        ({"last": torch.zeros(64, 48, 3)}, "last picture has shape"),
        ({"last": None, "last_frame": 2}, "last_frame is 2, but there is no second picture"),
        ({"frames": 1}, "number of frames is 1, expected at least 2"),
        ({"points": torch.zeros(0, 3)}, "has no points"),
        ({"points": torch.full((4, 3), torch.nan)}, "points has 12 values"),
        ({"latents": torch.full((1, 4, 4, 8, 8), torch.nan)}, "latents has 1024 values that are NaN"),
        ({"latents": torch.zeros(1, 4, 3, 8, 8)}, "latents has shape"),
        ({"prompt": "a kitchen"}, "prompt is 'a kitchen', but the model folder has no tokenizer"),
        ({"prompt_ids": torch.full((77,), 100)}, "prompt ids reach 100, expected 0 to 99"),
        ({"trajectory": path(3)}, "camera path has 3 poses of 64x64 px, expected 4 of 64x64"),
        ({"fps": 0}, "frames per second are 0"),
        ({"steps": 0}, "number of sampling steps is 0"),
        ({"image_guidance": float("nan")}, "image_guidance is nan"),
    ],
)
def test_refuses(pipeline: Any, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"first": picture(0), "last": picture(1), "steps": 1, **change}
    first, last = arguments.pop("first"), arguments.pop("last")
    with pytest.raises(InvalidInputError, match=message):
        run(pipeline, first, last, **arguments)


def test_nan_in_the_network_is_named(pipeline: Any) -> None:
    weight = pipeline.unet.conv_out.bias
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
        try:
            with pytest.raises(InvalidInputError, match="prediction of the video network at step 999 has 1024 values"):
                run(pipeline, picture(0), picture(1))
        finally:
            weight.copy_(kept)


def test_missing_parts_are_named() -> None:
    pipeline = tiny_pipeline(TINY)
    with pytest.raises(InvalidInputError, match="has no structure_encoder: pass structure_encoder="):
        run(pipeline, picture(0), picture(1), points=points())
    with pytest.raises(InvalidInputError, match="no camera branch"):
        run(pipeline, picture(0), picture(1), trajectory=path())
    pipeline.register_modules(text_encoder=None)
    with pytest.raises(InvalidInputError, match="has no text_encoder"):
        run(pipeline, picture(0), picture(1))
