"""The training loop: phases, steps, averaged weights, validation, samples, states, resuming, cancelling."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reconx_ros.core import CancelledError, Job, ReconstructionError, StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.core.settings import to_mapping
from reconx_ros.diffusion.training.backends.accelerated import Processes
from reconx_ros.diffusion.training.clips import (
    ClipArrays,
    ClipBatch,
    ClipSource,
    PointSource,
    collated,
    points_from_depth,
)
from reconx_ros.diffusion.training.config import VideoTrainingConfig
from reconx_ros.diffusion.training.curriculum import Curriculum
from reconx_ros.diffusion.training.model import Prepared, check_structure, conditions
from reconx_ros.diffusion.training.parts import Phase, names_in, phases, select
from reconx_ros.diffusion.training.step import step_generator, training_loss
from reconx_ros.diffusion.training.validation import Protocol, contact_sheet, score
from reconx_ros.learning.log import append_row
from reconx_ros.learning.run import OnLog, no_log, progress_message
from reconx_ros.learning.schedule import warmup_cosine
from reconx_ros.learning.state import load_state, save_state
from reconx_ros.learning.stream import Reuse, drawn_examples, made_in_order
from reconx_ros.learning.weights import AveragedWeights, parameter_groups

_BETAS = (0.9, 0.99)
_DROPOUT_STREAM = 1_000_003
_GOLDEN = 0.6180339887  # its multiples fill [0, 1) evenly
# A run may be resumed with other values of these: they change what is written, not what is learned.
_FREE = frozenset({"workers", "validate_every", "validation_clips", "validation_levels", "sample_steps"}) | frozenset(
    {"sample_every", "sample_clips", "checkpoint_every", "log_every", "accumulate", "gradient_checkpointing"}
)

SaveModel = Callable[[Path, Prepared, Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoTrainingRun:
    """What a run is given.

    Attributes:
        config: of the optimisation.
        prepared: model and what surrounds it.
        save: writes the model; see ``backends``.
        train, validation: sources of clips; their rooms must not overlap.
        folder: where model, state, log and samples go.
        data: plain values that describe the data, for the card.
        point_source: stage 1; depth of the pictures where None is needed.
        licence: of the trained weights.
        on_log: gets every row of the log, too.
    """

    config: VideoTrainingConfig
    prepared: Prepared
    save: SaveModel
    train: ClipSource
    validation: ClipSource
    folder: Path
    data: Mapping[str, Any] = field(default_factory=dict)
    point_source: PointSource = points_from_depth
    licence: str = "Apache-2.0"
    on_log: OnLog = no_log

    def settings(self) -> dict[str, Any]:
        """What must not change when the run is resumed."""
        optimisation = {k: v for k, v in to_mapping(self.config).items() if k not in _FREE}
        return {**optimisation, "model": self.prepared.description, **{f"data.{k}": v for k, v in self.data.items()}}


class _OneProcessOf:
    """Every n-th clip: the share of one process."""

    def __init__(self, make: Callable[[int], dict[str, np.ndarray]], number: int, count: int) -> None:
        self._make, self._number, self._count = make, number, count

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        return self._make(number * self._count + self._number)


class _Intervals:
    """Interval of a training clip by its number."""

    def __init__(self, config: VideoTrainingConfig, reuse: Reuse, processes: int) -> None:
        self._curriculum = Curriculum(smooth=config.smooth_share, growth=config.growth_share, seed=config.seed)
        self._steps, self._reuse, self._processes = config.steps, reuse, processes

    def __call__(self, number: int) -> float:
        step = self._reuse.first_step(number // self._processes)
        return self._curriculum.interval(step / self._steps, number)


class VideoTrainer:
    """One run, from its start or from where it was interrupted.

    Args:
        run: what to do.
        device: "cpu", or any other for what accelerate finds.
        resume: continue the run in the folder.

    Attributes:
        step: steps done.
        average: moving average of what learns: this is what is validated and saved.

    Raises:
        StorageError, InvalidInputError: when the run cannot be resumed, or settings do not fit the model.
        BackendUnavailableError: without accelerate.
    """

    def __init__(self, run: VideoTrainingRun, device: torch.device, *, resume: bool = False) -> None:
        config = run.config
        check_structure(run.prepared, config.structure)
        self.run, self.step, self.seconds = run, 0, 0.0
        self.phases = phases(config.steps, config.image_attention_steps, config.parts)
        hidden = config.structure == "none" or not config.cameras
        self.processes = Processes(config.precision, device, idle_parameters=hidden)
        self.device = self.processes.device
        self.model = run.prepared.model.to(self.device).train()
        run.prepared.frozen.to(self.device)
        self.model.unet.gradient_checkpointing = config.gradient_checkpointing
        self.learns = names_in(self.model, [part for phase in self.phases for part in phase.parts])
        self.average = AveragedWeights(self.model, config.average, self.learns)
        self._scores: dict[str, float] | None = None
        self._validation: tuple[ClipBatch, ...] = ()
        self._optimiser: Any = None  # of the present phase
        self._restored: dict[str, Any] | None = None  # state of the optimiser that a resumed phase starts with
        if resume:
            self._restore(load_state(run.folder, run.settings()))

    def fit(self, job: Job) -> dict[str, Any]:
        """Train to the last step; the averaged model lies in the folder afterwards, and after a cancellation.

        Returns:
            The training card.

        Raises:
            CancelledError: when the job was cancelled; the run can be resumed.
            ReconstructionError: when the loss is not finite.
            StorageError: when something cannot be written.
        """
        try:
            for phase in self.phases:
                if self.step < phase.stop:
                    self._fit_phase(phase, job)
        except CancelledError:
            self.save()
            raise
        return self.save()

    def _fit_phase(self, phase: Phase, job: Job) -> None:
        config = self.run.config
        select(self.model, phase)
        model, optimiser = self._prepared()
        batches = self._batches(range(self.step, phase.stop))
        started, before, first, total = time.perf_counter(), self.seconds, self.step, 0.0
        for batch in batches:
            job.step(self.step / config.steps, progress_message(self.step, config.steps, first, started))
            total += self._advance(model, optimiser, batch)
            self.seconds = before + time.perf_counter() - started
            if self.step % config.log_every == 0:
                self._log({"loss": total / config.log_every})
                total = 0.0
            self._regular_work()
        self._optimiser = None
        self.processes.release()

    def _prepared(self) -> tuple[nn.Module, Any]:
        """Model and optimiser of the present phase, ready for this process."""
        groups = parameter_groups(self.model, self.run.config.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=self.run.config.learning_rate, betas=_BETAS)
        model, self._optimiser = self.processes.prepare(self.model, optimiser)
        if self._restored is not None:
            self._optimiser.load_state_dict(self._restored)
            self._restored = None
        return model, self._optimiser

    def _batches(self, steps: range) -> Iterator[ClipBatch]:
        config, count = self.run.config, self.processes.count
        reuse = Reuse(batch=config.batch, times=config.reuse, window=config.window, seed=config.seed)
        intervals = _Intervals(config, reuse, count)
        arrays = ClipArrays(self.run.train, intervals, config.points, self.run.point_source, config.seed)
        make = _OneProcessOf(arrays, self.processes.number, count)
        for clips in drawn_examples(make, steps, reuse, workers=config.workers):
            yield collated(clips)

    def _advance(self, model: nn.Module, optimiser: Any, batch: ClipBatch) -> float:
        """One step; returns the loss."""
        config = self.run.config
        for group in optimiser.param_groups:
            group["lr"] = warmup_cosine(
                self.step, steps=config.steps, warmup=config.rate_warmup_steps, peak=config.learning_rate,
                final=config.final_rate,
            )  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        parts = batch.split(config.accumulate)
        with self._step_randomness():
            for k, part in enumerate(parts):
                with self.processes.collecting(model, last=k == len(parts) - 1):
                    loss += self._backward(model, part, k) / len(parts)
        value = float(self.processes.mean(loss))
        if not math.isfinite(value):
            raise ReconstructionError(
                f"loss is {value} at step {self.step}, expected a finite number: lower learning_rate"
            )
        self.processes.clip(model, config.gradient_clip)
        optimiser.step()
        self.average.update(self.model, self.step)
        self.step += 1
        return value

    def _backward(self, model: nn.Module, part: ClipBatch, number: int) -> torch.Tensor:
        config, prepared = self.run.config, self.run.prepared
        given = conditions(
            part.to(self.device), prepared.frozen, self.model.unet.unet_config, structure=config.structure,
            cameras=config.cameras, known=config.known,
        )  # fmt: skip
        generator = step_generator(config.seed, self.step, self.processes.number, number)
        with self.processes.autocast():
            found = training_loss(model, given, prepared.schedule, generator, drop=config.drop, late=config.late)
        self.processes.backward(found.loss / config.accumulate)
        return found.loss.detach()

    @contextmanager
    def _step_randomness(self) -> Iterator[None]:
        """Torch's own generators (dropout) seeded for the step, so that a resumed run draws the same."""
        config = self.run.config
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seed = step_generator(config.seed, self.step, self.processes.number, _DROPOUT_STREAM).initial_seed()
            torch.manual_seed(seed)
            yield

    def _regular_work(self) -> None:
        config, last = self.run.config, self.step == self.run.config.steps
        if self.step % config.validate_every == 0 or last:
            self._log({f"validation.{k}": v for k, v in self.validate().items()})
        if self.step % config.sample_every == 0 or last:
            self.sample()
        if self.step % config.checkpoint_every == 0:
            self.save_state()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights, ready for inference; afterwards as it was."""
        held = {name: p.detach().clone() for name, p in self.model.named_parameters() if name in self.average.state}
        try:
            _put(self.model, self.average.state)
            with self.processes.autocast(), torch.no_grad():
                yield self.model.eval()
        finally:
            _put(self.model, held)
            self.model.train()

    def validation_batches(self) -> tuple[ClipBatch, ...]:
        """The held-out clips, made once; intervals from 0 to 1 in turn."""
        if not self._validation:
            config = self.run.config
            count = max(2, config.validation_clips)
            size = max(2, min(config.batch, count))
            arrays = ClipArrays(self.run.validation, spread_interval, config.points, self.run.point_source, config.seed)
            clips = list(made_in_order(arrays, range(count - count % size), workers=0))
            self._validation = tuple(collated(clips[k : k + size]) for k in range(0, len(clips), size))
        return self._validation

    def protocol(self, structure: str | None = None) -> Protocol:
        """What the validation measures."""
        config = self.run.config
        return Protocol(
            levels=config.validation_levels,
            sample_steps=config.sample_steps,
            structure=config.structure if structure is None else structure,
            cameras=config.cameras,
            known=config.known,
        )

    def validate(self, structure: str | None = None) -> dict[str, float]:
        """Scores of the averaged weights on held-out clips.

        Args:
            structure: which points are shown; None for those of the run.
        """
        prepared = self.run.prepared
        batches = [batch.to(self.device) for batch in self.validation_batches()]
        with self.averaged() as model:
            found = score(
                model, prepared.frozen, self.model.unet.unet_config, prepared.schedule, batches,
                self.protocol(structure),
            )  # fmt: skip
        if structure is None:
            self._scores = {"step": self.step, **found}
        return found

    def sample(self) -> None:
        """Write a contact sheet of held-out clips. Raises StorageError when it cannot be written."""
        if not self.processes.is_main:
            return
        config, prepared = self.run.config, self.run.prepared
        clips = _joined(self.validation_batches(), max(2, config.sample_clips)).to(self.device)
        with self.averaged() as model:
            sheet = contact_sheet(
                model, prepared.frozen, self.model.unet.unet_config, prepared.schedule, clips, self.protocol()
            )
        write_png(self.run.folder / "samples" / f"{self.step:06d}.png", sheet)

    def save_state(self) -> None:
        """Write what the run can be resumed from. Raises StorageError when it cannot be written."""
        self.processes.wait()
        if not self.processes.is_main:
            return
        present = self.model.state_dict()
        between_phases = self._optimiser is None or any(self.step == phase.stop for phase in self.phases)
        state = {
            "settings": self.run.settings(),
            "step": self.step,
            "seconds": self.seconds,
            "weights": {name: present[name] for name in self.learns},
            "average": self.average.state,
            "optimiser": None if between_phases else self._optimiser.state_dict(),
            "scaler": self.processes.scaler_state(),
            "scores": self._scores,
        }
        save_state(self.run.folder, state)

    def save(self) -> dict[str, Any]:
        """Write state, averaged model and training card; returns the card."""
        self.save_state()
        card = self.card()
        if self.processes.is_main:
            with self.averaged():
                self.run.save(self.run.folder, self.run.prepared, card)
        return card

    def card(self) -> dict[str, Any]:
        """How this model came to be, as plain values."""
        from reconx_ros import __version__

        return {
            "model": copy.deepcopy(self.run.prepared.description),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trained_parameters": sum(p.numel() for n, p in self.model.named_parameters() if n in self.average.state),
            "licence": self.run.licence,
            "data": dict(self.run.data),
            "training": to_mapping(self.run.config),
            "processes": self.processes.count,
            "steps_done": self.step,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "versions": {"reconx_ros": __version__, "torch": torch.__version__},
            "validation": self._scores,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.seconds, self._scores = int(state["step"]), float(state["seconds"]), state["scores"]
        _put(self.model, state["weights"])
        self.average.state = {k: v.to(self.device) for k, v in state["average"].items()}
        self._restored = state["optimiser"]
        self.processes.load_scaler(state["scaler"])

    def _log(self, values: Mapping[str, float]) -> None:
        if not self.processes.is_main:
            return
        row = {"step": self.step, "seconds": round(self.seconds, 2), **values}
        append_row(self.run.folder, row)
        self.run.on_log(row)


def spread_interval(number: int) -> float:
    """Intervals of validation clips: even in [0, 1), near and far mixed."""
    return number * _GOLDEN % 1.0


@torch.no_grad()
def _put(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the parameters of those names."""
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)


def _joined(batches: Sequence[ClipBatch], count: int) -> ClipBatch:
    """The first clips of some batches as one."""
    names = ClipBatch.__dataclass_fields__
    return ClipBatch(**{name: torch.cat([getattr(b, name) for b in batches])[:count] for name in names})


def write_png(path: Path, rgb_u8: np.ndarray) -> None:
    """Write a picture [H, W, 3]. Raises StorageError when it cannot be written."""
    import cv2

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, cv2.imencode(".png", rgb_u8[..., ::-1])[1].tobytes())
    except OSError as err:
        raise StorageError(f"picture {path} cannot be written: {err.strerror}") from None
