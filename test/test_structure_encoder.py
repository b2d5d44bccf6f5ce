"""The structure encoder: its invariances, its chunked attention against the plain one, and its bounded memory."""

from __future__ import annotations

import pytest
import torch
from video_models import randomize

from reconx_ros.core import ConfigError, InvalidInputError
from reconx_ros.diffusion.network.cost import measure
from reconx_ros.diffusion.network.structure_encoder import (
    PointAttention,
    PointEmbedding,
    StructureConfig,
    StructureEncoder,
    normalize_points,
)

CONFIG = StructureConfig(tokens=6, width=32, depth=2, head_dim=16, frequencies=3, chunk=16)


def encoder() -> StructureEncoder:
    network = StructureEncoder(CONFIG)
    randomize(network)
    return network


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


def test_normalized_points_have_their_centre_at_zero_and_unit_mean_distance() -> None:
    points, distance = normalize_points(5 * cloud(2, 50) + 3)
    assert torch.allclose(points.mean(dim=1), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(points.norm(dim=-1).mean(dim=1), torch.ones(2), atol=1e-5)
    assert distance.shape == (2,) and bool((distance > 4).all())


@torch.no_grad()
def test_tokens_do_not_depend_on_order_place_or_size_but_do_on_the_turn() -> None:
    network, points = encoder(), cloud(1, 60)
    tokens = network(points)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(network(points[:, order]), tokens, atol=1e-4)
    assert torch.allclose(network(3 * points + torch.tensor([1.0, -2.0, 5.0])), tokens, atol=1e-3)
    assert not torch.allclose(network(points.roll(1, dims=-1)), tokens, atol=0.1)


@torch.no_grad()
def test_masked_points_count_for_nothing() -> None:
    network, points = encoder(), cloud(1, 40)
    mask = torch.rand(1, 40, generator=torch.Generator().manual_seed(2)) > 0.4
    spoiled = torch.where(mask[..., None], points, torch.nan)
    assert torch.allclose(network(spoiled, mask), network(points[mask][None]), atol=1e-4)


@pytest.mark.parametrize("chunk", [4, 7, 64])
def test_chunked_attention_equals_the_plain_one_in_values_and_gradients(chunk: int) -> None:
    embed, attention = PointEmbedding(2, 32), PointAttention(32, 8)
    randomize(embed), randomize(attention, 1)
    points, mask = cloud(2, 30), torch.rand(2, 30, generator=torch.Generator().manual_seed(3)) > 0.2
    queries = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(4))
    results = []
    for run in (
        lambda q: attention(q, points, mask, embed, chunk),
        lambda q: attention.reference(q, points, mask, embed),
    ):
        q = queries.clone().requires_grad_()
        embed.zero_grad(), attention.zero_grad()
        out = run(q)
        out.square().sum().backward()
        weights = [*embed.parameters(), *attention.parameters()]
        results.append([out.detach(), q.grad, *(w.grad.clone() for w in weights)])
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-3, atol=1e-4)


def test_memory_does_not_grow_with_the_number_of_points() -> None:
    def peak(count: int) -> int:
        def run(network: torch.nn.ModuleList) -> torch.Tensor:
            points = torch.empty(1, count, 3)
            mask = torch.empty(1, count, dtype=torch.bool)
            return network[0](torch.empty(1, 64, 32), points, mask, network[1], 4096)

        build = lambda: torch.nn.ModuleList([PointAttention(32, 16), PointEmbedding(4, 32)])  # noqa: E731
        return measure(build, run, torch.float32).activation_bytes - count * 13

    assert peak(200_000) == peak(20_000)


@torch.no_grad()
def test_a_million_points() -> None:
    network = StructureEncoder(StructureConfig(tokens=4, width=8, depth=1, head_dim=8, frequencies=1, chunk=131072))
    assert bool(torch.isfinite(network(cloud(1, 1_000_000))).all())


@torch.no_grad()
def test_one_point_and_points_that_coincide() -> None:
    network = encoder()
    assert network(torch.tensor([[[1.0, 2.0, 3.0]]])).shape == (1, 1, 32)
    assert bool(torch.isfinite(network(torch.ones(1, 9, 3))).all())


def test_refuses() -> None:
    network = encoder()
    with pytest.raises(InvalidInputError, match="has no points"):
        network(torch.zeros(1, 0, 3))
    with pytest.raises(InvalidInputError, match="no valid point"):
        network(torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(InvalidInputError, match="NaN"):
        network(torch.full((1, 4, 3), torch.nan))
    with pytest.raises(ConfigError, match="width is 30"):
        StructureConfig(width=30)
