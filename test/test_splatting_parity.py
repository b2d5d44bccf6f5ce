"""The rasterisers against numbers of gsplat v1.5.3, in the folder that RECONX_PARITY names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch

from reconx_ros.io.gaussians import read_scene_ply, write_scene_ply
from reconx_ros.splatting.base import Rasterizer, Rendering
from reconx_ros.splatting.harmonics import sh_color, sh_from_rgb, sh_sum
from reconx_ros.splatting.projection import covariances, project_gaussians
from reconx_ros.splatting.registry import registry

VALUES, GRADIENTS = 1e-4, 1e-3  # largest relative L2 distance
INPUTS = {"means", "quats", "scales", "opacities", "viewmats", "Ks", "width", "height"}
BACKGROUND = (0.2, 0.5, 0.8)
GRADIENT_NAMES = {
    "means": "g_means",
    "quats_wxyz": "g_quats",
    "scales": "g_scales",
    "opacities": "g_opacities",
    "sh": "g_sh",
    "cam_from_world": "g_viewmats",
}

Case = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def parity_cases(reconx_parity: Path) -> dict[str, Case]:
    found = {}
    for path in parity.files(reconx_parity, "rendering"):
        with np.load(path) as arrays:
            found[path.stem] = {name: arrays[name] for name in arrays.files}
    assert found, f"no rendering cases in {reconx_parity}"
    return found


@pytest.fixture(params=["reference", "native", "gsplat"])
def rasterizer(request: pytest.FixtureRequest) -> Rasterizer:
    try:
        reason = registry()[request.param].missing()
    except ImportError as error:
        reason = str(error)
    if reason is not None:
        pytest.skip(reason)
    return registry()[request.param].load_class()()


def device_of(rasterizer: Rasterizer) -> str:
    return "cuda" if rasterizer.name == "gsplat" else "cpu"


def arguments(case: Case, device: str) -> dict[str, Any]:
    """Arguments of ``Rasterizer.render``; the intrinsics move from the corner to the centre of the first pixel."""
    tensors = {name: torch.from_numpy(np.asarray(case[name], np.float32)).to(device) for name in INPUTS}
    intrinsics = tensors["Ks"].clone()
    intrinsics[:, :2, 2] -= 0.5
    if "sh" in case:
        sh = torch.from_numpy(case["sh"]).to(device)
    else:
        sh = sh_from_rgb(torch.from_numpy(case["colors_u8"].astype(np.float32) / 255))[:, None].to(device)
    return {
        "means": tensors["means"],
        "quats_wxyz": tensors["quats"],
        "scales": tensors["scales"],
        "opacities": tensors["opacities"],
        "sh": sh,
        "cam_from_world": tensors["viewmats"],
        "intrinsics": intrinsics,
        "width": int(case["width"]),
        "height": int(case["height"]),
    }


def distance(ours: torch.Tensor, theirs: np.ndarray) -> float:
    """Relative L2 distance."""
    a, b = ours.detach().double().cpu().numpy(), theirs.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def check_values(rendering: Rendering, colors: np.ndarray, alphas: np.ndarray, *, accumulated: bool = False) -> None:
    """Compare colours, alpha and, where the reference has a fourth channel, depth."""
    assert distance(rendering.rgb, colors[..., :3]) <= VALUES
    assert distance(rendering.alpha, alphas[..., 0]) <= VALUES
    if colors.shape[-1] == 4:
        depth = rendering.depth * rendering.alpha if accumulated else rendering.depth
        assert distance(depth, colors[..., 3]) <= VALUES


def test_pictures_equal_gsplat(parity_cases: dict[str, Case], rasterizer: Rasterizer) -> None:
    compared = 0
    for case in parity_cases.values():
        given = arguments(case, device_of(rasterizer))
        background = torch.tensor(BACKGROUND, device=given["means"].device).expand(len(given["intrinsics"]), 3)
        for prefix, extra in (
            ("", {}),
            ("rgb_", {}),
            ("rgb_bg_", {"background": background}),
            ("rgb_ed_", {}),
            ("rgb_d_aa_", {"antialiased": True}),
        ):
            if f"{prefix}colors" in case:
                rendering = rasterizer.render(**given, **extra)
                alphas = case[f"{prefix}alphas"]
                check_values(rendering, case[f"{prefix}colors"], alphas, accumulated=prefix == "rgb_d_aa_")
                compared += 1
    assert compared >= 1


def test_gradients_equal_gsplat(parity_cases: dict[str, Case], rasterizer: Rasterizer) -> None:
    compared = 0
    for case in parity_cases.values():
        if "v_colors" not in case:
            continue
        given = arguments(case, device_of(rasterizer))
        leaves = {name: given[name].requires_grad_() for name in GRADIENT_NAMES}
        device = leaves["means"].device
        background = torch.tensor(BACKGROUND, device=device).expand(len(given["intrinsics"]), 3)
        out = rasterizer.render(**given, background=background)
        colors, alphas = (torch.from_numpy(case[n]).to(device) for n in ("v_colors", "v_alphas"))
        ((out.rgb * colors).sum() + (out.alpha * alphas[..., 0]).sum()).backward()
        for name, leaf in leaves.items():
            assert leaf.grad is not None, name
            assert distance(leaf.grad, case[GRADIENT_NAMES[name]]) <= GRADIENTS, name
            compared += 1
    assert compared >= 1


def test_projection_equals_gsplat(parity_cases: dict[str, Case]) -> None:
    for case in parity_cases.values():
        given = arguments(case, "cpu")
        covars = covariances(given["quats_wxyz"], given["scales"])
        if "covars" in case:
            assert distance(covars, case["covars"]) <= VALUES
        for i, pose in enumerate(given["cam_from_world"]):
            size = {"width": given["width"], "height": given["height"]}
            seen = project_gaussians(given["means"], covars, pose, given["intrinsics"][i], **size, near=0.01)
            kept = case["radii"][i][seen.index].min(axis=-1) > 0
            rows = seen.index[torch.from_numpy(kept)].numpy()
            assert np.array_equal(seen.radii_px().numpy()[kept], case["radii"][i][rows])
            assert distance(seen.means_px[kept] + 0.5, case["means2d"][i][rows]) <= VALUES
            assert distance(seen.conics[kept], case["conics"][i][rows]) <= VALUES
            if "compensations" in case:
                assert distance(seen.compensations[kept], case["compensations"][i][rows]) <= VALUES


def test_harmonics_equal_gsplat(parity_cases: dict[str, Case]) -> None:
    for case in parity_cases.values():
        if "sh" not in case:
            continue
        means, sh = torch.from_numpy(case["means"]), torch.from_numpy(case["sh"])
        for i, pose in enumerate(torch.from_numpy(case["viewmats"])):
            directions = torch.nn.functional.normalize(means - torch.linalg.inv(pose)[:3, 3], dim=-1)
            shown = case["radii"][i].min(axis=-1) > 0
            for degree in range(4):
                values = sh_sum(sh[:, : (degree + 1) ** 2], directions)
                assert distance(values[shown], case[f"sh_deg{degree}"][i][shown]) <= VALUES
            assert distance(sh_color(sh, directions)[shown], case["rgb_from_sh3"][i][shown]) <= VALUES


@pytest.mark.parametrize("path", parity.recorded("scene file"))
def test_ply_layout_equals_gsplat(path: Path, tmp_path: Path) -> None:
    scene = read_scene_ply(path)
    write_scene_ply(tmp_path / "ours.ply", scene, extra=False)
    assert (tmp_path / "ours.ply").read_bytes() == path.read_bytes()
    npz = path.with_name(path.name.replace("_export.ply", ".npz"))
    if npz.exists():
        with np.load(npz) as case:
            assert distance(scene.sh, case["sh"]) <= 1e-6
            assert distance(scene.log_scales.exp(), case["scales"]) <= 1e-6
            assert distance(scene.logit_opacities.sigmoid(), case["opacities"]) <= 1e-6
            assert distance(scene.quats_wxyz, case["quats"]) <= 1e-6
