"""Matching cost, aggregation over sources, semi-global smoothing and clean-up against slow readable twins."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reconx_ros.pointmap.stereo.filters import connected_components, median_filter, without_speckles
from reconx_ros.pointmap.stereo.sgm import Smoothness, choose, jump_penalty, parabola_offset, smooth_costs
from reconx_ros.pointmap.stereo.sweep import UNSEEN_COST, BestCosts, inverse_depth_planes
from reconx_ros.pointmap.stereo.zncc import ReferenceWindows, window_sum, zncc_cost

NOISE_VARIANCE = (1.5 / 255) ** 2


def random_images(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape).astype(np.float32))


@given(window=st.integers(1, 16), extra=st.integers(0, 9))
@settings(max_examples=30)
def test_window_sum_equals_a_loop(window: int, extra: int) -> None:
    values = random_images(window, 3, window + extra)
    slow = torch.stack([values[:, i : i + window].sum(dim=1) for i in range(extra + 1)], dim=1)
    torch.testing.assert_close(window_sum(values, window, 1), slow)


def slow_zncc_cost(reference: np.ndarray, warped: np.ndarray, window: int) -> np.ndarray:
    half = window // 2
    out = np.empty(reference.shape)
    for y, x in np.ndindex(reference.shape):
        rows, columns = slice(max(0, y - half), y + half + 1), slice(max(0, x - half), x + half + 1)
        a, b = reference[rows, columns].astype(float), warped[rows, columns].astype(float)
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        zncc = covariance / np.sqrt((a.var() + NOISE_VARIANCE) * (b.var() + NOISE_VARIANCE))
        out[y, x] = (1 - zncc) / 2
    return out


def test_zncc_cost_equals_a_loop() -> None:
    reference, warped = random_images(0, 9, 11), random_images(1, 1, 9, 11)
    fast = zncc_cost(ReferenceWindows.of(reference, 5), warped)[0]
    np.testing.assert_allclose(fast.numpy(), slow_zncc_cost(reference.numpy(), warped[0].numpy(), 5), atol=1e-5)


def test_zncc_cost_ignores_exposure_and_knows_its_extremes() -> None:
    image = random_images(2, 12, 12)
    windows = ReferenceWindows.of(image, 5)
    assert float(zncc_cost(windows, image[None]).max()) < 0.01
    assert float(zncc_cost(windows, 0.5 * image[None] + 0.2).max()) < 0.01
    assert float(zncc_cost(windows, -image[None]).min()) > 0.99
    flat = zncc_cost(windows, torch.full((1, 12, 12), 0.4))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5), atol=1e-3, rtol=0)


@given(seed=st.integers(0, 99), sources=st.integers(1, 5), keep=st.integers(1, 2))
@settings(max_examples=40)
def test_best_costs_equal_a_sort_in_any_order(seed: int, sources: int, keep: int) -> None:
    rng = np.random.default_rng(seed)
    costs, seen = rng.random((sources, 2, 3, 4)), rng.random((sources, 2, 3, 4)) < 0.6
    expected = np.empty((2, 3, 4))
    for index in np.ndindex(2, 3, 4):
        known = sorted(costs[(slice(None), *index)][seen[(slice(None), *index)]])[:keep]
        expected[index] = np.mean(known) if known else UNSEEN_COST
    best = BestCosts(keep)
    for i in rng.permutation(sources):
        best.add(torch.from_numpy(costs[i]), torch.from_numpy(seen[i]))
    np.testing.assert_allclose(best.result().numpy(), expected)


def test_planes_are_even_in_inverse_depth() -> None:
    planes = inverse_depth_planes(0.5, 4.0, 8).reshape(-1)
    np.testing.assert_allclose(1 / planes[[0, -1]].numpy(), [4.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(np.diff(planes.numpy()), 0.25, atol=1e-6)


def slow_path(cost: np.ndarray, image: np.ndarray, step: tuple[int, int], s: Smoothness) -> np.ndarray:
    """One path direction of Hirschmueller's eq. 13, pixel by pixel."""
    count, height, width = cost.shape
    out = np.zeros_like(cost)
    ys = range(height) if step[0] >= 0 else range(height - 1, -1, -1)
    xs = range(width) if step[1] >= 0 else range(width - 1, -1, -1)
    for y in ys:
        for x in xs:
            py, px = y - step[0], x - step[1]
            out[:, y, x] = cost[:, y, x]
            if not (0 <= py < height and 0 <= px < width):
                continue
            before = out[:, py, px]
            p2 = s.p2_min + (s.p2 - s.p2_min) * np.exp(-abs(image[y, x] - image[py, px]) / s.edge)
            for d in range(count):
                options = [before[d], before.min() + p2]
                options += [before[d - 1] + s.p1] if d > 0 else []
                options += [before[d + 1] + s.p1] if d + 1 < count else []
                out[d, y, x] += min(options) - before.min()
    return out


def test_smoothing_equals_the_formula_pixel_by_pixel() -> None:
    cost, image = random_images(3, 5, 6, 7), random_images(4, 6, 7)
    smoothness = Smoothness(p1=0.1, p2=0.6, p2_min=0.2, edge=0.3)
    straight = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    for paths, steps in ((4, straight), (8, [*straight, (1, 1), (1, -1), (-1, 1), (-1, -1)])):
        slow = np.mean([slow_path(cost.numpy(), image.numpy(), step, smoothness) for step in steps], axis=0)
        fast = smooth_costs(cost, image, smoothness, paths=paths)
        np.testing.assert_allclose(fast.numpy(), slow, atol=1e-5)


def test_jumps_are_cheap_across_image_edges() -> None:
    image = torch.zeros(4, 6)
    image[:, 3:] = 1.0
    penalty = jump_penalty(image, 0, 1, Smoothness(p2=0.5, p2_min=0.1))
    assert float(penalty[0, 3]) < 0.11
    assert float(penalty[0, 4]) == 0.5


def test_choice_finds_the_vertex_of_a_parabola_and_its_margin() -> None:
    labels = torch.arange(12.0)[:, None, None]
    volume = 0.01 * (labels - 4.3) ** 2
    choice = choose(volume, volume)
    torch.testing.assert_close(choice.label, torch.full((1, 1), 4.3), atol=1e-4, rtol=0)
    torch.testing.assert_close(choice.margin, volume[7] - volume[4])


def test_parabola_stays_put_at_the_ends_and_on_flat_cost() -> None:
    assert float(parabola_offset(torch.arange(5.0)[:, None, None], torch.zeros(1, 1, dtype=torch.long))) == 0
    assert float(parabola_offset(torch.zeros(5, 1, 1), torch.full((1, 1), 2))) == 0


def slow_components(depth: np.ndarray, mask: np.ndarray, tolerance: float) -> np.ndarray:
    height, width = depth.shape
    label = np.arange(height * width).reshape(height, width)
    seen = np.zeros_like(mask)
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        stack, name = [start], label[start]
        seen[start] = True
        while stack:
            y, x = stack.pop()
            label[y, x] = name
            for b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if not (0 <= b[0] < height and 0 <= b[1] < width and mask[b]) or seen[b]:
                    continue
                if abs(depth[b] - depth[y, x]) <= tolerance * min(depth[b], depth[y, x]):
                    seen[b] = True
                    stack.append(b)
    return label


@given(seed=st.integers(0, 200), share=st.floats(0.1, 1.0))
@settings(max_examples=40)
def test_components_equal_a_flood_fill(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    depth, mask = 1 + 0.1 * rng.integers(0, 3, (9, 13)).astype(np.float32), rng.random((9, 13)) < share
    fast = connected_components(torch.from_numpy(depth), torch.from_numpy(mask), 0.05)
    np.testing.assert_array_equal(fast.numpy(), slow_components(depth, mask, 0.05))


def test_speckles_go_and_surfaces_stay() -> None:
    depth = torch.full((12, 12), 2.0)
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:6] = True  # 72 pixels
    mask[9:11, 2:4] = True  # 4 pixels
    depth[2, 5:7] = 1.0  # 2 pixels in front of the surface
    kept = without_speckles(depth, mask, tolerance=0.02, min_pixels=5)
    assert int(kept.sum()) == 70
    assert not kept[9:11].any()


def test_median_filter_equals_numpy() -> None:
    values = random_images(5, 6, 8)
    padded = np.pad(values.numpy(), 1, mode="edge")
    slow = [[np.median(padded[y : y + 3, x : x + 3]) for x in range(8)] for y in range(6)]
    np.testing.assert_allclose(median_filter(values).numpy(), slow)
