"""The seams of TRL that our trainers override. Where this fails, TRL has moved: read its new method, adapt ours, then
change the table and the pin in pyproject.toml."""

import inspect

import pytest
import trl
from trl import GRPOTrainer, SFTTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import RepeatSampler

SEAMS = {
    (SFTTrainer, "compute_loss"): "self, model, inputs, return_outputs, num_items_in_batch",
    (SFTTrainer, "_get_train_sampler"): "self, train_dataset",
    (GRPOTrainer, "_prepare_inputs"): "self, generation_batch",
    (GRPOTrainer, "_maybe_log_save_evaluate"): (
        "self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate"
    ),
    (GRPOTrainer, "_get_train_sampler"): "self, dataset",
    (
        GRPOTrainer,
        "_get_dataloader",
    ): "self, dataset, description, batch_size, sampler_fn, is_training, dataloader_key",
    (SFTTrainer, "prediction_step"): "self, model, inputs, prediction_loss_only, ignore_keys",
    (SFTTrainer, "get_batch_samples"): "self, epoch_iterator, num_batches, device",
    (SFTTrainer, "log"): "self, logs, start_time",
    (SFTTrainer, "evaluate"): "self, eval_dataset, ignore_keys, metric_key_prefix",
    (SFTTrainer, "predict"): "self, test_dataset, ignore_keys, metric_key_prefix",
    (RepeatSampler, "__init__"): "self, data_source, mini_repeat_count, batch_size, repeat_count, shuffle, seed",
    (GRPOTrainer, "_generate_and_score_completions"): "self, inputs",
    (GRPOTrainer, "_tokenize_prompts"): "self, prompts",
    (GRPOTrainer, "_generate_single_turn"): (
        "self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images"
    ),
    (GRPOTrainer, "_calculate_rewards"): "self, inputs, prompts, completions, completion_ids_list",
    (GRPOTrainer, "_compute_loss"): "self, model, inputs",
    (SFTTrainer, "_save"): "self, output_dir, state_dict",
    (SFTTrainer, "train"): "self, resume_from_checkpoint, trial, ignore_keys_for_eval",
    (SFTTrainer, "_run_epoch"): (
        "self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
        "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch"
    ),
    (SFTTrainer, "_save_checkpoint"): "self, model, trial",
    (SFTTrainer, "_get_output_dir"): "self, trial",
    (SFTTrainer, "_determine_best_metric"): "self, metrics, trial",
    (SFTTrainer, "_get_grad_norm"): "self, model, grad_norm",
    (SFTTrainer, "_load_from_checkpoint"): "self, resume_from_checkpoint, model",
    (SFTTrainer, "_load_optimizer_and_scheduler"): "self, checkpoint",
    (SFTTrainer, "_load_rng_state"): "self, checkpoint",
    (SFTTrainer, "_save_rng_state"): "self, output_dir",
    (SFTTrainer, "_push_from_checkpoint"): "self, checkpoint_folder",
    (SFTTrainer, "create_model_card"): "self, model_name, dataset_name, tags",
}


def test_version():
    assert trl.__version__.startswith("1.16."), "see the docstring of this file"


@pytest.mark.parametrize(("owner", "name"), SEAMS, ids=lambda value: getattr(value, "__name__", value))
def test_signature(owner, name):
    found = ", ".join(inspect.signature(getattr(owner, name)).parameters)
    assert found == SEAMS[owner, name], f"TRL {trl.__version__} changed {owner.__name__}.{name}: {__doc__}"


def test_log_prob_seam():
    """Ours takes what TRL passes and leaves the rest to keywords."""
    parameters = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert parameters[:8] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
    ], __doc__


def test_helpers():
    assert list(inspect.signature(disable_gradient_checkpointing).parameters)[0] == "model"
    source = inspect.getsource(SFTTrainer) + inspect.getsource(GRPOTrainer)
    for name in (
        "add_fused_lm_head",
        "current_gradient_accumulation_steps",
        "_metrics",
        "_is_vlm",
        "data_collator",
        "_buffered_inputs",
    ):
        assert name in source, f"TRL {trl.__version__} no longer has {name}: {__doc__}"


def test_vllm_seam():
    """TRL makes no engine of its own where `use_vllm` is off in `__init__`, and calls ours afterwards."""
    source = inspect.getsource(GRPOTrainer)
    for words in (
        "self.use_vllm = args.use_vllm",
        "if self.state.global_step != self._last_loaded_step:",
        "self.vllm_generation.sync_weights()",
        "_, completion_ids, logprobs, _ = self.vllm_generation.generate(",
        "logprobs = [[lp[0] for lp in seq] for seq in logprobs]",
        "self.use_vllm and self.vllm_importance_sampling_correction",
    ):
        assert words in source, f"TRL {trl.__version__} no longer has {words}: {__doc__}"
    body = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert body.index("old_per_token_logps, _, _ =") < body.index("self._calculate_rewards("), __doc__
