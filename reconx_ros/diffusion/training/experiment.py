"""Does the structure condition help? The same small model with the scene's points, and with those of another scene.

Both arms start with the same weights and see the same clips in the same order; they differ in whose points the
structure encoder is given. Scores are measured on clips of rooms that training never sees, with wide baselines. Cameras
are not shown, as in ReconX: the network has to find out from the pictures or from the points where the camera goes.
With the first picture alone (``known=first``) only the points tell it. With both pictures (``known=both``, the setting
of the paper) matching the pictures may be enough, and points help only if they say more. The model that learned with
its own points is also given those of another scene, to see how much it relies on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core import InvalidInputError, Job, StorageError
from reconx_ros.core.figures import Figure
from reconx_ros.core.files import write_text
from reconx_ros.diffusion.training.clips import ClipSource
from reconx_ros.diffusion.training.config import VideoTrainingConfig
from reconx_ros.diffusion.training.model import Prepared
from reconx_ros.diffusion.training.store import StoredClips
from reconx_ros.diffusion.training.trainer import SaveModel, VideoTrainer, VideoTrainingRun
from reconx_ros.learning.state import STATE_FILE

ARMS = {"own points": "own", "another scene's points": "exchanged"}
RELIANCE = "own points in training, another scene's in the test"
METRICS = (
    Figure(name="loss", title="loss", digits=4, higher_is_better=False),
    Figure(name="middle_loss", title="middle_loss", digits=4, higher_is_better=False),
    Figure(name="psnr", title="psnr", unit="dB", digits=4),
    Figure(name="psnr_regression", title="psnr_regression", unit="dB", digits=4),
)
_BLEND = Figure(name="psnr_blend", title="psnr_blend", unit="dB", digits=4)  # of no network: nothing gains by it
_RESULT = "result.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureExperiment:
    """What the experiment is given.

    Attributes:
        config: of each run; its seed and structure are the experiment's to set.
        make_model: a fresh model of a seed.
        save: writes a model.
        clips: file of the training clips, shared by all runs.
        validation: source of held-out clips.
        folder: one folder per run, results.json and results.md.
        seeds: of the runs.
        data: plain values that describe the data.
    """

    config: VideoTrainingConfig
    make_model: Callable[[int], Prepared]
    save: SaveModel
    clips: Path
    validation: ClipSource
    folder: Path
    seeds: Sequence[int] = (0, 1, 2)
    data: Mapping[str, Any] = field(default_factory=dict)

    def run(self, device: torch.device, job: Job) -> dict[str, Any]:
        """All runs, one after the other; those that are done already are not repeated, a cut one goes on.

        Returns:
            What results.json holds: the scores of every run, and ``summarised`` of them.

        Raises:
            InvalidInputError: without seeds.
            CancelledError, StorageError, ReconstructionError: as ``VideoTrainer.fit``.
        """
        if not self.seeds:
            raise InvalidInputError("the experiment has no seeds, expected at least one")
        plan = [(arm, seed) for seed in self.seeds for arm in ARMS]
        rows: dict[str, dict[int, dict[str, float]]] = {name: {} for name in (*ARMS, RELIANCE)}
        for number, (arm, seed) in enumerate(plan):
            part = job.part(number / len(plan), (number + 1) / len(plan), f"{arm}, seed {seed}: ")
            found = self._one(arm, seed, device, part)
            for name, scores in found.items():
                rows[name][seed] = scores
            self._write(rows)
        return self._write(rows)

    def _one(self, arm: str, seed: int, device: torch.device, job: Job) -> dict[str, dict[str, float]]:
        """Scores of one run, under the names that they have in the table."""
        folder = self.folder / f"{ARMS[arm]}_{seed}"
        config = replace(self.config, seed=seed, structure=ARMS[arm])
        run = VideoTrainingRun(
            config=config,
            prepared=self.make_model(seed),
            save=self.save,
            train=StoredClips(self.clips, seed),
            validation=self.validation,
            folder=folder,
            data=self.data,
        )
        done = _read(folder / _RESULT)
        if done is not None and done["settings"] == _plain(run.settings()):
            return dict(done["scores"])
        folder.mkdir(parents=True, exist_ok=True)
        trainer = VideoTrainer(run, device, resume=(folder / STATE_FILE).is_file())
        trainer.fit(job)
        scores = {arm: trainer.validate()}
        if ARMS[arm] == "own":
            scores[RELIANCE] = trainer.validate("exchanged")
        _save(folder / _RESULT, {"settings": run.settings(), "scores": scores, "seconds": trainer.seconds})
        return scores

    def _write(self, rows: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
        report = {"scores": rows, "data": dict(self.data), **summarised(rows)}
        _save(self.folder / "results.json", report)
        write_text(self.folder / "results.md", as_markdown(report))
        return report


def summarised(rows: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
    """Means and spreads over the seeds.

    Args:
        rows: name of the arm to seed to scores.

    Returns:
        ``mean`` and ``spread`` (sample standard deviation; None for one seed) of each metric by arm, and under
        ``gain`` what own points are better by, seed by seed: its mean, spread, and in how many seeds it is positive.
    """
    own, other = (rows[name] for name in ARMS)
    shared = sorted(set(own) & set(other))
    gains = {
        m.name: [m.gain(own[seed][m.name], other[seed][m.name]) for seed in shared]
        for m in METRICS
        if _has(rows, m.name)
    }
    return {
        "mean": {arm: {m: float(np.mean(v)) for m, v in _columns(seeds).items()} for arm, seeds in rows.items()},
        "spread": {arm: {m: _spread(v) for m, v in _columns(seeds).items()} for arm, seeds in rows.items()},
        "gain": {
            m: {"mean": float(np.mean(v)), "spread": _spread(v), "positive": sum(g > 0 for g in v), "seeds": len(v)}
            for m, v in gains.items()
            if v
        },
    }


def as_markdown(report: Mapping[str, Any]) -> str:
    """The table of a report."""
    shown = [m for m in (*METRICS, _BLEND) if any(m.name in row for row in report["mean"].values())]
    lines = [
        "# Structure condition: own points against those of another scene", "",
        "Held-out rooms; mean ± standard deviation over seeds. Loss: eq. 5 at fixed timesteps and noise, over all"
        " frames and over the middle ones; PSNR of the middle frames, sampled, and in one step from pure noise;"
        " psnr_blend fades from the first frame to the last.", "",
        f"| Points | {' | '.join(m.heading for m in shown)} |", f"|---|{'---|' * len(shown)}",
    ]  # fmt: skip
    for arm, means in report["mean"].items():
        cells = [_cell(m, means.get(m.name), report["spread"][arm].get(m.name)) for m in shown]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", "Gain of own points, seed by seed (positive is better):", ""]
    for metric in (m for m in METRICS if m.name in report["gain"]):
        gain = report["gain"][metric.name]
        cell = _cell(metric, gain["mean"], gain["spread"])
        lines.append(f"- {metric.name}: {cell}, positive in {gain['positive']} of {gain['seeds']} seeds")
    return "\n".join(lines) + "\n"


def _cell(metric: Figure, mean: float | None, spread: float | None) -> str:
    return metric.written(mean) + ("" if spread is None else f" ± {metric.written(spread)}")


def _has(rows: Mapping[str, Mapping[int, Mapping[str, float]]], metric: str) -> bool:
    return all(metric in scores for seeds in rows.values() for scores in seeds.values())


def _columns(seeds: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    names = next(iter(seeds.values()), {})
    return {name: [scores[name] for scores in seeds.values()] for name in names}


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise StorageError(
            f"result {path} cannot be read ({type(err).__name__}): remove it to repeat the run"
        ) from None


def _save(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(dict(content), indent=2) + "\n")
