"""Global alignment against recorded runs of DUSt3R's optimiser, in the folder that RECONX_PARITY names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
from alignment_scenes import Truth, alignment_errors

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.pointmap.alignment import (
    Alignment,
    KnownGeometry,
    align,
    align_two_views,
    alignment_loss,
    clean_confidences,
)
from reconx_ros.pointmap.pairwise import PairPredictions, image_confidences

SLACK = 1.02  # on errors: both solvers end within this of one another's noise


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    name: str
    arrays: dict[str, np.ndarray]
    report: dict[str, Any]

    @property
    def predictions(self) -> PairPredictions:
        maps = {k: torch.from_numpy(self.arrays[k]) for k in ("pts3d", "conf1", "pts3d_in_other_view", "conf2")}
        return PairPredictions(
            pairs=self.arrays["pairs"].tolist(),
            pts3d_1=maps["pts3d"],
            conf_1=maps["conf1"],
            pts3d_2=maps["pts3d_in_other_view"],
            conf_2=maps["conf2"],
        )

    def cameras(self, focals: np.ndarray) -> tuple[PinholeCamera, ...]:
        height, width = self.arrays["conf1"].shape[1:]
        return tuple(
            PinholeCamera(width=width, height=height, fx=float(f), fy=float(f), cx=width / 2, cy=height / 2)
            for f in focals
        )

    def poses(self, name: str) -> tuple[SE3, ...]:
        return tuple(SE3.from_matrix(m) for m in self.arrays[name])

    @property
    def truth(self) -> Truth:
        a = self.arrays
        return Truth(
            cameras=self.cameras(a["gt_focals"]), world_from_cams=self.poses("gt_poses"), depths=tuple(a["gt_depth"])
        )

    @property
    def holds_poses(self) -> bool:
        return "im_poses" not in self.report["trainable"]

    @property
    def known(self) -> KnownGeometry:
        holds_focals = "im_focals" not in self.report["trainable"]
        return KnownGeometry(
            cameras=self.truth.cameras if holds_focals else (),
            world_from_cams=self.truth.world_from_cams if self.holds_poses else (),
        )

    @property
    def upstream(self) -> Alignment:
        a = self.arrays
        return Alignment(
            cameras=self.cameras(a["out_focals"]),
            world_from_cams=self.poses("out_poses"),
            depths=tuple(torch.from_numpy(a["out_depths"])),
            confidences=tuple(torch.from_numpy(a["im_conf"])),
            pairs=(),
            world_from_pairs=(),
            initial_loss=None,
            loss=None,
        )


@pytest.fixture(scope="module")
def cases(reconx_parity: Path) -> list[Case]:
    found = []
    for path in parity.files(reconx_parity, "alignment"):
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
        found.append(Case(name=path.stem, arrays=arrays, report=json.loads(str(arrays["report"]))))
    assert found, f"no alignment cases in {reconx_parity}"
    return found


def test_loss_and_errors_are_no_worse_in_half_the_iterations(cases: list[Case]) -> None:
    optimised = [c for c in cases if "final_loss" in c.report]
    assert optimised
    for case in optimised:
        found = align(case.predictions, known=case.known)
        assert found.loss is not None and found.initial_loss is not None
        assert found.initial_loss >= found.loss, case.name
        assert found.loss <= (1 + 1e-6) * case.report["final_loss"], case.name
        assert found.loss == pytest.approx(alignment_loss(case.predictions, found), rel=1e-5, abs=1e-7), case.name
        assert sum(found.passes) <= case.report["niter"] / 2, case.name
        ours, theirs = alignment_errors(found, case.truth), case.report["eval"]
        assert ours.depth <= SLACK * theirs["depth_absrel_mean"], case.name
        if case.holds_poses:
            for pose, given in zip(found.world_from_cams, case.truth.world_from_cams, strict=True):
                np.testing.assert_array_equal(pose.matrix, given.matrix)
            continue
        assert ours.rotation_deg <= SLACK * theirs["rot_err_deg_max"], case.name
        assert ours.position <= SLACK * theirs["trans_err_max"], case.name
        assert ours.focal <= SLACK * theirs["focal_relerr_max"], case.name


def test_two_view_shortcut_equals_the_recorded_one(cases: list[Case]) -> None:
    viewed = [c for c in cases if "final_loss" not in c.report]
    assert viewed
    for case in viewed:
        found = align_two_views(case.predictions)
        np.testing.assert_allclose([c.fx for c in found.cameras], case.arrays["out_focals"], rtol=1e-5)
        for pose, wanted in zip(found.world_from_cams, case.arrays["out_poses"], strict=True):
            np.testing.assert_allclose(pose.matrix, wanted, atol=1e-5)
        for depth, wanted in zip(found.depths, case.arrays["out_depths"], strict=True):
            np.testing.assert_allclose(depth, wanted, rtol=1e-5)


def test_fused_and_cleaned_confidences_equal_the_recorded_ones(cases: list[Case]) -> None:
    for case in cases:
        fused = torch.stack(image_confidences(case.predictions)).numpy()
        np.testing.assert_array_equal(fused, case.arrays["im_conf"])
        cleaned = torch.stack(clean_confidences(case.upstream)).numpy()
        wanted = case.arrays["im_conf_cleaned"]
        assert (cleaned > 0).any() and ((cleaned > 0) != (wanted > 0)).mean() < 1e-3, case.name
