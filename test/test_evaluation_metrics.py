"""The table of metrics: a row in it is in every file, table and line, and nothing else needs to know its name."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_folders import run, write_folder

from reconx_ros.evaluation import metrics
from reconx_ros.evaluation.layout import MethodResult, Run, as_json, metrics_from_json, run_from_json
from reconx_ros.evaluation.metrics import METRICS, ComparedPicture, Metric, figure, in_words
from reconx_ros.evaluation.report.page import write_evaluation_page
from reconx_ros.evaluation.report.tables import method_table, summary_tables
from reconx_ros.evaluation.scores import mean_scores, score_picture
from reconx_ros.evaluation.suite import csv_text
from reconx_ros.evaluation.summary import markdown, summarise

TRUTH = np.random.default_rng(0).integers(60, 190, (24, 32, 3), dtype=np.uint8)
BIAS = Metric(
    name="bias",
    title="Brightness error",
    score=lambda c: abs(float(c.picture.mean() - c.truth.mean())),
    unit="%",
    digits=1,
    factor=100.0,
    higher_is_better=False,
    headline=True,
)


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, BIAS))


def scored(seed: int = 0) -> Run:
    """Ours is a little too bright, the baseline much."""
    methods = []
    for key, kind, step in (("ours", "method", 10 + seed), ("nearest", "baseline", 60)):
        views = tuple(score_picture(TRUTH + np.uint8(step), TRUTH, filled=0.5) for _ in range(4))
        methods.append(MethodResult(key=key, title=key, kind=kind, views=views, mean=mean_scores(views)))
    made = run(methods=tuple(methods))
    return replace(made, setting=replace(made.setting, seed=seed))


@pytest.mark.usefixtures("extended")
def test_a_metric_of_one_row_is_in_every_file_table_and_line(tmp_path: Path) -> None:
    made = scored()
    assert made.methods[0].mean["bias"] == pytest.approx(10 / 255)
    rows = list(csv.DictReader(io.StringIO(csv_text([made]))))
    assert [float(row["bias"]) for row in rows] == pytest.approx([10 / 255, 60 / 255], abs=1e-6)
    assert run_from_json(json.loads(json.dumps(as_json(made)))) == made

    seeds = summarise([made, scored(1)])
    assert markdown(seeds).count(" / ") == 4 and f" / {100 * 10.5 / 255:.1f} |" in markdown(seeds)
    table = method_table(made)
    assert "Brightness error, %" in table and '<td class="n best">3.9</td>' in table
    found = metrics_from_json(json.loads(write_folder(tmp_path, made).metrics_json.read_text()))
    assert "below it SSIM, Brightness error" in summary_tables(found) and "<br><small>3.9</small>" in summary_tables(
        found
    )
    assert in_words(made.methods[0].mean).endswith(", Brightness error 3.9 %")
    assert "Brightness error, %" in write_evaluation_page(tmp_path).read_text()


@pytest.mark.usefixtures("extended")
def test_results_from_before_the_row_was_there_are_read(tmp_path: Path) -> None:
    old = run()
    page = write_evaluation_page(write_folder(tmp_path, old).root).read_text()
    assert "Brightness error, %" not in page and "PSNR, dB" in page
    (row, *_) = csv.DictReader(io.StringIO(csv_text([old])))
    assert row["bias"] == "" and float(row["psnr"]) == pytest.approx(old.methods[0].mean["psnr"])
    assert math.isnan(figure(old.methods[0].mean, "bias"))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_the_truth_scores_best(metric: Metric) -> None:
    """No metric of ours is better for another picture than for the truth."""
    perfect = metric.score(ComparedPicture(picture_u8=TRUTH, truth_u8=TRUTH, filled=1.0))
    other = metric.score(ComparedPicture(picture_u8=255 - TRUTH, truth_u8=TRUTH, filled=0.5))
    if perfect is None:
        assert other is None  # no weights of LPIPS, no mask
    else:
        assert metric.best([other, perfect]) == perfect != other


def test_names_are_columns_and_what_is_better_ranks() -> None:
    assert len({m.name for m in METRICS}) == len(METRICS)
    assert [m.name for m in metrics.headlines()] == ["psnr", "ssim"]
    lpips = next(m for m in METRICS if m.name == "lpips")
    assert lpips.best([0.4, None, 0.2]) == 0.2 and lpips.best([None]) is None
    assert in_words({"psnr": 21.546, "ssim": 0.7271, "lpips": None, "psnr_observed": 23.0, "filled": 0.98}) == (
        "21.55 dB, SSIM 0.727, observed 23.00"
    )
