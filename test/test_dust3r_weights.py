"""Loading of network weights: every layout that exists, and what is wrong with files that are something else."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dust3r_networks import FULL, PUBLISHED, TINY, save_pth, small_config, small_network
from safetensors.torch import save_file

from reconx_ros.core import InvalidInputError, ReconxError, WeightsError
from reconx_ros.pointmap.network.architecture import config_from_arguments, config_from_string
from reconx_ros.pointmap.network.keys import matched
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.pointmap.network.weights import PUBLISHED_NAME, load_network, save_network
from reconx_ros.weights.catalogue import catalogue

MODEL = PUBLISHED.format(head="linear", **TINY)
MAST3R = MODEL.replace("AsymmetricCroCo3DStereo", "AsymmetricMASt3R").replace("'linear'", "'catmlp+linear'")
MAST3R = MAST3R.replace("'pts3d'", "'pts3d+desc24'")
MAST3R = MAST3R[:-1] + ", two_confs=True, desc_conf_mode=('exp', 0, inf), landscape_only=False)"
DPT = {
    "enc_embed_dim": 8,
    "enc_num_heads": 1,
    "dec_embed_dim": 8,
    "dec_num_heads": 1,
    "dec_depth": 10,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return PointmapNetwork(config_from_string(MODEL)).state_dict()


def assert_same_weights(network: PointmapNetwork, state: dict[str, torch.Tensor]) -> None:
    found = network.state_dict()
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name].float()) for name in state)


def test_published_model_strings() -> None:
    full = config_from_string(PUBLISHED.format(head="dpt", **FULL))
    assert (full.hooks, full.size, full.patch_size, full.mlp_ratio) == ((0, 6, 9, 12), 512, 16, 4)
    plain = MODEL.replace("patch_embed_cls='ManyAR_PatchEmbed', ", "").replace("(512, 512)", "(224, 224)")
    assert config_from_string(plain).img_size == (224, 224)
    assert config_from_string(MAST3R) == config_from_string(MODEL)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MODEL.replace("enc_depth=2", "enc_depth=__import__('os').getpid()"), "plain numbers"),
        (MODEL.replace("enc_depth=2", "enc_depth=1+1"), "plain numbers"),
        (MODEL + "; print(1)", "cannot be read"),
        ("os.system('true')", "cannot be read"),
        ("Other(enc_depth=2)", "Other"),
        ("(" * 3000, "cannot be read"),
        (MODEL.replace("AsymmetricCroCo3DStereo(", "AsymmetricCroCo3DStereo(1, "), "cannot be read"),
        (MODEL[:-1] + ", enc_depth=3)", "twice"),
        (MODEL[:-1] + ", **x)", "plain numbers"),
        (MODEL[:-1] + ", colour=3)", "colour"),
        (MODEL.replace("enc_depth=2, ", ""), "enc_depth"),
        (MODEL.replace("'RoPE100'", "'cosine'"), "pos_embed"),
        (MODEL.replace("('exp', 1, inf)", "('sigmoid', 0, 1)"), "conf_mode"),
        (MODEL.replace("enc_num_heads=4", "enc_num_heads=5"), "enc_embed_dim"),
        (MODEL.replace("enc_depth=2", "enc_depth=-2"), "enc_depth"),
        (MODEL.replace("'linear'", "'dpt'"), "dec_depth"),
        (MODEL.replace("(512, 512)", "(500, 500)"), "img_size"),
        ("x" * 5000, "at most"),
    ],
)
def test_other_model_strings_are_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        config_from_string(text)
    assert told in str(error.value)


def test_arguments_survive_json() -> None:
    config = small_config(img_size=(64, 96), head_type="linear")
    assert config_from_arguments(json.loads(json.dumps(config.as_arguments()))) == config


def test_checkpoint_of_the_training_code(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = save_pth(tmp_path / "net.pth", MODEL, state, optimizer={"step": 3}, best_so_far=0.5)
    loaded = load_network(path)
    assert_same_weights(loaded.network, state)
    assert loaded.notes == () and loaded.card is None
    assert not loaded.network.training and not any(p.requires_grad for p in loaded.network.parameters())


def test_half_precision_checkpoint(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    assert_same_weights(load_network(save_pth(tmp_path / "half.pth", MODEL, half)).network, half)


def test_mast3r_checkpoint_without_its_descriptors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    more = {f"downstream_head{k}.head_local_features.fc1.weight": torch.zeros(4, 4) for k in (1, 2)}
    loaded = load_network(save_pth(tmp_path / "mast3r.pth", MAST3R, {**state, **more}))
    assert_same_weights(loaded.network, state)
    assert "local-feature head (2 tensors) is not used" in loaded.notes[0]


@pytest.fixture(scope="module")
def dpt_state() -> dict[str, torch.Tensor]:
    return small_network(**DPT, head_type="dpt", img_size=(32, 32)).state_dict()


def with_both_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    both = dict(state)
    for head in (1, 2):
        scratch = f"downstream_head{head}.dpt.scratch"
        both |= {f"{scratch}.layer_rn.{k}.weight": state[f"{scratch}.layer{k + 1}_rn.weight"] for k in range(4)}
    return both


def test_tensors_of_two_names(dpt_state: dict[str, torch.Tensor]) -> None:
    both = with_both_names(dpt_state)
    assert len(both) == len(dpt_state) + 8
    first_only = {name: tensor for name, tensor in both.items() if "_rn.weight" not in name}
    for given in (both, first_only, dpt_state):
        found = matched(given, dpt_state, "x").state
        assert all(torch.equal(found[name], dpt_state[name]) for name in dpt_state)
    both["downstream_head1.dpt.scratch.layer_rn.2.weight"] = torch.zeros(256, 384, 3, 3)
    with pytest.raises(InvalidInputError, match=r"layer_rn\.2\.weight"):
        matched(both, dpt_state, "x")


def test_hub_folder(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    arguments = config_from_string(MODEL).as_arguments()
    hub = {**arguments, "depth_mode": ["exp", float("-inf"), float("inf")], "freeze": "none", "landscape_only": True}
    (tmp_path / "config.json").write_text(json.dumps(hub))  # writes -Infinity, as the hub's files do
    save_file(state, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert_same_weights(load_network(path).network, state)


def test_network_folder_round_trip(tmp_path: Path) -> None:
    network = small_network()
    save_network(tmp_path / "net", network, network.state_dict(), {"steps_done": 7})
    loaded = load_network(tmp_path / "net")
    assert loaded.card == {"steps_done": 7}
    assert loaded.network.config == network.config
    assert_same_weights(loaded.network, network.state_dict())
    assert not list((tmp_path / "net").glob("*.tmp"))


def changed(state: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    return {**state, **kwargs}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("enc_norm")},
            "2 tensors are missing [enc_norm.weight",
        ),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, "1 are unknown [extra.weight]"),
        (
            lambda s: {("encoder_norm" + k[8:] if k.startswith("enc_norm") else k): v for k, v in s.items()},
            "enc_norm.weight may be called encoder_norm.weight there",
        ),
        (lambda s: {**s, "enc_norm.bias": torch.zeros(3)}, "enc_norm.bias [3] instead of [64]"),
        (lambda s: {**s, "enc_norm.bias": "text"}, "no floating-point tensors (enc_norm.bias)"),
        (
            lambda s: {**s, "enc_norm.bias": torch.zeros(64, dtype=torch.long)},
            "no floating-point tensors (enc_norm.bias)",
        ),
        (lambda s: {}, "tensors are missing [mask_token, patch_embed.proj.weight, patch_embed.proj.bias, ...]"),
    ],
    ids=["missing", "extra", "renamed", "shape", "text", "integers", "empty"],
)
def test_other_tensors_are_refused(tmp_path: Path, state: dict[str, torch.Tensor], change: Any, told: str) -> None:
    path = save_pth(tmp_path / "net.pth", MODEL, change(state))
    with pytest.raises(InvalidInputError) as error:
        load_network(path)
    assert told in str(error.value) and "net.pth" in str(error.value)


class Foreign:
    """A class that a checkpoint must not bring along."""


def test_checkpoint_with_a_foreign_class_is_not_run(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"args": Foreign(), "model": state}, tmp_path / "foreign.pth")
    with pytest.raises(InvalidInputError, match=r"foreign code.*Foreign"):
        load_network(tmp_path / "foreign.pth")


def test_checkpoint_of_another_model(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    with pytest.raises(InvalidInputError, match="no entry 'model'") as error:
        load_network(tmp_path / "other.pth")
    assert str(catalogue()[PUBLISHED_NAME].hub_id) in str(error.value) and "CC-BY-NC-SA" in str(error.value)
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, tmp_path / "no_string.pth")
    with pytest.raises(InvalidInputError, match=r"args\.model"):
        load_network(tmp_path / "no_string.pth")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_files(tmp_path: Path, state: dict[str, torch.Tensor], share: float) -> None:
    whole = save_pth(tmp_path / "net.pth", MODEL, state).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match="complete"):
        load_network(tmp_path / "cut.pth")
    save_network(tmp_path / "folder", small_network(), small_network().state_dict(), {})
    weights = tmp_path / "folder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match="complete"):
        load_network(tmp_path / "folder")


def test_missing_files(tmp_path: Path) -> None:
    for path, told in ((tmp_path / "none.pth", "cannot be read: No such file"), (tmp_path, "has no config.json")):
        with pytest.raises(WeightsError, match=told):
            load_network(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"enc_depth": 2}'])
def test_bad_descriptions(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ReconxError) as error:
        load_network(tmp_path)
    assert "\n" not in str(error.value)
