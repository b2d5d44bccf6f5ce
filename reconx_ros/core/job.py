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
    """

    stage: str = "work"
    on_progress: ProgressCallback = _ignore
    token: CancelToken = field(default_factory=CancelToken)
    on_preview: Callable[[Picture], None] = _look_away

    def step(self, fraction: float, message: str = "") -> None:
        """Report progress of this stage and stop if cancelled.

        Raises:
            CancelledError: when the token was cancelled.
        """
        if self.token.cancelled:
            raise CancelledError(f"{self.stage} was cancelled at {100 * fraction:.0f} %")
        self.on_progress(self.stage, min(max(fraction, 0.0), 1.0), message)

    def show(self, picture: Picture) -> None:
        """Offer a picture of how the work stands; it costs nothing where nobody looks."""
        self.on_preview(picture)

    def for_stage(self, stage: str) -> Job:
        """The same job seen from another stage."""
        return replace(self, stage=stage)
