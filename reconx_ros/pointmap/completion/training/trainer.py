"""Training the completion network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core import ConfigError
from reconx_ros.core.settings import to_mapping
from reconx_ros.learning.processes import join_processes
from reconx_ros.learning.run import FREE_SETTINGS, NetworkRun, OnLog, no_log
from reconx_ros.learning.schedule import warmup_cosine
from reconx_ros.learning.state import load_state, save_state
from reconx_ros.learning.weights import AveragedWeights, parameter_groups
from reconx_ros.pointmap.completion.inputs import CHANNELS, CompletionView
from reconx_ros.pointmap.completion.network import CompletionConfig, CompletionNetwork
from reconx_ros.pointmap.completion.predict import Prediction, predict, with_others, without_channels
from reconx_ros.pointmap.completion.training.batches import CompletionGroup, training_groups
from reconx_ros.pointmap.completion.training.config import CompletionTrainingConfig
from reconx_ros.pointmap.completion.training.evaluate import calibration, scored, smooth_guess
from reconx_ros.pointmap.completion.training.examples import ExampleView, example_paths, load_example
from reconx_ros.pointmap.completion.training.losses import completion_loss
from reconx_ros.pointmap.completion.weights import TRAINED_NAME, LoadedCompletion, save_completion

_BETAS = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True, eq=False)
class CompletionTrainingRun:
    """What a run is given.

    Attributes:
        config: of the optimisation.
        network: sizes.
        train: folders of simulated examples.
        real: folders of examples of real depth; may be empty.
        validation: folders of held-out examples by name; scores of each are logged.
        folder: where weights, state and log go.
        start: an earlier network that this run goes on from; None starts from random weights.
        picture: parameters that the picture encoder starts with and keeps; None trains it, too.
        data: plain values that describe the data, for the card.
        on_log: gets every row of the log, too.
    """

    config: CompletionTrainingConfig
    network: CompletionConfig
    train: Sequence[Path]
    folder: Path
    real: Sequence[Path] = ()
    validation: Mapping[str, Path] = field(default_factory=dict)
    start: LoadedCompletion | None = None
    picture: Mapping[str, torch.Tensor] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    on_log: OnLog = no_log

    def settings(self) -> dict[str, Any]:
        """What must not change when the run is resumed."""
        optimisation = {k: v for k, v in to_mapping(self.config).items() if k not in FREE_SETTINGS}
        return {**optimisation, **self.network.as_arguments()}


class CompletionTrainer(NetworkRun[list[CompletionGroup], CompletionNetwork]):
    """One run, from its start or from where it was interrupted.

    Args:
        run: what to do.
        device: where torch computes.
        resume: continue the run in the folder.

    Raises:
        StorageError, InvalidInputError: when the run cannot be resumed.
        ConfigError: for an input to hide that does not exist.
    """

    def __init__(self, run: CompletionTrainingRun, device: torch.device, *, resume: bool = False) -> None:
        config = run.config
        super().__init__(
            run.folder, config.steps, log_every=config.log_every, validate_every=config.validate_every,
            checkpoint_every=config.checkpoint_every, on_log=run.on_log,
        )  # fmt: skip
        self.run, self.device, self.processes = run, device, join_processes(device)
        self._hidden = hidden_channels(config.hide)
        torch.manual_seed(config.seed)
        self.network = CompletionNetwork(run.network)
        if run.start is not None:
            self.network.load_state_dict(run.start.network.state_dict())
        if run.picture is not None:
            self.network.picture.load_state_dict(dict(run.picture))
            self.network.picture.requires_grad_(False)
        self.network.to(device).train()
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.network, config.weight_decay), lr=config.learning_rate, betas=_BETAS
        )
        self.average = AveragedWeights(self.network, config.average)
        self._validation: dict[str, list[list[ExampleView]]] = {}
        self._scores: dict[str, float] = {}
        self._calibration: list[list[float]] = []
        if resume:
            state = load_state(run.folder, run.settings())
            self.restore(state)
            self._scores, self._calibration = dict(state["scores"]), list(state["calibration"])

    @property
    def is_main(self) -> bool:
        """As ``SteppedRun``."""
        return self.processes.is_main

    def batches(self) -> Iterable[list[CompletionGroup]]:
        """As ``SteppedRun``."""
        config = self.run.config
        simulated = [path for folder in self.run.train for path in example_paths(folder)]
        real = [path for folder in self.run.real for path in example_paths(folder)]
        folders = [simulated, real] if real else [simulated]
        shares = [1 - config.real_share, config.real_share] if real else [1.0]
        steps = range(self.step, config.steps)
        return training_groups(
            folders, shares, steps, groups=config.groups, seed=config.seed, workers=config.workers, share=self.processes
        )

    def advance(self, batch: list[CompletionGroup]) -> dict[str, float]:
        """As ``SteppedRun``: the gradient is the mean over the groups."""
        config = self.run.config
        peak, final = config.learning_rate, config.final_rate
        self.set_rate(warmup_cosine(self.step, steps=config.steps, warmup=config.warmup_steps, peak=peak, final=final))
        self.optimiser.zero_grad(set_to_none=True)
        rng = np.random.default_rng([config.seed, self.step, 2, self.processes.rank])
        total = 0.0
        for group in batch:
            loss = self._loss(group, second=rng.random() < config.second_pass)
            (loss / len(batch)).backward()
            total += float(loss.detach()) / len(batch)
        self.require_finite(total)
        self.processes.mean_gradients(self.network.parameters())
        self.apply_gradients(config.gradient_clip)
        return {"loss": total}

    def _loss(self, group: CompletionGroup, *, second: bool) -> torch.Tensor:
        rgb, told = group.rgb.to(self.device), without_channels(group.channels.to(self.device), self._hidden)
        with self._arithmetic():
            features = self._features(rgb)
            if second and len(group.views) > 1:
                with torch.no_grad():
                    first = self.network(rgb, told, features)
                told = without_channels(with_others(group.views, told, first, group.unit), self._hidden)
            found = self.network(rgb, told, features)
        return completion_loss(
            found, group.log_truth.to(self.device), group.known.to(self.device), group.measured.to(self.device)
        )

    def _features(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        with torch.set_grad_enabled(self.run.picture is None):
            found: list[torch.Tensor] = self.network.picture(rgb)
        return found

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.run.config.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def averaged_network(self) -> CompletionNetwork:
        """A network with the averaged weights, ready for inference."""
        return self.averaged(CompletionNetwork(self.run.network))

    def validate(self) -> dict[str, float]:
        """As ``SteppedRun``: scores per folder of held-out examples; of the first process."""
        if not self.processes.is_main:
            return {}
        network = self.averaged_network()

        def predictor(views: Sequence[CompletionView], unit: float) -> list[Prediction]:
            return predict(network, views, unit, hidden=self._hidden)

        found = {name: scored(predictor, examples) for name, examples in self._validation_examples().items()}
        self._calibration = calibration(found.values())
        self._scores = {f"{name}.{key}": v for name, scores in found.items() for key, v in scores.summary().items()}
        return self._scores

    def comparison(self) -> dict[str, dict[str, float]]:
        """Scores on each folder of held-out examples of the best guess without learning, to hold the network's against.

        Returns:
            Name of the folder to scores.
        """
        return {name: scored(smooth_guess, rows).summary() for name, rows in self._validation_examples().items()}

    def _validation_examples(self) -> dict[str, list[list[ExampleView]]]:
        """The held-out groups, read once."""
        if not self._validation:
            count = self.run.config.validation_groups
            self._validation = {
                name: [load_example(path) for path in example_paths(folder)[:count]]
                for name, folder in self.run.validation.items()
            }
        return self._validation

    def save(self) -> dict[str, Any]:
        """As ``SteppedRun``."""
        card = self.card()
        if not self.processes.is_main:
            return card
        save_completion(self.run.folder / TRAINED_NAME, self.run.network, self.average.state, card)
        kept = {"scores": self._scores, "calibration": self._calibration}
        save_state(self.run.folder, self.training_state(self.run.settings(), **kept))
        return card

    def card(self) -> dict[str, Any]:
        """How this network came to be, as plain values."""
        return {
            "purpose": "depth of every pixel that a camera saw (pointmap.completion)",
            **self.history(),
            "data": dict(self.run.data),
            "training": to_mapping(self.run.config),
            "started_from": None if self.run.start is None else _history(self.run.start.card),
            "validation": {"step": self.step, **self._scores},
            "calibration": self._calibration,
        }


def _history(card: Mapping[str, Any]) -> dict[str, Any]:
    """What of an earlier network's card tells how it was trained."""
    return {name: card[name] for name in ("started_from", "steps_done", "seconds", "training", "note") if name in card}


def hidden_channels(names: str) -> list[int]:
    """Numbers of the inputs that a list of names and commas hides.

    Raises:
        ConfigError: for an unknown name.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in CHANNELS]
    if unknown:
        raise ConfigError(f"hide names the input '{unknown[0]}', expected some of {', '.join(CHANNELS)}")
    return [CHANNELS.index(name) for name in wanted]
