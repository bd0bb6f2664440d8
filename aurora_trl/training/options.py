"""
What becomes of every option of TRL's and transformers' configs: it works, it is refused with the reason, or it has no
effect on what is trained here. One table for the check, a test and the docs; an option that is in none of the three
makes the test fail, as one of a new TRL does.
"""

import logging
import os
import re
from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any

logger = logging.getLogger(__name__)
_WORDS = re.compile(r"\w+")

_CLIPS = "rows come with clips, which only their own collator reads"
_TOKENIZER = "the tokenizer is the checkpoint's"
_COMPILED = "it was not tried with rollouts, DeepSpeed and shared prompts"
_FSDP = (
    "rollouts and rewards call parts of the model, and FSDP brings weights together in its whole forward alone "
    '("got mixed torch.Tensor and DTensor"): use ZeRO-3, see recipes/accelerate and docs/several-gpus.md'
)
_PAGED = "clips reach the policy through `generate`, or with `use_vllm`"
_ROLLOUT = "rollouts and rewards come before the loss"

# By the method, "both", "sft" or "grpo": refused where they are set to anything but the default.
REFUSED: dict[str, dict[str, str]] = {
    "both": {
        "fp16": "the policies' towers overflow in float16: use `bf16`",
        "fp16_full_eval": "the policies' towers overflow in float16: use `bf16`",
        "bf16_full_eval": "it would round the master weights to bfloat16; evaluation runs in `bf16` as it is",
        "fsdp": _FSDP,
        "fsdp_config": _FSDP,
        "parallelism_config": "the model is not split along tensors or sequences: use DDP or DeepSpeed",
        "remove_unused_columns": "the columns of media must reach the collator",
        "save_on_each_node": "machines share a file system, on which one process writes: docs/several-gpus.md",
        "torch_compile": _COMPILED,
        "torch_compile_backend": _COMPILED,
        "torch_compile_mode": _COMPILED,
        "use_liger_kernel": "its fused loss passes the mask head by; TRL's fused head keeps no logits either",
        "router_aux_loss_coef": "the routers of a mixture of experts stay as published: there is nothing to balance",
    },
    "sft": {
        "activation_offloading": "it was not tried with the mask head: use `gradient_checkpointing`",
        "assistant_only_loss": "the answer alone is learnt in any case: leave it out",
        "chat_template_path": _TOKENIZER,
        "completion_only_loss": "the prompt is a clip and a question, and is never learnt",
        "dataset_kwargs": _CLIPS,
        "dataset_num_proc": "nothing is prepared beforehand; `dataloader_num_workers` read ahead",
        "dataset_text_field": "the text to learn is the column `target`",
        "eos_token": _TOKENIZER,
        "eval_packing": _CLIPS,
        "max_length": "a row is never cut: without its end it has no [SEG]; make long targets shorter",
        "packing": "`packing` and `padding_free` do not work with clips",
        "pad_token": _TOKENIZER,
        "padding_free": "`packing` and `padding_free` do not work with clips",
        "train_sampling_strategy": "the length of a row is known once its clip is read",
    },
    "grpo": {
        "auto_find_batch_size": "a rollout's batches are laid out before training",
        "cache_implementation": "prompts are read once, and their cache is repeated for the completions",
        "cast_lm_head_to_fp32": "the head is the policy's; `bf16: false` runs everything in float32",
        "chat_template_kwargs": "`prompts.py` makes the prompts",
        "label_smoothing_factor": "GRPO has no labels",
        "neftune_noise_alpha": "completions would be sampled with the noise, too",
        "train_sampling_strategy": "rollouts draw their questions, see `shuffle_dataset`",
        "use_transformers_continuous_batching": _PAGED,
        "use_transformers_paged": _PAGED,
        "vllm_enable_sleep_mode": "it was not tried with clips: lower `vllm_gpu_memory_utilization`",
        "vllm_model_impl": "it was tried with vLLM's own models",
        "vllm_structured_outputs_regex": "vLLM's grammars were not tried with clips",
        "vllm_tensor_parallel_size": "in the trainer each process has the whole model; a server has its own option",
    },
}

# Said where they are set: nothing that runs here asks for them.
NO_EFFECT: dict[str, dict[str, str]] = {
    "both": {
        "batch_eval_metrics": "there is no `compute_metrics`",
        "do_eval": "`eval_strategy` decides",
        "do_predict": "a phase does not predict",
        "do_train": "a phase trains",
        "include_for_metrics": "there is no `compute_metrics`",
        "label_names": "the collator makes the labels",
        "length_column_name": "rows are not grouped by length",
        "liger_kernel_config": "liger is not used",
        "trust_remote_code": "no code is taken from a checkpoint",
        "use_cache": "training keeps no cache, and generation always one",
    },
    "sft": {
        "packing_strategy": "rows are not packed",
        "pad_to_multiple_of": "a batch is as long as its longest row",
        "shuffle_dataset": "rows are drawn anew in each epoch, see `train_sampling_strategy`",
        "truncation_mode": "rows are not cut",
    },
    "grpo": {
        "include_num_input_tokens_seen": "a batch is a list of rows; `num_tokens` is logged",
        "log_multimodal": "media are not logged",
        "max_tool_calling_iterations": "there are no tools",
        "transformers_continuous_batching_config": _PAGED,
        "vllm_group_port": "weights reach the server as files",
        "vllm_importance_sampling_cap": "TRL calls it `vllm_importance_sampling_clip_max`",
    },
}

WORKS: dict[str, frozenset[str]] = {
    "both": frozenset(
        _WORDS.findall(
            """
            accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1
            adam_beta2 adam_epsilon average_tokens_across_devices bf16 data_seed
            dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
            dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
            dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
            ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm
            enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches
            eval_on_start eval_steps eval_strategy eval_use_gather_object full_determinism
            gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
            greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision
            hub_strategy hub_token ignore_data_skip learning_rate load_best_model_at_end local_rank
            log_level log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter
            logging_steps logging_strategy loss_type lr_scheduler_kwargs lr_scheduler_type
            max_grad_norm max_steps metric_for_best_model model_init_kwargs num_train_epochs optim
            optim_args optim_target_modules output_dir per_device_eval_batch_size
            per_device_train_batch_size prediction_loss_only project push_to_hub report_to
            restore_callback_states_from_checkpoint resume_from_checkpoint run_name
            save_only_model save_steps save_strategy save_total_limit seed
            skip_memory_metrics tf32 torch_empty_cache_steps trackio_bucket_id
            trackio_space_id trackio_static_space_id use_cpu warmup_steps weight_decay
            """
        )
    ),
    "sft": frozenset(
        _WORDS.findall(
            """
            auto_find_batch_size include_num_input_tokens_seen label_smoothing_factor
            neftune_noise_alpha
            """
        )
    ),
    "grpo": frozenset(
        _WORDS.findall(
            """
            beta delta disable_dropout ds3_gather_for_generation entropy_coef entropy_coef_delta
            entropy_coef_max entropy_coef_min entropy_target epsilon epsilon_high
            generation_batch_size generation_kwargs importance_sampling_level log_completions
            log_completions_hub_repo log_unique_prompts mask_truncated_completions
            max_completion_length min_p multi_objective_aggregation num_completions_to_print
            num_generations num_generations_eval num_iterations off_policy_mask_threshold
            pad_to_multiple_of ref_model_mixup_alpha ref_model_sync_steps repetition_penalty
            reward_weights sapo_temperature_neg sapo_temperature_pos scale_rewards
            shuffle_dataset steps_per_generation sync_ref_model temperature top_entropy_quantile top_k top_p
            use_adaptive_entropy use_bias_correction_kl use_vllm vespo_k_neg vespo_k_pos
            vespo_lambda_neg vespo_lambda_pos vllm_gpu_memory_utilization
            vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
            vllm_importance_sampling_correction vllm_importance_sampling_mode
            vllm_max_model_length vllm_mode vllm_server_base_url vllm_server_host
            vllm_server_port vllm_server_timeout
            """
        )
    ),
}

# Values beside the default that work, or ask for what is done anyway.
_HARMLESS: dict[str, dict[str, tuple[Any, ...]]] = {
    "sft": {
        "completion_only_loss": (True,),
        "dataset_kwargs": ({"skip_prepare_dataset": True},),
        "max_length": (None,),
        "train_sampling_strategy": ("sequential",),
    },
    "grpo": {
        "include_num_input_tokens_seen": (False,),  # what transformers makes of its own default
    },
}


def check_options(config: Any, method: str, given: Collection[str] | None = None) -> None:
    """
    Raise for an option that can not work with clips and masks, and say where one has no effect.

    Args:
        config (`SFTConfig` or `GRPOConfig`): before it is used.
        method (`str`): `"sft"` or `"grpo"`.
        given (`Collection[str]`, *optional*): look at these alone, which a recipe or a flag names, where their value
            is the default: a config does not know that somebody asked for it.

    Raises:
        `ValueError`: names the option and the reason.
    """
    for table in (REFUSED, NO_EFFECT):
        for name, reason in {**table["both"], **table[method]}.items():
            value = getattr(config, name, None)
            usual = value == _default(config, name)
            asked = not usual if given is None else usual and value and name in given
            if not asked or any(value == harmless for harmless in _HARMLESS[method].get(name, ())):
                continue
            if table is REFUSED:
                raise ValueError(f"`{name}: {_shown(value)}` is refused: {reason}")
            say_idle(name, value, reason)
    for name in sorted(WORKS[method]):
        value = getattr(config, name, None)
        if name.startswith("vllm_") and not config.use_vllm and value != _default(config, name):
            say_idle(name, value, "`use_vllm` is off")


def say_idle(name: str, value: Any, reason: str) -> None:
    """Say in the log, on one process, that an option which somebody has set does nothing, and why."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning(f"`{name}: {_shown(value)}` has no effect here: {reason}")


# What an accelerate config asks for, by the variable that its launcher sets, and the option that says the same.
_LAUNCHES = {
    "ACCELERATE_USE_FSDP": ("FSDP", "fsdp"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a `parallelism_config`", "parallelism_config"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "parallelism_config"),
}


def check_launch(config: Any) -> None:
    """Raise for what is refused in a recipe, where the launcher asks for it: it would be done without a word."""
    for variable, (what, option) in _LAUNCHES.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise ValueError(f"the launch asks for {what}, and {REFUSED['both'][option]}")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise ValueError(f"the launch asks for `dynamo_backend: {backend}`, and {_COMPILED}")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if config.bf16 is False and precision != "no":  # by default, and with `bf16: true`, the recipe wins
        raise ValueError(
            f"the launch asks for `mixed_precision: {precision}`, and the recipe for `bf16: false`; set both to the "
            "same: the towers of the policies overflow in float16"
        )


def options_page() -> str:
    """The page of the docs that lists every option."""
    lines = [
        "# Options of TRL and transformers",
        "",
        "`AuroraSFTConfig` and `AuroraGRPOConfig` take every option of TRL's `SFTConfig` and `GRPOConfig`. Each works",
        "as there, or is refused with the reason, or has no effect here, which a line in the log says. This page is",
        "written from the table in `aurora_trl/training/options.py`, which the configs read:",
        "`python -m aurora_trl.training.options > docs/options.md`.",
        "",
        "| option | SFT | GRPO | why |",
        "| --- | --- | --- | --- |",
    ]
    names = {name for table in (REFUSED, NO_EFFECT, WORKS) for part in table.values() for name in part}
    for name in sorted(names):
        states = {method: _state(name, method) for method in ("sft", "grpo")}
        reason = next((reason for _, reason in states.values() if reason), "")
        lines.append(f"| `{name}` | {states['sft'][0]} | {states['grpo'][0]} | {reason} |")
    return "\n".join(lines) + "\n"


def _state(name: str, method: str) -> tuple[str, str]:
    for table, word in ((REFUSED, "refused"), (NO_EFFECT, "no effect")):
        for part in (table["both"], table[method]):
            if name in part:
                return word, part[name]
    return ("works", "") if name in WORKS["both"] | WORKS[method] else ("", "")


def _default(config: Any, name: str) -> Any:
    item = next((item for item in fields(config) if item.name == name), None)
    if item is None or item.default is not MISSING:
        return None if item is None else item.default
    return item.default_factory() if item.default_factory is not MISSING else None


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    import sys

    sys.stdout.write(options_page())
