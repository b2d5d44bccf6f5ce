"""Farthest point sampling: equal to its slow twin, and its laws."""

from __future__ import annotations

import itertools

import pytest
import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.geometry.sampling import farthest_points, farthest_points_reference


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
def test_equals_its_slow_twin(masked: bool) -> None:
    points = cloud(2, 3, 40)
    mask = torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(1)) > 0.3 if masked else None
    fast = farthest_points(points, 12, mask)
    assert fast.shape == (2, 3, 12)
    assert torch.equal(fast, farthest_points_reference(points, 12, mask))
    assert mask is None or bool(mask.gather(-1, fast).all())


def test_does_not_depend_on_order_place_size_or_turn() -> None:
    points = cloud(200, seed=3)
    chosen = points[farthest_points(points, 20)]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(4))
    assert torch.equal(points[order][farthest_points(points[order], 20)], chosen)
    turn, _ = torch.linalg.qr(cloud(3, seed=5))
    moved = 2.5 * points @ turn.T + torch.tensor([3.0, -1.0, 4.0])
    assert torch.equal(farthest_points(moved, 20), farthest_points(points, 20))


def test_each_choice_is_nearer_than_the_one_before_and_covers_the_cloud() -> None:
    points = cloud(300, seed=6)
    chosen = points[farthest_points(points, 40)]
    gaps = [float(torch.cdist(chosen[k : k + 1], chosen[:k]).min()) for k in range(1, 40)]
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(gaps))
    assert float(torch.cdist(points, chosen).amin(dim=1).max()) <= gaps[-1] + 1e-6


def test_all_points_then_the_first_again() -> None:
    points = cloud(4, seed=7)
    chosen = farthest_points(points, 7)
    assert sorted(chosen[:4].tolist()) == [0, 1, 2, 3]
    assert chosen[4:].tolist() == [int(chosen[0])] * 3
    assert farthest_points(torch.ones(5, 3), 3).tolist() == [0, 0, 0]


def test_a_million_points() -> None:
    points = cloud(1_000_000, seed=9)
    chosen = points[farthest_points(points, 6)]
    gaps = torch.stack([(points - c).norm(dim=-1) for c in chosen])  # [6, P]
    for k in range(1, 6):
        farthest = gaps[:k].amin(dim=0).max()
        assert float((chosen[k] - chosen[:k]).norm(dim=-1).min()) == pytest.approx(float(farthest), rel=1e-6)


def test_masked_points_may_hold_anything() -> None:
    points = cloud(10, seed=8)
    points[4] = torch.nan
    mask = torch.ones(10, dtype=torch.bool)
    mask[4] = False
    assert 4 not in farthest_points(points, 9, mask)
    with pytest.raises(InvalidInputError, match="3 values that are NaN"):
        farthest_points(points, 3)


@pytest.mark.parametrize(
    ("points", "count", "message"),
    [
        (torch.zeros(0, 3), 2, "cloud is empty"),
        (torch.zeros(5, 3), 0, "sample is 0"),
        (torch.zeros(5, 2), 1, r"shape \[5, 2\]"),
    ],
)
def test_refuses(points: torch.Tensor, count: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        farthest_points(points, count)
