"""Guessed depth where none was found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.geometry.completion import complete_depth


def grey(height: int, width: int) -> torch.Tensor:
    return torch.full((height, width, 3), 0.5)


def plane(height: int, width: int) -> torch.Tensor:
    """A slanted plane: inverse depth is linear in the pixel."""
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return 1 / (0.5 - 0.004 * u + 0.003 * v)


def test_a_plane_is_continued() -> None:
    truth = plane(48, 64)
    weight = torch.ones_like(truth)
    weight[12:34, 20:44] = 0
    found = complete_depth(torch.where(weight > 0, truth, 1.0), weight, grey(48, 64), flatness=0.0, bending=1e-2)
    assert torch.allclose(found, truth, rtol=5e-3)


def test_known_depth_stays_and_guesses_stay_in_its_range() -> None:
    rng = torch.Generator().manual_seed(1)
    depth = 1 + 4 * torch.rand(40, 52, generator=rng)
    weight = (torch.rand(40, 52, generator=rng) < 0.05).float()
    weight[0, 0] = 1
    found = complete_depth(depth, weight, torch.rand(40, 52, 3, generator=rng))
    known = weight > 0
    assert torch.allclose(found[known], depth[known], rtol=0.1)
    assert float(found.min()) >= float(depth[known].min()) - 1e-5
    assert float(found.max()) <= float(depth[known].max()) + 1e-5


def test_surfaces_end_at_the_edges_of_the_image() -> None:
    """A near object on the left, a far wall on the right; depth known in the outer columns only."""
    rgb, depth, weight = grey(32, 64), torch.full((32, 64), 1.0), torch.zeros(32, 64)
    rgb[:, :32], rgb[:, 32:] = 0.2, 0.9
    depth[:, 60:] = 4.0
    weight[:, :4] = weight[:, 60:] = 1
    found = complete_depth(depth, weight, rgb)
    jumps = (found[:, 1:] / found[:, :-1]).log().abs()
    assert bool((jumps.argmax(dim=1) == 31).all()) and float(jumps[:, 31].min()) > 4 * float(jumps[:, :31].max())
    assert float(found[:, :10].max()) < 1.2 and float(found[:, 54:].min()) > 3


def test_it_is_the_minimum_of_the_stated_energy() -> None:
    """The energy of the docstring, written out with one image colour, has no slope at the result."""
    rng = np.random.default_rng(0)
    x0, weight = rng.uniform(0.4, 0.6, (9, 11)), rng.uniform(0, 1, (9, 11)) * (rng.random((9, 11)) < 0.4)
    flatness, bending = 0.05, 0.1
    unit = float(np.median(1 / x0[weight > 0]))

    def energy(x: torch.Tensor) -> torch.Tensor:
        total = (torch.from_numpy(weight) * (x - unit * torch.from_numpy(x0)) ** 2).sum()
        for y in (x, x.T):
            first = y[:, 1:] - y[:, :-1]
            total = total + flatness * (first**2).sum() + bending * ((first[:, 1:] - first[:, :-1]) ** 2).sum()
        return total

    found = complete_depth(
        torch.from_numpy(1 / x0).float(),
        torch.from_numpy(weight).float(),
        grey(9, 11),
        flatness=flatness,
        bending=bending,
    )
    x = (unit / found).double()
    inside = (x > x.min()) & (x < x.max())  # the ends may be clamped
    x.requires_grad_()
    (slope,) = torch.autograd.grad(energy(x), x)
    assert bool(inside.sum() > 90) and float(slope[inside].abs().max()) < 2e-3


def test_the_unit_of_depth_does_not_matter() -> None:
    depth, weight = plane(30, 40), (torch.arange(1200).reshape(30, 40) % 7 == 0).float()
    near, far = (complete_depth(k * depth, weight, grey(30, 40)) for k in (1.0, 1000.0))
    assert torch.allclose(1000 * near, far, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (2, 3), (37, 2)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    weight = torch.zeros(size)
    weight[-1, -1] = 1
    assert torch.allclose(complete_depth(torch.full(size, 3.0), weight, grey(*size)), torch.tensor(3.0))


def test_nothing_known_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="no pixel is known"):
        complete_depth(torch.full((4, 5), torch.nan), torch.ones(4, 5), grey(4, 5))
    with pytest.raises(InvalidInputError, match="weight"):
        complete_depth(torch.ones(4, 5), torch.ones(5, 4), grey(4, 5))
