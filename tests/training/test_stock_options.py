"""With text rewards and without mask losses ours are TRL's trainers: step for step, whatever its options are."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from grpo_helpers import SETTINGS as GRPO_SETTINGS
from grpo_helpers import build as build_grpo
from grpo_helpers import letter_reward
from sft_helpers import SETTINGS as SFT_SETTINGS
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from aurora_trl import AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data.schema import clip_key
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import RolloutCollator, SFTCollator
from aurora_trl.training.rewards import format_reward

# Steps small enough that what rounding makes of a gradient stays small.
RATE = {"learning_rate": 1e-3}
NO_MASKS = {"mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0}
# Where and how fast a step was, and what only one of the two counts.
UNLIKE = ("_runtime", "_per_second", "step_time", "epoch", "iou", "mask", "seg_", "reflective", "data_wait", "share")


def require_the_same(ours, stock, steps: int) -> None:
    """Each logged number that both have, and each weight of the language model."""
    history = [[entry for entry in trainer.state.log_history if "loss" in entry] for trainer in (ours, stock)]
    assert len(history[0]) == len(history[1]) == steps
    for entry, expected in zip(*history, strict=True):
        names = [name for name in expected if not any(part in name for part in UNLIKE) and name in entry]
        assert {"loss", "grad_norm", "learning_rate"} <= set(names)
        for name in names:
            value = expected[name]
            same = value if value is None else pytest.approx(value, rel=2e-5, abs=2e-5, nan_ok=True)
            assert entry[name] == same, name
    weights = ours.accelerator.unwrap_model(ours.model).policy.state_dict()
    expected = stock.accelerator.unwrap_model(stock.model).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=1e-3)
    assert len(expected) == len(weights)


def bare_policy(checkpoint) -> Any:
    policy = AuroraModel.from_pretrained(checkpoint).policy
    for name, module in policy.trainable_modules().items():
        module.requires_grad_(name == "language_model")
    for module in policy.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0  # TRL runs frozen towers in training mode, in which BEATs leaves out layers
    return policy


class StockGRPO(GRPOTrainer):
    """TRL's own, told only how this prompt is tokenised: it has no place for clips."""

    def _tokenize_prompts(self, prompts):
        return [self.ids_of[prompt[0]["content"][-1]["text"]] for prompt in prompts], None, {}


# With a shared prefix the completions of a group come together again, which TRL has shuffled among the steps.
AS_DRAWN = {"shared_prefix": False}
GRPO = [
    {},
    {"beta": 0.04},
    {"beta": 0.04, "use_bias_correction_kl": True},
    {"beta": 0.04, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5},
    *({"loss_type": name} for name in ("bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")),
    {"importance_sampling_level": "sequence", "epsilon": 1e-4, "epsilon_high": 3e-4, "num_iterations": 2},
    {"num_iterations": 2, "epsilon": 1e-4, "delta": 1.0001},
    {"num_iterations": 2, "off_policy_mask_threshold": 1e-6},
    {"scale_rewards": "batch"},
    {"scale_rewards": False, "mask_truncated_completions": True},
    {"reward_weights": [0.2, 3.0], "multi_objective_aggregation": "normalize_then_sum"},
    {"top_entropy_quantile": 0.5},
    {"entropy_coef": 0.05},
    {"entropy_coef": 0.05, "use_adaptive_entropy": True, "entropy_target": 2.0},
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 4, **AS_DRAWN},
    {"generation_batch_size": 8, "shuffle_dataset": False, **AS_DRAWN},
    {"temperature": 0.7, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1},
    {"num_generations": 4, "weight_decay": 0.1, "max_grad_norm": 0.05, "lr_scheduler_type": "cosine"},
    {"gradient_checkpointing": True, "optim": "adafactor", "disable_dropout": True},
    {"dataloader_num_workers": 1, "warmup_steps": 2, "num_iterations": 2},
]


@pytest.mark.parametrize("settings", GRPO, ids=str)
def test_grpo(settings, checkpoint, cot_rows, processor, tmp_path, monkeypatch):
    """Rewards, loss, entropy and weights of three steps."""
    settings = {"max_steps": 3, **RATE, **settings}
    clip_rows = [row for row in cot_rows if clip_key(row) == clip_key(cot_rows[0])]
    rows = Dataset.from_list(clip_rows, features=cot_rows.features)
    assert len(rows) >= 4
    rewards = [format_reward, letter_reward]
    model = AuroraModel.from_pretrained(checkpoint)
    # Ours has another default, the paper's.
    ours = build_grpo(
        model, rows, processor, tmp_path / "ours", rewards=rewards, **{**NO_MASKS, "top_p": 0.9, **settings}
    )
    ours.train()

    policy = bare_policy(checkpoint)
    policy.config.image_token_id = processor.policy_processor.video_token_id  # TRL never samples it, in both
    # All rows show one clip: the policy is given its features wherever a prompt has places for them.
    loader = ClipLoader(processor)
    clip = loader.clip(rows[0])
    media = {name: clip[name][None] for name in ("pixel_values_videos", "audio_values")}
    with torch.no_grad():
        features = policy.model.encode_media(**media).as_inputs()

    def give_clip(module, args, kwargs):
        ids = kwargs["input_ids"]
        if ids is not None and (ids == processor.policy_processor.video_token_id).any():
            kwargs.update({name: value.expand(len(ids), *value.shape[1:]) for name, value in features.items()})
        return args, kwargs

    prompts = [row["prompt"] for row in RolloutCollator(loader)(rows.to_list())]
    # TRL knows no way to load the reference model of a policy that transformers does not have.
    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", lambda *_, **__: bare_policy(checkpoint))
    settings.pop("shared_prefix", None)
    stock = StockGRPO(
        model=policy,
        reward_funcs=rewards,
        args=GRPOConfig(
            output_dir=str(tmp_path / "stock"),
            remove_unused_columns=False,
            **{"top_p": 0.9, "loss_type": "grpo", **GRPO_SETTINGS, **settings},
        ),
        train_dataset=Dataset.from_list([{**row, "prompt": p} for row, p in zip(rows, prompts, strict=True)]),
        processing_class=processor,
    )
    for used in [policy, stock.ref_model]:
        if used is not None:
            stock.accelerator.unwrap_model(used).model.register_forward_pre_hook(give_clip, with_kwargs=True)
    texts = [prompt[0]["content"][-1]["text"] for prompt in prompts]
    stock.ids_of = {text: processor.prompt_ids(row, clip) for row, text in zip(rows, texts, strict=True)}
    stock.train()
    require_the_same(ours, stock, steps=3)


EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}
SFT = [
    {},
    {"label_smoothing_factor": 0.1},
    {"neftune_noise_alpha": 5.0},
    {"loss_type": "nll"},
    {"loss_type": "dft"},
    {"gradient_accumulation_steps": 2, "average_tokens_across_devices": True},
    {"weight_decay": 0.1, "max_grad_norm": 0.05, "lr_scheduler_type": "cosine", "warmup_steps": 1},
    {"optim": "adafactor"},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    {"train_sampling_strategy": "sequential", "dataloader_drop_last": True},
    {"data_seed": 11, "include_num_input_tokens_seen": True},
    {"auto_find_batch_size": True, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6},
    {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
    },
    {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1, "dataloader_persistent_workers": True},
    pytest.param({"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}, marks=pytest.mark.slow),
    {"full_determinism": True, **EVERY_STEP, "eval_on_start": True},
]


class StockCollator:
    """Ours without masks: each row has its clip's media, as TRL's own have images."""

    def __init__(self, processor):
        self.collator = SFTCollator(ClipLoader(processor))

    def __call__(self, rows):
        batch = self.collator(rows)
        index = batch.pop("clip_index")
        for name in ("pixel_values_videos", "audio_values"):
            batch[name] = batch[name][index]
        return {k: v for k, v in batch.items() if k not in ("masks", "mask_frames", "seg_positions")}


@pytest.mark.parametrize("settings", SFT, ids=str)
def test_sft(settings, checkpoint, cot_rows, processor, tmp_path):
    """Loss, entropy, accuracy and weights of three steps."""
    settings = {**SFT_SETTINGS, **RATE, **settings}
    evaluated = cot_rows.select(range(5)) if "eval_strategy" in settings else None
    trainers = []
    for name in ("ours", "stock"):
        folder = str(tmp_path / name)
        common = {"train_dataset": cot_rows, "eval_dataset": evaluated, "processing_class": processor}
        if name == "ours":
            args = AuroraSFTConfig(folder, **NO_MASKS, distillation_loss_weight=0.0, **settings)
            trainer = AuroraSFTTrainer(AuroraModel.from_pretrained(checkpoint), args=args, **common)
        else:
            own = {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
            args = SFTConfig(folder, **own, **settings)
            trainer = SFTTrainer(bare_policy(checkpoint), args=args, data_collator=StockCollator(processor), **common)
        trainer.train()
        trainers.append(trainer)
    require_the_same(*trainers, steps=3)
    scores = [[entry["eval_loss"] for entry in t.state.log_history if "eval_loss" in entry] for t in trainers]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert trainers[0].state.best_global_step == trainers[1].state.best_global_step
