"""The training loop: steps, averaged weights, validation, checkpoints, resuming, cancelling."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core.settings import to_mapping
from reconx_ros.learning.run import FREE_SETTINGS, NetworkRun, OnLog, no_log
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
    on_log: OnLog = no_log

    def settings(self) -> dict[str, Any]:
        """What must not change when the run is resumed."""
        optimisation = {k: v for k, v in to_mapping(self.config).items() if k not in FREE_SETTINGS}
        return {**optimisation, **self.network.as_arguments(), **{f"data.{k}": v for k, v in self.data.items()}}


class PointmapTrainer(NetworkRun[GroupBatch, PointmapNetwork]):
    """One run, from its start or from where it was interrupted.

    Args:
        run: what to do.
        device: where torch computes.
        resume: continue the run in the folder.

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
            state = load_state(run.folder, run.settings())
            self.restore(state)
            self._scores = state["scores"]

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
        self.set_rate(learning_rate(self.step, config))
        found = group_loss(self.network, batch, config.alpha)
        self.require_finite(float(found.loss.detach()))
        self.optimiser.zero_grad(set_to_none=True)
        found.loss.backward()
        self.apply_gradients(config.gradient_clip)
        return {"loss": float(found.loss.detach()), "regression": float(found.regression)}

    def averaged_network(self) -> PointmapNetwork:
        """A network with the averaged weights, ready for inference."""
        return self.averaged(PointmapNetwork(self.run.network))

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
        save_state(self.run.folder, self.training_state(self.run.settings(), scores=self._scores))
        return card

    def card(self) -> dict[str, Any]:
        """How this network came to be, as plain values."""
        return {
            "network": self.run.network.as_arguments(),
            **self.history(),
            "data": dict(self.run.data),
            "training": to_mapping(self.run.config),
            "validation": self._scores,
            "min_confidence": (self._scores or {}).get("median_confidence"),
        }
