"""The video network: parity with the public code's numbers, branches that start without effect, and its laws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from video_models import TINY, arrays, key_list, parity_module, randomize, relative_l2, tiny_unet, unet_inputs

from reconx_ros.core import ConfigError, InvalidInputError
from reconx_ros.diffusion.network.checkpoint_keys import UNET, unet_sources
from reconx_ros.diffusion.network.cost import unet_cost
from reconx_ros.diffusion.network.unet import UNetConfig, VideoUNet

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


def recorded_network(path: Path, folder: Path) -> VideoUNet:
    """The network of a recorded case, with the weights that depend on their names alone."""
    fill = parity_module(folder, "detfill").det_tensor
    if "full" in path.stem:
        config, salt = UNetConfig(), "dc_full_unet/"
        published = key_list(folder / "keys" / "dynamicrafter_keys_full.txt")
        shapes = {key.removeprefix(UNET): shape for key, shape in published.items() if key.startswith(UNET)}
    else:
        name, sizes = sized_like(path)
        config = UNetConfig(
            model_channels=sizes["model_channels"], head_dim=sizes["num_head_channels"],
            channel_mult=tuple(sizes["channel_mult"]), num_res_blocks=sizes["num_res_blocks"],
            context_dim=sizes["context_dim"], default_fps=sizes["default_fs"],
        )  # fmt: skip
        salt, shapes = f"dc_{name}/", key_list(folder / "keys" / f"dynamicrafter_keys_{name}.txt")
    with torch.device("meta"):
        network = VideoUNet(config).eval()
    sources = unet_sources(config, network.state_dict())
    assert {s.key.removeprefix(UNET) for s in sources.values()} == set(shapes)
    weights = {}
    for name, source in sources.items():
        key = source.key.removeprefix(UNET)
        weights[name] = source.take(torch.from_numpy(fill(key, shapes[key], 0.7, salt)))
    network.load_state_dict(weights, assign=True)
    return network


def sized_like(path: Path) -> tuple[str, dict[str, Any]]:
    """Name and sizes, from the file beside it, of the network whose name a case begins with."""
    described = json.loads((path.parent / "unet_configs.json").read_text())
    name = max((name for name in described if path.stem.startswith(name)), key=len, default=None)
    assert name is not None, f"no network of {path.name} among {sorted(described)}"
    return name, described[name]


@pytest.mark.parametrize("path", parity.recorded("video network"))
@torch.no_grad()
def test_parity_with_the_public_network(path: Path, reconx_parity: Path) -> None:
    """Image tokens for each frame, or shared by all of them; frames per second given, or the default (-1)."""
    case, network = arrays(path), recorded_network(path, reconx_parity)
    first = network.down[0].blocks[0]
    places = {
        "time_embed": network.time_embedding,
        "fps_embedding": network.fps_embedding,
        "input0": network.conv_in,
        "init_attn": network.init_temporal,
        "input1_res": first.res,
        "input1_spatial": first.spatial,
        "input1": first,
        "middle": network.mid_res,
        "output0": network.up[0].blocks[0],
    }
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
        for name, module in places.items()
    ]
    text, image = case["context"][:, :77], case["context"][:, 77:]
    if image.shape[1] > 16:
        image = image.unflatten(1, (case["x"].shape[2], 16))
    fps = case["fs"] if bool((case["fs"] >= 0).all()) else None
    out = network(case["x"], case["timesteps"], text=text, image=image, fps=fps)
    for hook in hooks:
        hook.remove()
    assert relative_l2(out, case["y"]) < 1e-4
    inside = [name for name in places if f"inter_{name}" in case]
    compared = {name: relative_l2(seen[name], case[f"inter_{name}"]) for name in inside}
    assert max(compared.values(), default=0) < 1e-4, compared


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
