"""What a map leaves empty: painted in pictures, marked as unknown, and kept small by the fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from splatting_scenes import pinhole, sequence_of, wall_views

from reconx_ros.core import SE3, InvalidInputError, Provenance
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.fit import _mixed, fit
from reconx_ros.splatting.holes import push_pull
from reconx_ros.splatting.init import initial_scene
from reconx_ros.splatting.render import render_scene

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 16), (33, 2)])
def test_known_pixels_stay_and_one_colour_fills_everything(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    alpha = (torch.rand(size, generator=generator) > 0.7).float()
    alpha[0, 0] = 1
    colour = torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(push_pull(colour * alpha[..., None], alpha), colour.expand(*size, 3))
    rgb = torch.rand(*size, 3, generator=generator)
    filled = push_pull(rgb * alpha[..., None], alpha)
    torch.testing.assert_close(filled[alpha == 1], rgb[alpha == 1])
    assert filled.amin() >= 0 and filled.amax() <= 1


def test_a_hole_takes_the_colours_at_its_rim() -> None:
    rgb = torch.zeros(32, 32, 3)
    rgb[:, :16] = 1.0
    alpha = torch.ones(32, 32)
    alpha[12:20, 12:20] = 0
    filled = push_pull(rgb * alpha[..., None], alpha)
    assert float(filled[12:20, 12].mean()) > 0.7 and float(filled[12:20, 19].mean()) < 0.3
    assert not push_pull(torch.zeros(4, 4, 3), torch.zeros(4, 4)).any()
    with pytest.raises(InvalidInputError, match="picture alpha"):
        push_pull(torch.zeros(4, 4, 3), torch.zeros(4, 5))


def test_painted_pixels_stay_marked_as_unknown() -> None:
    scene = initial_scene(wall_views(), SplattingConfig(max_gaussians=500))
    aside = SE3.exp(np.zeros(3), np.array([2.2, 0.0, 0.0]))
    pair = [(pinhole(40, 32), aside)]
    black, painted = (
        render_scene(scene, pair, rasterizer=ReferenceRasterizer(), device=CPU, fill_holes=fill)[0]
        for fill in (False, True)
    )
    empty = black.alpha < 0.01
    assert 0.2 < empty.mean() < 0.9
    assert black.rgb_u8[empty].max() <= 3 and painted.rgb_u8[empty].min() > 20
    assert (painted.provenance[empty] == int(Provenance.NONE)).all() and not painted.confidence[empty].any()
    np.testing.assert_array_equal(painted.depth, black.depth)
    solid = black.alpha > 0.99
    np.testing.assert_allclose(painted.rgb_u8[solid].astype(int), black.rgb_u8[solid], atol=3)


def test_a_changing_background_makes_dark_things_solid() -> None:
    """A black wall seen before black need not be there at all; before changing colours it must."""
    views = wall_views()
    dark = sequence_of(replace(views, views=tuple(replace(v, rgb=torch.zeros_like(v.rgb)) for v in views.views)))
    shares = []
    for changing in (False, True):
        config = SplattingConfig(
            steps=40, max_gaussians=300, max_size=40, random_background=changing, weight_ssim=0.0, lr_opacity=0.15
        )
        start = initial_scene(views, config)
        start.logit_opacities.fill_(-2.0)
        found = fit(start, dark, config, rasterizer=ReferenceRasterizer(), device=CPU)
        pair = [(v.camera, v.world_from_cam) for v in views.views]
        pictures = render_scene(found.scene, pair, rasterizer=ReferenceRasterizer(), device=CPU)
        shares.append(float(np.mean([p.alpha.mean() for p in pictures])))
    assert shares[1] > shares[0] + 0.2 and shares[1] > 0.8


def test_camera_images_get_their_share_of_the_steps() -> None:
    kinds = [True] * 3 + [False] * 30
    for share, count in ((0.5, 100), (0.25, 50), (1.0, 200), (0.0, 0)):
        picked = list(islice(_mixed(list(range(33)), kinds, share, seed=0), 200))
        assert sum(kinds[i] for i in picked) == count
    picked = list(islice(_mixed(list(range(33)), kinds, 0.5, seed=0), 60))
    assert [sum(i == k for i in picked) for k in range(3)] == [10, 10, 10], "every image alike"
    assert picked == list(islice(_mixed(list(range(33)), kinds, 0.5, seed=0), 60)) != sorted(picked)
    assert set(islice(_mixed([0, 1, 2], kinds, 0.5, seed=0), 30)) == {0, 1, 2}, "without in-between views"
    assert set(islice(_mixed([5, 6], kinds, 0.5, seed=0), 30)) == {5, 6}, "without camera images"
