"""A GRPO step with masks against TRL's own without, and against a plain version of itself."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from setting import Ratio, bench_model, bench_processor, compare, one_row_per_clip, step_of
from trl import GRPOConfig, GRPOTrainer

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer
from aurora_trl.generation.answers import read_states
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import RolloutCollator
from aurora_trl.training.rewards import class_reward, completion_text, format_reward, iou_reward

STOCK_BOUNDS = {3: 0.60, 4: 0.50, 8: 0.35}
PLAIN_BOUND = 0.45


def letter_reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """A text-only reward that differs between random completions."""
    return [(sum(map(ord, completion_text(completion))) % 7) / 7 for completion in completions]


def settings(num_generations: int, new_tokens: int) -> dict[str, Any]:
    """One prompt per step; every completion has the same length."""
    return {
        "per_device_train_batch_size": num_generations,
        "num_generations": num_generations,
        "max_completion_length": new_tokens,
        "generation_kwargs": {"min_new_tokens": new_tokens},
        "learning_rate": 1e-6,
        "max_steps": 1000,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 1,
    }


class StockGRPO(GRPOTrainer):
    """TRL's trainer on the same policy and media: each completion has its clip's, as TRL repeats images."""

    clip_of: dict[str, dict[str, torch.Tensor]]
    ids_of: dict[str, list[int]]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        texts = [prompt[0]["content"][-1]["text"] for prompt in prompts]
        self.media = {
            name: torch.stack([self.clip_of[text][name] for text in texts]).to(self.accelerator.device)
            for name in ("pixel_values_videos", "audio_values")
        }
        return [self.ids_of[text] for text in texts], None, self.media

    def give_media(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The log-prob forward has no place for media: they are put in where a prompt asks for them."""
        ids = kwargs["input_ids"]
        if kwargs.get("pixel_values_videos") is None and ids.size(1) > 1:
            kwargs.update({name: value[: len(ids)] for name, value in self.media.items()})
        return args, kwargs


class PlainGRPO(AuroraGRPOTrainer):
    """Ours as published systems do it: everything once per completion and forward, `[SEG]` states by one more."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._media_frozen = False

    def _build_bank(self, rows: list[dict[str, Any]]) -> Any:
        # Another name for each completion's sound: no two of them show the same clip.
        return super()._build_bank([{**row, "audio": f"{row['audio']}#{i}"} for i, row in enumerate(rows)])

    def _rollout_seg_states(self, completion_ids_list: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        written = [p + c for p, c in zip(self._bank.prompt_ids, completion_ids_list, strict=True)]
        media = self._bank.forward_inputs(self._samples, with_masks=False)
        media = self.aurora.media_of_rows(media, media.pop("clip_index"))
        positions = torch.full((len(written),), -1, device=self.accelerator.device)
        with torch.no_grad():
            read_states(self.aurora, written, positions, self._tokenizer.pad_token_id, **media)
        return super()._rollout_seg_states(completion_ids_list)


def stock_trainer(
    rows: Dataset, folder: Path, num_generations: int, new_tokens: int, policy: Any = None, **overrides: Any
) -> StockGRPO:
    processor = bench_processor()
    policy = policy or bench_model(processor).policy
    for name, module in policy.trainable_modules().items():
        module.requires_grad_(name == "language_model")
    policy.config.image_token_id = processor.policy_processor.video_token_id
    arguments = {**settings(num_generations, new_tokens), **overrides}
    # Ours never writes a place of media; random weights would, and the training forward refuses such an answer.
    arguments["generation_kwargs"] = {**arguments["generation_kwargs"], "suppress_tokens": [*policy.media_token_ids]}
    loader = ClipLoader(processor, cache_clips=100)
    prompts = RolloutCollator(loader)(rows.to_list())
    trainer = StockGRPO(
        model=policy,
        reward_funcs=[letter_reward],
        args=GRPOConfig(
            output_dir=str(folder),
            remove_unused_columns=False,
            beta=0.0,
            top_p=0.9,
            loss_type="grpo",
            **arguments,
        ),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in prompts]),
        processing_class=processor,
    )
    texts = [row["prompt"][0]["content"][-1]["text"] for row in prompts]
    trainer.clip_of = {text: row["media"].clip for text, row in zip(texts, prompts, strict=True)}
    trainer.ids_of = {
        text: processor.prompt_ids(row, row["media"].clip) for text, row in zip(texts, prompts, strict=True)
    }
    policy.model.register_forward_pre_hook(trainer.give_media, with_kwargs=True)
    return trainer


def our_trainer(
    trainer_class: type[AuroraGRPOTrainer],
    rows: Dataset,
    folder: Path,
    num_generations: int,
    new_tokens: int,
    more_rewards: Sequence[str] = (),
    **overrides: Any,
) -> AuroraGRPOTrainer:
    processor = bench_processor()
    return trainer_class(
        model=bench_model(processor),
        reward_funcs=[format_reward, iou_reward, class_reward, letter_reward, *more_rewards],
        args=AuroraGRPOConfig(
            output_dir=str(folder),
            media_cache_clips=100,
            **{**settings(num_generations, new_tokens), **overrides},
        ),
        train_dataset=rows,
        processing_class=processor,
    )


def run(rows: Dataset, *, groups: tuple[int, ...] = (3, 4, 8), new_tokens: int = 150, repeats: int = 3) -> list[Ratio]:
    """
    Compare steps.

    Args:
        rows (`Dataset`): from `bench_rows`.
        groups (`tuple[int, ...]`): values of G.
        new_tokens (`int`): length of every completion.
        repeats (`int`): timed steps of each.

    Returns:
        `list[Ratio]`.
    """
    rows = one_row_per_clip(rows)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for num_generations in groups:
            shape = (rows, Path(folder), num_generations, new_tokens)
            ours = step_of(our_trainer(AuroraGRPOTrainer, *shape))
            ratios.append(
                compare(
                    f"GRPO step with masks / stock TRL without, G = {num_generations}",
                    step_of(stock_trainer(*shape)),
                    ours,
                    repeats=repeats,
                    bound=STOCK_BOUNDS.get(num_generations),
                )
            )
            if num_generations == max(groups):
                plain = step_of(our_trainer(PlainGRPO, *shape, shared_prefix=False))
                name = f"GRPO step / plain version of itself, G = {num_generations}"
                ratios.append(compare(name, plain, ours, repeats=repeats, bound=PLAIN_BOUND))
    return ratios
