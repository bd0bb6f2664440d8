"""The composite model from published parts."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from published_checkpoints import write_videollama2
from published_qwen import write_published
from published_sams import small_sam, small_sam2, small_sam2_video
from transformers import TrainerCallback

from aurora_trl import (
    AuroraGRPOConfig,
    AuroraGRPOTrainer,
    AuroraModel,
    AuroraProcessor,
    AuroraSFTConfig,
    AuroraSFTTrainer,
)
from aurora_trl.cli import main
from aurora_trl.data.masks import NO_TARGET
from aurora_trl.errors import DataError
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models import ClipMemory, Sam2MaskDecoder, Sam2VideoMaskDecoder, SamMaskDecoder, load_published
from aurora_trl.models.policies.registry import load_policy, register_policy_loader
from aurora_trl.models.policies.videollama2.published import load_videollama2
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config
from aurora_trl.training.rewards import format_reward, iou_reward

SETTINGS = {
    "per_device_train_batch_size": 2,
    "max_steps": 1,
    "learning_rate": 1e-2,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 5,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with a published policy and the kinds of SAM."""
    root = tmp_path_factory.mktemp("parts")
    write_videollama2(root / "policy")
    torch.save(small_sam().state_dict(), root / "sam.pth")
    small_sam2().save_pretrained(root / "sam2")
    small_sam2_video().save_pretrained(root / "sam2_video")
    return root


@pytest.fixture(scope="module", params=["sam.pth", "sam2", "sam2_video"])
def initial(request, parts, tmp_path_factory):
    """What `aurora init` writes from them."""
    folder = tmp_path_factory.mktemp("initial") / "model"
    decoder = str(parts / request.param)
    arguments = ["init", str(parts / "policy"), "--mask-decoder", decoder, "--output", str(folder)]
    if request.param == "sam2_video":
        arguments += ["--mask-memory", "3", "--mask-prompt-frames", "first", "--mask-memory-gradients"]
    assert main([*arguments, "--audio-seconds", "1", "--mask-image-size", "64"]) == 0
    return folder


def batch_of(processor, rows):
    batch = SFTCollator(ClipLoader(processor))(rows)
    return {name: value for name, value in batch.items() if name not in ("labels", "masks")}


def test_the_parts_are_as_published(parts):
    model, processor = load_published(parts / "policy", parts / "sam.pth")
    policy, _ = load_policy(parts / "policy")
    for key, value in policy.state_dict().items():
        assert torch.equal(model.policy.state_dict()[key], value), key
    sam = torch.load(parts / "sam.pth", weights_only=True)
    assert all(torch.equal(model.mask_decoder.state_dict()[key], value) for key, value in sam.items())
    assert model.config.seg_token_id == processor.seg_token_id == 305
    assert (processor.mask_image_size, processor.mask_target_size, processor.num_frames) == (128, 128, 10)
    # Prompts of about unit size, as for a model whose weights are all new.
    assert 0.1 < model.seg_projector[2].weight.std() * 8 < 2


def test_from_policy(parts):
    model = AuroraModel.from_policy(str(parts / "policy"), mask_decoder=str(parts / "sam2"), dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert type(model.mask_decoder) is Sam2MaskDecoder
    assert model.policy.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    for config in (model.policy.config.text_config, model.config.mask_decoder_config.sam2_config.mask_decoder_config):
        assert config._attn_implementation == "sdpa"


def test_init_writes_a_checkpoint_that_comes_back(initial, cot_rows):
    model, processor = AuroraModel.from_pretrained(initial), AuroraProcessor.from_pretrained(initial)
    assert type(model.mask_decoder) in (SamMaskDecoder, Sam2MaskDecoder, Sam2VideoMaskDecoder)
    assert processor.policy_processor.audio_seconds == 1
    assert processor.mask_image_size == 64
    assert processor.keep_aspect_ratio == isinstance(model.mask_decoder, SamMaskDecoder)
    batch = batch_of(processor, cot_rows.to_list()[:2])
    ids = batch["input_ids"]
    assert ids.eq(processor.policy_processor.video_token_id).sum(1).tolist() == [20, 20]
    assert ids.eq(processor.policy_processor.audio_token_id).sum(1).tolist() == [48, 48]
    with torch.no_grad():
        output = model.eval()(**batch)
        again = AuroraModel.from_pretrained(initial).eval()(**batch)
    assert output["mask_logits"].shape == (2, 10, 16, 16)
    assert output["mask_logits"].isfinite().all()
    assert torch.equal(output["mask_logits"], again["mask_logits"])


def test_bfloat16_stays(parts, tmp_path, cot_rows):
    model, processor = load_published(parts / "policy", parts / "sam.pth", dtype=torch.bfloat16, audio_seconds=1.0)
    model.save_pretrained(tmp_path)
    again = AuroraModel.from_pretrained(tmp_path).eval()
    assert again.dtype == torch.bfloat16
    batch = batch_of(processor, cot_rows.to_list()[:1])
    with torch.no_grad():
        masks = [m(**batch)["mask_logits"] for m in (model, again)]
    assert masks[0].isfinite().all()
    assert torch.equal(*masks)


def test_answers(initial, cot_rows):
    model, processor = AuroraModel.from_pretrained(initial), AuroraProcessor.from_pretrained(initial)
    answers = list(answer_rows(model, processor, cot_rows.to_list()[:2], max_new_tokens=3))
    assert [answer.num_tokens for answer in answers] == [3, 3]


@pytest.mark.parametrize("use_lora", [False, True], ids=["full", "lora"])
def test_an_sft_step_trains_the_new_and_the_taken_parts(use_lora, initial, cot_rows, tmp_path):
    model = AuroraModel.from_pretrained(initial)
    args = AuroraSFTConfig(output_dir=str(tmp_path), **SETTINGS)
    trainer = AuroraSFTTrainer(
        model,
        args,
        train_dataset=cot_rows,
        processing_class=AuroraProcessor.from_pretrained(initial),
        peft_config=lora_config(model, LoraArguments(use_lora=use_lora), args.trainable_groups()),
    )
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer.train()
    for name, parameter in model.named_parameters():
        # A softmax over keys is blind to their bias, and an adapter's second half starts at zero.
        if not name.endswith(("k_proj.bias", "lora_A.default.weight")):
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for part in ("seg_projector", "mask_decoder", "language_model"):
        assert any(part in name for name in trained), part
    assert not next(model.mask_decoder.image_encoder.parameters()).requires_grad
    trainer.save_model()
    batch = batch_of(trainer.processing_class, cot_rows.to_list()[:2])
    with torch.no_grad():
        masks = [m.eval()(**batch)["mask_logits"] for m in (model, AuroraModel.from_pretrained(tmp_path))]
    torch.testing.assert_close(*masks, atol=1e-5, rtol=1e-5)


class _WithoutGradient(TrainerCallback):
    """Names the trained parameters that a step did not reach."""

    names: list[str]

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.names = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(("mask_frames_per_step", "bf16"), [(1, False), (3, True)])
def test_a_memory_takes_part_where_there_is_nothing_to_draw(mask_frames_per_step, bf16, parts, cot_rows, tmp_path):
    """One frame, or no `[SEG]`: what trains runs on every rank, or DDP and ZeRO wait for ever."""
    memory = ClipMemory(3, "first", memory_gradients=True)
    model, processor = load_published(parts / "policy", parts / "sam2_video", audio_seconds=1.0, mask_memory=memory)
    rows = Dataset.from_list(
        [{**row, "is_null": True, "target": "Nothing fits."} for row in cot_rows.to_list()[:2]],
        features=cot_rows.features,
    )
    settings = {**SETTINGS, "gradient_checkpointing": True, "bf16": bf16, "mask_frames_per_step": mask_frames_per_step}
    reached = _WithoutGradient()
    args = AuroraSFTConfig(output_dir=str(tmp_path), **settings)
    AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor, callbacks=[reached]).train()
    assert reached.names == []


@pytest.mark.parametrize("pad_audio", [True, False])
def test_a_grpo_step(pad_audio, initial, cot_rows, tmp_path):
    model, processor = AuroraModel.from_pretrained(initial), AuroraProcessor.from_pretrained(initial)
    processor.policy_processor.pad_audio = pad_audio
    args = AuroraGRPOConfig(
        output_dir=str(tmp_path), num_generations=2, max_completion_length=4, logging_steps=1, **SETTINGS
    )
    trainer = AuroraGRPOTrainer(
        model=model,
        reward_funcs=[format_reward, iou_reward],
        args=args,
        train_dataset=cot_rows,
        processing_class=processor,
    )
    trainer.train()
    assert any("reward" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("keep_aspect_ratio", [True, False])
def test_a_mask_comes_back_from_the_square(keep_aspect_ratio, processor):
    """Padded or stretched: what the decoder sees of a frame is put back where it was."""
    processor = AuroraProcessor(
        processor.policy_processor, mask_image_size=64, mask_target_size=64, keep_aspect_ratio=keep_aspect_ratio
    )
    masks = np.zeros((1, 30, 60), np.uint8)
    masks[0, 5:20, 30:50] = 1
    square = processor.process_masks(masks)
    assert square.shape == (1, 64, 64)
    assert bool((square[0, 33:] == NO_TARGET).all()) == keep_aspect_ratio
    assert processor.process_mask_frames(np.zeros((1, 30, 60, 3), np.uint8)).shape == (1, 3, 64, 64)
    logits = processor.restore_masks((square == 1).float() * 2 - 1, (30, 60))
    assert logits.shape == (1, 32, 64)
    expected = torch.nn.functional.interpolate(torch.from_numpy(masks)[None].float(), (32, 64), mode="area")[0]
    assert ((logits > 0) == (expected > 0.5)).float().mean() > 0.98


@pytest.mark.parametrize("sound", [False, True], ids=["vl", "omni"])
def test_qwen_gets_its_seg(sound, qwen_checkpoints, parts, tmp_path, cot_rows):
    """A Qwen checkpoint knows no `[SEG]`: it takes a free row, and the model draws."""
    write_published(qwen_checkpoints[sound], tmp_path, sound)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[SEG]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model, processor = load_published(tmp_path, parts / "sam.pth", num_frames=2)
    rows = model.policy.get_output_embeddings().weight
    torch.testing.assert_close(rows[processor.seg_token_id], rows[: processor.seg_token_id].mean(0))
    with torch.no_grad():
        masks = model(**batch_of(processor, cot_rows.to_list()[:2]))["mask_logits"]
    assert masks.shape == (2, 2, 32, 32)
    assert masks.isfinite().all()


def test_another_kind_of_policy_joins_by_one_entry(parts, tmp_path, monkeypatch):
    shutil.copytree(parts / "policy", tmp_path / "mine")
    content = json.loads((tmp_path / "mine" / "config.json").read_text())
    (tmp_path / "mine" / "config.json").write_text(json.dumps({**content, "model_type": "my_policy"}))
    with pytest.raises(DataError, match="no policy is known for the model type 'my_policy'; .* videollama2_qwen2"):
        load_policy(tmp_path / "mine")
    monkeypatch.setattr("aurora_trl.models.policies.registry._LOADERS", {})
    register_policy_loader("my_policy", load_videollama2)
    assert load_policy(tmp_path / "mine", audio_seconds=2)[1].audio_seconds == 2
    with pytest.raises(ValueError, match="VideoLlama2Processor has no setting `video_seconds`"):
        load_policy(tmp_path / "mine", video_seconds=2)


def test_init_errors_are_one_line(parts, tmp_path, capsys):
    policy, sam, output = str(parts / "policy"), str(parts / "sam.pth"), str(tmp_path / "new")
    for arguments, message in (
        ([str(tmp_path), "--mask-decoder", sam], "config.json: no such file"),
        ([policy, "--mask-decoder", str(parts / "policy" / "config.json")], "config.json: cut short, or not a file"),
        ([policy, "--mask-decoder", sam, "--dtype", "float16"], "can not run in float16"),
        ([policy, "--mask-decoder", sam, "--dtype", "half-ish"], "unknown dtype 'half-ish'"),
        ([policy, "--mask-decoder", sam, "--mask-memory", "7"], "segment-anything has no memory"),
        ([policy, "--mask-decoder", sam, "--mask-memory-gradients"], "need a memory; add `--mask-memory 7`"),
        (["some/repository", "--mask-decoder", sam], "some/repository: no such folder, and not downloaded"),
    ):
        assert main(["init", *arguments, "--output", output]) == 1
        err = capsys.readouterr().err.strip().splitlines()[-1]
        assert err.startswith("error: ")
        assert message in err
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["init", policy, "--mask-decoder", sam, "--output", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
