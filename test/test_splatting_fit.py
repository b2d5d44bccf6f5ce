"""The optimisation of stage 3 on tiny scenes."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from splatting_scenes import cameras, random_gaussians, scene_from, sequence_of, wall_views

from reconx_ros.core import (
    BackendUnavailableError,
    CancelledError,
    CancelToken,
    ConfigError,
    GaussianScene,
    InvalidInputError,
    Job,
    Provenance,
    ReconstructionError,
    ViewSequence,
)
from reconx_ros.splatting import select
from reconx_ros.splatting.attribution import attribute, blending_weights
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.base import Rendering
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.fit import FitCancelledError, FitResult, fit
from reconx_ros.splatting.init import initial_scene
from reconx_ros.splatting.parameters import SceneParameters
from reconx_ros.splatting.select import select_rasterizer
from reconx_ros.splatting.targets import training_views

CPU = torch.device("cpu")
SMALL = SplattingConfig(steps=40, max_gaussians=500, rasterizer="reference")


def run(views: Any, sequence: ViewSequence, config: SplattingConfig = SMALL, **options: Any) -> FitResult:
    rasterizer = options.pop("rasterizer", ReferenceRasterizer())
    return fit(initial_scene(views, config), sequence, config, rasterizer=rasterizer, device=CPU, **options)


def test_fit_improves_the_pictures() -> None:
    views = wall_views()
    sequence = sequence_of(views)
    before = run(views, sequence, replace(SMALL, steps=0))
    after = run(views, sequence)
    assert before.psnr_inputs is not None and after.psnr_inputs is not None
    assert after.psnr_inputs > before.psnr_inputs + 5 and after.psnr_inputs > 30
    assert len(after.losses) == 40 and np.mean(after.losses[-5:]) < 0.5 * np.mean(after.losses[:5])
    assert after.terms == {"l1": "on", "ssim": "on", "lpips": "unavailable", "depth": "off"}
    assert set(after.seconds) == {"prepare", "render", "loss", "backward", "optimizer", "attribution"}
    assert bool((after.scene.provenance == Provenance.OBSERVED).all()) and len(after.scene) == len(before.scene)


def test_same_seed_same_result() -> None:
    views, config = wall_views(), replace(SMALL, steps=6)
    first, again, other = (run(views, sequence_of(views), config, seed=s) for s in (3, 3, 6))
    assert first.losses == again.losses and torch.equal(first.scene.means, again.scene.means)
    assert first.losses != other.losses


def test_unit_of_the_world_does_not_matter() -> None:
    views, config = wall_views(count=2), replace(SMALL, steps=5)
    small, sequence = initial_scene(views, config), sequence_of(views)

    def bigger(pose: Any) -> Any:
        return type(pose)(rotation=pose.rotation, translation=8 * pose.translation)

    large = replace(small, means=8 * small.means, log_scales=small.log_scales + np.log(8))
    far = tuple(replace(v, world_from_cam=bigger(v.world_from_cam)) for v in sequence.views)
    a = fit(small, sequence, config, rasterizer=ReferenceRasterizer(), device=CPU)
    b = fit(large, replace(sequence, views=far), config, rasterizer=ReferenceRasterizer(), device=CPU)
    assert b.losses == pytest.approx(a.losses, rel=1e-3)


def test_unknown_pixels_have_no_weight() -> None:
    views, config = wall_views(), replace(SMALL, steps=5)
    hole = (slice(8, 20), slice(10, 30))

    def with_hole(sequence: ViewSequence, colour: float) -> ViewSequence:
        changed = []
        for v in sequence.views:
            provenance, rgb = v.provenance.clone(), v.rgb.clone()
            provenance[hole], rgb[hole] = 0, colour
            changed.append(replace(v, provenance=provenance, rgb=rgb))
        return replace(sequence, views=tuple(changed))

    black, white = (run(views, with_hole(sequence_of(views), c), config) for c in (0.0, 1.0))
    assert black.losses == white.losses


def test_views_shrink_to_the_training_size() -> None:
    sequence = sequence_of(wall_views(width=40, height=32))
    view = training_views(sequence, replace(SMALL, max_size=20), CPU)[0]
    assert view.camera.size == (20, 16) and view.target.rgb.shape == (16, 20, 3)
    assert torch.allclose(view.target.rgb[0, 0], sequence.views[0].rgb[:2, :2].mean(dim=(0, 1)), atol=1e-6)


def test_generated_views_count_as_configured_and_confidence_can_be_ignored() -> None:
    sequence = sequence_of(wall_views(confidence=0.4), inputs=1)
    config = replace(SMALL, observed_weight=2.0, generated_weight=0.5)
    weights = [float(v.target.weight.mean()) for v in training_views(sequence, config, CPU)]
    assert weights == pytest.approx([0.8, 0.2, 0.2])
    plain = training_views(sequence, replace(config, use_confidence=False), CPU)
    assert [float(v.target.weight.mean()) for v in plain] == pytest.approx([2.0, 0.5, 0.5])


def test_gaussians_that_no_camera_saw_are_generated() -> None:
    views = wall_views(count=2)
    sequence = sequence_of(views, inputs=1)
    scene = initial_scene(views, SMALL)
    behind = scene.select(torch.arange(len(scene)) % 5 == 0)
    behind = replace(behind, means=behind.means + torch.tensor([0.0, 0.0, 2.0]))  # hidden by the wall
    both = type(scene).concatenate([scene, behind])
    both = replace(both, logit_opacities=torch.full((len(both),), 6.0))
    out = attribute(both, training_views(sequence, SMALL, CPU), ReferenceRasterizer())
    kinds = out.provenance[: len(scene)]
    unseen = out.provenance[len(scene) :] == Provenance.GENERATED
    assert float((kinds == Provenance.OBSERVED).float().mean()) > 0.9 and float(unseen.float().mean()) > 0.9
    only_generated = replace(sequence, views=sequence.views[1:])
    out = attribute(scene, training_views(only_generated, SMALL, CPU), ReferenceRasterizer())
    assert bool((out.provenance == Provenance.GENERATED).all())


def kinds_of(scene: GaussianScene, sequence: ViewSequence) -> list[int]:
    out = attribute(scene, training_views(sequence, SMALL, CPU), ReferenceRasterizer())
    return [int(k) for k in out.provenance]


def one_gaussian(depth: float, *, length: float = 0.02, along: int = 0) -> GaussianScene:
    """On the axis of the first camera of ``flat_wall``, whose wall is 3 away; longest along one axis of the world."""
    arguments = random_gaussians(1, bases=1)
    arguments["means"] = torch.tensor([[0.0, 0.0, depth]])
    arguments["scales"] = torch.full((1, 3), 0.02)
    arguments["scales"][0, along] = length
    arguments["quats_wxyz"] = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    arguments["opacities"] = torch.tensor([0.9])
    return scene_from(arguments)


def flat_wall(**changes: Any) -> ViewSequence:
    sequence = sequence_of(wall_views(count=1, slant=0.0))
    return replace(sequence, views=(replace(sequence.views[0], **changes),))


@pytest.mark.parametrize(
    ("depth", "kind"),
    [
        (3.0, Provenance.OBSERVED),
        (3.14, Provenance.OBSERVED),
        (2.86, Provenance.OBSERVED),
        (3.16, Provenance.GENERATED),  # behind what was measured: hidden
        (2.84, Provenance.INFERRED),  # in the air before it, in its colour: debris, however well the picture looks
        (1.0, Provenance.INFERRED),
        (-1.0, Provenance.GENERATED),  # behind the camera
    ],
)
def test_a_gaussian_is_observed_only_within_five_per_cent_of_measured_surface(depth: float, kind: Provenance) -> None:
    assert kinds_of(one_gaussian(depth), flat_wall()) == [kind]


@pytest.mark.parametrize("unit", [0.01, 1.0, 300.0])
def test_the_unit_of_the_world_does_not_change_kinds(unit: float) -> None:
    view = flat_wall().views[0]
    assert view.depth is not None
    for depth, kind in ((3.1, Provenance.OBSERVED), (2.7, Provenance.INFERRED)):
        one = one_gaussian(depth)
        scaled = replace(one, means=unit * one.means, log_scales=one.log_scales + math.log(unit))
        assert kinds_of(scaled, flat_wall(depth=unit * view.depth)) == [kind]


def test_what_was_not_measured_is_inferred_where_a_camera_saw_it() -> None:
    view = flat_wall().views[0]
    inferred = torch.full_like(view.provenance, int(Provenance.INFERRED))
    assert view.depth is not None and view.depth_confidence is not None
    unsure = torch.full_like(view.depth_confidence, 0.49)
    for unmeasured in (
        flat_wall(provenance=inferred),  # placed by a guess
        flat_wall(provenance=inferred, depth=torch.zeros_like(view.depth)),  # no depth at all
        flat_wall(depth_confidence=unsure),  # measured, but more likely wrong than right
    ):
        assert kinds_of(one_gaussian(3.0), unmeasured) == [Provenance.INFERRED]
    assert kinds_of(one_gaussian(3.0), flat_wall(depth_confidence=unsure + 0.01)) == [Provenance.OBSERVED]


def test_what_sticks_out_of_the_surface_is_not_observed() -> None:
    assert kinds_of(one_gaussian(3.0, length=0.3, along=0), flat_wall()) == [Provenance.OBSERVED]  # lies in the wall
    assert kinds_of(one_gaussian(3.0, length=0.3, along=2), flat_wall()) == [Provenance.INFERRED]  # a thorn


def test_what_hides_behind_an_inferred_gaussian_was_seen_by_nobody() -> None:
    view = flat_wall().views[0]
    unmeasured = flat_wall(provenance=torch.full_like(view.provenance, int(Provenance.INFERRED)))
    front, back = one_gaussian(2.0, length=0.02), one_gaussian(2.5)
    front = replace(front, log_scales=front.log_scales + 3.5, logit_opacities=torch.tensor([7.0]))
    both = GaussianScene.concatenate([front, back])
    assert kinds_of(both, unmeasured) == [Provenance.INFERRED, Provenance.GENERATED]


def test_confidence_comes_from_the_pixels() -> None:
    views = wall_views(count=2, confidence=0.7)
    scene = attribute(
        initial_scene(views, SMALL), training_views(sequence_of(views), SMALL, CPU), ReferenceRasterizer()
    )
    shown = scene.confidence > 0
    assert float(shown.float().mean()) > 0.95
    assert torch.allclose(scene.confidence[shown], torch.full_like(scene.confidence[shown], 0.7), atol=1e-3)


def test_blending_weights_sum_to_alpha() -> None:
    arguments, view = random_gaussians(50, bases=1), training_views(sequence_of(wall_views()), SMALL, CPU)[0]
    weights = blending_weights(scene_from(arguments), view, ReferenceRasterizer())
    camera = {**cameras(1, 40, 32), "cam_from_world": view.cam_from_world, "intrinsics": view.intrinsics}
    picture = ReferenceRasterizer().render(**arguments, **camera, antialiased=True)
    assert float(weights[:, 2].sum()) == pytest.approx(float(picture.alpha.sum()), rel=1e-4)


def test_unsure_positions_step_further() -> None:
    scene = replace(scene_from(random_gaussians(2)), confidence=torch.tensor([0.0, 1.0]))
    parameters = SceneParameters.of(scene, 2.0, CPU)
    assert float(parameters.reach[1]) == 2.0 and float(parameters.reach[0]) > 2.0


def test_cancelled_fit_hands_over_what_it_has() -> None:
    views, token = wall_views(), CancelToken()
    fractions: list[float] = []

    def on_progress(stage: str, fraction: float, message: str) -> None:
        fractions.append(fraction)
        if fraction >= 0.5:
            token.cancel()

    job = Job(stage="splatting", on_progress=on_progress, token=token)
    with pytest.raises(CancelledError, match="splatting was cancelled") as caught:
        run(views, sequence_of(views), job=job)
    assert isinstance(caught.value, FitCancelledError)
    partial = caught.value.partial
    assert fractions == sorted(fractions) and 0 < len(partial.losses) < 40
    assert not torch.equal(partial.scene.means, initial_scene(views, SMALL).means)
    assert partial.psnr_inputs is None


def test_whoever_looks_sees_the_first_view_come_out() -> None:
    views = wall_views()
    seen: list[np.ndarray] = []
    result = run(views, sequence_of(views), job=Job(stage="splatting", on_preview=lambda show: seen.append(show())))
    truth = views.views[0].rgb.numpy()
    assert len(seen) >= 2 and all(s.dtype == np.uint8 and s.shape == truth.shape for s in seen)
    errors = [float(np.abs(picture / 255 - truth).mean()) for picture in seen]
    assert errors[-1] < errors[0] and len(result.losses) == 40


class Broken(ReferenceRasterizer):
    """Renders NaN after a few pictures."""

    name = "broken"
    pictures = 0

    def render(self, **arguments: Any) -> Rendering:
        out = super().render(**arguments)
        self.pictures += 1
        return replace(out, rgb=out.rgb * (float("nan") if self.pictures > 3 else 1.0))


def test_loss_that_is_no_number_stops_with_one_sentence() -> None:
    views = wall_views()
    with pytest.raises(ReconstructionError, match="the loss became nan at step 3 of 40, expected a finite number"):
        run(views, sequence_of(views), rasterizer=Broken())


def test_bad_inputs_are_one_sentence() -> None:
    views = wall_views()
    with pytest.raises(InvalidInputError, match="view sequence is empty"):
        run(views, replace(sequence_of(views), views=()))
    with pytest.raises(InvalidInputError, match="none of the 3 views has a pixel of positive weight"):
        run(views, sequence_of(wall_views(confidence=0.0)))
    scene = initial_scene(views, SMALL)
    scene.means[3, 1] = float("nan")
    with pytest.raises(InvalidInputError, match="gaussian means has 1 values that are NaN"):
        fit(scene, sequence_of(views), SMALL, rasterizer=ReferenceRasterizer(), device=CPU)


def test_no_gaussians_and_one_pixel_images() -> None:
    views = wall_views(count=2, width=1, height=1)
    scene = initial_scene(views, SMALL)
    one = fit(scene, sequence_of(views), replace(SMALL, steps=3), rasterizer=ReferenceRasterizer(), device=CPU)
    assert len(one.losses) == 3
    nothing = scene.select(torch.zeros(len(scene), dtype=torch.bool))
    empty = fit(nothing, sequence_of(views), SMALL, rasterizer=ReferenceRasterizer(), device=CPU)
    assert len(empty.scene) == 0 and empty.losses == ()


def test_several_views_per_step_and_the_depth_term() -> None:
    views = wall_views()
    config = replace(SMALL, steps=3, batch_views=2, weight_depth=0.1, sh_degree=0)
    out = run(views, sequence_of(views), config, perceptual=lambda a, b: (a - b).square().mean())
    assert out.terms["depth"] == "on" and out.terms["lpips"] == "on" and len(out.losses) == 3


def test_auto_says_what_it_chose(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_missing", lambda name: "it is not built" if name == "native" else None)
    with caplog.at_level(logging.INFO):
        assert select_rasterizer(SplattingConfig(), CPU).name == "reference"
    assert "chose reference" in caplog.text and "it is not built" in caplog.text


def test_named_rasterizer_must_exist_and_run() -> None:
    assert select_rasterizer(SMALL, CPU).name == "reference"
    with pytest.raises(ConfigError, match="unknown rasterizer 'nativ', the nearest known one is 'native'"):
        select_rasterizer(replace(SMALL, rasterizer="nativ"), CPU)
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="gsplat"):
            select_rasterizer(replace(SMALL, rasterizer="gsplat"), CPU)
