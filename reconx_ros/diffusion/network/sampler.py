"""The noise schedule of DynamiCrafter's weights and the DDIM sampler (Song et al., arXiv:2010.02502) that goes with it.

diffusers' DDIMScheduler gives the same numbers where both apply (a test holds them together) and is not used, because
it lacks what these weights were trained or published with: the dynamic rescaling of x0, and the previous step taken
from the list of steps instead of ``t - 1000 // steps``, which differs where the number of steps does not divide 1000.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reconx_ros.core import ConfigError, InvalidInputError, check_finite


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Diffusion process and steps; the defaults are those of the public weights.

    Attributes:
        train_steps: of the diffusion.
        beta_start, beta_end: noise per step; the square roots are spaced evenly.
        zero_terminal_snr: shift the schedule so that the last step is pure noise (arXiv:2305.08891, algorithm 1).
        prediction: what the network predicts: ``v`` or ``epsilon``.
        base_scale: x0 is scaled by this from step ``scale_steps`` on, linearly towards 1 at step 0 (DynamiCrafter's
            dynamic rescale); 1 switches it off.
        scale_steps: see base_scale.
        spacing: ``trailing`` ends at the last step, ``uniform`` starts at step 1 (arXiv:2305.08891, table 2).

    Raises:
        ConfigError: for a value out of its range.
    """

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = True
    prediction: str = "v"
    base_scale: float = 0.7
    scale_steps: int = 400
    spacing: str = "trailing"

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(f"betas go from {self.beta_start} to {self.beta_end}, expected 0 < start <= end < 1")
        if not 1 <= self.scale_steps <= self.train_steps or not 0 < self.base_scale <= 1:
            raise ConfigError(
                f"base_scale is {self.base_scale} from step {self.scale_steps}, expected (0, 1] in the run"
            )
        for name, choices in (("prediction", ("v", "epsilon")), ("spacing", ("trailing", "uniform"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is '{getattr(self, name)}', expected one of {', '.join(choices)}")
        if self.prediction == "epsilon" and self.zero_terminal_snr:
            raise ConfigError(
                "prediction is 'epsilon' with zero_terminal_snr: no noise-free part is left to predict it"
            )

    def betas(self) -> torch.Tensor:
        """[train_steps] float64."""
        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.train_steps, dtype=torch.float64)
        betas = roots.square()
        return _without_terminal_signal(betas) if self.zero_terminal_snr else betas

    def alphas_cumprod(self) -> torch.Tensor:
        """[train_steps] float64: share of the signal's power that is left at each step."""
        return torch.cumprod(1.0 - self.betas(), dim=0)

    def scales(self) -> torch.Tensor:
        """[train_steps] float32: what x0 is multiplied by at each step."""
        falling = torch.linspace(1.0, self.base_scale, self.scale_steps)
        return torch.cat([falling, torch.full((self.train_steps - self.scale_steps,), self.base_scale)])


def _without_terminal_signal(betas: torch.Tensor) -> torch.Tensor:
    """Betas whose last step has no signal: sqrt(alpha_bar) is shifted to end at 0 and scaled to start as before."""
    roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    alphas_cumprod = roots.square()
    return 1.0 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplerTables:
    """Numbers of S sampling steps, from the cleanest (index 0) to pure noise; all float64 but the first.

    Attributes:
        timesteps: [S] int64, rising.
        alphas, alphas_prev: [S] alphas_cumprod at the step and at the next cleaner one.
        sigmas: [S] standard deviation of the noise added by a step.
        scales, scales_prev: [S] of x0.
    """

    timesteps: torch.Tensor
    alphas: torch.Tensor
    alphas_prev: torch.Tensor
    sigmas: torch.Tensor
    scales: torch.Tensor
    scales_prev: torch.Tensor


def sampler_tables(config: ScheduleConfig, steps: int, eta: float) -> SamplerTables:
    """Tables for a number of steps and a share eta of the stochastic sampler's noise (0: deterministic).

    Raises:
        InvalidInputError: for a number of steps or an eta out of range.
    """
    if not 1 <= steps <= config.train_steps:
        raise InvalidInputError(f"number of sampling steps is {steps}, expected 1 to {config.train_steps}")
    if not 0.0 <= eta <= 1.0:
        raise InvalidInputError(f"eta is {eta}, expected 0 to 1")
    timesteps = spaced_timesteps(config, steps)
    stored = config.alphas_cumprod().float().double()  # the weights' files hold float32
    alphas = stored[timesteps]
    alphas_prev = torch.cat([stored[:1], alphas[:-1]])
    sigmas = eta * ((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev)).clamp_min(0).sqrt()
    chosen = config.scales().double()[timesteps]
    return SamplerTables(
        timesteps=timesteps,
        alphas=alphas,
        alphas_prev=alphas_prev,
        sigmas=sigmas,
        scales=chosen,
        scales_prev=torch.cat([chosen[:1], chosen[:-1]]),
    )


def spaced_timesteps(config: ScheduleConfig, steps: int) -> torch.Tensor:
    """[S] int64, rising.

    Uniform spacing has a step more than asked for where the number does not divide that of training: without it,
    sampling would not start from noise.
    """
    if config.spacing == "trailing":
        stride = config.train_steps / steps
        chosen = [round(config.train_steps - k * stride) - 1 for k in range(steps)]
        return torch.tensor(chosen[::-1])
    chosen_uniform = torch.arange(0, config.train_steps, config.train_steps // steps) + 1
    return chosen_uniform[chosen_uniform < config.train_steps]


def x0_and_noise(
    config: ScheduleConfig, sample: torch.Tensor, output: torch.Tensor, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clean latents and the noise that a prediction stands for; alpha is alphas_cumprod at the step."""
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if config.prediction == "v":
        return signal * sample - noise * output, signal * output + noise * sample
    return (sample - noise * output) / signal, output


def velocity(x0: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Velocity, sqrt(alpha) noise - sqrt(1 - alpha) x0 (Salimans and Ho, arXiv:2202.00512)."""
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0


def ddim_step(
    config: ScheduleConfig,
    tables: SamplerTables,
    index: int,
    sample: torch.Tensor,
    output: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step towards the picture.

    Args:
        config: of the schedule.
        tables: of the run.
        index: into the tables.
        sample: latents at this step.
        output: what the network predicted.
        noise: standard normal, in the shape of sample; needed where the step's sigma is not 0.

    Returns:
        (latents at the next cleaner step, predicted clean latents).

    Raises:
        InvalidInputError: when the prediction holds NaN or infinity, or noise is missing.
    """
    check_finite(f"prediction of the video network at step {int(tables.timesteps[index])}", output)
    sigma, alpha_prev = float(tables.sigmas[index]), float(tables.alphas_prev[index])
    x0, direction = x0_and_noise(config, sample, output, float(tables.alphas[index]))
    x0 = x0 * float(tables.scales_prev[index] / tables.scales[index])
    following = alpha_prev**0.5 * x0 + max(1 - alpha_prev - sigma**2, 0.0) ** 0.5 * direction
    if sigma > 0:
        if noise is None:
            raise InvalidInputError(f"noise is missing at sampling step {index}, whose sigma is {sigma:.3g}")
        following = following + sigma * noise
    return following, x0


def guided(
    nothing: torch.Tensor,
    image: torch.Tensor | None,
    everything: torch.Tensor,
    *,
    image_scale: float,
    structure_scale: float,
    rescale: float,
) -> torch.Tensor:
    """Classifier-free guidance by picture and by structure.

    ``e = e(0,0) + s_img (e(img,0) - e(0,0)) + s_3d (e(img,P) - e(img,0))``, then the standard deviation is pulled
    towards that of ``e(img,P)`` by the share ``rescale`` (arXiv:2305.08891, eq. 15 and 16).

    Args:
        nothing: [B, ...] prediction without conditions.
        image: [B, ...] prediction with text and image; None where s_img = s_3d or there is no structure: it cancels.
        everything: [B, ...] prediction with all conditions.
        image_scale, structure_scale: s_img and s_3d.
        rescale: 0 leaves the result alone, 1 gives it the deviation of ``everything``.
    """
    if image is None:
        result = nothing + image_scale * (everything - nothing)
    else:
        result = nothing + image_scale * (image - nothing) + structure_scale * (everything - image)
    if rescale == 0:
        return result
    axes = tuple(range(1, result.ndim))
    factor = everything.std(dim=axes, keepdim=True) / result.std(dim=axes, keepdim=True).clamp_min(1e-12)
    return rescale * result * factor + (1 - rescale) * result
