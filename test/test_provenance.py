"""How a place is known: the kinds, their majority, what confirms a guess, and the one palette that shows them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from splatting_scenes import wall_views

from reconx_ros.core import BY_TRUST, MEANINGS, InvalidInputError, PointCloud, PointMap, Provenance, check_provenance
from reconx_ros.geometry.kinds import surest_majority
from reconx_ros.geometry.voxel import thin_cloud
from reconx_ros.pipeline.clouds import pointmap_cloud
from reconx_ros.pointmap.stereo.consistency import confirmed
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.init import completed, gaussians_from_pointmaps, random_gaussians
from reconx_ros.viz.page_parts import css_colour
from reconx_ros.viz.palette import KIND_COLOURS, KIND_LEGEND

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.02


def guessed(view: PointMap) -> PointMap:
    return replace(view, provenance=Provenance.INFERRED.where(view.valid))


# The kinds ------------------------------------------------------------------------------------------------------


def test_values_of_old_files_keep_their_meaning() -> None:
    assert [(k.name, int(k)) for k in Provenance] == [("NONE", 0), ("OBSERVED", 1), ("GENERATED", 2), ("INFERRED", 3)]
    assert set(BY_TRUST) == set(Provenance) - {Provenance.NONE} and set(MEANINGS) == set(Provenance)


def test_what_is_no_kind_is_refused() -> None:
    check_provenance("file", np.array([0, 1, 2, 3], np.float32))
    for wrong in (4, -1, 1.5, np.nan):
        with pytest.raises(InvalidInputError, match="file has the provenance"):
            check_provenance("file", np.array([1, wrong], np.float32))


def test_a_pointmap_says_how_each_of_its_depths_is_known_and_of_no_other() -> None:
    view = wall_views(1).views[0]
    unsaid, invented = view.provenance.clone(), view.valid.clone()
    unsaid[3, 4], invented[3, 4] = 0, False
    for changes in ({"provenance": unsaid}, {"valid": invented}):
        with pytest.raises(InvalidInputError, match="provenance is NONE on valid pixels, or is not on others"):
            replace(view, **changes)
    with pytest.raises(InvalidInputError, match="pointmap provenance has type"):
        replace(view, provenance=view.provenance.float())


@given(shares=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_the_majority_is_never_surer_than_what_makes_it_up(shares: list[float]) -> None:
    parts = dict(zip((*BY_TRUST, Provenance.NONE), (torch.tensor([s]) for s in shares), strict=True))
    total = sum(parts.values())
    assert isinstance(total, torch.Tensor)
    kind = Provenance(int(surest_majority(parts, total)))
    if kind == Provenance.NONE:
        assert sum(shares[:3]) <= sum(shares) / 2 + 1e-5
    else:
        rank = BY_TRUST.index(kind)
        assert sum(shares[: rank + 1]) > sum(shares) / 2 - 1e-5  # with all that is surer it makes up most
        assert sum(shares[:rank]) <= sum(shares) / 2 + 1e-5  # which the surer ones alone do not


# Where kinds begin ----------------------------------------------------------------------------------------------


def test_guesses_are_measured_where_two_views_from_two_places_agree() -> None:
    views = wall_views(3)
    first, *others = (guessed(v) for v in views.views)
    right = confirmed(replace(views, views=(first, *others)), TOLERANCE)
    share = [float((v.provenance == int(Provenance.OBSERVED)).float().mean()) for v in right.views]
    assert min(share) > 0.7  # the rest lies outside of the other pictures
    for kept, given_view in zip(right.views, (first, *others), strict=True):
        assert torch.equal(kept.depth, given_view.depth) and torch.equal(kept.confidence, given_view.confidence)
    wrong = replace(first, depth=1.3 * first.depth)
    for lonely in ((first,), (wrong, *others)):
        out = confirmed(replace(views, views=lonely), TOLERANCE).views[0]
        assert bool((out.provenance == int(Provenance.INFERRED)).all())
    twin = replace(first, keyframe_id=99)  # the same place proves nothing
    out = confirmed(replace(views, views=(first, twin)), TOLERANCE).views[0]
    assert bool((out.provenance == int(Provenance.INFERRED)).all())


def test_smooth_guesses_are_inferred_in_pointmaps_and_gaussians() -> None:
    views = wall_views(1)
    view = views.views[0]
    known = torch.ones_like(view.valid)
    known[5:20, 10:30] = False
    holed = replace(
        view, valid=known, provenance=Provenance.OBSERVED.where(known), confidence=torch.where(known, 0.9, 0.0)
    )
    filled = completed(holed, 0.1)
    assert bool(((filled.provenance == int(Provenance.OBSERVED)) == known).all())
    assert bool((filled.provenance[~known] == int(Provenance.INFERRED)).all())
    config = SplattingConfig(max_gaussians=10_000, fill_unsure=True)
    scene = gaussians_from_pointmaps(replace(views, views=(holed,)), config)
    assert torch.equal(scene.provenance, filled.provenance.flatten())
    assert not bool(random_gaussians(views, SplattingConfig(max_gaussians=50)).provenance.any())


def test_points_are_of_the_kind_of_their_pixels() -> None:
    views = wall_views(2)
    mixed = replace(views, views=(views.views[0], guessed(views.views[1])))
    cloud = pointmap_cloud(mixed, 0.5)
    kinds = {10: Provenance.OBSERVED, 11: Provenance.INFERRED}
    assert all((cloud.provenance[cloud.keyframe_ids == i] == kind).all() for i, kind in kinds.items())


def test_a_measured_point_never_gives_way_to_a_surer_guess() -> None:
    kinds = [3, 1, 2, 1, 0, 2]
    cloud = PointCloud(
        points=np.zeros((6, 3), np.float32),
        rgb_u8=np.zeros((6, 3), np.uint8),
        confidence=np.array([0.9, 0.2, 1.0, 0.3, 1.0, 0.8], np.float32),
        provenance=np.array(kinds, np.uint8),
        keyframe_ids=np.arange(6, dtype=np.uint32),
    )
    left = []
    while len(cloud):
        (kept,) = thin_cloud(cloud, 1.0).keyframe_ids
        left.append(int(kept))
        cloud = cloud.select(cloud.keyframe_ids != kept)
    assert left == [3, 1, 0, 2, 5, 4]


# The palette ----------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009),
# severity 1; linear RGB.
VISION = {
    "full": np.eye(3),
    "no red": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "no green": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "no blue": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}
LUMINANCE_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = LUMINANCE_XYZ.sum(axis=1)


def lab(colour: tuple[int, int, int], vision: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour as it is seen."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    ratio = LUMINANCE_XYZ @ (vision @ linear).clip(0, 1) / WHITE
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_all_colour_vision_tells_the_kinds_apart(vision: str) -> None:
    for one, other in itertools.combinations(KIND_COLOURS.values(), 2):
        distance = np.linalg.norm(lab(one, VISION[vision]) - lab(other, VISION[vision]))
        assert distance > 25, (one, other)  # 2.3 is just noticeable side by side


def test_every_kind_has_one_colour_and_words() -> None:
    assert [colour for colour, _ in KIND_LEGEND] == [KIND_COLOURS[k] for k in (*BY_TRUST, Provenance.NONE)]
    assert len(set(KIND_COLOURS.values())) == len(Provenance)


def test_rviz_and_foxglove_show_the_kinds_in_these_colours() -> None:
    """A ramp from observed to inferred, so that both have their colours."""
    low, high = KIND_COLOURS[Provenance.OBSERVED], KIND_COLOURS[Provenance.INFERRED]
    displays = yaml.safe_load((ROOT / "config" / "reconx.rviz").read_text())["Visualization Manager"]["Displays"]
    (ours,) = (d for d in displays if d.get("Channel Name") == "provenance")
    assert (ours["Min Color"], ours["Max Color"]) == tuple("; ".join(map(str, c)) for c in (low, high))
    assert (ours["Min Intensity"], ours["Max Intensity"]) == (Provenance.OBSERVED, Provenance.INFERRED)
    assert ours["Use rainbow"] is False and ours["Autocompute Intensity Bounds"] is False
    panels = json.loads((ROOT / "config" / "foxglove.json").read_text())["configById"].values()
    topics = [t for p in panels for t in p.get("topics", {}).values() if t.get("colorField") == "provenance"]
    for topic in topics:
        assert topic["colorMode"] == "gradient" and topic["gradient"] == [f"{css_colour(c)}ff" for c in (low, high)]
        assert (topic["minValue"], topic["maxValue"]) == (Provenance.OBSERVED, Provenance.INFERRED)
    assert topics


def test_messages_name_the_same_values() -> None:
    for message in ("action/Reconstruct.action", "srv/RenderView.srv"):
        text = (ROOT / message).read_text()
        for kind in Provenance:
            assert f"uint8 PROVENANCE_{kind.name}={kind:d}\n" in text
