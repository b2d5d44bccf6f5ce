"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting
from reconx_ros.pointmap.network.architecture import HEADS, NetworkConfig


@dataclass(frozen=True, kw_only=True)
class PointmapNetworkSettings(Settings):
    """Sizes of the network to train."""

    width: int = setting(128, "Features of the encoder.", ge=32, le=4096)
    depth: int = setting(6, "Blocks of the encoder.", ge=1, le=64)
    decoder_width: int = setting(128, "Features of the decoders.", ge=32, le=4096)
    decoder_depth: int = setting(4, "Blocks of each decoder.", ge=1, le=64)
    head_dim: int = setting(32, "Features of an attention head.", ge=4, le=256)
    patch: int = setting(16, "Side of a patch.", unit="px", ge=4, le=32)
    head: str = setting(
        "linear", "What turns tokens into points; dpt needs 10 decoder blocks and patches of 16.", choices=HEADS
    )

    def network_config(self, height: int, width: int) -> NetworkConfig:
        """The architecture for images of a size.

        Raises:
            InvalidInputError: when the sizes make no network.
        """
        return NetworkConfig(
            enc_embed_dim=self.width,
            enc_depth=self.depth,
            enc_num_heads=max(1, self.width // self.head_dim),
            dec_embed_dim=self.decoder_width,
            dec_depth=self.decoder_depth,
            dec_num_heads=max(1, self.decoder_width // self.head_dim),
            head_type=self.head,
            img_size=(height, width),
            patch_size=self.patch,
        )


@dataclass(frozen=True, kw_only=True)
class PointmapTrainingConfig(Settings):
    """The optimisation: ConfLoss (eq. 14), AdamW, warm-up and cosine, averaged weights."""

    steps: int = setting(4000, "Optimiser steps.", ge=1)
    batch: int = setting(16, "Groups of views per step.", ge=1, le=4096)
    reuse: int = setting(4, "Steps that a group of views takes part in, on average.", ge=1, le=1000)
    window: int = setting(512, "Newest groups that a step draws from (with reuse above 1).", ge=1)
    learning_rate: float = setting(1e-3, "Largest learning rate.", ge=1e-7, le=1.0)
    final_rate: float = setting(1e-6, "Learning rate at the end.", ge=0.0, le=1.0)
    warmup_steps: int = setting(100, "Steps over which the learning rate rises.", ge=0)
    weight_decay: float = setting(0.05, "Decay of weight matrices.", ge=0.0, le=1.0)
    gradient_clip: float = setting(1.0, "Largest norm of the gradient.", ge=1e-3, le=1e3)
    average: float = setting(0.998, "Share of the old in the averaged weights, per step.", ge=0.0, le=0.99999)
    alpha: float = setting(0.2, "Worth of a unit of log confidence.", ge=0.0, le=10.0)
    mirror: bool = setting(True, "Show half of the batches in a mirror.")
    seed: int = setting(0, "Seed of the initial weights.", ge=0)
    workers: int = setting(1, "Processes that make training views; 0 makes them between the steps.", ge=0, le=64)
    validate_every: int = setting(500, "Steps between validations.", ge=1)
    validation_groups: int = setting(64, "Groups of held-out rooms to validate on.", ge=1)
    checkpoint_every: int = setting(250, "Steps between checkpoints that a run can be resumed from.", ge=1)
    log_every: int = setting(20, "Steps between lines of the log.", ge=1)
