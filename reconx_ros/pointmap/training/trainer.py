"""The training loop: steps, averaged weights, validation, checkpoints, resuming, cancelling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core import ReconstructionError
from reconx_ros.core.settings import to_mapping
from reconx_ros.learning.run import OnLog, SteppedRun
from reconx_ros.learning.state import load_state, save_state
from reconx_ros.learning.stream import Reuse
from reconx_ros.learning.weights import AveragedWeights, parameter_groups
from reconx_ros.pointmap.network.architecture import NetworkConfig
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.pointmap.network.weights import save_network
from reconx_ros.pointmap.training.config import PointmapTrainingConfig
from reconx_ros.pointmap.training.data import GroupBatch, ViewSource, group_batches, training_batches
from reconx_ros.pointmap.training.evaluate import compared, median_confidence, network_prediction, score
from reconx_ros.pointmap.training.schedule import initialise, learning_rate
from reconx_ros.pointmap.training.step import group_loss

_MEAN_GROUPS = 128  # groups that the baselines of the comparison are averaged over
# A run may be resumed with other values of these: they change what is written, not what is learned.
_FREE = frozenset({"workers", "validate_every", "validation_groups", "checkpoint_every", "log_every"})


def _ignore(row: Mapping[str, float]) -> None:
    del row


@dataclass(frozen=True, kw_only=True, eq=False)
class PointmapTrainingRun:
    """What a run is given.

    Attributes:
        config: of the optimisation.
        network: architecture.
        train, validation: sources of views; their rooms must not overlap.
        folder: where weights, state and log go.
        data: plain values that describe the data, for the training card.
        on_log: gets every row of the log, too.
    """

    config: PointmapTrainingConfig
    network: NetworkConfig
    train: ViewSource
    validation: ViewSource
    folder: Path
    data: Mapping[str, Any] = field(default_factory=dict)
    on_log: OnLog = _ignore

    def settings(self) -> dict[str, Any]:
        """What must not change when the run is resumed."""
        optimisation = {k: v for k, v in to_mapping(self.config).items() if k not in _FREE}
        return {**optimisation, **self.network.as_arguments(), **{f"data.{k}": v for k, v in self.data.items()}}


class PointmapTrainer(SteppedRun[GroupBatch]):
    """One run, from its start or from where it was interrupted.

    Args:
        run: what to do.
        device: where torch computes.
        resume: continue the run in the folder.

    Attributes:
        step: steps done.
        network: the weights that are optimised.
        average: their moving average, which is what is saved and validated.

    Raises:
        StorageError, InvalidInputError: when the run cannot be resumed.
    """

    def __init__(self, run: PointmapTrainingRun, device: torch.device, *, resume: bool = False) -> None:
        config = run.config
        super().__init__(
            run.folder, config.steps, log_every=config.log_every, validate_every=config.validate_every,
            checkpoint_every=config.checkpoint_every, on_log=run.on_log,
        )  # fmt: skip
        self.run, self.device = run, device
        self.network = PointmapNetwork(run.network)
        initialise(self.network, run.config.seed)
        self.network.mask_token.requires_grad_(False)
        self.network.to(device).train()
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.network, run.config.weight_decay), lr=run.config.learning_rate, betas=(0.9, 0.95)
        )
        self.average = AveragedWeights(self.network, run.config.average)
        self._validation: Sequence[GroupBatch] = ()
        self._scores: dict[str, float] | None = None
        if resume:
            self._restore(load_state(run.folder, run.settings()))

    def batches(self) -> Iterable[GroupBatch]:
        """As ``SteppedRun``."""
        config = self.run.config
        reuse = Reuse(batch=config.batch, times=config.reuse, window=config.window, seed=config.seed)
        return training_batches(self.run.train, range(self.step, config.steps), reuse, workers=config.workers)

    def advance(self, batch: GroupBatch) -> dict[str, float]:
        """As ``SteppedRun``."""
        config = self.run.config
        batch = batch.to(self.device)
        if config.mirror and np.random.default_rng([config.seed, self.step, 1]).random() < 0.5:
            batch = batch.mirrored()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config)
        found = group_loss(self.network, batch, config.alpha)
        if not math.isfinite(float(found.loss.detach())):
            raise ReconstructionError(
                f"loss is {float(found.loss.detach())} at step {self.step}, expected a finite number: "
                "lower learning_rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimiser.step()
        self.average.update(self.network, self.step)
        return {"loss": float(found.loss.detach()), "regression": float(found.regression)}

    def averaged_network(self) -> PointmapNetwork:
        """A network with the averaged weights, ready for inference."""
        network = PointmapNetwork(self.run.network)
        network.load_state_dict(self.average.state)
        return network.to(self.device).eval().requires_grad_(False)

    def validation_batches(self) -> Sequence[GroupBatch]:
        """The held-out groups, made once."""
        if not self._validation:
            config = self.run.config
            size = min(config.batch, config.validation_groups)
            made = group_batches(self.run.validation, range(config.validation_groups), size, workers=0)
            self._validation = tuple(batch.to(self.device) for batch in made)
        return self._validation

    def validate(self) -> dict[str, float]:
        """Scores of the averaged weights on held-out rooms."""
        network, batches = self.averaged_network(), self.validation_batches()
        scores = score(network_prediction(network), batches, pose=True)
        found = {k: v for k, v in dataclasses.asdict(scores).items() if v is not None}
        found["median_confidence"] = median_confidence(network, batches)
        self._scores = {"step": self.step, **found}
        return found

    def comparison(self) -> dict[str, dict[str, float | None]]:
        """Scores of the averaged weights and of the baselines that see no image, on held-out rooms."""
        config = self.run.config
        seen = min(config.steps * config.batch, _MEAN_GROUPS)
        size = min(config.batch, seen)
        training = group_batches(self.run.train, range(seen), size, workers=0)
        rows = compared(self.averaged_network(), (b.to(self.device) for b in training), self.validation_batches())
        return {name: dataclasses.asdict(scores) for name, scores in rows.items()}

    def save(self) -> dict[str, Any]:
        """Write averaged weights, training card and state; returns the card.

        Raises:
            StorageError: when something cannot be written.
        """
        card = self.card()
        save_network(self.run.folder, self.network, self.average.state, card)
        state = {
            "settings": self.run.settings(),
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state,
            "scores": self._scores,
            "optimiser": self.optimiser.state_dict(),
        }
        save_state(self.run.folder, state)
        return card

    def card(self) -> dict[str, Any]:
        """How this network came to be, as plain values."""
        from reconx_ros import __version__

        return {
            "network": self.run.network.as_arguments(),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "licence": "Apache-2.0",
            "data": dict(self.run.data),
            "training": to_mapping(self.run.config),
            "steps_done": self.step,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "versions": {"reconx_ros": __version__, "torch": torch.__version__},
            "validation": self._scores,
            "min_confidence": (self._scores or {}).get("median_confidence"),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.network.load_state_dict(state["network"])
        self.average.state = {k: v.to(self.device) for k, v in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self._scores = state["scores"]
