"""Training examples as they might have been as well: mirrored, cropped, lit otherwise, with less measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from reconx_ros.core import SE3, MatchingEvidence, PinholeCamera
from reconx_ros.pointmap.completion.inputs import CompletionView, without_measurements
from reconx_ros.pointmap.completion.training.examples import ExampleView

_MIRROR = np.diag([-1.0, 1.0, 1.0])
_SENSOR_SHARE = 0.15  # of groups that see a depth sensor instead of stage 1
_ALONE_SHARE = 0.04  # of groups without any measurement
_NO_GRAVITY_SHARE = 0.35  # of groups
_NO_GUESS_SHARE = 0.1  # of views
_DROP_SHARE = 0.6  # of views that lose measured regions
_MIN_MEASURED = 40  # px of a view whose measurements are not thinned further
_EDGE = 0.04  # relative step of depth beside which a sensor sees nothing


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is changed about an example; everything is drawn from its generator.

    Attributes:
        sizes: sizes (width, height) of crops; one is drawn per batch by whoever makes batches.
        colour: deviation of the logarithm of brightness and white balance.
    """

    sizes: tuple[tuple[int, int], ...] = ((256, 192), (192, 144), (224, 160), (160, 160))
    colour: float = 0.15


def augmented(
    views: Sequence[ExampleView], size: tuple[int, int], rng: np.random.Generator, settings: Augmentation
) -> list[ExampleView]:
    """An example changed at random; truth and cameras change with the pictures."""
    if rng.random() < 0.5:
        views = [mirrored(view) for view in views]
    views = [cropped(view, size, rng) for view in views]
    views = [replace(v, given=replace(v.given, rgb=_relit(v.given.rgb, rng, settings.colour))) for v in views]
    kind = rng.random()
    if kind < _SENSOR_SHARE:
        views = [replace(v, given=_by_sensor(v, rng)) for v in views]
    elif kind < _SENSOR_SHARE + _ALONE_SHARE:
        views = [replace(v, given=unmeasured(v.given)) for v in views[:1]]
    else:
        views = [replace(v, given=_less_measured(v.given, rng)) for v in views]
    if rng.random() < _NO_GRAVITY_SHARE:
        views = [replace(v, given=replace(v.given, up_world=None)) for v in views]
    return list(views)


def mirrored(view: ExampleView) -> ExampleView:
    """The world seen in a mirror: left and right exchanged, a valid world of its own."""
    given = view.given
    camera = given.camera
    pose = given.world_from_cam
    evidence = given.evidence
    if evidence is not None:
        evidence = MatchingEvidence(**{name: values.flip(-1) for name, values in vars(evidence).items()})
    return ExampleView(
        truth=view.truth.flip(-1),
        given=CompletionView(
            rgb=given.rgb.flip(1),
            depth=given.depth.flip(-1),
            confidence=given.confidence.flip(-1),
            evidence=evidence,
            camera=replace(camera, cx=camera.width - 1 - camera.cx),
            world_from_cam=SE3(rotation=_MIRROR @ pose.rotation @ _MIRROR, translation=_MIRROR @ pose.translation),
            up_world=None if given.up_world is None else _MIRROR @ given.up_world,
        ),
    )


def cropped(view: ExampleView, size: tuple[int, int], rng: np.random.Generator) -> ExampleView:
    """A window of a view; the whole view where the window is as large."""
    given = view.given
    width, height = (min(a, b) for a, b in zip(size, given.camera.size, strict=True))
    x = int(rng.integers(0, given.camera.width - width + 1))
    y = int(rng.integers(0, given.camera.height - height + 1))
    rows, columns = slice(y, y + height), slice(x, x + width)
    evidence = given.evidence
    if evidence is not None:
        evidence = MatchingEvidence(**{name: values[rows, columns] for name, values in vars(evidence).items()})
    camera = given.camera
    window = PinholeCamera(
        width=width, height=height, fx=camera.fx, fy=camera.fy, cx=camera.cx - x, cy=camera.cy - y
    )  # fmt: skip
    return ExampleView(
        truth=view.truth[rows, columns],
        given=replace(
            given,
            rgb=given.rgb[rows, columns],
            depth=given.depth[rows, columns],
            confidence=given.confidence[rows, columns],
            evidence=evidence,
            camera=window,
        ),
    )


def unmeasured(view: CompletionView) -> CompletionView:
    """The picture alone."""
    zero = torch.zeros_like(view.depth)
    return replace(view, depth=zero, confidence=zero, evidence=None)


def _relit(rgb: torch.Tensor, rng: np.random.Generator, deviation: float) -> torch.Tensor:
    gain = np.exp(deviation * (rng.standard_normal() + 0.4 * rng.standard_normal(3))).astype(np.float32)
    gamma = float(np.exp(deviation * rng.standard_normal()))
    return (rgb.clamp_min(1e-4) ** gamma * torch.from_numpy(gain)).clamp(0, 1)


def smooth_noise(shape: tuple[int, int], rng: np.random.Generator, cells: float) -> np.ndarray:
    """[H, W] float32 of about unit deviation that varies over ``cells`` pixels."""
    rows, columns = (max(2, round(side / cells) + 1) for side in shape)
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def _less_measured(view: CompletionView, rng: np.random.Generator) -> CompletionView:
    """Regions lose their measurement: their depth becomes a poor guess, and no view agrees any more."""
    evidence = view.evidence
    if evidence is None:
        return view
    if rng.random() < _NO_GUESS_SHARE:
        view = replace(view, depth=torch.where(view.measured, view.depth, 0.0))
    if rng.random() > _DROP_SHARE or int(view.measured.sum()) < _MIN_MEASURED:
        return view
    shape = (view.camera.height, view.camera.width)
    noise = smooth_noise(shape, rng, float(rng.uniform(12, 80)))
    lost = torch.from_numpy(noise > np.quantile(noise, 1 - rng.uniform(0.1, 0.95))) & view.measured
    error = rng.uniform(0, 0.3) * smooth_noise(shape, rng, float(rng.uniform(2, 30)))
    guess = view.depth * torch.from_numpy(np.exp(error).astype(np.float32))
    return replace(
        without_measurements(view, lost),
        depth=torch.where(lost, guess, view.depth),
        evidence=MatchingEvidence(
            cost=torch.where(lost, (evidence.cost + float(rng.uniform(0, 0.4))).clamp(0, 1), evidence.cost),
            margin=torch.where(lost, evidence.margin * float(rng.uniform(0, 0.6)), evidence.margin),
            sees=evidence.sees,
            agrees=torch.where(lost, 0.0, evidence.agrees),
            denies=evidence.denies,
        ),
    )


def _by_sensor(view: ExampleView, rng: np.random.Generator) -> CompletionView:
    """The same view by a depth camera: holes at edges, far away, and in patches; errors that grow with depth."""
    truth = view.truth.numpy()
    shape = truth.shape
    step = np.abs(np.diff(truth, axis=1, prepend=truth[:, :1])) + np.abs(np.diff(truth, axis=0, prepend=truth[:1]))
    edge = cv2.dilate((step > _EDGE * np.maximum(truth, 1e-6)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    far = truth > np.quantile(truth, rng.uniform(0.5, 1.0))
    patches = smooth_noise(shape, rng, float(rng.uniform(8, 50))) > rng.uniform(0.0, 1.6)
    hole = edge | patches | far | (truth <= 0) | (rng.random(shape) < 0.02)
    noisy = truth * np.exp(rng.uniform(0, 0.01) * rng.standard_normal(shape) * np.maximum(truth, 0))
    depth = torch.from_numpy(np.where(hole, 0, noisy).astype(np.float32))
    trust = float(rng.uniform(0.6, 1.0))
    return replace(view.given, depth=depth, confidence=torch.where(depth > 0, trust, 0.0), evidence=None)
