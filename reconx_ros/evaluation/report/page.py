"""``report.html`` of an evaluation, made from the files of its folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reconx_ros.core import InvalidInputError
from reconx_ros.core.files import write_bytes
from reconx_ros.evaluation.findings import findings
from reconx_ros.evaluation.layout import FORMAT, EvaluationFolder, Metrics, Run, metrics_from_json
from reconx_ros.evaluation.report.pictures import compared
from reconx_ros.evaluation.report.plots import plots
from reconx_ros.evaluation.report.tables import method_table, summary_tables
from reconx_ros.io.images import read_bytes, read_image
from reconx_ros.viz import page_parts as html
from reconx_ros.viz.compare import SCRIPT

_PICTURES = 600  # on one page; more are left in the folder
_VIEWS_LEAST, _VIEWS_MOST = 3, 12
_LAYERS_PER_VIEW = 9
_OPEN_RUNS = 6


def write_evaluation_page(folder: Path | str) -> Path:
    """Write ``report.html`` into a folder that ``reconx evaluate`` wrote; returns its path.

    Raises:
        InvalidInputError: when the folder holds no evaluation, or one of another format.
        StorageError: when a file cannot be read or written.
    """
    paths = EvaluationFolder(root=Path(folder))
    metrics = read_metrics(paths.metrics_json)
    write_bytes(paths.report_html, evaluation_html(paths, metrics).encode("utf-8"))
    return paths.report_html


def read_metrics(path: Path) -> Metrics:
    """``metrics.json``.

    Raises:
        InvalidInputError: when it is not there, or not of this format.
        StorageError: when it cannot be read.
    """
    if not path.is_file():
        raise InvalidInputError(f"{path.parent} is no evaluation: it has no {path.name}")
    try:
        document = json.loads(read_bytes(path))
        found = document["format"]
        if found == FORMAT:
            return metrics_from_json(document)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise InvalidInputError(f"{path} is not what reconx evaluate writes: {type(err).__name__}: {err}") from None
    raise InvalidInputError(f"{path} has format {found}, expected {FORMAT}: evaluate again")


def evaluation_html(paths: EvaluationFolder, metrics: Metrics) -> str:
    """The page as an HTML document.

    Args:
        paths: where the pictures lie.
        metrics: the figures.
    """
    shown = _shown_runs(metrics.runs)
    views = max(_VIEWS_LEAST, min(_VIEWS_MOST, _PICTURES // max(1, len(shown) * _LAYERS_PER_VIEW)))
    parts = [
        f"<h1>{html.text(_title(metrics.runs))}</h1>",
        html.paragraph(_lead(metrics), "lead"),
        _how_to_read(metrics.runs),
        _result(metrics),
        *(_run(paths, run, views, is_open=k < _OPEN_RUNS) for k, run in enumerate(shown)),
        _left_out(metrics.runs, shown),
        _technical(metrics),
    ]
    return html.page(_title(metrics.runs), parts, script=SCRIPT)


def _title(runs: Sequence[Run]) -> str:
    scenes = list(dict.fromkeys(r.setting.scene for r in runs))
    named = ", ".join(scenes[:3]) + (f" and {len(scenes) - 3} more" if len(scenes) > 3 else "")
    return f"Evaluation of {named}" if scenes else "Evaluation without a run"


def _lead(metrics: Metrics) -> str:
    words = [f"{len(metrics.runs)} {'run' if len(metrics.runs) == 1 else 'runs'}", _duration(metrics.seconds)]
    version = metrics.versions.get("reconx_ros")
    words += [f"reconx_ros {version}"] if version else []
    machine = metrics.machine.get("processor")
    words += [str(machine)] if machine else []
    return " · ".join(w for w in words if w)


def _duration(seconds: float) -> str:
    if seconds <= 0:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _how_to_read(runs: Sequence[Run]) -> str:
    """Two sentences for people who see such a page for the first time."""
    source = "frames of the bag" if any(r.live for r in runs) else "photographs"
    return html.paragraph(
        f"The method saw a few {source}; others were withheld. The map draws a picture from where each of these was "
        "taken, and the two are compared: PSNR in dB (higher is better; below 15 poor, 20 fair, above 25 good) and "
        "SSIM (1 is equal). Baselines are what anybody could do without the method."
    )


def _result(metrics: Metrics) -> str:
    if not metrics.runs:
        return html.findings_list([html.Finding(kind="bad", text="There is no run in this evaluation.")])
    return "<h2>Result</h2>" + summary_tables(metrics)


def _shown_runs(runs: Sequence[Run]) -> list[Run]:
    """The first seed of each setting; one that went well where there is one."""
    chosen: dict[tuple[str, int, str], Run] = {}
    for run in runs:
        key = (run.setting.scene, run.setting.views, run.setting.poses)
        if key not in chosen or (chosen[key].status != "ok" and run.status == "ok"):
            chosen[key] = run
    return list(chosen.values())


def _run(paths: EvaluationFolder, run: Run, views: int, *, is_open: bool) -> str:
    setting = run.setting
    heading = f"{setting.scene}: {setting.views} inputs, poses {setting.poses}"
    overview = paths.run(setting).overview
    parts = [
        html.paragraph(run.protocol, "note"),
        html.findings_list([html.Finding(kind=kind, text=sentence) for kind, sentence in findings(run)]),
        compared(paths.run(setting), run, views),
        method_table(run),
        plots(run),
        html.stages(run.stages),
        _overview(overview),
        html.folded("Configuration of this run", _run_details(run)),
    ]
    body = "\n".join(part for part in parts if part)
    return f"<h2>{html.text(heading)}</h2>{body}" if is_open else _closed(heading, body)


def _closed(heading: str, body: str) -> str:
    return f"<details><summary>{html.text(heading)}</summary>{body}</details>"


def _overview(path: Path) -> str:
    if not path.is_file():
        return ""
    return f"<h3>Overview</h3>{html.figure('', read_image(path))}"


def _run_details(run: Run) -> dict[str, Any]:
    facts = {m.title: dict(m.facts) for m in run.methods if m.facts}
    errors = {"poses": run.poses, "depth": run.depth, "cloud": run.cloud, "methods": facts}
    about = {"inputs": list(run.inputs), "lpips": run.lpips, "observed_by": run.observed_by, "seed": run.setting.seed}
    return _known({**about, **errors, "versions": run.versions, "config": run.config})


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """What says something."""
    return {k: v for k, v in values.items() if not (v is None or v == "" or v == {} or v == [])}


def _left_out(runs: Sequence[Run], shown: Sequence[Run]) -> str:
    count = len(runs) - len(shown)
    said = f"{count} runs with other seeds count in the tables; their pictures lie in runs/ beside this page."
    return html.paragraph(said, "note") if count else ""


def _technical(metrics: Metrics) -> str:
    command = f"<p>Made by <code>{html.text(metrics.command)}</code></p>" if metrics.command else ""
    facts = {"machine": dict(metrics.machine), "versions": dict(metrics.versions)}
    return f"<h2>How it was made</h2>{command}{html.folded('Machine and versions', _known(facts))}"
