"""The loop that trainings share: steps, log, validation, checkpoints, an interruption that loses nothing."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from reconx_ros.core import CancelledError, Job, ReconstructionError
from reconx_ros.learning.log import append_row
from reconx_ros.learning.weights import AveragedWeights

B = TypeVar("B")
N = TypeVar("N", bound=nn.Module)
OnLog = Callable[[Mapping[str, float]], None]
# A run may be resumed with other values of these settings: they change what is written, not what is learned.
FREE_SETTINGS = frozenset({"workers", "validate_every", "validation_groups", "checkpoint_every", "log_every"})


def no_log(row: Mapping[str, float]) -> None:
    """An ``OnLog`` that does nothing."""
    del row


def progress_message(step: int, steps: int, first: int, started: float) -> str:
    """Which step of how many, and the time left as far as it can be told.

    Args:
        step: number of the step to come.
        steps: of the whole run.
        first: where this process took over.
        started: ``time.perf_counter()`` then.
    """
    done = step - first
    if not done:
        return f"step {step} of {steps}"
    left = (time.perf_counter() - started) / done * (steps - step)
    return f"step {step} of {steps}, {left / 60:.1f} min left"


class SteppedRun(ABC, Generic[B]):
    """A training of ``steps`` steps, from its start or from where it was interrupted.

    Args:
        folder: where the log goes.
        steps: of the whole run.
        log_every, validate_every, checkpoint_every: steps between these.
        on_log: gets every row of the log, too.

    Attributes:
        step: steps done.
        seconds: time spent on them.
    """

    def __init__(
        self, folder: Path, steps: int, *, log_every: int, validate_every: int, checkpoint_every: int, on_log: OnLog
    ) -> None:
        self._folder, self._steps, self._on_log = folder, steps, on_log
        self._log_every, self._validate_every, self._checkpoint_every = log_every, validate_every, checkpoint_every
        self.step, self.seconds = 0, 0.0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the log; the others of a run do not."""
        return True

    @abstractmethod
    def batches(self) -> Iterable[B]:
        """The batches of the steps that are left."""

    @abstractmethod
    def advance(self, batch: B) -> Mapping[str, float]:
        """One optimiser step at number ``step``; returns what the log tells the mean of."""

    @abstractmethod
    def validate(self) -> Mapping[str, float]:
        """Scores of the averaged weights on held-out data."""

    @abstractmethod
    def save(self) -> dict[str, Any]:
        """Write averaged weights, card and state; returns the card."""

    def fit(self, job: Job) -> dict[str, Any]:
        """Train to the last step; the averaged network lies in the folder afterwards, and after a cancellation.

        Returns:
            The training card.

        Raises:
            CancelledError: when the job was cancelled; the run can be resumed.
            ReconstructionError: when the loss is not finite.
            StorageError: when something cannot be written.
        """
        started, before, first = time.perf_counter(), self.seconds, self.step
        sums: dict[str, float] = {}
        try:
            for batch in self.batches():
                job.step(self.step / self._steps, progress_message(self.step, self._steps, first, started))
                for name, value in self.advance(batch).items():
                    sums[name] = sums.get(name, 0.0) + value
                self.step += 1
                self.seconds = before + time.perf_counter() - started
                if self.step % self._log_every == 0:
                    self._log({name: value / self._log_every for name, value in sums.items()})
                    sums.clear()
                if self.step % self._validate_every == 0 or self.step == self._steps:
                    self._log({f"validation.{name}": value for name, value in self.validate().items()})
                if self.step % self._checkpoint_every == 0:
                    self.save()
        except CancelledError:
            self.save()
            raise
        return self.save()

    def _log(self, values: Mapping[str, float]) -> None:
        if not (self.is_main and values):
            return
        row = {"step": self.step, "seconds": round(self.seconds, 2), **values}
        append_row(self._folder, row)
        self._on_log(row)


class NetworkRun(SteppedRun[B], Generic[B, N]):
    """A run that optimises one network and keeps a moving average of its weights.

    A class of such runs sets these attributes when it is made:

    Attributes:
        network: the weights that are optimised.
        optimiser: of them.
        average: their moving average, which is what is saved and validated.
        device: where torch computes.
    """

    network: N
    optimiser: torch.optim.Optimizer
    average: AveragedWeights
    device: torch.device

    def set_rate(self, rate: float) -> None:
        """The learning rate of the step to come."""
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = rate

    def require_finite(self, loss: float) -> None:
        """Raise ReconstructionError unless the loss is a number."""
        if not math.isfinite(loss):
            raise ReconstructionError(
                f"loss is {loss} at step {self.step}, expected a finite number: lower learning_rate"
            )

    def apply_gradients(self, clip: float) -> None:
        """One step along the gradients, of a norm of at most ``clip``; the average follows."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.optimiser.step()
        self.average.update(self.network, self.step)

    def averaged(self, network: N) -> N:
        """A fresh network with the averaged weights, ready for inference."""
        network.load_state_dict(self.average.state)
        return network.to(self.device).eval().requires_grad_(False)

    def training_state(self, settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """What ``restore`` needs, with what else a run wants to keep."""
        return {
            "settings": dict(settings),
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state,
            "optimiser": self.optimiser.state_dict(),
            **more,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was kept."""
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.network.load_state_dict(state["network"])
        self.average.state = {k: v.to(self.device) for k, v in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])

    def history(self) -> dict[str, Any]:
        """What every card tells of a run."""
        from reconx_ros import __version__

        return {
            "licence": "Apache-2.0",
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "steps_done": self.step,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "versions": {"reconx_ros": __version__, "torch": torch.__version__},
        }
