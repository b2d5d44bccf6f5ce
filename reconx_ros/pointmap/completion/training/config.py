"""Settings of a training run of the completion network."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class CompletionTrainingConfig(Settings):
    """The optimisation: Laplace likelihood and slopes, AdamW, warm-up and cosine, averaged weights."""

    steps: int = setting(20_000, "Optimiser steps.", ge=1)
    groups: int = setting(3, "Groups of views per step.", ge=1, le=256)
    learning_rate: float = setting(1e-3, "Largest learning rate.", ge=1e-7, le=1.0)
    final_rate: float = setting(1e-6, "Learning rate at the end.", ge=0.0, le=1.0)
    warmup_steps: int = setting(200, "Steps over which the learning rate rises.", ge=0)
    weight_decay: float = setting(0.02, "Decay of weight matrices.", ge=0.0, le=1.0)
    gradient_clip: float = setting(1.0, "Largest norm of the gradient.", ge=1e-3, le=1e3)
    average: float = setting(0.998, "Share of the old in the averaged weights, per step.", ge=0.0, le=0.99999)
    second_pass: float = setting(0.5, "Share of groups that learn from the second pass.", ge=0.0, le=1.0)
    real_share: float = setting(0.1, "Share of groups from real depth, where there are such examples.", ge=0.0, le=1.0)
    precision: str = setting("fp32", "Arithmetic of the network.", choices=("fp32", "bf16"))
    hide: str = setting("", "Inputs that the network never sees, by name and comma: what each is worth.")
    seed: int = setting(0, "Seed of the initial weights and of what is drawn.", ge=0)
    workers: int = setting(1, "Processes that read examples; 0 reads them between the steps.", ge=0, le=64)
    validate_every: int = setting(500, "Steps between validations.", ge=1)
    validation_groups: int = setting(48, "Groups of held-out rooms to validate on.", ge=1)
    checkpoint_every: int = setting(250, "Steps between checkpoints that a run can be resumed from.", ge=1)
    log_every: int = setting(20, "Steps between lines of the log.", ge=1)
