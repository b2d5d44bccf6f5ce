"""Laws of the pairwise pointmap network, its batched inference, its memory estimate and its image preparation."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from dust3r_networks import random_images, relative_l2, small_config, small_network
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reconx_ros.core import CancelledError, CancelToken, ConfigError, InvalidInputError, Job, PinholeCamera
from reconx_ros.core.precision import dtype_from_precision
from reconx_ros.pointmap.network.blocks import CrossAttention, Rotary, SelfAttention, grid_positions
from reconx_ros.pointmap.network.heads import points_and_confidence
from reconx_ros.pointmap.network.inference import predict_pairs
from reconx_ros.pointmap.network.memory import PairMemoryPlan, decode_bytes, encode_bytes, plan_memory
from reconx_ros.pointmap.network.model import PairOutput, PointmapNetwork
from reconx_ros.pointmap.network.preprocess import plan_grid, prepare_image

MAPS = ("pts3d_1", "conf_1", "pts3d_2", "conf_2")
SIZES = [(32, 48), (48, 32), (32, 48), (24, 40)]
PAIRS = [(0, 1), (1, 0), (0, 2), (2, 0), (3, 1), (1, 3), (2, 1)]


@pytest.fixture(scope="module")
def network() -> PointmapNetwork:
    return small_network()


def rotated_plainly(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    """Readable twin of Rotary: every pair of features turned on its own."""
    out = x.clone()
    half = x.shape[-1] // 2
    for axis in range(2):
        for k in range(half // 2):
            a, b = axis * half + k, axis * half + k + half // 2
            angle = positions[:, axis] * base ** (-2 * k / half)
            out[..., a] = x[..., a] * angle.cos() - x[..., b] * angle.sin()
            out[..., b] = x[..., b] * angle.cos() + x[..., a] * angle.sin()
    return out


def attended_plainly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Readable twin of fused attention."""
    return ((q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def test_rotary_turns_each_pair_of_features() -> None:
    positions = grid_positions(3, 5)
    x = torch.randn(2, 3, 15, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Rotary(positions, 8, 100.0)(x), rotated_plainly(x, positions, 100.0), atol=1e-6)


def test_rotary_products_depend_on_the_offset_only() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(1, 8, generator=generator), torch.randn(1, 8, generator=generator)
    first, second, shift = torch.tensor([[2.0, 5.0]]), torch.tensor([[7.0, 1.0]]), torch.tensor([[11.0, 4.0]])

    def product(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((Rotary(a, 8, 100.0)(q) * Rotary(b, 8, 100.0)(k)).sum())

    assert product(first, second) == pytest.approx(product(first + shift, second + shift), abs=1e-4)
    assert product(first, second) != pytest.approx(product(first, second + shift), abs=1e-3)


def test_attention_equals_its_plain_twin_with_gradients() -> None:
    torch.manual_seed(0)
    cross, own = CrossAttention(16, 2).double(), SelfAttention(16, 2).double()
    x, y = (torch.randn(2, n, 16, dtype=torch.float64, requires_grad=True) for n in (6, 8))
    grids = grid_positions(2, 3), grid_positions(2, 4)
    rotaries = [Rotary(grid, 8, 100.0) for grid in grids]

    def heads(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (2, 8)).transpose(1, 2)

    def plain() -> torch.Tensor:
        q, k, v = (heads(part) for part in own.qkv(x).chunk(3, dim=-1))
        turned = [rotated_plainly(part, grids[0], 100.0) for part in (q, k)]
        within = own.proj(attended_plainly(*turned, v).transpose(1, 2).flatten(2))
        q, k = (
            rotated_plainly(heads(cross.projq(x)), grids[0], 100.0),
            rotated_plainly(heads(cross.projk(y)), grids[1], 100.0),
        )
        return within + cross.proj(attended_plainly(q, k, heads(cross.projv(y))).transpose(1, 2).flatten(2))

    fused = own(x, rotaries[0]) + cross(x, y, *rotaries)
    slow = plain()
    assert relative_l2(fused.detach(), slow.detach()) < 1e-5
    weights = torch.randn_like(fused)
    for a, b in zip(
        torch.autograd.grad((fused * weights).sum(), [x, y]),
        torch.autograd.grad((slow * weights).sum(), [x, y]),
        strict=True,
    ):
        assert relative_l2(a, b) < 1e-5


def test_points_and_confidence_of_raw_outputs() -> None:
    raw = torch.tensor([0.0, 3.0, 4.0, -2.0]).reshape(1, 4, 1, 1)
    points, confidence = points_and_confidence(raw)
    assert points.flatten().tolist() == pytest.approx([0.0, 0.6 * math.expm1(5), 0.8 * math.expm1(5)], rel=1e-5)
    assert float(confidence) == pytest.approx(1 + math.exp(-2))
    at_zero, _ = points_and_confidence(torch.zeros(1, 4, 1, 1))
    assert at_zero.abs().max() == 0


def test_a_batch_is_its_members(network: PointmapNetwork) -> None:
    first, second = random_images(3, 32, 48), random_images(3, 32, 48, seed=1)
    together = network(first, second)
    for n in range(3):
        alone = network(first[n : n + 1], second[n : n + 1])
        for name in MAPS:
            assert relative_l2(getattr(alone, name)[0], getattr(together, name)[n]) < 1e-5


def test_equal_branches_make_the_pair_symmetric(network: PointmapNetwork) -> None:
    twin = small_network()
    twin.dec_blocks2, twin.downstream_head2 = twin.dec_blocks, twin.downstream_head1
    first, second = random_images(1, 32, 48), random_images(1, 48, 32, seed=1)
    there, back = twin(first, second), twin(second, first)
    assert relative_l2(there.pts3d_1, back.pts3d_2) < 1e-6
    assert relative_l2(there.conf_2, back.conf_1) < 1e-6
    distinct = network(first, second).pts3d_1
    assert relative_l2(distinct, network(second, first).pts3d_2) > 1e-2


@pytest.mark.parametrize(
    ("shape", "told"), [((1, 3, 30, 48), "48x30"), ((1, 1, 32, 48), "1, 32, 48]"), ((3, 32, 48), "[B, 3, H, W]")]
)
def test_network_refuses_other_images(network: PointmapNetwork, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(InvalidInputError, match="network image") as error:
        network(torch.zeros(shape), torch.zeros(shape))
    assert told in str(error.value)


def plan(images: int, pairs: int) -> PairMemoryPlan:
    return PairMemoryPlan(images_at_a_time=images, pairs_at_a_time=pairs, peak_bytes=0, budget_bytes=0)


def image_list() -> list[torch.Tensor]:
    return [random_images(1, *size, seed=n)[0] for n, size in enumerate(SIZES)]


@pytest.mark.parametrize(("images_at_a_time", "pairs_at_a_time"), [(1, 1), (2, 3), (16, 16)])
def test_inference_equals_one_pair_after_the_other(
    network: PointmapNetwork, images_at_a_time: int, pairs_at_a_time: int
) -> None:
    images = image_list()
    found = predict_pairs(network, images, PAIRS, plan(images_at_a_time, pairs_at_a_time))
    assert list(found.pairs) == PAIRS
    for e, (i, j) in enumerate(PAIRS):
        alone: PairOutput = network(images[i][None], images[j][None])
        for name in MAPS:
            assert relative_l2(getattr(found, name)[e], getattr(alone, name)[0]) < 1e-5


def test_inference_encodes_each_image_once(network: PointmapNetwork) -> None:
    encoded = 0

    def count(_: Any, inputs: tuple[torch.Tensor]) -> None:
        nonlocal encoded
        encoded += len(inputs[0])

    hook = network.patch_embed.register_forward_pre_hook(count)
    predict_pairs(network, image_list(), PAIRS, plan(4, 4))
    hook.remove()
    assert encoded == len(SIZES)


def test_inference_stops_when_cancelled(network: PointmapNetwork) -> None:
    token = CancelToken()
    seen: list[float] = []

    def report(stage: str, fraction: float, message: str) -> None:
        seen.append(fraction)
        if message.startswith("decoding pair 3"):
            token.cancel()

    with pytest.raises(CancelledError):
        predict_pairs(network, image_list(), PAIRS, plan(1, 1), job=Job(stage="x", on_progress=report, token=token))
    assert seen == sorted(seen) and seen[-1] < 1


def test_half_precision_is_close(network: PointmapNetwork) -> None:
    exact = predict_pairs(network, image_list(), PAIRS, plan(4, 4))
    half = predict_pairs(network, image_list(), PAIRS, plan(4, 4), precision="bfloat16")
    errors = [relative_l2(a, b) for a, b in zip(half.pts3d_2, exact.pts3d_2, strict=True)]
    assert 0 < max(errors) < 0.05
    assert half.pts3d_1[0].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.05), ("float16", 0.02)])
def test_gpu_equals_cpu(precision: str, tolerance: float) -> None:
    expected = predict_pairs(small_network(), image_list(), PAIRS, plan(4, 4))
    found = predict_pairs(small_network().to("cuda"), image_list(), PAIRS, plan(4, 4), precision=precision)
    assert max(relative_l2(a, b) for a, b in zip(found.pts3d_2, expected.pts3d_2, strict=True)) < tolerance


def test_precision_names() -> None:
    cpu = torch.device("cpu")
    assert dtype_from_precision("auto", cpu) == torch.float32
    for name in ("float16", "double"):
        with pytest.raises(ConfigError, match=name):
            dtype_from_precision(name, cpu)


class PeakMemory(TorchDispatchMode):
    """Bytes of all tensors made in a block that are alive together, at their highest."""

    def __init__(self, own: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._alive and key not in self._own:
                    self._alive[key] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, key)
                    self.peak = max(self.peak, sum(self._alive.values()))
        return out


@pytest.mark.parametrize(
    ("changes", "size1", "size2"),
    [
        ({"enc_embed_dim": 96, "dec_depth": 10, "head_type": "dpt", "patch_size": 16}, (64, 96), (96, 64)),
        ({"enc_embed_dim": 256, "dec_embed_dim": 192, "dec_depth": 3}, (96, 128), (64, 64)),
    ],
    ids=["dpt", "linear"],
)  # fmt: skip
def test_memory_estimate_bounds_what_is_used(
    changes: dict[str, Any], size1: tuple[int, int], size2: tuple[int, int]
) -> None:
    config = small_config(**{"img_size": (128, 128), **changes})
    with torch.device("meta"):
        network = PointmapNetwork(config)
    network = network.to_empty(device="cpu").requires_grad_(False)
    torch.nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in network.parameters())), network.parameters())
    first, second = network.encode(random_images(1, *size1)), network.encode(random_images(1, *size2))
    with torch.no_grad(), PeakMemory(network.parameters()) as encoding:
        network.encode(random_images(1, *size1))
    with torch.no_grad(), PeakMemory([*network.parameters(), first.tokens, second.tokens]) as decoding:
        network.decode(first, second)
    assert encoding.peak < encode_bytes(config, size1) < 2 * encoding.peak
    assert decoding.peak < decode_bytes(config, size1, size2) < 2.5 * decoding.peak


def test_memory_plan_stays_within_its_budget() -> None:
    config = small_config()
    sizes, pairs = [(32, 48)] * 12, [(i, j) for i in range(12) for j in range(12) if i != j]
    budgets = [7_200_000, 7_500_000, 9_000_000, 10**9]
    plans = [plan_memory(config, 1000, sizes, pairs, budget) for budget in budgets]
    assert all(p.peak_bytes <= budget for p, budget in zip(plans, budgets, strict=True))
    at_a_time = [p.pairs_at_a_time for p in plans]
    assert at_a_time == sorted(at_a_time) and at_a_time[0] < at_a_time[-1]


def test_memory_plan_refuses_what_cannot_fit() -> None:
    with pytest.raises(
        InvalidInputError, match=r"2 images of up to 48x32 px and 2 pairs.* may use 0 MiB.*max_memory_gb"
    ):
        plan_memory(small_config(), 1000, [(32, 48)] * 2, [(0, 1), (1, 0)], 100_000)


@given(
    width=st.integers(40, 3000),
    height=st.integers(40, 3000),
    size=st.sampled_from([96, 224, 256, 512]),
    square=st.booleans(),
)
def test_grid_is_whole_patches_from_the_middle(width: int, height: int, size: int, square: bool) -> None:
    try:
        plan = plan_grid(width, height, size, square_ok=square)
    except InvalidInputError:
        assert max(width, height) / min(width, height) > size / 17
        return
    left, top, right, bottom = plan.box
    w, h = plan.resized
    assert 0 <= left < right <= w and 0 <= top < bottom <= h
    assert abs(left - (w - right)) <= 1 and abs(top - (h - bottom)) <= 1
    if size != 224:
        assert (right - left) % 16 == 0 and (bottom - top) % 16 == 0
        assert max(w, h) == size
    else:
        assert right - left == bottom - top


def test_camera_moves_with_the_image() -> None:
    """A bright spot stays on the ray that the camera gives it."""
    image = np.zeros((100, 300, 3), np.uint8)
    image[40:44, 200:204] = 255
    camera = PinholeCamera(width=300, height=100, fx=250.0, fy=240.0, cx=149.5, cy=49.5)
    prepared = prepare_image(image, 150, camera=camera, patch=8)
    grey = prepared.rgb_u8[..., 0].astype(float)
    v, u = (float((axis * grey).sum() / grey.sum()) for axis in np.indices(grey.shape))
    moved = prepared.camera
    assert moved is not None and (moved.height, moved.width) == prepared.size
    assert (u - moved.cx) / moved.fx == pytest.approx((201.5 - camera.cx) / camera.fx, abs=2e-4)
    assert (v - moved.cy) / moved.fy == pytest.approx((41.5 - camera.cy) / camera.fy, abs=2e-4)


def test_preparation_refuses_what_is_no_image() -> None:
    with pytest.raises(InvalidInputError, match="uint8"):
        prepare_image(np.zeros((32, 32, 3), np.float32), 64)
    with pytest.raises(InvalidInputError, match="2000x20 px becomes 512x5 px"):
        prepare_image(np.zeros((20, 2000, 3), np.uint8), 512)
