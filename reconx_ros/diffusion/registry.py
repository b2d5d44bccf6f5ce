"""The view generators of stage 2, by name."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.registry import BackendInfo, with_entry_points


@dataclass(frozen=True, kw_only=True)
class GeneratorInfo(BackendInfo):
    """One view generator.

    Attributes:
        runs: class names of the pipelines whose weights it runs, as a folder in the format of diffusers names them.
            ``auto`` takes the generator that the configured weights are for, and the first that needs none without any.
    """

    runs: tuple[str, ...] = ()


FOLDED_PIPELINE = "FoldedPipeline"  # of folders of small models that were trained from scratch

_BUILTIN = {
    row.name: row
    for row in (
        GeneratorInfo(
            name="warp",
            target="reconx_ros.diffusion.backends.warp:WarpGenerator",
            summary="renders the pointmaps with visibility; generates nothing; no weights",
        ),
        GeneratorInfo(
            name="reconx",
            target="reconx_ros.diffusion.backends.reconx:ReconXGenerator",
            summary="video model that sees the scene's points (ReconX), by weights from reconx convert or reconx train",
            modules=("diffusers", "transformers", "safetensors"),
            extra="models",
            needs=("weights",),
            settings="reconx_ros.diffusion.network.generator_settings:ReconXGeneratorSettings",
            licence_weights="LicenseRef-as-the-converted-weights",
            runs=("ReconXPipeline", FOLDED_PIPELINE),
        ),
        GeneratorInfo(
            name="diffusers_flf2v_wan",
            target="reconx_ros.diffusion.backends.diffusers_flf2v:WanGenerator",
            summary="Wan 2.1 first-and-last-frame video model from diffusers, by weights that you download",
            modules=("diffusers", "transformers", "safetensors"),
            extra="models",
            needs=("weights",),
            licence_weights="Apache-2.0",
            runs=("WanImageToVideoPipeline",),
        ),
        GeneratorInfo(
            name="diffusers_flf2v_ltx",
            target="reconx_ros.diffusion.backends.diffusers_flf2v:LtxGenerator",
            summary="LTX-Video conditioned on first and last frame, from diffusers, by weights that you download",
            modules=("diffusers", "transformers", "safetensors"),
            extra="models",
            needs=("weights",),
            licence_weights="LicenseRef-LTX-Video-Open-Weights",
            runs=("LTXConditionPipeline", "LTXImageToVideoPipeline", "LTXPipeline"),
        ),
    )
}


def registry() -> dict[str, GeneratorInfo]:
    """All known view generators by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.diffusion")


def without_weights() -> str:
    """Name of the generator that needs no weights."""
    return next(row.name for row in registry().values() if not row.needs_weights)
