"""The loop that trainings share: steps, log, validation, checkpoints, an interruption that loses nothing."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from reconx_ros.core import CancelledError, Job
from reconx_ros.learning.log import append_row

B = TypeVar("B")
OnLog = Callable[[Mapping[str, float]], None]


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
                job.step(self.step / self._steps, self._message(started, first))
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

    def _message(self, started: float, first: int) -> str:
        done = self.step - first
        if not done:
            return f"step {self.step} of {self._steps}"
        left = (time.perf_counter() - started) / done * (self._steps - self.step)
        return f"step {self.step} of {self._steps}, {left / 60:.1f} min left"

    def _log(self, values: Mapping[str, float]) -> None:
        if not (self.is_main and values):
            return
        row = {"step": self.step, "seconds": round(self.seconds, 2), **values}
        append_row(self._folder, row)
        self._on_log(row)
