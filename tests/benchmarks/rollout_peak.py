"""
Print how many bytes a rollout takes at the highest beside the weights, and how many the dry run counts, as JSON.

    rollout_peak.py QUESTIONS GROUP [KEY=VALUE ...]      # settings of the GRPO phase; hidden=, layers=, mask=, target=
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from sam_peak import highest

from aurora_trl import AuroraConfig, AuroraGRPOConfig, AuroraGRPOTrainer, AuroraModel, AuroraProcessor
from aurora_trl.chain.rollout_estimate import RolloutSetup, estimate_rollout
from aurora_trl.data import load_refavs
from aurora_trl.data.synthetic import write_world
from aurora_trl.models.mask_head import without_dropout
from aurora_trl.tiny.videollama2 import create_tiny_checkpoint


def main(questions: int, group: int, sizes: dict[str, Any]) -> None:
    """One rollout of a model with a wide cache or large masks, in a process of its own."""
    torch.set_num_threads(1)
    new_tokens = sizes.get("max_completion_length", 16)
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder) / "world", clips=max(16, 2 * questions), seed=1, image_size=64)
        rows = load_refavs(world, "train")
        base = create_tiny_checkpoint(Path(folder) / "base", image_size=64, hidden_size=sizes.get("hidden", 64))
        config = AuroraConfig.from_pretrained(base)
        text = config.get_text_config()
        text.num_hidden_layers = sizes.get("layers", 2)
        text.layer_types = ["full_attention"] * text.num_hidden_layers
        text.num_key_value_heads = text.num_attention_heads
        config.mask_decoder_config.image_size = sizes.get("mask", 64)
        processor = AuroraProcessor.from_pretrained(base)
        processor.mask_image_size = sizes.get("mask", 64)
        processor.mask_target_size = sizes.get("target", 64)
        distinct = {tuple(row["frames"]): number for number, row in enumerate(rows)}
        rows = rows.select(sorted(distinct.values())[:questions])
        args = AuroraGRPOConfig(
            folder,
            per_device_train_batch_size=questions * group,
            num_generations=group,
            max_completion_length=new_tokens,
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
        )
        trainer = AuroraGRPOTrainer(AuroraModel(config), args=args, train_dataset=rows, processing_class=processor)
        at_once = trainer.aurora.mask_decoder.frames_at_once = sizes.get("at_once", 0.05)
        trainer.generation_config.eos_token_id = None  # every completion is as long as it may be
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        with torch.no_grad(), without_dropout(trainer.model):  # what a process loads at its first rollout is no part
            trainer._generate_and_score_completions([dict(row) for row in batch[:group]])
        trainer._banks.clear()
        before = highest()
        with torch.no_grad(), without_dropout(trainer.model):
            trainer._generate_and_score_completions(batch)
        taken = highest() - before
        bank = trainer._bank
        setup = RolloutSetup(
            completions=questions * group,
            num_generations=group,
            prompt_tokens=max(map(len, bank.prompt_ids)),
            media_tokens=sum(value.size(1) for name, value in bank.policy_inputs.items() if name.endswith("embeds")),
            new_tokens=new_tokens,
            num_frames=processor.num_frames,
            max_objects=1,
            prefill_tokens=args.prefill_tokens,
            mask_frames_at_once=at_once,
            mask_target_size=processor.mask_target_size,
            width=4,
        )
        estimate = estimate_rollout(config, setup)
        print(json.dumps({"measured": taken, "estimated": estimate.peak, "parts": vars(estimate)}))


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[3:])
    main(int(sys.argv[1]), int(sys.argv[2]), {name: json.loads(value) for name, value in given.items()})
