"""Public checkpoints to our folder: parity of every converted part, and one sentence for every broken file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from video_models import arrays, key_list, parity_module, relative_l2

from reconx_ros.cli.main import main
from reconx_ros.core import CancelledError, CancelToken, InvalidInputError, Job, ReconxError, StorageError
from reconx_ros.diffusion.conversion import convert
from reconx_ros.diffusion.conversion.conversion_plan import check_complete
from reconx_ros.diffusion.conversion.convert import Additions, convert_dynamicrafter, plan_parts
from reconx_ros.diffusion.conversion.safetensors_file import PlannedTensor, write_safetensors
from reconx_ros.diffusion.network.architecture import PublishedSettings, read_settings
from reconx_ros.diffusion.network.clip_image import clip_pixels
from reconx_ros.diffusion.network.sampler import ddim_step, guided, sampler_tables
from reconx_ros.diffusion.network.structure_encoder import StructureConfig
from reconx_ros.diffusion.training.losses import denoising_loss
from reconx_ros.weights.tensors import StoredTensor, open_tensors

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

SMALL = Additions(structure=StructureConfig(tokens=8, width=32, depth=1, head_dim=16))
Weights = dict[str, torch.Tensor]
Pipelines = Callable[[Path], Any]


@pytest.fixture(scope="module")
def weights(reconx_parity: Path) -> Weights:
    """The tensors of the small checkpoint in the public layout."""
    recipe = parity_module(reconx_parity, "make_ckpts")
    keys = recipe.read_keys("dynamicrafter_keys_tiny_lightning.txt")
    return recipe.lightning_sd(keys, lambda key: ("dc_lightning/", key, 0.7))


@pytest.fixture(scope="module")
def settings(reconx_parity: Path) -> PublishedSettings:
    return read_settings(reconx_parity / "dynamicrafter" / "tiny_lightning_config.json")


@pytest.fixture(scope="module")
def checkpoint(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public") / "model.ckpt"
    torch.save({"state_dict": weights, "epoch": 0, "global_step": 0}, path)
    return path


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path, settings: PublishedSettings) -> Any:
    return converted(checkpoint, settings)


def converted(checkpoint: Path, settings: PublishedSettings) -> Any:
    from reconx_ros.diffusion.network.pipeline import ReconXPipeline

    folder = checkpoint.parent / "converted"
    convert_dynamicrafter(checkpoint, folder, settings=settings, additions=SMALL)
    loaded = ReconXPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def pipeline_for(
    request: pytest.FixtureRequest, reconx_parity: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pipelines:
    """The pipeline that a recorded case is of; weights of full size, 10 GB, are made for the first that needs them."""

    @cache
    def full() -> Any:
        folder = tmp_path_factory.mktemp("full")
        recipe = [sys.executable, str(reconx_parity / "make_ckpts.py"), str(folder), "--full-dynamicrafter"]
        subprocess.run(recipe, check=True)
        return converted(folder / "dynamicrafter_512.ckpt", PublishedSettings())

    return lambda path: full() if "full" in path.stem else request.getfixturevalue("pipeline")


@pytest.mark.parametrize("path", parity.recorded("video encoders"))
@torch.no_grad()
def test_parity_of_the_encoders(pipeline_for: Pipelines, path: Path) -> None:
    case, pipeline = arrays(path), pipeline_for(path)
    assert relative_l2(pipeline.text_encoder(case["text_ids"]).last_hidden_state, case["text_out"]) < 1e-4
    pixels = clip_pixels(case["image"])
    assert relative_l2(pixels[:, :, ::4, ::4], case["image_preprocessed_224_sub4"]) < 1e-4
    tokens = pipeline.image_encoder(pixel_values=pixels).last_hidden_state
    assert relative_l2(tokens, case["image_tokens"]) < 1e-4
    assert relative_l2(pipeline.resampler(tokens).flatten(1, 2), case["resampler_out"]) < 1e-4


@pytest.mark.parametrize("path", parity.recorded("video autoencoder"))
@torch.no_grad()
def test_parity_of_the_autoencoder(pipeline_for: Pipelines, path: Path) -> None:
    case, pipeline = arrays(path), pipeline_for(path)
    posterior = pipeline.vae.encode(case["frame"]).latent_dist
    for ours, name in ((posterior.parameters, "moments"), (posterior.mean, "mean"), (posterior.logvar, "logvar")):
        assert relative_l2(ours, case[name]) < 1e-4
    scale = pipeline.vae.config.scaling_factor
    frames = [pipeline.vae.decode(z / scale).sample for z in case["z"].unbind(dim=2)]
    assert relative_l2(torch.stack(frames, dim=2), case["decoded"]) < 1e-4


@pytest.mark.parametrize("path", parity.recorded("video sampler"))
@torch.no_grad()
def test_parity_of_the_sampler(pipeline_for: Pipelines, reconx_parity: Path, path: Path) -> None:
    case, pipeline = arrays(path), pipeline_for(path)
    detfill = parity_module(reconx_parity, "detfill")
    spacing = "uniform" if path.stem.endswith("uniform") else "trailing"
    config = convert.dataclasses.replace(pipeline.scheduler.schedule, spacing=spacing)
    tables = sampler_tables(config, int(case["S"]), float(case["eta"]))
    assert torch.allclose(tables.scales_prev.float(), case["scale_arr_prev"])
    sample, scale = case["x_T"], float(case["cfg"])
    for step, index in enumerate(reversed(range(len(tables.timesteps)))):
        outputs = [
            pipeline.unet(
                torch.cat([sample, case["c_concat"]], dim=1),
                tables.timesteps[index, None],
                text=tokens[:, :77],
                image=tokens[:, 77:].unflatten(1, (sample.shape[2], 16)),
                fps=case["fs"],
            )
            for tokens in (case["c_crossattn"], case["uc_crossattn"])
        ]
        output = guided(
            outputs[1],
            None,
            outputs[0],
            image_scale=scale,
            structure_scale=scale,
            rescale=float(case["guidance_rescale"]),
        )
        noise = torch.from_numpy(detfill.det_uniform(f"ddim_noise/{step}", tuple(sample.shape)) * 3**0.5)
        sample, x0 = ddim_step(config, tables, index, sample, output, noise)
        assert relative_l2(x0, case["pred_x0_steps"][step]) < 1e-3
    assert relative_l2(sample, case["sample"]) < 1e-3


@pytest.mark.parametrize("path", parity.recorded("video loss"))
@torch.no_grad()
def test_parity_of_the_training_loss(pipeline_for: Pipelines, path: Path) -> None:
    case, pipeline = arrays(path), pipeline_for(path)

    def predict(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        tokens = case["c_crossattn"]
        return pipeline.unet(
            torch.cat([noisy, case["c_concat"]], dim=1),
            timestep,
            text=tokens[:, :77],
            image=tokens[:, 77:].unflatten(1, (noisy.shape[2], 16)),
            fps=case["fs"],
        )

    result = denoising_loss(pipeline.scheduler.schedule, predict, case["x0"], case["t"], case["noise"])
    for ours, name in ((result.scaled, "x_scaled"), (result.noisy, "x_noisy"), (result.target, "v_target")):
        assert relative_l2(ours, case[name]) < 1e-4
    assert float(result.loss) == pytest.approx(float(case["loss"]), rel=1e-3)


@pytest.mark.parametrize("path", parity.recorded("picture to video"))
def test_parity_from_picture_to_video(pipeline_for: Pipelines, path: Path) -> None:
    case, pipeline = arrays(path), pipeline_for(path)
    words = [510, *(ord(letter) % 500 + 1 for letter in "Rotating view of a scene"), 511]
    picture = ((case["image0"][0].permute(1, 2, 0) + 1) / 2).clamp(0, 1)
    result = pipeline(
        picture,
        latents=case["x_T"],
        prompt_ids=torch.tensor(words + [0] * (77 - len(words))),
        fps=int(case["fs"]),
        steps=5,
        eta=0.0,
    )
    with torch.no_grad():
        decoded = [pipeline.vae.decode(z / 0.18215).sample[0] for z in result.latents.unbind(dim=2)]
    assert relative_l2(torch.stack(decoded, dim=1), case["video"]) < 1e-3
    assert torch.equal(result.frames[0], picture)
    expected = ((case["video"][:, 1:] + 1) / 2).clamp(0, 1).permute(1, 2, 3, 0)
    assert relative_l2(result.frames[1:], expected) < 1e-3


def test_every_weight_is_used_or_left_out_for_a_reason(
    checkpoint: Path, settings: PublishedSettings, tmp_path: Path
) -> None:
    done = convert_dynamicrafter(checkpoint, tmp_path / "out", settings=settings, additions=SMALL)
    assert done.consumed + sum(done.ignored.values()) == 954
    assert set(done.written) == {"unet", "vae", "resampler", "text_encoder", "image_encoder", "structure_encoder"}
    assert not (tmp_path / "out.partial").exists()
    for part, size in done.written.items():
        (file,) = (tmp_path / "out" / part).glob("*.safetensors")
        assert sum(t.numel() * t.element_size() for t in safetensors_torch.load_file(file).values()) == size


@pytest.mark.parametrize("path", parity.recorded("video keys"))
def test_full_size_key_list_is_consumed_and_fits_our_networks(path: Path) -> None:
    shapes = key_list(path)
    stored = {
        key: StoredTensor(shape, torch.float32, lambda shape=shape: torch.empty(shape, device="meta"))
        for key, shape in shapes.items()
        if key not in ("betas", "scale_arr")
    }
    parts, schedule, notes = plan_parts(stored, PublishedSettings(), Additions(structure=None))
    ignored = check_complete("model.ckpt", stored, parts)
    used = {source.key for part in parts for source in part.sources.values()}
    assert len(used) + sum(ignored.values()) == len(stored) == 2518
    sizes = {part.folder: sum(torch.Size(s).numel() for s in part.shapes.values()) for part in parts}
    assert sizes["unet"] == 1_438_854_980 and sizes["vae"] == 83_653_863 and sizes["resampler"] == 48_787_456
    configs = {part.folder: part.config for part in parts}
    assert configs["text_encoder"]["num_hidden_layers"] == 23 and configs["image_encoder"]["image_size"] == 224
    assert configs["unet"]["temporal_length"] == 16 and schedule.base_scale == 0.7
    assert any("no noise schedule" in note for note in notes)


def test_branches_start_without_effect_after_conversion(
    pipeline: Any, checkpoint: Path, settings: PublishedSettings, tmp_path: Path
) -> None:
    additions = Additions(structure=None, camera_channels=8, epipolar_levels=(1,))
    convert_dynamicrafter(checkpoint, tmp_path / "out", settings=settings, additions=additions, dtype=torch.float16)
    config = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())
    assert (config["camera_channels"], config["epipolar_levels"], config["structure_dim"]) == (8, [1], 0)
    theirs = safetensors_torch.load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    ours = pipeline.unet.state_dict()
    shared = [k for k in ours if k in theirs]
    assert len(shared) == len([k for k in ours if "structure" not in k])
    assert all(torch.equal(ours[k].half(), theirs[k]) for k in shared)
    zero = [k for k in theirs if "camera_encoder.outs" in k or "epipolar.to_out" in k]
    assert zero and all(bool((theirs[k] == 0).all()) for k in zero)
    gates = [k for k in ours if k.endswith("structure_gate")]
    assert gates and all(float(ours[k]) == 0 for k in gates)


@pytest.mark.parametrize("layout", ["deepspeed", "bare", "safetensors", "pruned"])
def test_other_wrappings_give_the_same_weights(
    layout: str, weights: Weights, settings: PublishedSettings, tmp_path: Path
) -> None:
    kept = dict(weights)
    if layout == "pruned":
        kept = {k: v for k, v in weights.items() if k.startswith(("model.", "first_stage", "image_proj"))}
    path = tmp_path / ("m.safetensors" if layout in ("safetensors", "pruned") else "m.ckpt")
    if path.suffix == ".safetensors":
        safetensors_torch.save_file({k: v.contiguous() for k, v in kept.items()}, path)
    elif layout == "deepspeed":
        torch.save({"module": {f"_forward_module.{k}": v for k, v in kept.items()}, "dp_world_size": 8}, path)
    else:
        torch.save(kept, path)
    done = convert_dynamicrafter(path, tmp_path / "out", settings=settings, additions=SMALL)
    unet = safetensors_torch.load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(unet["conv_in.weight"], weights["model.diffusion_model.input_blocks.0.0.weight"])
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    if layout == "pruned":
        assert index["text_encoder"] == [None, None] and "text_encoder" not in done.written
        assert any("pass text_encoder= to ReconXPipeline.from_pretrained" in note for note in done.notes)
    else:
        assert index["text_encoder"] == ["transformers", "CLIPTextModel"]


def broken(change: Callable[[Weights], None]) -> Callable[[Weights], Weights]:
    def apply(weights: Weights) -> Weights:
        copy = dict(weights)
        change(copy)
        return copy

    return apply


MIDDLE = "model.diffusion_model.middle_block.1.proj_in.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken(lambda w: w.pop(MIDDLE)), f"lacks 1 of 920 weights \\('{MIDDLE}'\\)$"),
        (broken(lambda w: w.update({"extra.weight": torch.zeros(1)})), "holds 1 unknown ones \\('extra.weight'\\)"),
        (
            broken(lambda w: w.update({MIDDLE.replace("proj_in", "proj_inn"): w.pop(MIDDLE)})),
            "may have been renamed to '.*proj_inn.weight'",
        ),
        (broken(lambda w: w.update({MIDDLE: torch.zeros(2, 2)})), r"has shape \[2, 2\], which does not fit \[64, 64\]"),
        (
            broken(lambda w: [w.pop(k) for k in list(w) if k.startswith("first_stage_model.decoder.mid")]),
            r"lacks 26 of 920 weights \('.*', '.*', '.*', \.\.\.\)$",
        ),
        (
            broken(lambda w: w.pop("image_proj_model.latents")),
            "has no 'image_proj_model.latents', which tells the size",
        ),
        (broken(lambda w: w.update(betas=w["betas"] * 0.5)), "noise schedule in the checkpoint ends at beta 0.5"),
        (broken(lambda w: w.update({"model.diffusion_model.framestride_embed.0.bias": w["betas"]})), "256 pixels"),
    ],
)
def test_names_what_is_wrong_with_the_weights(
    change: Callable[[Weights], Weights], message: str, weights: Weights, settings: PublishedSettings
) -> None:
    stored = {
        name: StoredTensor(tuple(value.shape), value.dtype, lambda value=value: value)
        for name, value in change(weights).items()
    }
    with pytest.raises(InvalidInputError, match=message):
        check_complete("model.ckpt", stored, plan_parts(stored, settings, Additions(structure=None))[0])


def cut(source: Path, target: Path, share: float) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: int(share * len(content))])
    return target


def test_damaged_files_get_one_sentence(checkpoint: Path, weights: Weights, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    safetensors_torch.save_file({"a": torch.zeros(1000)}, whole)
    pointer = tmp_path / "pointer.ckpt"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    objects = tmp_path / "objects.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callback": Path("x")}, objects)
    numbers = tmp_path / "numbers.ckpt"
    torch.save({"epoch": 3}, numbers)
    for path, message in [
        (cut(checkpoint, tmp_path / "cut.ckpt", 0.6), "are no complete PyTorch file .*: get them again"),
        (cut(whole, tmp_path / "cut.safetensors", 0.6), "are no complete safetensors file .*: get them again"),
        (cut(whole, tmp_path / "head.safetensors", 0.001), "are no complete safetensors file"),
        (pointer, "Git LFS pointer"),
        (objects, "would run foreign code"),
        (numbers, "hold no tensors under \\['epoch'\\]"),
        (tmp_path / "absent.ckpt", "cannot be read: No such file"),
    ]:
        with pytest.raises(ReconxError, match=message) as caught, open_tensors(path):
            pass
        assert "\n" not in str(caught.value)


def test_full_disk_is_noticed_before_anything_is_written(
    checkpoint: Path, settings: PublishedSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"has 0\.01 GB free, the converted weights need 0\.08 GB"):
        convert_dynamicrafter(checkpoint, tmp_path / "out", settings=settings, additions=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_cancelled_conversion_leaves_nothing(checkpoint: Path, settings: PublishedSettings, tmp_path: Path) -> None:
    token = CancelToken()
    job = Job(stage="convert", token=token, on_progress=lambda _, share, __: token.cancel() if share > 0.3 else None)
    with pytest.raises(CancelledError):
        convert_dynamicrafter(checkpoint, tmp_path / "out", settings=settings, additions=SMALL, job=job)
    assert list(tmp_path.iterdir()) == []


def test_folder_in_use_and_settings_that_are_none(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(InvalidInputError, match="exists and is not empty"):
        convert_dynamicrafter(checkpoint, tmp_path / "out")
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(InvalidInputError, match=r"new\.partial is left from an interrupted conversion"):
        convert_dynamicrafter(checkpoint, tmp_path / "new")
    (tmp_path / "new.partial").rmdir()
    (tmp_path / "other.yaml").write_text("a: 1\n")
    with pytest.raises(ReconxError, match="expected a DynamiCrafter file"):
        read_settings(tmp_path / "other.yaml")
    with pytest.raises(InvalidInputError, match="24 rows, expected a multiple of a head's 64 channels"):
        convert_dynamicrafter(checkpoint, tmp_path / "new")


def test_tokenizer_is_copied_and_pads_as_openclip_does(
    checkpoint: Path, settings: PublishedSettings, tmp_path: Path
) -> None:
    from reconx_ros.diffusion.network.conditions import prompt_tokens
    from reconx_ros.diffusion.network.pipeline import ReconXPipeline

    words = {"!": 0, "r": 1, "o</w>": 2, "m</w>": 3, "ro</w>": 4, "<|startoftext|>": 510, "<|endoftext|>": 511}
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "vocab.json").write_text(json.dumps(words))
    (clip / "merges.txt").write_text("#version: 0.2\nr o</w>\n")
    (clip / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    convert_dynamicrafter(checkpoint, tmp_path / "out", settings=settings, additions=SMALL, tokenizer=clip)
    loaded = ReconXPipeline.from_pretrained(tmp_path / "out")
    ids = prompt_tokens(512, loaded.tokenizer, "ro m", None)
    assert ids.shape == (1, 77) and ids[0].tolist() == [510, 4, 3, 511] + [0] * 73
    assert prompt_tokens(512, None, "", None)[0].tolist() == [510, 511] + [0] * 75
    with pytest.raises(InvalidInputError, match=r"has no merges\.txt"):
        convert_dynamicrafter(checkpoint, tmp_path / "other", tokenizer=tmp_path)


def test_stream_writer_writes_what_safetensors_reads(tmp_path: Path) -> None:
    made = {
        "a": torch.arange(6).reshape(2, 3).float(),
        "b": torch.tensor(2.0, dtype=torch.float16),
        "c": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
    }
    plan = {k: PlannedTensor(tuple(v.shape), v.dtype, lambda v=v: v) for k, v in made.items()}
    write_safetensors(tmp_path / "x.safetensors", plan)
    loaded = safetensors_torch.load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == made.keys()
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in made.items())


def test_command_line(
    checkpoint: Path, reconx_parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = reconx_parity / "dynamicrafter" / "tiny_lightning_config.json"
    words = ["convert", "dynamicrafter", str(checkpoint), "--settings", str(published), "--out", str(tmp_path / "out")]
    assert main([*words, "--json", str(tmp_path / "r.json"), "--without-structure", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "920 weights used" in out and "last text block" in out and "no tokenizer" in out
    assert json.loads((tmp_path / "r.json").read_text())["consumed"] == 920
    assert main([*words, "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("reconx convert: folder")
    with pytest.raises(SystemExit) as ended:
        main(["convert", "--help"])
    assert ended.value.code == 0 and "example: reconx convert" in capsys.readouterr().out
