"""Models that strong pairs contradict lose the image that is wrong."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from pointmap_scenes import look_at, pinhole

from reconx_ros.core import SE3
from reconx_ros.pointmap.matching.features import Features, Matches
from reconx_ros.pointmap.sfm.mapping import Calibration, IncrementalMapper, SparseModel
from reconx_ros.pointmap.sfm.plausibility import contradicted_pairs, explained_matches
from reconx_ros.pointmap.sfm.recover import _without_contradicted
from reconx_ros.pointmap.sfm.two_view import estimate

POINTS = 150
CAMERA = pinhole(320, 240)
POSES = [look_at((0.0, 0.4 * i, 0.3 * (i % 2)), (4.0, 0.6, 0.2)).inverse() for i in range(4)]


@pytest.fixture(scope="module")
def mapper() -> IncrementalMapper:
    """Four images that all see the same points, to 0.3 pixels."""
    rng = np.random.default_rng(0)
    world = rng.uniform([3.0, -0.6, -0.7], [5.0, 1.8, 1.1], (POINTS, 3))
    features = []
    for pose in POSES:
        seen = pose.apply(world)
        uv = seen[:, :2] / seen[:, 2:] * [CAMERA.fx, CAMERA.fy] + [CAMERA.cx, CAMERA.cy]
        uv += rng.normal(0, 0.3, uv.shape)
        features.append(Features(uv=uv, camera=CAMERA))
    index = np.tile(np.arange(POINTS)[:, None], (1, 2))
    same = Matches(index=index, ratio=np.linspace(0.1, 0.7, POINTS))
    pairs = {(a, b): estimate(features[a], features[b], candidates=same) for a, b in combinations(range(4), 2)}
    return IncrementalMapper(features, pairs, Calibration(group=np.full(4, -1), sigma=0.0))


@pytest.fixture(scope="module")
def model(mapper: IncrementalMapper) -> SparseModel:
    return mapper.models()[0]


def test_a_true_model_keeps_all_its_images(mapper: IncrementalMapper, model: SparseModel) -> None:
    assert sorted(model.cam_from_world) == [0, 1, 2, 3]
    assert contradicted_pairs(mapper, model) == []
    support = explained_matches(mapper, model)
    matches = sum(len(pair.matches) for pair in mapper.pairs.values())
    assert sum(support.values()) > 0.95 * 2 * matches and min(support.values()) > 2 * POINTS
    assert _without_contradicted(mapper, model) is model


@pytest.mark.parametrize("image", range(4))
def test_the_image_that_is_wrong_goes_with_its_observations(
    mapper: IncrementalMapper, model: SparseModel, image: int
) -> None:
    turned = SE3.exp(np.array([0.2, 0.2, 0.3]), np.zeros(3)) @ model.cam_from_world[image]
    wrong = replace(model, cam_from_world={**model.cam_from_world, image: turned})
    assert set(contradicted_pairs(mapper, wrong)) == {pair for pair in mapper.pairs if image in pair}
    support = explained_matches(mapper, wrong)
    assert min(support, key=lambda i: support[i]) == image
    kept = _without_contradicted(mapper, wrong)
    assert sorted(kept.cam_from_world) == [i for i in range(4) if i != image]
    mine = mapper.tracks.image == image
    assert not kept.observations[mine].any() and np.array_equal(kept.observations[~mine], wrong.observations[~mine])
