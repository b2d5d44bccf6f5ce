"""Recorded numbers of the original code: every file of a known kind in the folder that RECONX_PARITY names."""

from __future__ import annotations

import fnmatch
import os
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Kind:
    """What tells a kind of file: its name, and for archives of arrays the names of arrays that it holds."""

    pattern: str = "*.npz"
    arrays: frozenset[str] = frozenset()


def _arrays(names: str) -> Kind:
    return Kind(arrays=frozenset(names.split()))


KINDS = {
    "alignment": _arrays("pairs pts3d pts3d_in_other_view conf1 conf2 out_poses im_conf report"),
    "pointmap network": _arrays("img1 img2 pts3d_1 conf_1 pts3d_in_other_view_2 conf_2"),
    "pointmap network with one decoder": Kind("*_nodec2.npz"),
    "pointmap inference": _arrays("files idx1 idx2 p1_0 c1_0"),
    "pointmap losses": _arrays("gt1_camera_pose gt1_pts3d p1_pts3d p2_pts3d_in_other_view"),
    "pointmap keys": Kind("*st3r_keys_*.txt"),
    "focal length and pose": _arrays("pts3d focal_weiszfeld focal_median pnp_f70_pose reg_s"),
    "image preparation": Kind("preprocess*.json"),
    "pair graphs": Kind("pair_graphs*.json"),
    "video network": _arrays("x context timesteps fs y"),
    "video keys": Kind("dynamicrafter_keys_full*.txt"),
    "video schedule": _arrays("betas_plain betas_ztsnr scale_arr"),
    "video schedule of a checkpoint": _arrays("betas posterior_variance"),
    "video sampler": _arrays("x_T c_concat c_crossattn uc_crossattn pred_x0_steps"),
    "video encoders": _arrays("text_ids text_out image image_tokens resampler_out"),
    "video autoencoder": _arrays("frame moments z decoded"),
    "video loss": _arrays("x0 noise t v_target loss"),
    "picture to video": _arrays("image0 x_T video"),
    "rendering": _arrays("means quats scales opacities viewmats Ks width height"),
    "rendering with gradients": _arrays("means sh Ks rgb_bg_colors v_colors v_alphas g_means g_viewmats"),
    "scene file": Kind("*_export.ply"),
}


@cache
def names_in(path: Path) -> frozenset[str]:
    """Names of the arrays in an archive."""
    with zipfile.ZipFile(path) as archive:
        return frozenset(name.removesuffix(".npy") for name in archive.namelist())


def files(folder: Path, kind: str) -> list[Path]:
    """All files of a kind below the folder, sorted."""
    wanted = KINDS[kind]
    found = (path for path in sorted(folder.rglob("*")) if fnmatch.fnmatch(path.name, wanted.pattern))
    return [path for path in found if not wanted.arrays or wanted.arrays <= names_in(path)]


def recorded(kind: str) -> list[Any]:
    """One test parameter for each file of a kind; those of full-size networks are marked ``long``.

    Where there is nothing, one parameter that is skipped with the reason, or that fails: a folder was named, and it
    holds no such file.
    """
    value = os.environ.get("RECONX_PARITY")
    if not value:
        return [pytest.param(None, id="none", marks=pytest.mark.skip(reason="RECONX_PARITY is not set"))]
    folder = Path(value)
    found = [pytest.param(path, id=path.stem, marks=_marks(path)) for path in files(folder, kind)]
    return found or [pytest.param(folder, id=f"no file of kind '{kind}' in {value}")]


def _marks(path: Path) -> list[pytest.MarkDecorator]:
    full_size = path.suffix == ".npz" and "full" in path.stem
    return [pytest.mark.long] if full_size else []
