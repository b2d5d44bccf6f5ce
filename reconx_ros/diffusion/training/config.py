"""Settings of a training run of the video network."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core import ConfigError
from reconx_ros.core.precision import PRECISIONS
from reconx_ros.core.settings import Settings, setting
from reconx_ros.diffusion.network.sampler import ScheduleConfig
from reconx_ros.diffusion.network.structure_encoder import StructureConfig
from reconx_ros.diffusion.network.unet import UNetConfig
from reconx_ros.diffusion.training.parts import PARTS

STRUCTURE_SOURCES = ("own", "exchanged", "none")
KNOWN = ("both", "first")


@dataclass(frozen=True, kw_only=True)
class VideoTrainingConfig(Settings):
    """The optimisation: ReconX eq. 5, AdamW, averaged weights, dropped conditions, growing frame intervals."""

    steps: int = setting(3000, "Optimiser steps, warm-up of the image attention included.", ge=1)
    image_attention_steps: int = setting(0, "First steps, in which only the image attention learns.", ge=0)
    parts: tuple[str, ...] = setting(("all",), f"What learns afterwards: {', '.join(PARTS)}.")
    batch: int = setting(8, "Clips per step and process.", ge=1, le=4096)
    accumulate: int = setting(1, "Parts that a batch is taken in, one after the other, to spare memory.", ge=1, le=256)
    reuse: int = setting(8, "Steps that a clip takes part in, on average.", ge=1, le=1000)
    window: int = setting(1024, "Newest clips that a step draws from (with reuse above 1).", ge=1)
    learning_rate: float = setting(1e-3, "Largest learning rate.", ge=1e-7, le=1.0)
    final_rate: float = setting(1e-5, "Learning rate at the end.", ge=0.0, le=1.0)
    rate_warmup_steps: int = setting(100, "Steps over which the learning rate rises.", ge=0)
    weight_decay: float = setting(0.01, "Decay of weight matrices.", ge=0.0, le=1.0)
    gradient_clip: float = setting(1.0, "Largest norm of the gradient.", ge=1e-3, le=1e3)
    average: float = setting(0.998, "Share of the old in the averaged weights, per step.", ge=0.0, le=0.99999)
    drop: float = setting(0.05, "Rate at which image, structure, and both are dropped, each.", ge=0.0, le=0.333)
    late: float = setting(
        1.0, "Exponent that moves the drawn timesteps towards noise; 1 draws them evenly.", ge=0.1, le=10.0
    )
    structure: str = setting(
        "own", "Points shown: the clip's own, those of another clip of the batch, or none.", choices=STRUCTURE_SOURCES
    )
    known: str = setting("both", "Pictures that are given: the first and the last, or the first alone.", choices=KNOWN)
    cameras: bool = setting(True, "Show the cameras to a network that has branches for them.")
    points: int = setting(512, "Points per clip, drawn from the first and the last picture.", ge=1, le=1_000_000)
    smooth_share: float = setting(0.1, "Share of the steps with the smallest intervals.", ge=0.0, le=1.0)
    growth_share: float = setting(0.3, "Share of the steps in which the interval grows.", ge=0.0, le=1.0)
    gradient_checkpointing: bool = setting(False, "Compute activations twice instead of keeping them.")
    precision: str = setting("float32", "Of the networks' computations; weights stay float32.", choices=PRECISIONS[1:])
    seed: int = setting(0, "Seed of the initial weights and of every draw.", ge=0)
    workers: int = setting(1, "Processes that make clips; 0 makes them between the steps.", ge=0, le=64)
    validate_every: int = setting(500, "Steps between validations.", ge=1)
    validation_clips: int = setting(64, "Clips of held-out rooms to validate on.", ge=1)
    validation_levels: tuple[int, ...] = setting(
        (250, 500, 750, 950), "Timesteps of the validation loss.", ge=0, le=999
    )
    sample_steps: int = setting(10, "Sampling steps of the pictures that are compared.", ge=1, le=1000)
    sample_every: int = setting(1000, "Steps between contact sheets.", ge=1)
    sample_clips: int = setting(4, "Clips on a contact sheet.", ge=1, le=64)
    checkpoint_every: int = setting(250, "Steps between states that a run can be resumed from.", ge=1)
    log_every: int = setting(20, "Steps between lines of the log.", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(f"parameter parts is {list(self.parts)}, expected some of {', '.join(PARTS)}")
        if self.batch % self.accumulate:
            raise ConfigError(f"parameter accumulate is {self.accumulate}, expected a divisor of batch ({self.batch})")
        if self.smooth_share + self.growth_share > 1:
            raise ConfigError(
                f"smooth_share and growth_share are {self.smooth_share:g} and {self.growth_share:g}, expected a sum of"
                " at most 1"
            )
        if self.structure == "exchanged" and self.batch // self.accumulate < 2:
            raise ConfigError("parameter structure is 'exchanged', expected at least 2 clips at a time for it")


PRESETS: dict[str, VideoTrainingConfig] = {
    # From scratch, a few million parameters, on a CPU.
    "small": VideoTrainingConfig(),
    # ReconX, sec. 5.1: a converted DynamiCrafter. Batch, rate and what "spatial layers" are is ours to say.
    "reconx": VideoTrainingConfig(
        steps=32_000, image_attention_steps=2_000, parts=("spatial", "structure", "camera"), batch=1, reuse=1,
        learning_rate=1e-5, final_rate=1e-5, rate_warmup_steps=500, average=0.9999, points=16_384, precision="bfloat16",
        gradient_checkpointing=True, workers=8, validate_every=1_000, sample_every=2_000, sample_steps=50,
        checkpoint_every=1_000,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VideoNetworkSettings(Settings):
    """Sizes of a network that is trained from scratch, without an autoencoder or CLIP to stand on."""

    patch: int = setting(4, "Side of the squares of pixels that are folded into channels.", unit="px", ge=1, le=16)
    width: int = setting(64, "Channels of the finest level.", ge=32, le=1024)
    levels: tuple[int, ...] = setting((1, 1), "Channels of each level, in widths.", ge=1, le=8)
    blocks: int = setting(1, "Residual blocks per level.", ge=1, le=8)
    head_dim: int = setting(32, "Channels of an attention head.", ge=8, le=256)
    image_tokens: int = setting(4, "Tokens along each side of the first picture.", ge=1, le=32)
    camera_channels: int = setting(32, "Width of the camera encoder; 0 leaves it out.", ge=0, le=1024)
    structure_tokens: int = setting(64, "Tokens of the structure encoder.", ge=1, le=16_384)
    structure_width: int = setting(64, "Width of the structure tokens; 0 leaves the branch out.", ge=0, le=4096)
    structure_depth: int = setting(1, "Layers of the structure encoder.", ge=0, le=32)
    structure_centred: bool = setting(False, "Centre the points, as a large model may; see StructureConfig.")
    structure_gate: float = setting(
        1.0, "Gate alpha at the start; there is no trained backbone that a zero would protect.", ge=-5.0, le=5.0
    )
    structure_focus: float = setting(4.0, "Factor of the structure keys at the start; 1 is torch's.", ge=0.1, le=100.0)
    norm_groups: int = setting(8, "Groups of every GroupNorm, a divisor of 32.", ge=1, le=32)
    structure_frequencies: int = setting(4, "Frequencies of the points' embedding.", ge=1, le=16)

    @property
    def latent_channels(self) -> int:
        """Channels of a folded picture."""
        return 3 * self.patch**2

    @property
    def token_dim(self) -> int:
        """Width of the image tokens; see ``patches.picture_tokens``."""
        return 48 + self.image_tokens**2

    def unet_config(self, frames: int) -> UNetConfig:
        """The network for clips of a length. Raises ConfigError for sizes that do not fit each other."""
        return UNetConfig(
            in_channels=2 * self.latent_channels,
            out_channels=self.latent_channels,
            model_channels=self.width,
            channel_mult=self.levels,
            num_res_blocks=self.blocks,
            attention_levels=tuple(range(len(self.levels))),
            head_dim=self.head_dim,
            context_dim=self.token_dim,
            init_attention=False,
            dropout=0.0,
            temporal_length=frames,
            structure_dim=self.structure_width,
            camera_channels=self.camera_channels,
            norm_groups=self.norm_groups,
        )

    def structure_config(self) -> StructureConfig | None:
        """The structure encoder; None where the branch is left out."""
        if not self.structure_width:
            return None
        return StructureConfig(
            tokens=self.structure_tokens,
            width=self.structure_width,
            depth=self.structure_depth,
            head_dim=min(self.head_dim, self.structure_width),
            frequencies=self.structure_frequencies,
            centred=self.structure_centred,
        )

    def schedule_config(self) -> ScheduleConfig:
        """Zero-terminal-SNR v-prediction, without the public weights' dynamic rescale."""
        return ScheduleConfig(base_scale=1.0)
