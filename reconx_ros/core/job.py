"""Progress and cancellation of long work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from reconx_ros.core.errors import CancelledError

ProgressCallback = Callable[[str, float, str], None]
Picture = Callable[[], np.ndarray]
"""Makes a picture, [H, W, 3] uint8 RGB."""


class CancelToken:
    """A flag that one thread raises and a worker reads between steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next check."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether cancel() was called."""
        return self._event.is_set()


def _ignore(stage: str, fraction: float, message: str) -> None:
    del stage, fraction, message


def _look_away(picture: Picture) -> None:
    del picture


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a stage uses to report and to notice cancellation.

    Attributes:
        stage: name of the stage that holds this handle.
        on_progress: called with (stage, fraction in [0, 1], message); must return quickly.
        token: read at every step.
        on_preview: offered pictures of how the work stands; it makes those that it wants to see.
        span: what part of the bar this handle fills; see ``part``.
        prefix: what its messages begin with.
    """

    stage: str = "work"
    on_progress: ProgressCallback = _ignore
    token: CancelToken = field(default_factory=CancelToken)
    on_preview: Callable[[Picture], None] = _look_away
    span: tuple[float, float] = (0.0, 1.0)
    prefix: str = ""

    def step(self, fraction: float, message: str = "") -> None:
        """Report progress of this stage and stop if cancelled.

        Raises:
            CancelledError: when the token was cancelled.
        """
        done = self._on_bar(min(max(fraction, 0.0), 1.0))
        if self.token.cancelled:
            raise CancelledError(f"{self.stage} was cancelled at {100 * done:.0f} %")
        self.on_progress(self.stage, done, self.prefix + message)

    def show(self, picture: Picture) -> None:
        """Offer a picture of how the work stands; it costs nothing where nobody looks."""
        self.on_preview(picture)

    def for_stage(self, stage: str) -> Job:
        """The same job seen from another stage."""
        return replace(self, stage=stage)

    def part(self, start: float, stop: float, prefix: str = "") -> Job:
        """The same job seen by a piece of the work: its progress runs from start to stop of this one's.

        Args:
            start, stop: in [0, 1], of what this handle fills itself.
            prefix: comes before the messages of the piece, after this handle's own.
        """
        return replace(self, span=(self._on_bar(start), self._on_bar(stop)), prefix=self.prefix + prefix)

    def _on_bar(self, fraction: float) -> float:
        start, stop = self.span
        return start + (stop - start) * fraction
