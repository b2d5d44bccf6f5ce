"""Settings of stage 2."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.precision import PRECISIONS
from reconx_ros.core.registry import sections_field
from reconx_ros.core.settings import Sections, StageSettings, setting
from reconx_ros.diffusion.registry import registry

NO_FALLBACK = "none"


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(StageSettings):
    """Stage 2: aligned views to a dense view sequence along a path; what generators share, and a section for each."""

    backend: str = setting(
        "auto",
        "View generator; auto takes the one that the weights are for, and warp, which generates nothing, without any.",
    )
    frames: int = setting(32, "In-between views of the whole path (warp).", ge=2, le=512)
    min_confidence: float = setting(0.3, "Pointmap confidence below which a pixel is not warped.", ge=0.0, le=1.0)
    weights: str = setting(
        "",
        "Video model in the format of diffusers: a folder, a name of `reconx weights list`, or a hub name that is in "
        "the local cache.",
    )
    download: bool = setting(
        False, "Let video models be downloaded from the hub; off takes them from the local cache only."
    )
    fallback: str = setting(
        NO_FALLBACK,
        "What to do when a video model does not fit into memory: none stops with an error; a generator that needs no "
        "weights, such as warp, runs instead and the report says so.",
    )
    max_memory_gb: float = setting(
        0.0, "Memory that a video model's run may take; 0 takes what is free (reconx).", unit="GB", ge=0.0
    )
    precision: str = setting(
        "auto",
        "Arithmetic of a video model; auto takes half precision on a GPU.",
        choices=PRECISIONS,
    )
    offload: bool = setting(False, "Keep only the part of a video model that is at work on the GPU (needs accelerate).")
    path: str = setting(
        "between",
        "Where in-between views are seen from: between neighbouring keyframes; beyond goes on past the last one too; "
        "orbit turns on around what two keyframes look at, full circle.",
        choices=("between", "beyond", "orbit"),
    )
    beyond_share: float = setting(
        0.25, "Share of the last clip's frames that lie past the last keyframe (path: beyond).", ge=0.01, le=0.9
    )
    width: int = setting(512, "Width of a video model's frames.", unit="px", ge=16, le=4096)
    height: int = setting(320, "Height of a video model's frames.", unit="px", ge=16, le=4096)
    clip_frames: int = setting(
        0,
        "Frames of one run of a video model, both keyframes included; 0 takes the number of the weights.",
        ge=0,
        le=512,
    )
    steps: int = setting(50, "Sampling steps of a video model.", ge=1, le=1000)
    text_guidance: float = setting(5.0, "Guidance by the prompt (diffusers_flf2v_*); 1 switches it off.", ge=0.0)
    prompt: str = setting("", "What the scene is, for video models.")
    negative_prompt: str = setting("", "What the pictures should not be (diffusers_flf2v_*).")
    fps: int = setting(0, "Frames per second that the motion is conditioned on; 0 takes that of the weights.", ge=0)
    seed: int = setting(
        -1, "Seed of a video model's noise, to which each clip adds its number; -1 takes that of `seed`.", ge=-1
    )
    structure_points: int = setting(
        65536, "Points of the scene that the structure tokens are made of (reconx); 0 leaves them out.", ge=0
    )
    render_guidance: float = setting(
        0.0,
        "How strongly pixels that the points explain are held to their renders at the first sampling step; 1 replaces "
        "them.",
        ge=0.0,
        le=1.0,
    )
    render_guidance_end: float = setting(0.0, "The same at the last step; linear between.", ge=0.0, le=1.0)
    render_guidance_confidence: float = setting(
        0.6, "Confidence of a render from which the points explain a pixel.", ge=0.0, le=1.0
    )
    observed_confidence: float = setting(
        1.0,
        "Confidence of a render from which an in-between view shows it instead, as a pixel that is not generated; 1 "
        "never does.",
        ge=0.0,
        le=1.0,
    )
    generated_confidence: float = setting(
        0.5, "Confidence of a generated pixel that nothing speaks for or against.", ge=0.0, le=1.0
    )
    check: str = setting(
        "renders",
        "Where the confidence of in-between views comes from: renders compares them with the keyframes' surfaces, "
        "stage1 looks how well all views agree on one geometry.",
        choices=("renders", "stage1"),
    )
    sections: Sections = sections_field(registry)
