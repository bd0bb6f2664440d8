"""The composite model from a published policy and SAM 3: a LoRA run through a YAML, merged, saved, loaded."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from published_checkpoints import write_videollama2
from published_sams import write_sam3
from safetensors.torch import load_file
from transformers import TrainerCallback

from aurora_trl import (
    AuroraConfig,
    AuroraGRPOConfig,
    AuroraGRPOTrainer,
    AuroraModel,
    AuroraPipeline,
    AuroraProcessor,
)
from aurora_trl.chain.readiness import checkpoint_problem
from aurora_trl.cli import main
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models import (
    ConceptPrompts,
    Sam3ConceptMaskDecoder,
    Sam3MaskDecoder,
    Sam3VideoMaskDecoder,
    load_published,
)
from aurora_trl.models.checkpoints.adapters import load_adapter
from aurora_trl.models.mask_decoders.published import load_mask_decoder
from aurora_trl.training.rewards import format_reward, iou_reward

FLAGS = {
    Sam3MaskDecoder: [],
    Sam3VideoMaskDecoder: ["--mask-memory", "3", "--mask-prompt-frames", "first", "--mask-memory-gradients"],
    Sam3ConceptMaskDecoder: ["--mask-concepts", "3"],
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    write_videollama2(root / "policy")
    write_sam3(root / "sam3")
    return root


@pytest.mark.parametrize("kind", list(FLAGS), ids=["frames", "memory", "concepts"])
def test_a_lora_run_merged_saved_and_loaded(kind, parts, world, cot_rows, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    arguments = ["init", str(parts / "policy"), "--mask-decoder", str(parts / "sam3"), "--output", "base"]
    arguments += ["--audio-seconds", "1", "--num-frames", "2", *FLAGS[kind]]
    assert main(arguments) == 0
    used = "detector draws what [SEG] names" if kind is Sam3ConceptMaskDecoder else "tracker draws, "
    assert f"sam3: its {used}" in caplog.text
    assert checkpoint_problem(str(parts / "sam3")) is None
    assert checkpoint_problem("base") is None
    if kind is Sam3ConceptMaskDecoder:  # nothing is sure of random weights: what is found counts, whatever its score
        content = json.loads(Path("base/config.json").read_text())
        content["mask_decoder_config"].update(score_threshold=0.0, presence_threshold=0.0)
        Path("base/config.json").write_text(json.dumps(content))
    model = AuroraModel.from_pretrained("base")
    assert type(model.mask_decoder) is kind
    published = load_file(parts / "sam3" / "model.safetensors")
    own = model.mask_decoder.sam.state_dict()
    prefix = "detector_model." if kind is Sam3ConceptMaskDecoder else "tracker_model."
    for name, value in own.items():
        place = "detector_model." if name.startswith("vision_encoder.backbone.") else prefix
        published_name = place + name
        if kind is not Sam3ConceptMaskDecoder and name.startswith("vision_encoder.neck."):
            published_name = "tracker_neck." + name.removeprefix("vision_encoder.neck.")
        assert torch.equal(value, published[published_name]), name
    processor = AuroraProcessor.from_pretrained("base")
    assert (processor.mask_image_size, processor.pixel_mean) == (112, [127.5] * 3)
    assert not processor.keep_aspect_ratio

    recipe = {
        "model_name_or_path": "base",
        "dataset_path": str(world),
        "output_dir": "lora",
        "targets": "answer",
        "use_lora": True,
        "max_steps": 1,
        "learning_rate": 1.0e-2,
        "per_device_train_batch_size": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.syspath_prepend(str(REPOSITORY / "recipes"))
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", "recipe.yaml"])
    importlib.import_module("sft").main()
    assert main(["merge", "lora", "--output", "merged"]) == 0

    batch = SFTCollator(ClipLoader(processor))(cot_rows.to_list()[:1])
    batch = {name: value for name, value in batch.items() if name not in ("labels", "masks")}
    with torch.no_grad():
        untrained, merged, loaded, unmerged = (
            of.eval()(**batch)["mask_logits"]
            for of in (
                model,
                AuroraModel.from_pretrained("merged"),
                AuroraModel.from_pretrained("lora"),
                load_adapter("lora").get_base_model(),
            )
        )
    assert merged.shape == (1, 2, 32, 32)
    assert (merged - untrained).abs().max() > 1e-3
    for other in (loaded, unmerged):
        torch.testing.assert_close(merged, other, atol=1e-5, rtol=1e-5)


def test_answers_with_concepts_draw_each_instance(parts, drawing_checkpoint, cot_rows):
    """One `[SEG]`, several objects; the mask is all of them, and empty where nothing fits."""
    known = AuroraModel.from_pretrained(drawing_checkpoint)
    concepts = ConceptPrompts(3, score_threshold=0.0, presence_threshold=0.0)
    decoder = load_mask_decoder(parts / "sam3", concepts=concepts)
    config = AuroraConfig(
        known.config.policy_config, decoder.config, known.config.seg_token_id, attn_implementation={}
    )
    model = AuroraModel(config, policy=known.policy, mask_decoder=decoder).eval()
    processor = AuroraProcessor(
        AuroraProcessor.from_pretrained(drawing_checkpoint).policy_processor,
        mask_image_size=112,
        mask_target_size=112,
        pixel_mean=decoder.config.pixel_mean,
        pixel_std=decoder.config.pixel_std,
        keep_aspect_ratio=False,
    )
    rows = cot_rows.to_list()[:3]
    drawn = [a for a in answer_rows(model, processor, rows, max_new_tokens=8) if a.mask_logits is not None]
    assert drawn
    for answer in drawn:
        assert answer.object_logits is not None
        assert 2 <= len(answer.object_logits) <= 3
        # Each is put back at its frame's size by itself.
        assert ((answer.object_logits > 0).any(dim=0) == (answer.mask_logits > 0)).float().mean() > 0.99
    row = drawn[0].row
    clip = {"frames": row["frames"], "audio": row["audio"], "max_new_tokens": 8}
    result = AuroraPipeline(model, processor)(row["reference"], **clip)
    assert (result.object_masks.any(axis=0) == result.masks.astype(bool)).mean() > 0.99
    decoder.config.presence_threshold = 1.0
    result = AuroraPipeline(model, processor)(row["reference"], **clip)
    assert result.has_seg
    assert result.object_masks is None
    assert not result.masks.any()


def test_a_grpo_step_trains_the_detector(parts, cot_rows, tmp_path):
    """Also where no answer holds `[SEG]`: what trains runs in any case."""
    concepts = ConceptPrompts(2)
    model, processor = load_published(
        parts / "policy", parts / "sam3", mask_concepts=concepts, audio_seconds=1.0, num_frames=2
    )
    args = AuroraGRPOConfig(
        output_dir=str(tmp_path),
        num_generations=2,
        per_device_train_batch_size=2,
        max_completion_length=3,
        max_steps=1,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    reached: list[str] = []

    class WithoutGradient(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            reached.extend(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)

    AuroraGRPOTrainer(
        model=model,
        reward_funcs=[format_reward, iou_reward],
        args=args,
        train_dataset=cot_rows,
        processing_class=processor,
        callbacks=[WithoutGradient()],
    ).train()
    assert reached == []


def test_init_errors_are_one_line(parts, tmp_path, capsys):
    policy, sam3, output = str(parts / "policy"), str(parts / "sam3"), str(tmp_path / "new")
    for flags, message in (
        (["--mask-concepts", "3", "--mask-memory", "3"], "SAM 3's detector has no memory across frames"),
        (["--mask-concepts", "7"], "`max_objects` of concept prompts is at most 6 with this SAM 3, got 7"),
        (["--mask-memory", "7"], "`num_memory_frames` is at most 3 with this SAM 3, got 7"),
        (["--mask-image-size", "100"], "SAM 3's image size must be a multiple of 14, got 100"),
    ):
        assert main(["init", policy, "--mask-decoder", sam3, *flags, "--output", output]) == 1
        err = capsys.readouterr().err.strip().splitlines()[-1]
        assert err.startswith("error: ")
        assert message in err
