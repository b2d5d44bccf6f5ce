"""Pairwise pointmap networks against recorded outputs of the original, in the folder that RECONX_PARITY names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dust3r_networks import FULL, PUBLISHED, TINY, read_keys, recipe_weights, relative_l2, save_pth

from reconx_ros.io.images import read_image
from reconx_ros.pointmap.network.architecture import config_from_string
from reconx_ros.pointmap.network.inference import predict_pairs
from reconx_ros.pointmap.network.keys import matched
from reconx_ros.pointmap.network.memory import plan_memory
from reconx_ros.pointmap.network.model import PairOutput, PointmapNetwork
from reconx_ros.pointmap.network.preprocess import prepare_image
from reconx_ros.pointmap.network.weights import load_network
from reconx_ros.pointmap.training.losses import PairTargets, confidence_loss, regression_loss

TOLERANCE = 1e-4  # relative L2
LOSS_TOLERANCE = 1e-6
OUTPUTS = {"pts3d_1": "pts3d_1", "conf_1": "conf_1", "pts3d_2": "pts3d_in_other_view_2", "conf_2": "conf_2"}


@pytest.fixture(scope="module")
def folder(reconx_parity: Path) -> Path:
    return reconx_parity / "dust3r"


@pytest.fixture(scope="module")
def linear(folder: Path) -> PointmapNetwork:
    return load_network(folder / "tiny_linear.pth").network


@pytest.fixture(scope="module")
def dpt(reconx_parity: Path, tmp_path_factory: pytest.TempPathFactory) -> PointmapNetwork:
    state = recipe_weights(read_keys(reconx_parity / "keys" / "dust3r_keys_tiny_dpt.txt"), "dust3r_tiny_dpt/")
    model = PUBLISHED.format(head="dpt", **{**TINY, "dec_depth": 10})
    path = save_pth(tmp_path_factory.mktemp("dpt") / "tiny_dpt.pth", model, state)
    return load_network(path).network


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def run(network: PointmapNetwork, case: dict[str, np.ndarray]) -> PairOutput:
    with torch.no_grad():
        return network(torch.from_numpy(case["img1"]), torch.from_numpy(case["img2"]))


def assert_close(found: PairOutput, reference: dict[str, np.ndarray]) -> None:
    for ours, theirs in OUTPUTS.items():
        assert relative_l2(getattr(found, ours), reference[theirs]) < TOLERANCE, ours


@pytest.mark.parametrize("name", ["land", "port", "mixed"])
def test_linear_network(folder: Path, linear: PointmapNetwork, name: str) -> None:
    case = arrays(folder / f"tiny_linear_{name}.npz")
    assert_close(run(linear, case), case)


@pytest.mark.parametrize("name", ["land", "port", "odd"])
def test_dpt_network(folder: Path, dpt: PointmapNetwork, name: str) -> None:
    case = arrays(folder / f"tiny_dpt_{name}.npz")
    assert_close(run(dpt, case), case)


def test_checkpoint_with_one_decoder(folder: Path, tmp_path: Path, linear: PointmapNetwork) -> None:
    state = {k: v for k, v in linear.state_dict().items() if not k.startswith("dec_blocks2.")}
    loaded = load_network(save_pth(tmp_path / "one.pth", PUBLISHED.format(head="linear", **TINY), state))
    assert "one decoder" in loaded.notes[0]
    inputs = arrays(folder / "tiny_linear_land.npz")
    assert_close(run(loaded.network, inputs), arrays(folder / "tiny_linear_land_nodec2.npz"))


def test_values_inside_the_network(folder: Path, linear: PointmapNetwork) -> None:
    case = arrays(folder / "tiny_linear_land.npz")
    found: dict[str, torch.Tensor] = {}
    watched = {
        "patch_embed": linear.patch_embed,
        "enc_block0": linear.enc_blocks[0],
        "enc_norm": linear.enc_norm,
        "dec_block0_view1": linear.dec_blocks[0],
        "dec_block0_view2": linear.dec_blocks2[0],
    }
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
        for name, module in watched.items()
    ]
    run(linear, case)
    for hook in hooks:
        hook.remove()
    for name, value in found.items():
        assert relative_l2(value, case[f"inter_{name}"]) < TOLERANCE, name
    assert set(found) == set(watched)


@pytest.mark.parametrize(
    ("keys", "head", "left_out"),
    [
        ("dust3r_keys_full_512dpt", "dpt", 0),
        ("dust3r_keys_full_224linear", "linear", 0),
        ("mast3r_keys_full", "dpt", 8),
    ],
)
def test_every_published_tensor_is_used(reconx_parity: Path, keys: str, head: str, left_out: int) -> None:
    published = read_keys(reconx_parity / "keys" / f"{keys}.txt")
    state = {name: torch.empty(shape, device="meta") for name, shape in published.items()}
    with torch.device("meta"):
        network = PointmapNetwork(config_from_string(PUBLISHED.format(head=head, **FULL)))
    found = matched(state, network.state_dict(), keys)
    assert set(found.state) == set(network.state_dict())
    descriptors = [name for name in published if "head_local_features" in name]
    assert len(descriptors) == left_out
    assert [bool("MASt3R" in note) for note in found.notes] == ([True] if left_out else [])
    tied = 8 if head == "dpt" else 0
    assert len(published) == len(found.state) + left_out + tied


def test_images_are_prepared_bit_for_bit(folder: Path) -> None:
    cases = json.loads((folder / "preprocess.json").read_text())["cases"]
    reference = arrays(folder / "preprocess.npz")
    for case in cases:
        image = read_image(folder / "images" / case["file"])
        found = prepare_image(image, case["size"], square_ok=case["square_ok"])
        name = f"{case['file']}|{case['size']}|{int(case['square_ok'])}"
        assert list(found.size) == case["out_hw"], name
        assert np.array_equal(found.rgb_u8.transpose(2, 0, 1)[:, ::5, ::5], reference[name]), name
        assert int(found.rgb_u8.sum(dtype=np.int64)) == case["sum_u8"], name
    assert len(cases) == len(reference)


@pytest.mark.parametrize("name", ["same", "mixed"])
def test_images_to_pairs_to_pointmaps(folder: Path, linear: PointmapNetwork, name: str) -> None:
    case = arrays(folder / f"inference_{name}.npz")
    prepared = [prepare_image(read_image(folder / "images" / file), 512) for file in case["files"]]
    pairs = [(int(i), int(j)) for i, j in zip(case["idx1"], case["idx2"], strict=True)]
    plan = plan_memory(linear.config, 0, [image.size for image in prepared], pairs, 10**9)
    found = predict_pairs(linear, [image.tensor() for image in prepared], pairs, plan)
    for n in range(len(pairs)):
        for ours, theirs in (("pts3d_1", "p1"), ("conf_1", "c1"), ("pts3d_2", "p2"), ("conf_2", "c2")):
            value = getattr(found, ours)[n]
            assert list(value.shape) == list(case[f"{theirs}_{n}_shape"])
            assert relative_l2(value[3::16, 5::16], case[f"{theirs}_{n}"]) < TOLERANCE, (n, ours)


def test_training_losses(folder: Path) -> None:
    case = {name: torch.from_numpy(value) for name, value in arrays(folder / "losses.npz").items()}
    cam_from_world = case["gt1_camera_pose"].inverse()

    def in_first(points: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bij,bhwj->bhwi", cam_from_world[:, :3, :3], points) + cam_from_world[:, None, None, :3, 3]

    targets = PairTargets(
        pts3d_1=in_first(case["gt1_pts3d"]), valid_1=case["gt1_valid_mask"],
        pts3d_2=in_first(case["gt2_pts3d"]), valid_2=case["gt2_valid_mask"],
    )  # fmt: skip
    first, second = case["p1_pts3d"], case["p2_pts3d_in_other_view"]
    recorded = json.loads((folder / "losses.json").read_text())
    found = {
        "conf_regr3d": confidence_loss(first, case["p1_conf"], second, case["p2_conf"], targets),
        "regr3d": regression_loss(first, second, targets),
        "regr3d_gtscale": regression_loss(first, second, targets, keep_target_scale=True),
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(recorded[name]["loss"], rel=LOSS_TOLERANCE), name
