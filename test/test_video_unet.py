"""The video network: parity with the public code's numbers, branches that start without effect, and its laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from video_models import TINY, arrays, key_list, parity_module, randomize, relative_l2, tiny_unet, unet_inputs

from reconx_ros.core import ConfigError, InvalidInputError
from reconx_ros.diffusion.network.checkpoint_keys import UNET, unet_sources
from reconx_ros.diffusion.network.cost import unet_cost
from reconx_ros.diffusion.network.unet import UNetConfig, VideoUNet

PARITY = UNetConfig(model_channels=32, head_dim=16, context_dim=64)
BRANCHES: dict[str, dict[str, Any]] = {
    "structure": {"structure_dim": 24},
    "camera": {"camera_channels": 8},
    "epipolar": {"epipolar_levels": (1,)},
}


def branch_inputs(batch: int = 1, frames: int = 3, size: int = 8) -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(11)
    cells = (size // 2) ** 2
    mask = torch.rand(batch, frames * cells, 2, cells, generator=generator) > 0.6
    mask[:, 0] = False  # a cell whose lines miss every reference frame
    return {
        "structure": {"structure": torch.randn(batch, 6, 24, generator=generator)},
        "camera": {"rays": torch.randn(batch, frames, 6, 8 * size, 8 * size, generator=generator)},
        "epipolar": {"epipolar": {1: mask}, "reference_frames": (0, frames - 1)},
    }


@pytest.fixture(scope="module")
def parity_unet(reconx_parity: Path) -> VideoUNet:
    fill = parity_module(reconx_parity, "detfill").det_tensor
    shapes = key_list(reconx_parity / "keys" / "dynamicrafter_keys_unet_tiny.txt")
    network = VideoUNet(PARITY).eval()
    sources = unet_sources(PARITY, network.state_dict())
    assert {s.key.removeprefix(UNET) for s in sources.values()} == set(shapes)
    weights = {}
    for name, source in sources.items():
        key = source.key.removeprefix(UNET)
        weights[name] = source.take(torch.from_numpy(fill(key, shapes[key], 0.7, "dc_unet_tiny/")))
    network.load_state_dict(weights)
    return network


@torch.no_grad()
def test_parity_with_image_tokens_per_frame(parity_unet: VideoUNet, reconx_parity: Path) -> None:
    case = arrays(reconx_parity / "dynamicrafter" / "unet_tiny_perframe.npz")
    first = parity_unet.down[0].blocks[0]
    places = {
        "time_embed": parity_unet.time_embedding,
        "fps_embedding": parity_unet.fps_embedding,
        "input0": parity_unet.conv_in,
        "init_attn": parity_unet.init_temporal,
        "input1_res": first.res,
        "input1_spatial": first.spatial,
        "input1": first,
        "middle": parity_unet.mid_res,
        "output0": parity_unet.up[0].blocks[0],
    }
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
        for name, module in places.items()
    ]
    context = case["context"]
    out = parity_unet(
        case["x"],
        case["timesteps"],
        text=context[:, :77],
        image=context[:, 77:].unflatten(1, (case["x"].shape[2], 16)),
        fps=case["fs"],
    )
    for hook in hooks:
        hook.remove()
    assert relative_l2(out, case["y"]) < 1e-4
    compared = {name: relative_l2(seen[name], case[f"inter_{name}"]) for name in places}
    assert max(compared.values()) < 1e-4, compared


@torch.no_grad()
def test_parity_with_shared_image_tokens_and_default_fps(parity_unet: VideoUNet, reconx_parity: Path) -> None:
    case = arrays(reconx_parity / "dynamicrafter" / "unet_tiny_shared.npz")
    context = case["context"]
    out = parity_unet(case["x"], case["timesteps"], text=context[:, :77], image=context[:, 77:])
    assert relative_l2(out, case["y"]) < 1e-4


def test_full_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        network = VideoUNet(UNetConfig())
    assert sum(p.numel() for p in network.parameters()) == 1_438_854_980


@pytest.mark.parametrize("branch", [*BRANCHES, "all"])
@torch.no_grad()
def test_a_new_branch_leaves_the_backbone_bit_for_bit(branch: str) -> None:
    names = list(BRANCHES) if branch == "all" else [branch]
    backbone = tiny_unet()
    config = TINY
    for name in names:
        config = replace(config, **BRANCHES[name])
    extended = VideoUNet(config).eval()
    missing, unexpected = extended.load_state_dict(backbone.state_dict(), strict=False)
    assert missing and not unexpected
    extra = {key: value for name in names for key, value in branch_inputs()[name].items()}
    inputs = unet_inputs()
    assert torch.equal(extended(**inputs, **extra), backbone(**inputs))
    randomize(extended)
    assert not torch.allclose(extended(**inputs, **extra), extended(**inputs), atol=1e-3)


@torch.no_grad()
def test_zero_structure_tokens_are_no_structure_and_masked_ones_do_not_count() -> None:
    network = tiny_unet(replace(TINY, structure_dim=24))
    inputs, tokens = unet_inputs(), branch_inputs()["structure"]["structure"]
    assert torch.equal(network(**inputs, structure=torch.zeros_like(tokens)), network(**inputs))
    mask = torch.tensor([[True, True, True, False, False, False]])
    some = network(**inputs, structure=tokens, structure_mask=mask)
    assert torch.allclose(some, network(**inputs, structure=tokens[:, :3]), atol=1e-5)


@torch.no_grad()
def test_sequences_of_a_batch_do_not_meet() -> None:
    network = tiny_unet(replace(TINY, structure_dim=24))
    inputs = {**unet_inputs(batch=2), **branch_inputs(batch=2)["structure"]}
    both = network(**inputs)
    for k in range(2):
        assert torch.allclose(network(**{n: v[k : k + 1] for n, v in inputs.items()})[0], both[k], atol=1e-5)


@torch.no_grad()
def test_shared_image_tokens_are_the_same_for_every_frame() -> None:
    network, inputs = tiny_unet(), unet_inputs()
    shared = inputs["image"][:, 0]
    repeated = {**inputs, "image": shared[:, None].expand(-1, 3, -1, -1)}
    assert torch.allclose(network(**{**inputs, "image": shared}), network(**repeated), atol=1e-5)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    config = replace(TINY, structure_dim=24)
    network, inputs = tiny_unet(config), {**unet_inputs(frames=2), **branch_inputs(frames=2)["structure"]}
    grads = []
    for network.gradient_checkpointing in (False, True):
        network.zero_grad()
        network(**inputs).square().mean().backward()
        grads.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*grads, strict=True))
    gates = [p.grad for n, p in network.named_parameters() if n.endswith("structure_gate")]
    assert len(gates) == 7 and all(float(g.abs()) > 0 for g in gates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near(dtype: torch.dtype) -> None:
    network, inputs = tiny_unet(), unet_inputs()
    full = network(**inputs)
    halves = {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}
    assert relative_l2(network.to(dtype)(**halves).float(), full) < (0.05 if dtype is torch.bfloat16 else 0.01)


def test_refuses_what_does_not_fit() -> None:
    network, inputs, extra = tiny_unet(), unet_inputs(), branch_inputs()
    for change, message in [
        ({"sample": torch.zeros(1, 8, 3, 7, 8)}, "latents are 8x7, expected width and height to be multiples of 2"),
        ({"text": torch.zeros(1, 5, 31)}, r"text tokens has shape \[1, 5, 31\]"),
        ({"image": torch.zeros(1, 2, 4, 32)}, "image tokens has shape"),
        (extra["structure"], r"no branch for them \(structure_dim is off\)"),
        (extra["camera"], r"no branch for them \(camera_channels is off\)"),
        (extra["epipolar"], r"no branch for them \(epipolar_levels is off\)"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            network(**{**inputs, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_channels": 40}, "model_channels is 40"),
        ({"head_dim": 48}, "expected levels below 2 whose width is a multiple"),
        ({"attention_levels": (2,)}, "expected levels below 2"),
        ({"attention_levels": (0,), "epipolar_levels": (1,)}, "expected a subset"),
    ],
)
def test_refuses_sizes_that_do_not_fit_each_other(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **change)


def test_cost_is_that_of_the_network() -> None:
    short, long = (unet_cost(TINY, frames, 8, 8) for frames in (4, 8))
    assert short.weights == sum(p.numel() for p in VideoUNet(TINY).parameters())
    assert short.weight_bytes == 4 * short.weights
    assert 1.9 < long.flops / short.flops < 2.1
    assert 1.8 < long.activation_bytes / short.activation_bytes < 2.1
    half = unet_cost(TINY, 8, 8, 8, torch.float16)
    assert half.weight_bytes * 2 == long.weight_bytes and half.activation_bytes < 0.6 * long.activation_bytes
