"""Global alignment: its laws, what is known, its slow twin, and inputs that cannot be aligned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from alignment_scenes import Errors, Truth, alignment_errors, make_truth, predict

from reconx_ros.core import SE3, CancelledError, CancelToken, InvalidInputError, Job, ReconstructionError, Sim3
from reconx_ros.pointmap.alignment import (
    AlignmentSettings,
    KnownGeometry,
    align,
    align_two_views,
    alignment_loss,
    check_memory,
    estimate_memory,
    to_aligned_views,
    unit_confidence,
)
from reconx_ros.pointmap.alignment.adam import solve_adam
from reconx_ros.pointmap.alignment.graph import connected_parts, spanning_tree
from reconx_ros.pointmap.alignment.initialise import initialise
from reconx_ros.pointmap.alignment.newton import FocalTie, assemble
from reconx_ros.pointmap.alignment.normal_equations import PassSettings, image_pass, minimum_along_rays
from reconx_ros.pointmap.alignment.pair_graphs import pair_graph
from reconx_ros.pointmap.alignment.problem import build_problem
from reconx_ros.pointmap.alignment.state import State
from reconx_ros.pointmap.pairwise import PairPredictions, edge_scores

SIZE = (24, 32)
CPU = torch.device("cpu")
FIELDS = ("pts3d_1", "conf_1", "pts3d_2", "conf_2")


@pytest.fixture(scope="module")
def truth() -> Truth:
    return make_truth(4, SIZE)


@pytest.fixture(scope="module")
def noisy(truth: Truth) -> PairPredictions:
    return predict(truth, noise=0.01, outliers=0.05)


def changed(
    predictions: PairPredictions, change: Callable[[int, int, dict[str, torch.Tensor]], None]
) -> PairPredictions:
    """A copy in which ``change(first, second, maps)`` has edited the maps of each pair."""
    rows = []
    for e, (i, j) in enumerate(predictions.pairs):
        maps = {name: getattr(predictions, name)[e].clone() for name in FIELDS}
        change(i, j, maps)
        rows.append(maps)
    return PairPredictions(pairs=predictions.pairs, **{name: [row[name] for row in rows] for name in FIELDS})


def accurate(errors: Errors, factor: float = 1.0) -> bool:
    return (
        errors.rotation_deg < 0.1 * factor
        and errors.position < 0.01 * factor
        and errors.focal < 2e-3 * factor
        and errors.depth < 0.008 * factor
    )


# What alignment finds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["complete", "swin-2", "logwin-2-noncyclic"])
def test_noisy_pairs_of_cameras_with_different_focal_lengths(graph: str) -> None:
    truth = make_truth(5, SIZE, [30.0, 33.0, 36.0, 39.0, 42.0])
    predictions = predict(truth, pair_graph(5, graph), noise=0.01, outliers=0.05)
    found = align(predictions)
    assert accurate(alignment_errors(found, truth)) and not found.warnings
    assert found.unit_source is None
    mean = np.mean([np.log(w.scale) for w in found.world_from_pairs])
    assert mean == pytest.approx(np.log(0.5), abs=1e-9)
    assert found.loss == pytest.approx(alignment_loss(predictions, found), rel=1e-5)


def test_images_of_different_sizes() -> None:
    wide, tall = make_truth(2, (24, 32)), make_truth(2, (32, 24))
    mixed = Truth(
        cameras=(wide.cameras[0], tall.cameras[1]),
        world_from_cams=wide.world_from_cams,
        depths=(wide.depths[0], tall.depths[1]),
    )
    found = align(predict(mixed, noise=0.005))
    assert [tuple(d.shape) for d in found.depths] == [(24, 32), (32, 24)]
    assert accurate(alignment_errors(found, mixed))


@pytest.mark.parametrize("pairs", [pair_graph(4), pair_graph(4, "oneref", symmetrise=False), [(0, 1), (1, 2), (2, 3)]])
def test_exact_pairs_give_the_exact_scene(truth: Truth, pairs: list[tuple[int, int]]) -> None:
    found = align(predict(truth, pairs))
    errors = alignment_errors(found, truth)
    assert errors.rotation_deg < 1e-3 and errors.focal < 1e-5 and errors.depth < 1e-5
    assert found.loss is not None and found.loss < 1e-5


def test_an_exact_start_is_kept(truth: Truth) -> None:
    found = align(predict(truth))
    assert found.initial_loss is not None and found.loss is not None
    assert found.loss <= found.initial_loss < 1e-5 and found.iterations == (0, 0)


def test_identical_images_stand_at_one_place(truth: Truth) -> None:
    same = Truth(
        cameras=truth.cameras[:1] * 3, world_from_cams=truth.world_from_cams[:1] * 3, depths=truth.depths[:1] * 3
    )
    found = align(predict(same, noise=0.01))
    assert max(p.distance_to(found.world_from_cams[0]) for p in found.world_from_cams) < 0.02
    assert accurate(alignment_errors(found, same), 2)


def test_few_pixels_first_reaches_the_same_minimum() -> None:
    truth = make_truth(3, (48, 64))
    predictions = predict(truth, noise=0.01, outliers=0.05)
    thin = align(predictions, settings=AlignmentSettings(coarse_pixels=500))
    whole = align(predictions, settings=AlignmentSettings(coarse_pixels=10_000))
    assert thin.iterations[1] > 0 == whole.iterations[1]
    assert thin.loss == pytest.approx(whole.loss, rel=1e-4)
    assert accurate(alignment_errors(thin, truth))


# Laws -----------------------------------------------------------------------------------------------------------


def test_order_of_pairs_does_not_matter(noisy: PairPredictions) -> None:
    shuffled = noisy.select([7, 2, 11, 0, 5, 9, 1, 3, 10, 8, 4, 6])
    a, b = align(noisy), align(shuffled)
    assert a.loss == pytest.approx(b.loss, rel=1e-6)
    for p, q in zip(a.world_from_cams, b.world_from_cams, strict=True):
        np.testing.assert_allclose(p.matrix, q.matrix, atol=2e-4)


def test_same_inputs_same_result(noisy: PairPredictions) -> None:
    a, b = align(noisy), align(noisy)
    assert a.loss == b.loss and a.history == b.history
    assert all(torch.equal(p, q) for p, q in zip(a.depths, b.depths, strict=True))


def test_the_unit_of_each_pair_does_not_matter(noisy: PairPredictions) -> None:
    units = {pair: 2.0 ** (k % 5 - 2) for k, pair in enumerate(noisy.pairs)}

    def in_other_units(i: int, j: int, maps: dict[str, torch.Tensor]) -> None:
        maps["pts3d_1"] *= units[i, j]
        maps["pts3d_2"] *= units[i, j]

    a, b = align(noisy), align(changed(noisy, in_other_units))
    growth = np.exp(np.mean(np.log(list(units.values()))))  # the convention on pair scales sets the world's unit
    assert b.loss == pytest.approx(growth * a.loss, rel=1e-4)
    for p, q in zip(a.depths, b.depths, strict=True):
        assert float((q / (growth * p)).median()) == pytest.approx(1, rel=1e-4)


def test_the_frame_of_known_poses_does_not_matter(truth: Truth, noisy: PairPredictions) -> None:
    move = Sim3(scale=3.0, rotation=SE3.exp(np.array([0.4, -1, 2]), np.zeros(3)).rotation, translation=[4e5, -3e6, 9])
    a = align(noisy, known=KnownGeometry(world_from_cams=[*truth.world_from_cams[:2], None, None]))
    b = align(
        noisy, known=KnownGeometry(world_from_cams=[*map(move.apply_pose, truth.world_from_cams[:2]), None, None])
    )
    assert b.loss == pytest.approx(3 * a.loss, rel=1e-4)
    for p, q in zip(a.world_from_cams, b.world_from_cams, strict=True):
        assert move.apply_pose(p).distance_to(q) < 2e-2
        assert move.apply_pose(p).angle_to(q) < 1e-3


# What is known --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [(0, 1, 2, 3), (1, 3), (2,)])
def test_known_poses_and_cameras_are_held(truth: Truth, noisy: PairPredictions, held: tuple[int, ...]) -> None:
    poses = [p if n in held else None for n, p in enumerate(truth.world_from_cams)]
    found = align(noisy, known=KnownGeometry(world_from_cams=poses, cameras=[truth.cameras[0], None, None, None]))
    for pose, given in zip(found.world_from_cams, poses, strict=True):
        if given is not None:
            np.testing.assert_array_equal(pose.matrix, given.matrix)
    assert found.cameras[0] == truth.cameras[0]
    assert found.unit_source == ("poses" if len(held) > 1 else None)
    assert accurate(alignment_errors(found, truth), 3)
    if len(held) > 1:
        for pose, wanted in zip(found.world_from_cams, truth.world_from_cams, strict=True):
            assert pose.distance_to(wanted) < 0.05


def test_known_depth_is_held_or_weighed(truth: Truth, noisy: PairPredictions) -> None:
    known = torch.from_numpy(truth.depths[0]).float()
    known[:5], known[5] = torch.nan, 0
    depths = [known, None, None, None]
    held = align(noisy, known=KnownGeometry(depths=depths))
    assert torch.equal(held.depths[0][6:], known[6:]) and held.unit_source == "depth"
    for depth, wanted in zip(held.depths, truth.depths, strict=True):
        assert float((depth / torch.from_numpy(wanted)).median()) == pytest.approx(1, abs=0.01)
    spoilt = known.clone()
    spoilt[10:12] *= 1.5
    light, heavy = (
        align(noisy, known=KnownGeometry(depths=[spoilt, None, None, None], depth_weight=w)).depths[0]
        for w in (0.5, 99)
    )
    torch.testing.assert_close(heavy[6:], spoilt[6:], rtol=1e-3, atol=0.0)
    assert float((light[10:12] / known[10:12]).median()) == pytest.approx(1, abs=0.02)


# The twin -------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_equal_automatic_differentiation(truth: Truth, noisy: PairPredictions) -> None:
    known = KnownGeometry().for_images(noisy.sizes)
    problem = build_problem(noisy, known)
    start = initialise(noisy, problem, known, edge_scores(noisy))
    still = PassSettings(smoothing=0.0, rounds=0, accumulate=True, lowest_depth=1e-3, device=CPU)
    sums = [image_pass(problem, start.state, n, d, still) for n, d in enumerate(start.depths)]
    bare = [replace(s, schur=0 * s.schur, schur_gradient=0 * s.schur_gradient) for s in sums]
    none = FocalTie(values=np.zeros(4), stiffness=np.zeros(4))
    gradient = assemble(problem, bare, start.state.log_focals, none).gradient
    twin = solve_adam(problem, start.state, start.depths, iterations=0, dtype=torch.float64)
    assert sum(s.loss for s in sums) == pytest.approx(twin.losses[0], rel=1e-5)

    def loss_after(step: np.ndarray) -> float:
        state: State = start.state.moved(step)
        fixed = replace(problem, scale_is_free=False)
        return solve_adam(fixed, state, start.depths, iterations=0, dtype=torch.float64).losses[0]

    for k in [*range(7), *range(21, 28), *range(28, 35), *range(70, 77)]:
        step = np.zeros_like(gradient)
        step[k] = 1e-5
        slope = (loss_after(step) - loss_after(-step)) / 2e-5
        assert gradient[k] == pytest.approx(slope, rel=1e-3, abs=2e-5), k


def test_search_along_rays_equals_a_scan() -> None:
    rng = torch.Generator().manual_seed(1)
    along, across = torch.randn(5, 200, generator=rng), 0.01 * torch.rand(5, 200, generator=rng)
    weights = torch.rand(5, 200, generator=rng)
    lowest = torch.full((200,), -1.0)
    found = minimum_along_rays(along, across, weights, lowest, 30)
    grid = torch.linspace(-1, 4, 20_001)[:, None, None]

    def cost(shift: torch.Tensor) -> torch.Tensor:
        return (weights * (across + (along + shift) ** 2).sqrt()).sum(dim=-2)

    best = cost(grid).amin(dim=0)
    assert bool((found >= -1).all()) and bool((cost(found) <= best + 1e-5).all())


def test_beats_adam_in_far_fewer_passes(noisy: PairPredictions) -> None:
    known = KnownGeometry().for_images(noisy.sizes)
    problem = build_problem(noisy, known)
    start = initialise(noisy, problem, known, edge_scores(noisy))
    slow = solve_adam(problem, start.state, start.depths, iterations=150)
    fast = align(noisy, settings=AlignmentSettings(focal_from_pointmaps=False))
    assert fast.loss is not None and fast.loss < slow.losses[-1] < slow.losses[0]
    assert slow.losses[-1] == pytest.approx(fast.loss, rel=0.02)
    assert sum(fast.passes) < 40


# What cannot be aligned -----------------------------------------------------------------------------------------


def test_unconnected_images_are_named(truth: Truth) -> None:
    with pytest.raises(ReconstructionError, match=r"2 parts that no pair connects \(0, 1 \| 2, 3\)"):
        align(predict(truth, [(0, 1), (1, 0), (2, 3), (3, 2)]))


def test_pairs_without_confidence_are_left_out_until_nothing_connects(noisy: PairPredictions) -> None:
    def unsure(i: int, j: int, maps: dict[str, torch.Tensor]) -> None:
        if (i, j) in {(0, 1), (1, 0)}:
            maps["conf_2"].fill_(1.0)

    found = align(changed(noisy, unsure))
    assert any("2 of 12 pairs have no confident pixels" in w for w in found.warnings) and len(found.pairs) == 10
    with pytest.raises(ReconstructionError, match=r"4 parts that no pair connects \(0 \| 1 \| 2 \| 3\)"):
        align(changed(noisy, lambda i, j, maps: maps["conf_1"].fill_(1.0)))


def test_values_that_are_no_numbers_weigh_nothing(truth: Truth, noisy: PairPredictions) -> None:
    def spoil(i: int, j: int, maps: dict[str, torch.Tensor]) -> None:
        maps["pts3d_1"][2::5, 1::7] = torch.nan
        maps["pts3d_2"][2::5, 1::7] = torch.inf
        maps["conf_1"][0, 0], maps["conf_2"][0, 1] = torch.nan, torch.inf

    found = align(changed(noisy, spoil))
    assert found.loss is not None and np.isfinite(found.loss)
    assert all(bool((c[2::5, 1::7] == 1).all()) for c in found.confidences)
    views = to_aligned_views(found, [torch.zeros(*SIZE, 3)] * 4, [4, 5, 6, 7], backend="test")
    for view, depth in zip(views.views, truth.depths, strict=True):
        assert not bool(view.valid[2::5, 1::7].any())
        ratio = (view.depth / torch.from_numpy(depth))[view.valid]
        assert float((ratio / ratio.median() - 1).abs().median()) < 0.01


def test_pairs_behind_their_own_camera_are_left_out(truth: Truth, noisy: PairPredictions) -> None:
    def mirrored(i: int, j: int, maps: dict[str, torch.Tensor]) -> None:
        if i == 2:
            maps["pts3d_1"].neg_()

    found = align(changed(noisy, mirrored))
    assert any("put most of their first image behind its own camera" in w for w in found.warnings)
    assert accurate(alignment_errors(found, truth), 2)


def test_an_image_that_no_camera_explains_is_named(noisy: PairPredictions) -> None:
    def mirrored(i: int, j: int, maps: dict[str, torch.Tensor]) -> None:
        for side, n in (("pts3d_1", i), ("pts3d_2", j)):
            if n == 2 or i == 2:
                maps[side].neg_()

    with pytest.raises(ReconstructionError, match="image 2 is first in no usable pair"):
        align(changed(noisy, mirrored))


def test_refused_predictions(noisy: PairPredictions) -> None:
    def rebuilt(**other: object) -> None:
        PairPredictions(**{name: other.get(name, getattr(noisy, name)) for name in ("pairs", *FIELDS)})

    for pairs, sentence in (
        ([*noisy.pairs[:-1], (0, 0)], "two different image indices"),
        ([*noisy.pairs[:-1], noisy.pairs[0]], "is there twice"),
        ([(i + 1, j + 1) for i, j in noisy.pairs], "no pair holds image 0"),
        (noisy.pairs[:-1], "one for each of 11 pairs"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            rebuilt(pairs=pairs)
    with pytest.raises(InvalidInputError, match=r"conf_2 of image 0 in pair \(1, 0\) has shape \[3, 3\]"):
        rebuilt(conf_2=[torch.ones(3, 3), *noisy.conf_2[1:]])
    with pytest.raises(InvalidInputError, match="hold no pair"):
        PairPredictions(pairs=[], pts3d_1=[], conf_1=[], pts3d_2=[], conf_2=[])


def test_refused_knowledge_and_settings(truth: Truth, noisy: PairPredictions) -> None:
    small = truth.cameras[0].scaled_to(16, 12)
    for known, sentence in (
        (KnownGeometry(cameras=[small, None, None, None]), "known camera of image 0 is 16x12, expected 32x24"),
        (KnownGeometry(world_from_cams=[None]), "known world_from_cams has 1 entries, expected one for each of 4"),
        (KnownGeometry(depths=[torch.ones(2, 2), None, None, None]), "known depth of image 0"),
        (KnownGeometry(depth_weight=0.0), "depth_weight is 0.0"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            align(noisy, known=known)
    with pytest.raises(InvalidInputError, match="smoothing levels"):
        AlignmentSettings(levels=(0.1, 1.0))
    with pytest.raises(InvalidInputError, match="max_iterations is 0"):
        AlignmentSettings(max_iterations=0)
    with pytest.raises(InvalidInputError, match=r"two views need the pairs \(0, 1\) and \(1, 0\)"):
        align_two_views(noisy)


def test_cancelled_between_images(noisy: PairPredictions) -> None:
    token = CancelToken()
    seen: list[float] = []

    def progress(stage: str, fraction: float, message: str) -> None:
        seen.append(fraction)
        if len(seen) == 6:
            token.cancel()

    with pytest.raises(CancelledError, match="alignment was cancelled"):
        align(noisy, job=Job(stage="alignment", on_progress=progress, token=token))
    assert len(seen) == 6 and seen == sorted(seen)


# Memory, graph, output ------------------------------------------------------------------------------------------


def test_forty_images_fit_two_gigabytes_in_a_window_and_are_refused_completely() -> None:
    sizes = [(384, 512)] * 40
    assert check_memory(pair_graph(40, "swin-2"), sizes, 2.0).total < 2 << 30
    with pytest.raises(
        InvalidInputError, match=r"40 images in 1560 pairs needs about .* expected at most 2 GB: use a sp"
    ):
        check_memory(pair_graph(40), sizes, 2.0)
    assert estimate_memory(pair_graph(40), sizes).predictions == 1560 * 2 * 384 * 512 * 16


def test_a_limit_is_checked_before_the_work_starts(noisy: PairPredictions) -> None:
    calls: list[float] = []
    with pytest.raises(InvalidInputError, match=r"expected at most 0\.01 GB"):
        align(
            noisy,
            settings=AlignmentSettings(max_memory_gb=0.01),
            job=Job(on_progress=lambda s, f, m: calls.append(f)),
        )
    assert not calls


@pytest.mark.slow
def test_forty_small_images_in_a_window() -> None:
    truth = make_truth(40, (9, 12))
    found = align(predict(truth, pair_graph(40, "swin-1-noncyclic"), noise=0.005))
    errors = alignment_errors(found, truth)
    assert errors.rotation_deg < 1 and errors.depth < 0.02


def test_parts_and_tree() -> None:
    assert connected_parts(5, [(3, 1), (4, 3)]) == [[0], [1, 3, 4], [2]]
    pairs = [(0, 1), (1, 2), (2, 0), (3, 2)]
    assert spanning_tree(4, pairs, [1.0, 3.0, 2.0, 0.5]) == [1, 2, 3]
    assert spanning_tree(4, pairs, [1.0] * 4) == [0, 1, 3]


def test_aligned_views_keep_grid_order_and_say_their_scale(truth: Truth, noisy: PairPredictions) -> None:
    pictures = [torch.full((*SIZE, 3), 0.1 * n) for n in range(4)]
    found = align(noisy, known=KnownGeometry(world_from_cams=truth.world_from_cams))
    views = to_aligned_views(found, pictures, [7, 8, 9, 10], backend="dust3r")
    assert views.metric_scale and views.scale_source == "poses" and views.backend == "dust3r"
    assert [v.keyframe_id for v in views.views] == [7, 8, 9, 10]
    assert views.views[0].camera.cx == SIZE[1] / 2
    for view, raw in zip(views.views, found.confidences, strict=True):
        assert bool((view.confidence[view.valid] > 2 / 3).all()) and not bool(view.confidence[~view.valid].any())
        assert bool((raw[view.valid] > 3).all()) and bool(view.valid.any())
    nothing = to_aligned_views(found, pictures, [7, 8, 9, 10], backend="dust3r", min_confidence=99)
    assert sum("no pixel with a confidence above 99" in w for w in nothing.warnings) == 4
    with pytest.raises(InvalidInputError, match="3 images and 4 keyframe ids"):
        to_aligned_views(found, pictures[:3], [7, 8, 9, 10], backend="dust3r")


def test_unit_confidence_is_the_logistic_function() -> None:
    raw = torch.linspace(-6, 6, 25)
    torch.testing.assert_close(unit_confidence(1 + raw.exp()), raw.sigmoid())
    assert float(unit_confidence(torch.tensor(0.0))) == 0
