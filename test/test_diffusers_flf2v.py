"""First-and-last-frame generators with small random networks of diffusers' own classes, loaded from folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stage2_scenes import aligned, pinhole, room_pose, room_view

from reconx_ros.core import (
    AlignedViews,
    CancelledError,
    CancelToken,
    InvalidInputError,
    Job,
    Provenance,
    ViewSequence,
    WeightsError,
)
from reconx_ros.diffusion.clips.trajectory import plan_trajectory
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.selection import choose_generator

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from reconx_ros.diffusion.backends.diffusers_flf2v import FlfClips, LtxGenerator, WanGenerator, _step_end
from reconx_ros.diffusion.backends.diffusers_flf2v_ltx import LtxAdapter
from reconx_ros.diffusion.backends.diffusers_flf2v_wan import WanAdapter, _text
from reconx_ros.diffusion.clips.pictures import shared_camera
from reconx_ros.diffusion.clips.plan import plan_clips
from reconx_ros.diffusion.clips.render_guidance import RenderTarget
from reconx_ros.diffusion.clips.run import ClipRequest
from reconx_ros.weights.cache import ModelCache

SIZE = 32
CPU = torch.device("cpu")


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "room": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_wan() -> Any:
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanImageToVideoPipeline,
        WanTransformer3DModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    text = UMT5Config(vocab_size=8, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    clip = CLIPVisionConfig(
        hidden_size=4, num_hidden_layers=2, num_attention_heads=2, image_size=32, intermediate_size=16, patch_size=8
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        image_dim=4,
        added_kv_proj_dim=24,
        pos_embed_seq_len=2 * (4 * 4 + 1),
    )
    return WanImageToVideoPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel(text).eval(),
        image_processor=CLIPImageProcessor(crop_size=32, size=32),
        image_encoder=CLIPVisionModel(clip).eval(),
        transformer=transformer.eval(),
        vae=AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def tiny_ltx() -> Any:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXConditionPipeline,
        LTXVideoTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    text = T5Config(vocab_size=8, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    vae = AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    return LTXConditionPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=T5EncoderModel(text).eval(),
        tokenizer=tokenizer(),
        transformer=transformer.eval(),
    )


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wan")
    tiny_wan().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ltx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ltx")
    tiny_ltx().save_pretrained(path)
    return path


def views(count: int = 2) -> AlignedViews:
    return aligned(*(room_view(room_pose(k), k, camera=pinhole(48, 48)) for k in range(count)))


def configured(weights: Path | str, **options: Any) -> DiffusionConfig:
    values = {"width": SIZE, "height": SIZE, "steps": 2, "prompt": "room", "clip_frames": 5, "text_guidance": 2.0}
    return DiffusionConfig(weights=str(weights), **{**values, **options})


def generate(
    kind: Any, config: DiffusionConfig, job: Job | None = None, models: ModelCache | None = None
) -> ViewSequence:
    scene = views()
    path = plan_trajectory(scene, 2, max_size=SIZE)
    return kind(models=models).generate(scene, path, config, device=CPU, job=job or Job())


def frames(sequence: ViewSequence) -> torch.Tensor:
    return torch.stack([v.rgb for v in sequence.views if not v.is_input])


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_frames_from_a_folder(name: str, request: pytest.FixtureRequest) -> None:
    folder, kind = request.getfixturevalue(name), {"wan": WanGenerator, "ltx": LtxGenerator}[name]
    sequence = generate(kind, configured(folder))
    assert sequence.backend == f"diffusers_flf2v_{name}" and sequence.generates
    assert "stage 1 was not at hand" in sequence.warnings[0] and "not measured" in sequence.warnings[0]
    made = [v for v in sequence.views if not v.is_input]
    assert len(made) == 3 and made[0].camera.size == (SIZE, SIZE)
    assert all(bool((v.provenance == int(Provenance.GENERATED)).all()) for v in made)
    base = frames(sequence)
    assert bool(torch.isfinite(base).all()) and float(base.min()) >= 0 and float(base.max()) <= 1
    models = ModelCache()  # a model that stays loaded makes what a new one makes, whatever it made in between
    assert torch.equal(frames(generate(kind, configured(folder), models=models)), base)
    for change in ({"seed": 1}, {"render_guidance": 1.0, "render_guidance_end": 1.0}, {"text_guidance": 6.0}):
        assert not torch.equal(frames(generate(kind, configured(folder, **change), models=models)), base)
    assert torch.equal(frames(generate(kind, configured(folder), models=models)), base) and len(models.keys) == 1
    config = ReconxConfig()
    chosen = choose_generator(replace(config, diffusion=replace(config.diffusion, weights=str(folder))))
    assert chosen.name == sequence.backend


def request_of(target: RenderTarget | None, frames: int = 5) -> ClipRequest:
    scene = views()
    camera = shared_camera(scene.views, SIZE, SIZE)
    plan = plan_clips(scene, configured("x"), camera, frames)[0]
    generator = torch.Generator().manual_seed(4)
    return ClipRequest(
        first=torch.rand(SIZE, SIZE, 3, generator=generator),
        second=torch.rand(SIZE, SIZE, 3, generator=generator),
        second_frame=frames - 1,
        trajectory=plan.trajectory,
        points_cam=None,
        target=target,
        seed=0,
    )


def target_of(start: float, end: float) -> RenderTarget:
    explained = torch.zeros(5, SIZE, SIZE, dtype=torch.bool)
    explained[:, : SIZE // 2] = True
    rgb = torch.rand(5, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5))
    return RenderTarget(rgb=rgb, explained=explained, start=start, end=end)


@pytest.mark.parametrize(("make", "adapter"), [(tiny_wan, WanAdapter()), (tiny_ltx, LtxAdapter())])
def test_latents_are_held_to_the_renders_through_the_step_callback(make: Any, adapter: Any) -> None:
    pipeline = make()
    pipeline.set_progress_bar_config(disable=True)
    clips = FlfClips(pipeline, adapter)
    last: list[torch.Tensor] = []

    def sampled(start: float, end: float) -> torch.Tensor:
        guide = clips._guide(target_of(start, end), 0)
        step_end = _step_end(guide, Job(), adapter)

        def spy(pipe: Any, k: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            out = step_end(pipe, k, t, tensors)
            last.append(out.get("latents", tensors["latents"]))
            return out

        adapter.run(pipeline, request_of(None), configured("x", text_guidance=1.0), spy)
        final = last[-1]
        return final[:, final.shape[1] - guide.clean.shape[1] :]

    guide = clips._guide(target_of(1.0, 1.0), 0)
    assert 0 < float(guide.mask.mean()) < 1
    held, free = sampled(1.0, 1.0), sampled(0.0, 0.0)
    explained = guide.mask > 0
    assert torch.equal(held[explained], guide.clean[explained])
    assert not torch.equal(held[~explained], free[~explained])
    last.clear()
    adapter.run(pipeline, request_of(None), configured("x", text_guidance=1.0), _spy_only(last))
    assert torch.equal(last[-1][:, last[-1].shape[1] - free.shape[1] :], free)


def _spy_only(seen: list[torch.Tensor]) -> Any:
    def spy(pipe: Any, k: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(tensors["latents"])
        return {}

    return spy


def test_latents_of_a_video_decode_as_the_pipelines_decode() -> None:
    for make, adapter in ((tiny_wan, WanAdapter()), (tiny_ltx, LtxAdapter())):
        pipeline = make()
        video = torch.rand(1, 3, 5, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.no_grad():
            scaled = adapter.latents_from_pictures(pipeline, video)
            raw = pipeline.vae.encode(video).latent_dist.mode()
        assert scaled.shape[2] == (5 - 1) // adapter.frame_group(pipeline) + 1
        if isinstance(adapter, WanAdapter):
            config = pipeline.vae.config
            mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (config.latents_mean, config.latents_std))
            back = scaled / (1.0 / std) + mean  # as WanImageToVideoPipeline writes it
        else:
            vae = pipeline.vae
            back = pipeline._denormalize_latents(scaled, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        assert torch.allclose(back, raw, atol=1e-5)


def test_prompts_are_embedded_as_the_pipeline_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.wan import pipeline_wan_i2v

    monkeypatch.setattr(pipeline_wan_i2v, "prompt_clean", str.strip)
    pipeline = tiny_wan()
    for prompt in ("room  room", ""):
        with torch.no_grad():
            theirs = pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=512)
        assert torch.equal(_text(pipeline, prompt), theirs)


def test_progress_and_cancellation(ltx: Path) -> None:
    seen: list[str] = []
    generate(LtxGenerator, configured(ltx), Job(on_progress=lambda _, __, text: seen.append(text)))
    assert "clip 1 of 1, step 2 of 2" in seen
    token = CancelToken()
    job = Job(token=token, on_progress=lambda _, __, text: token.cancel() if "step 1 of 2" in text else None)
    with pytest.raises(CancelledError):
        generate(LtxGenerator, configured(ltx), job)


def test_ltx_goes_on_past_its_second_picture(ltx: Path) -> None:
    sequence = generate(LtxGenerator, configured(ltx, path="beyond", beyond_share=0.5, clip_frames=9))
    assert len(frames(sequence)) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_frames": 6}, r"clip_frames is 6, expected 4 n \+ 1, such as 5"),
        ({"width": 40}, "width and height are 40x32, expected multiples of 16"),
        (
            {"path": "beyond", "clip_frames": 9},
            "second picture as the last frame only, expected diffusion.path 'between'",
        ),
    ],
)
def test_wan_refuses(wan: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        generate(WanGenerator, configured(wan, **change))


def test_weights_that_are_not_there_are_never_downloaded(tmp_path: Path, wan: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights is empty.*Wan-AI/"):
        generate(WanGenerator, configured(""))
    with pytest.raises(WeightsError, match=r"existing file or folder.*Lightricks/LTX"):
        generate(LtxGenerator, configured(tmp_path / "nothing"))
    with pytest.raises(InvalidInputError, match=r"holds a WanImageToVideoPipeline.*'diffusers_flf2v_wan'"):
        generate(LtxGenerator, configured(wan))
    with pytest.raises(WeightsError, match="hf download nobody/no-such-model"):
        generate(WanGenerator, configured("nobody/no-such-model"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "WanImageToVideoPipeline"}))
    with pytest.raises(InvalidInputError, match="cannot be loaded"):
        generate(WanGenerator, configured(broken))


def test_weights_and_schedulers_that_cannot_do_it_are_refused() -> None:
    pipeline = tiny_wan()
    adapter = WanAdapter()
    pipeline.register_to_config(expand_timesteps=True)
    with pytest.raises(InvalidInputError, match="look at the first picture only"):
        adapter.check_place(pipeline, 4, 5)
    from diffusers import DDIMScheduler, UniPCMultistepScheduler

    pipeline.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    adapter.check_schedule(pipeline, True)
    pipeline.scheduler = DDIMScheduler()
    adapter.check_schedule(pipeline, False)
    with pytest.raises(InvalidInputError, match="scheduler is DDIMScheduler, expected flow matching"):
        adapter.check_schedule(pipeline, True)
