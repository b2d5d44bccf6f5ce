"""Settings of stage 3."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.registry import sections_field
from reconx_ros.core.settings import Sections, StageSettings, setting
from reconx_ros.splatting.registry import registry


@dataclass(frozen=True, kw_only=True)
class SplattingConfig(StageSettings):
    """Stage 3: view sequence to Gaussians (ReconX eq. 6-7)."""

    rasterizer: str = setting("auto", "Rasteriser: auto, gsplat (CUDA), native (compiled, CPU) or reference (torch).")
    seed: int = setting(
        -1, "Seed of the order of views, of backgrounds and of random Gaussians; -1 takes that of `seed`.", ge=-1
    )
    steps: int = setting(1000, "Optimisation steps.", ge=0, le=100000)
    max_gaussians: int = setting(50000, "Budget of Gaussians; the pointmaps are thinned to it.", ge=1, le=10000000)
    max_size: int = setting(320, "Longer side of the supervising images.", unit="px", ge=16, le=4096)
    sh_degree: int = setting(1, "Degree of the spherical harmonics.", ge=0, le=3)
    weight_l1: float = setting(0.8, "Weight of the L1 term.", ge=0.0)
    weight_ssim: float = setting(0.2, "Weight of the structural-dissimilarity term 1 - SSIM.", ge=0.0)
    weight_lpips: float = setting(
        0.5, "Weight of the LPIPS term; it is off, and the report says so, without weights.", ge=0.0
    )
    lpips_trunk: str = setting(
        "",
        "VGG16 weights for LPIPS: a file (torchvision's vgg16-397923af.pth), or lpips-vgg16-trunk of `reconx weights "
        "list`; empty leaves the term out.",
    )
    lpips_heads: str = setting(
        "",
        "LPIPS' linear heads for VGG16: a file (vgg.pth of the lpips package, v0.1), or lpips-vgg16-heads of `reconx "
        "weights list`; empty leaves the term out.",
    )
    weight_depth: float = setting(0.0, "Weight of the term that holds rendered depth to the pointmaps.", ge=0.0)
    use_confidence: bool = setting(True, "Weigh each pixel by its confidence (eq. 7); off weighs all alike.")
    use_pointmap_init: bool = setting(
        True, "Initialise from the pointmaps; off scatters Gaussians at random (ablation)."
    )
    fill_unsure: bool = setting(
        False,
        "Put Gaussians of low confidence also where stage 1 found no depth, on a smooth guess of the surface. Fewer "
        "holes in pictures, and more that is wrong.",
    )
    fill_confidence: float = setting(0.1, "Confidence of a guessed depth.", ge=0.001, le=1.0)
    observed_weight: float = setting(1.0, "Factor on the loss of frames that a camera took.", ge=0.0)
    generated_weight: float = setting(0.5, "Factor on the loss of frames made between the cameras.", ge=0.0)
    input_share: float = setting(
        0.5,
        "Share of the steps that look at a camera image; the others look at in-between views, of which there are many "
        "more.",
        ge=0.0,
        le=1.0,
    )
    random_background: bool = setting(
        True,
        "Fit before a background of another colour at every step, so that dark things become Gaussians too and only "
        "what no view shows stays empty; off: before black.",
    )
    antialiased: bool = setting(
        True,
        "Keep the look of Gaussians smaller than a pixel the same at every picture size (Mip-Splatting's 2-D filter); "
        "pictures must then be rendered with it too.",
    )
    refine_poses: bool = setting(
        False, "Correct the poses of the views together with the scene; what all of them share is held fixed."
    )
    refine_exposure: bool = setting(
        False, "Correct gain and offset of each camera image together with the scene; their mean is held fixed."
    )
    lr_pose: float = setting(
        1e-3, "First step of pose corrections, in radians and in shares of the scene's extent; decays to 1 %.", ge=0.0
    )
    lr_exposure: float = setting(2e-3, "First step of gain and offset; decays to 1 %.", ge=0.0)
    batch_views: int = setting(1, "Views rendered per step.", ge=1, le=64)
    init_scale: float = setting(
        0.5, "Radius (one sigma) of a first Gaussian over the distance to its neighbours.", ge=0.01, le=10.0
    )
    init_flatness: float = setting(0.1, "Thickness of a first Gaussian over its radius; 1 is a ball.", ge=0.001, le=1.0)
    lr_position: float = setting(
        6e-4, "First step of positions, as a share of the scene's extent; decays to 1 %.", ge=0.0
    )
    lr_rotation: float = setting(5e-3, "Step of the quaternions.", ge=0.0)
    lr_scale: float = setting(2e-2, "Step of the logarithmic scales.", ge=0.0)
    lr_opacity: float = setting(5e-2, "Step of the opacity logits.", ge=0.0)
    lr_color: float = setting(1e-2, "Step of the constant colour; the higher harmonics take a twentieth of it.", ge=0.0)
    sections: Sections = sections_field(registry)
