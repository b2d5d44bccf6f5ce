"""Pairwise pointmap networks against recorded outputs of the original, in the folder that RECONX_PARITY names."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from dust3r_networks import PUBLISHED, random_images, read_keys, recipe_weights, relative_l2, save_pth

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
Networks = Callable[[Path], PointmapNetwork]


@pytest.fixture(scope="module")
def networks(reconx_parity: Path, tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """The network of a recorded case: "SIZE_HEAD_..." is of SIZE_HEAD.pth beside it, or of the recipe's weights."""
    made: dict[str, PointmapNetwork] = {}

    def network(case: Path) -> PointmapNetwork:
        size, head = case.stem.split("_")[:2]
        name = f"{size}_{head}"
        if name not in made:
            made.clear()  # one at a time: full-size ones take gigabytes
            path = case.with_name(f"{name}.pth")
            if not path.is_file():
                folder = tmp_path_factory.mktemp(name)
                salt = f"dust3r_{size}_{head.lstrip('0123456789')}/"
                path = save_recipe(folder / "network.pth", key_list(reconx_parity, size, head), salt)
            made[name] = load_network(path).network
            if path.parent != case.parent:
                path.unlink()
        return made[name]

    return network


def key_list(folder: Path, size: str, head: str) -> Path:
    found = [p for p in parity.files(folder, "pointmap keys") if fnmatch(p.name, f"dust3r_keys_{size}_*{head}.txt")]
    assert found, f"no list of keys and no checkpoint of a network '{size}_{head}' in {folder}"
    return found[0]


def save_recipe(path: Path, keys: Path, salt: str) -> Path:
    published = read_keys(keys)
    return save_pth(path, PUBLISHED.format(**sizes(published)), recipe_weights(published, salt))


def sizes(keys: dict[str, tuple[int, ...]]) -> dict[str, object]:
    """What the shapes of all weights tell; heads have 64 channels in the published networks, and 16 in narrow ones."""

    def depth(prefix: str) -> int:
        return len({name.split(".")[1] for name in keys if name.startswith(prefix)})

    dec, enc = keys["decoder_embed.weight"][:2]
    per_head = 64 if enc >= 512 else 16
    return {
        "head": "dpt" if any(".dpt." in name for name in keys) else "linear",
        "enc": enc, "enc_depth": depth("enc_blocks."), "enc_heads": enc // per_head,
        "dec": dec, "dec_depth": depth("dec_blocks."), "dec_heads": dec // per_head,
    }  # fmt: skip


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def run(network: PointmapNetwork, case: dict[str, np.ndarray]) -> PairOutput:
    with torch.no_grad():
        return network(torch.from_numpy(case["img1"]), torch.from_numpy(case["img2"]))


def assert_close(found: PairOutput, reference: dict[str, np.ndarray]) -> None:
    for ours, theirs in OUTPUTS.items():
        assert relative_l2(getattr(found, ours), reference[theirs]) < TOLERANCE, ours


@pytest.mark.parametrize("path", parity.recorded("pointmap network"))
def test_outputs_and_recorded_values_inside(networks: Networks, path: Path) -> None:
    case, network = arrays(path), networks(path)
    found: dict[str, torch.Tensor] = {}
    watched = {
        "patch_embed": network.patch_embed,
        "enc_block0": network.enc_blocks[0],
        "enc_norm": network.enc_norm,
        "dec_block0_view1": network.dec_blocks[0],
        "dec_block0_view2": network.dec_blocks2[0],
    }
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
        for name, module in watched.items()
    ]
    assert_close(run(network, case), case)
    for hook in hooks:
        hook.remove()
    assert set(found) == set(watched)
    for name, value in found.items():
        if f"inter_{name}" in case:
            assert relative_l2(value, case[f"inter_{name}"]) < TOLERANCE, name


@pytest.mark.parametrize("path", parity.recorded("pointmap network with one decoder"))
def test_checkpoint_with_one_decoder(networks: Networks, path: Path, tmp_path: Path) -> None:
    network = networks(path)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("dec_blocks2.")}
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    loaded = load_network(save_pth(tmp_path / "one.pth", PUBLISHED.format(**sizes(shapes)), state))
    assert "one decoder" in loaded.notes[0]
    inputs = arrays(path.with_name(f"{path.stem.removesuffix('_nodec2')}.npz"))
    assert_close(run(loaded.network, inputs), arrays(path))


@pytest.mark.parametrize("path", parity.recorded("pointmap keys"))
def test_every_published_tensor_is_used(path: Path) -> None:
    published = read_keys(path)
    state = {name: torch.empty(shape, device="meta") for name, shape in published.items()}
    with torch.device("meta"):
        network = PointmapNetwork(config_from_string(PUBLISHED.format(**sizes(published))))
    found = matched(state, network.state_dict(), path.stem)
    assert set(found.state) == set(network.state_dict())
    descriptors = [name for name in published if "head_local_features" in name]
    assert len(descriptors) == (8 if path.name.startswith("mast3r") else 0)
    assert [bool("MASt3R" in note) for note in found.notes] == ([True] if descriptors else [])
    tied = 8 if any("scratch.layer_rn" in name for name in published) else 0
    assert len(published) == len(found.state) + len(descriptors) + tied


@pytest.mark.long
def test_full_size_weights_by_the_recipe_run(reconx_parity: Path, tmp_path: Path) -> None:
    """As large as the published file, 2.3 GB."""
    keys = key_list(reconx_parity, "full", "dpt")
    network = load_network(save_recipe(tmp_path / "full.pth", keys, "dust3r_full_dpt/")).network
    assert sum(parameter.numel() for parameter in network.parameters()) == 571_171_208
    name = "dec_blocks2.11.cross_attn.projk.weight"
    recipe = recipe_weights({name: read_keys(keys)[name]}, "dust3r_full_dpt/")
    assert torch.equal(network.state_dict()[name], recipe[name])
    images = random_images(2, 128, 160)
    with torch.no_grad():
        found = network(images[:1], images[1:])
    assert found.pts3d_1.shape == (1, 128, 160, 3) and bool(found.pts3d_1.isfinite().all())
    assert bool((found.conf_2 >= 1).all()) and float(found.conf_2.std()) > 0


@pytest.mark.parametrize("path", parity.recorded("image preparation"))
def test_images_are_prepared_bit_for_bit(path: Path) -> None:
    cases = json.loads(path.read_text())["cases"]
    reference = arrays(path.with_suffix(".npz"))
    for case in cases:
        image = read_image(path.parent / "images" / case["file"])
        found = prepare_image(image, case["size"], square_ok=case["square_ok"])
        name = f"{case['file']}|{case['size']}|{int(case['square_ok'])}"
        assert list(found.size) == case["out_hw"], name
        assert np.array_equal(found.rgb_u8.transpose(2, 0, 1)[:, ::5, ::5], reference[name]), name
        assert int(found.rgb_u8.sum(dtype=np.int64)) == case["sum_u8"], name
    assert len(cases) == len(reference)


@pytest.mark.parametrize("path", parity.recorded("pointmap inference"))
def test_images_to_pairs_to_pointmaps(path: Path) -> None:
    case = arrays(path)
    network = load_network(path.with_name("tiny_linear.pth")).network
    prepared = [prepare_image(read_image(path.parent / "images" / file), 512) for file in case["files"]]
    pairs = [(int(i), int(j)) for i, j in zip(case["idx1"], case["idx2"], strict=True)]
    plan = plan_memory(network.config, 0, [image.size for image in prepared], pairs, 10**9)
    found = predict_pairs(network, [image.tensor() for image in prepared], pairs, plan)
    for n in range(len(pairs)):
        for ours, theirs in (("pts3d_1", "p1"), ("conf_1", "c1"), ("pts3d_2", "p2"), ("conf_2", "c2")):
            value = getattr(found, ours)[n]
            assert list(value.shape) == list(case[f"{theirs}_{n}_shape"])
            assert relative_l2(value[3::16, 5::16], case[f"{theirs}_{n}"]) < TOLERANCE, (n, ours)


@pytest.mark.parametrize("path", parity.recorded("pointmap losses"))
def test_training_losses(path: Path) -> None:
    case = {name: torch.from_numpy(value) for name, value in arrays(path).items()}
    cam_from_world = case["gt1_camera_pose"].inverse()

    def in_first(points: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bij,bhwj->bhwi", cam_from_world[:, :3, :3], points) + cam_from_world[:, None, None, :3, 3]

    targets = PairTargets(
        pts3d_1=in_first(case["gt1_pts3d"]), valid_1=case["gt1_valid_mask"],
        pts3d_2=in_first(case["gt2_pts3d"]), valid_2=case["gt2_valid_mask"],
    )  # fmt: skip
    first, second = case["p1_pts3d"], case["p2_pts3d_in_other_view"]
    recorded = json.loads(path.with_suffix(".json").read_text())
    found = {
        "conf_regr3d": confidence_loss(first, case["p1_conf"], second, case["p2_conf"], targets),
        "regr3d": regression_loss(first, second, targets),
        "regr3d_gtscale": regression_loss(first, second, targets, keep_target_scale=True),
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(recorded[name]["loss"], rel=LOSS_TOLERANCE), name
