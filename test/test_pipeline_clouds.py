"""Clouds from stage results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from splatting_scenes import wall_views

from reconx_ros.core import SE3, Provenance, SequenceView, ViewSequence
from reconx_ros.geometry.projection import project
from reconx_ros.pipeline.clouds import generated_cloud, pointmap_cloud


def test_the_generated_cloud_is_what_a_model_made_up_where_its_depth_is_known() -> None:
    views = wall_views(2, width=8, height=6)
    camera = views.views[0].camera
    pose = SE3.exp(np.array([0.0, 0.1, 0.0]), np.array([0.11, 0.0, -0.2]))  # beside the second keyframe
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    rgb = torch.stack([columns / 8, rows / 8, torch.zeros(6, 8)], dim=-1)
    provenance = torch.full((6, 8), int(Provenance.GENERATED), dtype=torch.uint8)
    provenance[0] = int(Provenance.OBSERVED)
    depth, confidence = torch.full((6, 8), 2.0), torch.full((6, 8), 0.5)
    depth[1], confidence[2] = 0.0, 0.1
    view = SequenceView(
        rgb=rgb, confidence=confidence, provenance=provenance, camera=camera, world_from_cam=pose, is_input=False,
        depth=depth,
    )  # fmt: skip
    sequence = ViewSequence(views=(replace(view, depth=None), view), backend="test", generates=True)

    cloud = generated_cloud(sequence, views, 0.2)
    assert len(cloud) == 3 * 8  # the last three rows
    assert set(cloud.provenance.tolist()) == {int(Provenance.GENERATED)} and set(cloud.keyframe_ids.tolist()) == {11}
    uv, z = project(torch.from_numpy(pose.inverse().apply(cloud.points)), camera)
    expected = torch.stack([columns[3:], rows[3:]], dim=-1).reshape(-1, 2).double()
    torch.testing.assert_close(uv.double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(z.double(), torch.full((24,), 2.0, dtype=torch.float64), atol=1e-5, rtol=0)
    assert np.array_equal(cloud.rgb_u8, (rgb[3:].reshape(-1, 3) * 255).round().to(torch.uint8).numpy())
    assert len(generated_cloud(replace(sequence, views=(sequence.views[0],)), views, 0.2)) == 0


def test_the_cloud_of_the_pointmaps_is_their_sure_pixels_each_of_its_kind() -> None:
    views = wall_views(2, width=8, height=6, slant=0.4)
    first = views.views[0]
    valid, provenance = first.valid.clone(), first.provenance.clone()
    valid[:, 0], provenance[0], provenance[:, 0] = False, int(Provenance.INFERRED), int(Provenance.NONE)
    unsure = replace(views.views[1], confidence=torch.full((6, 8), 0.3))
    cloud = pointmap_cloud(replace(views, views=(replace(first, valid=valid, provenance=provenance), unsure)), 0.5)
    assert len(cloud) == 6 * 7 and set(cloud.keyframe_ids.tolist()) == {10}
    assert cloud.provenance.tolist() == 7 * [int(Provenance.INFERRED)] + 35 * [int(Provenance.OBSERVED)]
    np.testing.assert_allclose(cloud.points[:, 2], 3 + 0.4 * cloud.points[:, 0], atol=1e-5)  # all on the plane
