"""Completing stage 1: what is measured stays, what is guessed says so, a second look measures more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from completion_scenes import CAMERA, TINY, WALL_M, left_half, tiny_network, wall_frame, wall_view

from reconx_ros.core import (
    AlignedViews,
    ConfigError,
    Job,
    Keyframe,
    PinholeCamera,
    PointMap,
    Provenance,
    WeightsError,
)
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pipeline.selection import choose_completer
from reconx_ros.pointmap.completion.base import Guess, completer_name, registry
from reconx_ros.pointmap.completion.complete import completed, without_guesses
from reconx_ros.pointmap.completion.inputs import up_direction
from reconx_ros.pointmap.completion.learned import LearnedCompleter, enlarged
from reconx_ros.pointmap.completion.metric_network import MetricNetworkCompleter, fitted
from reconx_ros.pointmap.completion.predict import Prediction, certainty
from reconx_ros.pointmap.completion.smooth import SmoothCompleter
from reconx_ros.pointmap.completion.weights import save_completion
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.guided import guided_depth
from reconx_ros.pointmap.stereo.multiview import multiview_depth
from reconx_ros.weights.cache import ModelCache
from reconx_ros.weights.catalogue import WeightsRow

CPU = torch.device("cpu")
JOB = Job(stage="pointmap")


def sure(chance: float) -> list[torch.Tensor]:
    """Certainties of three views' guesses."""
    return [torch.full((48, 64), chance)] * 3


def aligned(*views: PointMap) -> AlignedViews:
    return AlignedViews(views=views, metric_scale=True, scale_source="poses", backend="test")


class Constant:
    """A completer that always says the same."""

    name = "constant"

    def __init__(self, depth: float, certainty: float = 0.3) -> None:
        self._depth, self._certainty = depth, certainty

    def complete(
        self, views: Sequence[PointMap], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> list[Guess]:
        del config, device, job
        full = torch.full((48, 64), self._depth)
        return [Guess(depth=full, certainty=0 * full + self._certainty, scale=0 * full + 0.1) for _ in views]


def test_measured_stays_measured_and_guesses_say_what_they_are() -> None:
    view = wall_view(0.0, left_half(), evidence=False)
    (found,) = completed(aligned(view), Constant(2.5), PointmapConfig(), device=CPU, job=JOB).views
    known = left_half()
    assert torch.equal(found.depth[known], view.depth[known]) and torch.equal(
        found.confidence[known], view.confidence[known]
    )
    assert bool((found.provenance[known] == int(Provenance.OBSERVED)).all())
    assert bool((found.provenance[~known] == int(Provenance.INFERRED)).all())
    assert bool((found.depth[~known] == 2.5).all()) and torch.allclose(found.confidence[~known], torch.tensor(0.3))
    assert bool(found.valid.all()) and found.guessed is not None and torch.equal(found.guessed, ~known)
    (back,) = without_guesses(aligned(found)).views
    for name in ("valid", "confidence", "provenance"):
        assert torch.equal(getattr(back, name), getattr(view, name))
    assert without_guesses(aligned(view)).views[0] is view


def test_a_guess_that_is_no_number_leaves_the_pixel_empty() -> None:
    view = wall_view(0.0, left_half(), evidence=False)
    (found,) = completed(aligned(view), Constant(float("nan")), PointmapConfig(), device=CPU, job=JOB).views
    assert torch.equal(found.valid, left_half())


def test_without_a_measured_pixel_depth_is_relative_and_said_so() -> None:
    found = completed(aligned(wall_view()), Constant(1.0), PointmapConfig(), device=CPU, job=JOB)
    assert not found.metric_scale and found.scale_source is None
    assert "its unit is arbitrary" in found.warnings[-1]


def test_a_second_look_measures_what_pictures_tell_around_a_guess() -> None:
    views = [wall_view(x) for x in (0.0, 0.25, 0.5)]
    guesses, scales = [torch.full((48, 64), 1.08 * WALL_M)] * 3, [torch.full((48, 64), 0.06)] * 3
    looks = guided_depth(views, guesses, scales, sure(0.8), PointmapConfig(), device=CPU, job=JOB)
    for look in looks:
        error = (look.depth[look.measured] / WALL_M - 1).abs()
        assert float(look.measured.float().mean()) > 0.3 and float((error < 0.02).float().mean()) > 0.95
        assert bool((look.confidence[~look.measured] == 0).all()) and float(look.confidence.max()) <= 0.8
    found = completed(aligned(*views), Constant(1.08 * WALL_M, 0.8), PointmapConfig(), device=CPU, job=JOB).views[1]
    observed = found.provenance == int(Provenance.OBSERVED)
    assert float(observed.float().mean()) > 0.3 and bool(
        (found.provenance[~observed] == int(Provenance.INFERRED)).all()
    )


def test_a_second_look_believes_no_blank_picture_and_no_single_place() -> None:
    blank = [replace(wall_view(x), rgb=torch.full((48, 64, 3), 0.5)) for x in (0.0, 0.25, 0.5)]
    guesses, scales = [torch.full((48, 64), WALL_M)] * 3, [torch.full((48, 64), 0.05)] * 3
    for views in (blank, [wall_view(0.0) for _ in range(3)]):
        looks = guided_depth(views, guesses, scales, sure(0.8), PointmapConfig(), device=CPU, job=JOB)
        assert not any(bool(look.measured.any()) for look in looks)


def test_agreement_around_a_guess_that_is_not_sure_may_be_chance() -> None:
    views = [wall_view(x) for x in (0.0, 0.25, 0.5)]
    guesses, scales = [torch.full((48, 64), WALL_M)] * 3, [torch.full((48, 64), 0.05)] * 3
    looks = guided_depth(views, guesses, scales, sure(0.4), PointmapConfig(), device=CPU, job=JOB)
    assert not any(bool(look.measured.any()) for look in looks)


def test_a_view_that_shares_nothing_is_not_looked_at() -> None:
    views = [wall_view(x) for x in (0.0, 0.25, 40.0)]
    guesses, scales = [torch.full((48, 64), WALL_M)] * 3, [torch.full((48, 64), 0.05)] * 3
    assert not guided_depth(views, guesses, scales, sure(0.8), PointmapConfig(), device=CPU, job=JOB)[2].measured.any()


def test_stereo_tells_its_evidence() -> None:
    keyframes = [Keyframe(id=k, frame=wall_frame(0.25 * k), sharpness=1.0) for k in range(3)]
    found = multiview_depth(keyframes, PointmapConfig(), device=CPU, job=JOB, backend="multiview")
    for view in found.views:
        evidence = view.evidence
        assert evidence is not None
        assert bool(((evidence.cost >= 0) & (evidence.cost <= 1)).all()) and bool((evidence.sees <= 2).all())
        assert bool((evidence.agrees[view.valid] >= 1).all()) and bool((evidence.agrees <= evidence.sees).all())


@pytest.mark.parametrize(
    ("axis", "expected"), [("auto", None), ("none", None), ("z", [0, 0, 1]), ("-y", [0, -1, 0]), ("x", [1, 0, 0])]
)
def test_the_axis_against_gravity(axis: str, expected: list[float] | None) -> None:
    found = up_direction(axis)
    assert (found is None) == (expected is None) and (found is None or found.tolist() == expected)


def test_a_smooth_guess_goes_through_what_is_known() -> None:
    views = [wall_view(0.0, left_half()), wall_view(0.1)]
    found = SmoothCompleter().complete(views, PointmapConfig(), device=CPU, job=JOB)
    assert all(torch.allclose(g.depth, torch.tensor(WALL_M), rtol=0.02) for g in found)
    assert bool((found[0].certainty < 0.5).all())
    (alone,) = SmoothCompleter().complete([wall_view()], PointmapConfig(), device=CPU, job=JOB)
    assert bool((alone.depth == 1).all())


def test_a_metric_network_is_fitted_in_scale_and_shift_of_inverse_depth() -> None:
    truth = torch.linspace(1.0, 4.0, 64).expand(48, 64)
    known = torch.zeros(48, 64, dtype=torch.bool)
    known[::3, ::2] = True
    view = replace(wall_view(0.0, known), depth=truth.clone())
    said = 1 / (0.4 / truth + 0.05)  # another scale and shift
    said[0, 1] = torch.nan
    outliers = said.clone()
    outliers[3, :40] = 0.3
    found = fitted(outliers, view)
    clean = torch.isfinite(said)
    clean[3] = False
    assert torch.allclose(found.depth[clean], truth[clean], rtol=0.02)
    assert float(found.certainty[0, 1]) == 0
    unfit = fitted(said, wall_view())
    assert torch.allclose(unfit.depth[1], said[1]) and float(unfit.certainty.max()) < 0.2
    flat = fitted(torch.full((48, 64), 7.0), replace(view, depth=torch.full((48, 64), WALL_M)))
    assert torch.allclose(flat.depth, torch.tensor(WALL_M))
    backwards = fitted(1 / truth, view)  # says far where it is near: no slope fits
    assert bool((backwards.depth > 0).all())


def test_a_metric_network_completes_every_view(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network:
        def depth_m(self, rgb: torch.Tensor, camera: PinholeCamera) -> torch.Tensor:
            assert rgb.shape[:2] == (camera.height, camera.width)
            return torch.full(rgb.shape[:2], 3.0)

    asked: list[str] = []

    def resident(name: str, *rest: object) -> Network:
        asked.append(name)
        return Network()

    monkeypatch.setattr("reconx_ros.pointmap.network.metric_depth.resident_network", resident)
    completer = MetricNetworkCompleter().with_models(ModelCache())
    config = PointmapConfig(completion="metric_network", metric_network="own")
    views = [wall_view(0.0, left_half()), wall_view(0.1)]
    found = completer.complete(views, config, device=CPU, job=JOB)
    assert asked == ["own"] and torch.allclose(found[0].depth, torch.tensor(WALL_M))
    assert bool((found[1].depth == 3).all())


def test_maps_are_enlarged_without_values_between_two_surfaces() -> None:
    depth = torch.ones(4, 8)
    depth[:, 4:] = 3.0
    log_scale = torch.full((4, 8), -3.0)
    camera = PinholeCamera(width=16, height=8, fx=10.0, fy=10.0, cx=7.5, cy=3.5)
    found = enlarged(Prediction(depth=depth, certainty=certainty(log_scale), log_scale=log_scale), camera)
    assert set(found.depth.unique().round(decimals=4).tolist()) == {1.0, 3.0}
    ramp = torch.exp(0.02 * torch.arange(8.0)).expand(4, 8)
    smooth = enlarged(Prediction(depth=ramp, certainty=certainty(log_scale), log_scale=log_scale), camera).depth[0]
    assert len(smooth.unique()) > 8 and torch.allclose(found.scale, torch.tensor(-3.0).exp())


@pytest.fixture
def own_weights(tmp_path: Path) -> PointmapConfig:
    folder = tmp_path / "own"
    folder.mkdir()
    save_completion(folder / "model.safetensors", TINY, tiny_network().state_dict(), {"licence": "Apache-2.0"})
    return PointmapConfig(completion="learned", completion_weights=str(folder))


def test_a_network_of_ones_own_completes_views_of_another_grid(own_weights: PointmapConfig) -> None:
    camera = CAMERA.scaled_to(200, 90)
    view = PointMap(
        rgb=torch.rand(90, 200, 3), depth=torch.full((90, 200), WALL_M), confidence=torch.zeros(90, 200),
        valid=torch.zeros(90, 200, dtype=torch.bool), provenance=torch.zeros(90, 200, dtype=torch.uint8), camera=camera,
        world_from_cam=wall_view().world_from_cam, keyframe_id=1,
    )  # fmt: skip
    black = replace(wall_view(0.1, left_half()), rgb=torch.zeros(48, 64, 3))
    completer = LearnedCompleter()
    found = completer.complete([view, black], own_weights, device=CPU, job=JOB)
    assert [g.depth.shape for g in found] == [(90, 200), (48, 64)]
    assert all(bool((torch.isfinite(g.depth) & (g.depth > 0)).all()) for g in found)
    loaded = completer.load(own_weights, CPU)
    assert (
        completer.load(own_weights, CPU) is loaded
        and completer.with_models(completer._models).load(own_weights, CPU) is loaded
    )


def test_the_pipeline_asks_whom_the_configuration_names(own_weights: PointmapConfig) -> None:
    assert choose_completer(PointmapConfig(completion="none")) is None
    completer = choose_completer(own_weights)
    assert completer is not None and completer.name == "learned"
    with pytest.raises(ConfigError, match="unknown depth completer 'smoth', the nearest known one is 'smooth'"):
        choose_completer(PointmapConfig(completion="smoth"))
    with pytest.raises(WeightsError, match=r"pointmap\.completion_weights is 'nowhere'"):
        LearnedCompleter().load(replace(own_weights, completion_weights="nowhere"), CPU)


def test_progress_of_stage_1_never_goes_back_and_a_wrong_name_costs_no_work(own_weights: PointmapConfig) -> None:
    keyframes = [Keyframe(id=k, frame=replace(wall_frame(0.25 * k), depth_m=None), sharpness=1.0) for k in range(3)]
    told: list[float] = []
    job = Job(stage="pointmap", on_progress=lambda stage, fraction, text: told.append(fraction))
    config = replace(ReconxConfig(), pointmap=own_weights)
    views = Reconstructor(config).align(keyframes, job=job)
    assert told == sorted(told) and told[-1] <= 1 and all(bool(v.valid.all()) for v in views.views)
    told.clear()
    with pytest.raises(ConfigError, match="unknown depth completer 'lerned'"):
        Reconstructor(replace(config, pointmap=replace(own_weights, completion="lerned"))).align(keyframes, job=job)
    assert told == []


def test_auto_is_the_learned_one_where_its_weights_are(
    own_weights: PointmapConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconx_ros.pointmap.completion.learned.catalogue", dict)
    assert completer_name(PointmapConfig()) is None and choose_completer(PointmapConfig()) is None
    assert completer_name(replace(own_weights, completion="auto")) == "learned"
    row = WeightsRow(name="reconx-depth-small", purpose="tests", path=Path(own_weights.completion_weights))
    monkeypatch.setattr("reconx_ros.pointmap.completion.learned.catalogue", lambda: {row.name: row})
    assert "belongs to the package and is gone" in str(LearnedCompleter.absence(PointmapConfig()))
    file = WeightsRow(name=row.name, purpose="tests", path=Path(own_weights.completion_weights) / "model.safetensors")
    monkeypatch.setattr("reconx_ros.pointmap.completion.learned.catalogue", lambda: {row.name: file})
    assert completer_name(PointmapConfig()) == "learned"
    assert set(registry()) >= {"learned", "metric_network", "smooth"}
