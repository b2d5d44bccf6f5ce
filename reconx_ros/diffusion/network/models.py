"""The parts of the video model as diffusers classes: saved and loaded, moved and offloaded like any other.

The networks themselves are plain torch modules; here each gets diffusers' configuration and file format. diffusers is
imported when one of the classes is first asked for: ``from reconx_ros.diffusion.network.models import
ReconXUNet`` works like any import where it is installed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
from typing import Any

import torch

from reconx_ros.core import BackendUnavailableError
from reconx_ros.diffusion.network.resampler import Resampler, ResamplerConfig
from reconx_ros.diffusion.network.sampler import (
    SamplerTables,
    ScheduleConfig,
    ddim_step,
    sampler_tables,
)
from reconx_ros.diffusion.network.structure_encoder import StructureConfig, StructureEncoder
from reconx_ros.diffusion.network.unet import UNetConfig, VideoUNet

_MODELS = {
    "ReconXUNet": (VideoUNet, UNetConfig),
    "ReconXResampler": (Resampler, ResamplerConfig),
    "ReconXStructureEncoder": (StructureEncoder, StructureConfig),
}
_SCHEDULER = "ReconXScheduler"
_BASES = frozenset({"ModelMixin", "SchedulerMixin"})  # diffusers looks them up here to learn how our classes are loaded


def __getattr__(name: str) -> Any:
    if name in _MODELS or name == _SCHEDULER:
        return _classes()[name]
    if name in _BASES:
        require_diffusers()
        import diffusers

        return getattr(diffusers, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def require_diffusers() -> None:
    """Raise BackendUnavailableError where diffusers is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        raise BackendUnavailableError(
            "the video model needs the Python package diffusers: run pip install 'reconx_ros[models]'"
        )


@functools.cache
def _classes() -> dict[str, Any]:
    require_diffusers()
    from diffusers import ConfigMixin, ModelMixin, SchedulerMixin

    classes = {
        name: _config_class(name, (network, ModelMixin, ConfigMixin), network, config)
        for name, (network, config) in _MODELS.items()
    }
    for made in classes.values():
        made._supports_gradient_checkpointing = hasattr(made, "_run")
    classes[_SCHEDULER] = _config_class(_SCHEDULER, (Scheduler, SchedulerMixin, ConfigMixin), Scheduler, ScheduleConfig)
    classes[_SCHEDULER].config_name = "scheduler_config.json"
    return classes


def _config_class(name: str, bases: tuple[type, ...], network: Any, config: Any) -> Any:
    """A diffusers class whose configuration has exactly the fields of our dataclass."""
    from diffusers.configuration_utils import register_to_config

    def init(self: Any, **values: Any) -> None:
        network.__init__(self, config(**values))

    fields = dataclasses.fields(config)
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)] + [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default) for field in fields
    ]
    init.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    members = {"__init__": register_to_config(init), "__module__": __name__, "__doc__": network.__doc__}
    return type(name, bases, members)


class Scheduler:
    """The schedule and its DDIM sampler, in the form of a diffusers scheduler; see ``sampler``."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, config: ScheduleConfig) -> None:
        self.schedule = config
        self.tables: SamplerTables | None = None
        self.timesteps = torch.empty(0, dtype=torch.int64)

    def set_timesteps(self, steps: int, eta: float = 0.0, device: torch.device | str | None = None) -> None:
        """Prepare a run; ``timesteps`` then falls from noise to picture. Errors as ``sampler_tables``."""
        self.tables = sampler_tables(self.schedule, steps, eta)
        self.timesteps = self.tables.timesteps.flip(0).to(device or "cpu")

    def step(
        self, output: torch.Tensor, place: int, sample: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sample after the ``place``-th of ``timesteps``, and the clean latents predicted; see ``ddim_step``."""
        if self.tables is None:
            raise RuntimeError("set_timesteps comes before step")
        index = len(self.tables.timesteps) - 1 - place
        return ddim_step(self.schedule, self.tables, index, sample, output, noise)

    def sigma(self, place: int) -> float:
        """Standard deviation of the noise that the ``place``-th of ``timesteps`` adds."""
        return 0.0 if self.tables is None else float(self.tables.sigmas.flip(0)[place])

    def level_after(self, place: int) -> tuple[float, float]:
        """Amplitudes of picture and noise in the sample after the ``place``-th of ``timesteps``; (1, 0) at the end."""
        if self.tables is None:
            raise RuntimeError("set_timesteps comes before level_after")
        index = len(self.tables.timesteps) - 1 - place
        if index == 0:
            return 1.0, 0.0
        alpha = float(self.tables.alphas_prev[index])
        return alpha**0.5 * float(self.tables.scales_prev[index]), (1 - alpha) ** 0.5
