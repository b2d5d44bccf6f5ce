"""The folder that ``reconx evaluate SCENE... --out DIR`` writes, and the records in it.

    DIR/metrics.json                 ``Metrics``: every run, the summary, command, versions, machine
    DIR/metrics.md                   tables of PSNR and SSIM
    DIR/metrics.csv                  one line per run, method and protocol (the summary figures, no images)
    DIR/runs/RUN/run.json            ``Run``: written last; a run folder without it was interrupted
    DIR/report.html                  all of it for people (``viz.evaluation_page.write_evaluation_page(DIR)``)
    DIR/runs/RUN/overview.png        inputs, test views, depth, provenance and the map from above; may not exist
    DIR/runs/RUN/inputs/NNNN.png     the input pictures, in the order of ``Run.inputs``
    DIR/runs/RUN/views/NNNN/...      the pictures of test view NNNN, in the order of ``Run.tests``:
        truth.png                    what the camera saw
        observed.png                 white: some input saw the surface, black: none did, grey: no depth tells
        METHOD.png                   picture of a method (``ours``, ``nearest``, ``warped``, ``sparse_3dgs``, ...)
        METHOD_error.png             its error against the truth, mean over the channels, black 0 to yellow >= 0.5
        METHOD_provenance.png        the kinds of its pixels in the colours of ``viz.palette`` (methods with a map only)
        METHOD_confidence.png        grey level 255 * confidence (methods with a map only)

RUN is ``SCENE-3views-given-seed0``: scene, number of inputs, kind of poses, seed. METHOD is the key of a
``MethodResult``; where test poses were optimised, its key ends in ``_optimised``. All pictures of a view have one size.

In JSON an infinite figure is the string "inf", one that does not exist is null. A figure is never 0 because it is
unknown: methods that could not run have a ``status`` other than "ok" and say why in ``message``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 2
METRICS_JSON, METRICS_CSV, METRICS_MD = "metrics.json", "metrics.csv", "metrics.md"
REPORT_HTML, RUN_JSON = "report.html", "run.json"
OVERVIEW_PNG = "overview.png"
OURS, NEAREST, WARPED, SPARSE = "ours", "nearest", "warped", "sparse_3dgs"
BASELINES = (NEAREST, WARPED, SPARSE)
OPTIMISED_SUFFIX = "_optimised"
TRUTH, OBSERVED = "truth", "observed"
LAYERS = ("error", "provenance", "confidence")  # METHOD_LAYER.png


@dataclass(frozen=True, kw_only=True)
class RunSetting:
    """What tells one run from another.

    Attributes:
        scene: name of the scene.
        views: number of input pictures.
        poses: "given", "odometry" or "none".
        seed: of every random choice.
    """

    scene: str
    views: int
    poses: str
    seed: int

    @property
    def folder_name(self) -> str:
        """Name of the run's folder, safe on every file system."""
        scene = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.scene).lstrip(".") or "scene"
        return f"{scene}-{self.views}views-{self.poses}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class EvaluationFolder:
    """Paths of an evaluation."""

    root: Path

    @property
    def metrics_json(self) -> Path:
        """Every run and the summary."""
        return self.root / METRICS_JSON

    @property
    def metrics_csv(self) -> Path:
        """The same figures as a table."""
        return self.root / METRICS_CSV

    @property
    def metrics_md(self) -> Path:
        """Tables of PSNR and SSIM."""
        return self.root / METRICS_MD

    @property
    def report_html(self) -> Path:
        """The page."""
        return self.root / REPORT_HTML

    def run(self, setting: RunSetting) -> RunFolder:
        """Folder of one run."""
        return RunFolder(root=self.root / "runs" / setting.folder_name)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths of one run."""

    root: Path

    @property
    def run_json(self) -> Path:
        """The record; exists when the run is complete."""
        return self.root / RUN_JSON

    @property
    def overview(self) -> Path:
        """One picture of the whole run; may not exist."""
        return self.root / OVERVIEW_PNG

    def input(self, index: int) -> Path:
        """Input picture."""
        return self.root / "inputs" / f"{index:04d}.png"

    def picture(self, index: int, name: str) -> Path:
        """Picture of a test view: ``TRUTH``, ``OBSERVED`` or the key of a method."""
        return self.root / "views" / f"{index:04d}" / f"{name}.png"

    def layer(self, index: int, method: str, layer: str) -> Path:
        """One of ``LAYERS`` of a method's picture; may not exist."""
        return self.picture(index, f"{method}_{layer}")


ViewScore = Mapping[str, float | None]
"""Figures of one picture by the names of ``metrics.METRICS``; None for one that does not exist."""


@dataclass(frozen=True, kw_only=True)
class TestView:
    """A held-out picture.

    Attributes:
        image: its name in the scene.
        distance: of its camera from the nearest input camera, in the unit of the scene's poses.
        distance_relative: the same over the mean distance between input cameras; None where they share one place.
        angle_deg: between its orientation and that input's.
        judged_share: of its pixels in [0, 1] of which depth tells whether an input saw them; 0 where none does.
        observed_share: of these pixels in [0, 1], what an input saw; None without any.
    """

    __test__ = False  # not a test case, whatever its name says

    image: str
    distance: float
    distance_relative: float | None
    angle_deg: float
    judged_share: float
    observed_share: float | None


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method did in one run.

    Attributes:
        key: names its pictures: "ours", a baseline, or a row of the ablation ("no_confidence", ...).
        title: for people.
        kind: "method", "baseline" or "ablation".
        protocol: how the test cameras came into the map: "given poses", "Sim(3)-aligned poses" or "test poses
            optimised".
        status: "ok", "unavailable" (an ingredient is missing here), "refused" (the method says that it cannot) or
            "failed".
        message: why, when not "ok".
        mean: mean over the test views of each figure of ``ViewScore``; a figure that no view has is None.
        views: per test view, in the order of ``Run.tests``.
        seconds: of the work that this method needs beyond what is shared.
        facts: counts and switches: "gaussians", "terms", ...
    """

    key: str
    title: str
    kind: str
    protocol: str = "given poses"
    status: str = "ok"
    message: str = ""
    mean: Mapping[str, float | None] = field(default_factory=dict)
    views: tuple[ViewScore, ...] = ()
    seconds: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One scene in one setting.

    Attributes:
        setting: which.
        protocol: the protocol in words, to be quoted with every figure.
        fingerprint: of everything that the result depends on; a run is skipped when it is equal.
        status, message: as ``MethodResult``; without "ok" there are no methods.
        metric_scale: whether the scene's unit is the metre.
        observed_by: what told observed from unobserved pixels: "sensor depth", "reference depth of all pictures"
            (stereo) or "" (nothing).
        lpips: net and normalisation, or "unavailable: why".
        inputs, tests: names, and the test views.
        methods: "ours" first.
        matchers: names of the matchers of images that found or corrected the input cameras.
        poses: errors of the input poses as stage 1 left them; empty for given poses.
        depth: errors of stage 1's depth; empty without sensor depth.
        cloud: accuracy, completeness and F-score against the truth cloud; empty where that has no metres.
        stages: records of seconds and memory per stage, as in report.json.
        config, versions: what ran.
        warnings: of stages 1 and 2.
        seconds: all of it.
        live: what only running nodes have: coverage over time, latencies, counters (``LiveRecord``); empty elsewhere.
    """

    setting: RunSetting
    protocol: str
    fingerprint: str
    status: str = "ok"
    message: str = ""
    metric_scale: bool = False
    observed_by: str = ""
    lpips: str = ""
    inputs: tuple[str, ...] = ()
    tests: tuple[TestView, ...] = ()
    methods: tuple[MethodResult, ...] = ()
    matchers: tuple[str, ...] = ()
    poses: Mapping[str, Any] = field(default_factory=dict)
    depth: Mapping[str, Any] = field(default_factory=dict)
    cloud: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Mapping[str, Any], ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    live: Mapping[str, Any] = field(default_factory=dict)

    def method(self, key: str) -> MethodResult | None:
        """A method by its key."""
        return next((m for m in self.methods if m.key == key), None)


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One method in one protocol on one scene, over the seeds.

    Attributes:
        scene: name, or "mean" for the mean over scenes that all have the method.
        views, poses, protocol, key, title, kind: as above.
        seeds: how many runs were ok.
        mean: figures of ``MethodResult.mean``, mean over the seeds.
        spread: sample standard deviation over the seeds; empty for one seed.
        status, message: of the first run that was not ok, else "ok".
    """

    scene: str
    views: int
    poses: str
    protocol: str
    key: str
    title: str
    kind: str
    seeds: int
    mean: Mapping[str, float | None]
    spread: Mapping[str, float | None]
    status: str = "ok"
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """metrics.json."""

    runs: tuple[Run, ...]
    summary: tuple[SummaryRow, ...]
    command: str = ""
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    format: int = FORMAT


def as_json(record: Metrics | Run) -> dict[str, Any]:
    """Plain dictionary for JSON: infinite figures as "inf", figures that do not exist as null."""
    out: dict[str, Any] = _plain(asdict(record))
    return out


def run_from_json(document: Mapping[str, Any]) -> Run:
    """The record that ``as_json`` made.

    Raises:
        KeyError, TypeError, ValueError: for a document of another form.
    """
    values = dict(_restored(dict(document)))
    values["setting"] = RunSetting(**values["setting"])
    values["tests"] = tuple(TestView(**t) for t in values["tests"])
    values["methods"] = tuple(_method(m) for m in values["methods"])
    for name in ("inputs", "stages", "matchers", "warnings"):
        values[name] = tuple(values.get(name, ()))
    return Run(**values)


def metrics_from_json(document: Mapping[str, Any]) -> Metrics:
    """The record that ``as_json`` made.

    Raises:
        KeyError, TypeError, ValueError: for a document of another form.
    """
    values = dict(document)
    values["runs"] = tuple(run_from_json(r) for r in values["runs"])
    values["summary"] = tuple(SummaryRow(**_restored(s)) for s in values["summary"])
    return Metrics(**values)


def _method(values: dict[str, Any]) -> MethodResult:
    views = tuple(dict(v) for v in values["views"])
    return MethodResult(**{**values, "views": views})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _restored(value: Any) -> Any:
    """Infinities are numbers again."""
    if isinstance(value, Mapping):
        return {k: _restored(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_restored(v) for v in value]
    return float(value) if value in ("inf", "-inf") else value
