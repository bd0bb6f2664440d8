"""Every option of TRL and transformers works, is refused with the reason, or is said to have no effect."""

import inspect
import logging
import re
from contextlib import nullcontext, suppress
from dataclasses import fields

import pytest
import torch
import yaml
from conftest import REPOSITORY
from grpo_helpers import SETTINGS as GRPO_SETTINGS
from grpo_helpers import build as build_grpo
from sft_helpers import SETTINGS
from sft_helpers import build as build_sft
from trl import GRPOConfig, GRPOTrainer, SFTConfig

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraSFTConfig
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, parse_recipe
from aurora_trl.training.option_values import CHOICES
from aurora_trl.training.options import NO_EFFECT, REFUSED, WORKS, options_page
from aurora_trl.training.trainer_inputs import load_model

CONFIGS = {"sft": (SFTConfig, AuroraSFTConfig), "grpo": (GRPOConfig, AuroraGRPOConfig)}


@pytest.mark.parametrize("method", CONFIGS)
def test_every_option_stands_in_one_table(method):
    """Where this fails TRL or transformers has a new option: see what becomes of it here, and put it into a table."""
    names = {item.name for item in fields(CONFIGS[method][0]) if item.init}
    tables = [{*table["both"], *table[method]} for table in (REFUSED, NO_EFFECT, WORKS)]
    known = set().union(*tables)
    assert names - known == set()
    both = {item.name for trls, _ in CONFIGS.values() for item in fields(trls)}
    assert known - both == set()
    assert sum(map(len, tables)) == len(known)


def test_the_docs_show_the_table():
    assert (REPOSITORY / "docs" / "options.md").read_text() == options_page()


def make(method, folder, **settings):
    common = SETTINGS if method == "sft" else GRPO_SETTINGS
    return CONFIGS[method][1](str(folder), **{**common, **settings})


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("sft", {"max_length": 512}, "`max_length: 512` is refused: a row is never cut"),
        ("sft", {"packing": True}, "`packing` and `padding_free` do not work with clips"),
        ("sft", {"completion_only_loss": False}, "`completion_only_loss: false` is refused"),
        ("sft", {"pad_token": "zz"}, "`pad_token: zz` is refused: the tokenizer is the checkpoint's"),
        ("sft", {"use_liger_kernel": True}, "`use_liger_kernel: true` is refused"),
        ("sft", {"torch_compile": True}, "`torch_compile: true` is refused"),
        ("sft", {"fp16": True, "bf16": False}, "use `bf16`"),
        ("sft", {"assistant_only_loss": True}, "`assistant_only_loss: true` is refused"),
        ("sft", {"group_by_clip": True, "label_smoothing_factor": 0.1}, "reads what they share once: set"),
        ("sft", {"group_by_clip": True, "neftune_noise_alpha": 5.0}, "`neftune_noise_alpha` looks at whole rows"),
        ("grpo", {"cast_lm_head_to_fp32": True}, "`cast_lm_head_to_fp32: true` is refused"),
        ("grpo", {"cache_implementation": "static"}, "`cache_implementation: static` is refused"),
        ("grpo", {"label_smoothing_factor": 0.1}, "GRPO has no labels"),
        ("grpo", {"use_vllm": True}, "`vllm_mode: colocate` needs vLLM in this environment"),
        ("grpo", {"generation_kwargs": {"num_beams": 2}}, "completions are sampled, not searched"),
        ("grpo", {"generation_kwargs": {"num_return_sequences": 2}}, "`num_return_sequences` is not taken"),
        ("grpo", {"generation_kwargs": {"topk": 2}}, "did you mean `top_k`"),
        ("sft", {"per_device_train_batch_size": 0}, "`per_device_train_batch_size` must be at least 1, got 0"),
        ("sft", {"learning_rate": float("nan")}, "`learning_rate` must be a number from 0 on, got nan"),
        ("sft", {"max_steps": -5}, "`max_steps` must be at least 1, or -1 for all of"),
        ("grpo", {"max_steps": -5}, "`max_steps` must be at least 1"),
        ("grpo", {"temperature": 0.0}, "`temperature: 0` gives every answer of a group the same"),
        ("grpo", {"epsilon_high": float("nan")}, "`epsilon_high` must be a number from 0 on, got nan"),
        ("grpo", {"entropy_coef": float("nan")}, "`entropy_coef` must be a number, got nan"),
        ("grpo", {"loss_type": "grpoo"}, "`loss_type` must be one of grpo, dapo, .*, got 'grpoo'"),
        ("sft", {"loss_type": "dapo"}, "`loss_type` must be one of nll, dft, chunked_nll, got 'dapo'"),
        ("grpo", {"importance_sampling_level": "sequnce"}, "must be one of token, sequence, got 'sequnce'"),
        ("grpo", {"scale_rewards": "grop"}, "`scale_rewards` must be one of group, batch, none, got 'grop'"),
        ("grpo", {"multi_objective_aggregation": "sum"}, "must be one of sum_then_normalize, normalize_then_sum"),
        ("sft", {"log_level": "loud"}, "`log_level` must be one of .*passive, got 'loud'"),
        ("grpo", {"num_generations": 0}, "`num_generations` must be at least 2, got 0"),
        ("grpo", {"num_iterations": 0}, "`num_iterations` must be at least 1, got 0"),
        ("grpo", {"steps_per_generation": 0}, "`steps_per_generation` must be at least 1, got 0"),
        ("grpo", {"top_k": -3}, "`top_k` must be at least 0, got -3"),
        ("grpo", {"top_p": 0}, "`top_p` must be a number above 0 and at most 1, got 0"),
        ("grpo", {"top_p": 1.5}, "`top_p` must be a number above 0 and at most 1, got 1.5"),
        ("grpo", {"min_p": 2.0}, "`min_p` must be a number from 0 to 1, got 2.0"),
        ("grpo", {"repetition_penalty": 0.0}, "`repetition_penalty` must be a number above 0, got 0.0"),
        ("grpo", {"generation_kwargs": {"top_p": 2.0}}, "`generation_kwargs: top_p` must be a number above 0 and"),
        ("grpo", {"beta": -1.0}, "`beta` must be a number from 0 on, got -1.0"),
        ("grpo", {"epsilon": -1.0}, "`epsilon` must be a number from 0 on, got -1.0"),
        ("grpo", {"reward_functions": ["fromat_reward"]}, "unknown reward function `fromat_reward`"),
        ("sft", {"label_smoothing_factor": 2.0}, "`label_smoothing_factor` must be a number from 0 to 1, got 2.0"),
        ("sft", {"adam_beta1": 1.5}, "`adam_beta1` must be a number from 0 on and below 1, got 1.5"),
        ("sft", {"neftune_noise_alpha": -1.0}, "`neftune_noise_alpha` must be a number from 0 on, got -1.0"),
        ("sft", {"dataloader_num_workers": -1}, "`dataloader_num_workers` must be at least 0, got -1"),
        ("sft", {"seed": -1}, "`seed` must be a whole number from 0 to 4294967295, got -1"),
        ("sft", {"num_train_epochs": 0, "max_steps": -1}, "`num_train_epochs: 0` takes no step: set it above 0"),
        (
            "sft",
            {"save_strategy": "steps", "save_steps": 0},
            '`save_steps` must be above 0, got 0; `save_strategy: "n',
        ),
        (
            "sft",
            {"optim": "galore_adamw", "optim_target_modules": ["q_proj"]},
            "`optim: galore_adamw` can not be made",
        ),
        ("sft", {"optim_args": "foo"}, "`optim: adamw_torch_fused` with `optim_args: foo` can not be made"),
        ("sft", {"lr_scheduler_type": "cosine_with_min_lr"}, "`lr_scheduler_type: cosine_with_min_lr` can not be"),
        ("sft", {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr": 1e-6}}, "keyword argument 'min_lr'"),
        ("sft", {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "x"}}, "`lr_scheduler_kwargs: "),
        ("sft", {"gradient_checkpointing_kwargs": {"use_reentrantt": False}}, "has no `use_reentrantt`; use "),
        ("sft", {"model_init_kwargs": {"dtypee": "float32"}}, "has no `dtypee`; did you mean `dtype`"),
        ("sft", {"train_sampling_strategy": "group_by_length"}, "the length of a row is known once its clip is read"),
        ("sft", {"train_sampling_strategy": "sequential", "group_by_clip": True}, "orders the rows itself"),
        ("grpo", {"train_sampling_strategy": "sequential"}, "is refused: rollouts draw their questions, see"),
        ("grpo", {"generation_kwargs": {"temperature": 0.2}}, "the loss would not know; set `temperature`"),
        ("grpo", {"generation_kwargs": {"max_new_tokens": 9}}, "the loss would not know; set `max_completion_length`"),
        ("sft", {"accelerator_config": {"dispatch_batches": True}}, "each process reads its own clips"),
        ("sft", {"report_to": None}, "`report_to` names trackers, got None; `none` is for no tracker"),
        ("sft", {"report_to": "wandbb"}, "`report_to: wandbb` is no tracker; use "),
        ("sft", {"report_to": "mlflow"}, "`report_to: mlflow` needs the package mlflow"),
        ("sft", {"report_to": ["tensorboard"]}, "`report_to: tensorboard` needs the package tensorboard"),
    ],
)
def test_what_can_not_work_is_one_line(method, settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message) as caught:
        make(method, tmp_path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("grpo", {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "epsilon": 0.0, "beta": 0.04, "scale_rewards": False}),
        ("grpo", {"scale_rewards": True, "loss_type": "dr_grpo", "delta": 1.5, "steps_per_generation": 2}),
        ("grpo", {"reward_functions": ["my_rewards:small", "iou_reward"], "num_train_epochs": 0.5, "max_steps": -1}),
        ("sft", {"save_strategy": "no", "save_steps": 0, "logging_strategy": "epoch", "num_train_epochs": 0}),
        ("sft", {"save_strategy": "steps", "save_steps": 0.25, "eval_strategy": "steps", "eval_steps": 0}),
        ("sft", {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr": 1e-6}'}),
        (
            "sft",
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 10},
                "max_steps": -1,
                "warmup_steps": 0.1,
            },
        ),
        ("sft", {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "warmup_steps": 9}),
        ("sft", {"lr_scheduler_type": "polynomial", "learning_rate": 0.1, "max_steps": 2}),
        ("sft", {"optim": "adafactor"}),
        ("sft", {"optim": "sgd", "optim_args": "momentum=0.9"}),
        ("sft", {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}),
        ("sft", {"model_init_kwargs": {"dtype": "float32", "device_map": "cpu", "attn_implementation": "sdpa"}}),
    ],
    ids=str,
)
def test_what_is_right_is_taken(method, settings, tmp_path):
    assert make(method, tmp_path, **settings)


def test_every_choice_is_one_of_trls():
    """Where this fails TRL has other choices: see `CHOICES`."""
    source = inspect.getsource(GRPOTrainer._compute_loss) + inspect.getsource(GRPOTrainer)
    for choices in CHOICES["grpo"].values():
        assert all(f'"{choice}"' in source for choice in choices if isinstance(choice, str))
    compared = re.findall(r'self\.loss_type (?:==|in) (\[[^]]*\]|"\w+")', source)
    assert set(re.findall(r'"(\w+)"', "".join(compared))) == set(CHOICES["grpo"]["loss_type"])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("sft", {"optim_args": "foo=1"}),
        ("sft", {"truncation_mode": "keep_end"}),
        ("sft", {"do_predict": True}),
        ("sft", {"shuffle_dataset": True}),
        ("sft", {"alignment_temperature": 0.2}),
        ("grpo", {"vllm_mode": "server"}),
        ("grpo", {"log_multimodal": False}),
    ],
)
def test_what_has_no_effect_is_said(method, settings, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make(method, tmp_path, **settings)
    assert f"`{next(iter(settings))}: " in caplog.text
    assert "has no effect here" in caplog.text


def test_what_is_done_anyway_is_taken_without_a_word(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make("sft", tmp_path, completion_only_loss=True, max_length=None, train_sampling_strategy="sequential")
        make("grpo", tmp_path, train_sampling_strategy="random", shuffle_dataset=False)
    assert "no effect" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "flags", "said"),
    [
        ({"lora_r": 64}, [], "`lora_r: 64` has no effect here: `use_lora` is off"),
        ({}, ["--lora_alpha", "32"], "`lora_alpha: 32` has no effect here: `use_lora` is off"),
        ({"lora_r": 64, "use_lora": True}, [], ""),
        ({"lora_r": 64, "use_lora": True}, ["--use_lora", "false"], ""),
        ({"eval_split": "val"}, [], "`eval_split: val` has no effect here: `eval_strategy` is `no`"),
        ({"eval_split": "val", "eval_strategy": "epoch"}, [], ""),
        ({"eval_split": "val", "eval_on_start": True}, [], ""),
        ({"max_eval_samples": 3}, [], "`max_eval_samples: 3` has no effect here: `eval_split` is missing"),
        ({"eval_dataset_path": "b"}, [], "`eval_dataset_path: b` has no effect here: `eval_split` is missing"),
    ],
    ids=str,
)
def test_a_setting_whose_partner_is_missing_is_said(settings, flags, said, world, tmp_path, capsys, caplog):
    values = {"model_name_or_path": "a", "dataset_path": str(world), "output_dir": str(tmp_path), "bf16": False}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values | settings))
    with caplog.at_level(logging.WARNING), suppress(SystemExit):
        classes = (RecipeArguments, LoraArguments, AuroraSFTConfig)
        recipe, _, config = parse_recipe(classes, ["--config", str(file), *flags])
        recipe.load_eval(config)
    text = capsys.readouterr().err + caplog.text
    assert said in text
    assert said or not ("no effect" in text or "error" in text)


def test_what_needs_a_teacher_or_boxes_is_said_without(model, processor, cot_rows, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        build_sft(model, cot_rows, processor, tmp_path, teacher_targets="class", box_frames=3)
    assert "`teacher_targets: class` has no effect here: there is no teacher" in caplog.text
    assert "`box_frames: 3` has no effect here: `mask_source` is `seg`" in caplog.text


def test_a_key_that_stands_twice(tmp_path, capsys):
    file = tmp_path / "twice.yaml"
    file.write_text("model_name_or_path: a\nlearning_rate: 1.0e-4\ndataset_path: b\nlearning_rate: 1.0e-5\n")
    with pytest.raises(SystemExit):
        parse_recipe((RecipeArguments, AuroraSFTConfig), ["--config", str(file)])
    said = capsys.readouterr().err
    assert "twice.yaml: not valid YAML: the key `learning_rate` stands twice; remove one of them" in said
    assert "line 4" in said


@pytest.mark.parametrize("key", ["model_name_or_path", "dataset_path"])
def test_a_name_that_is_null(key, tmp_path, capsys):
    values = {"model_name_or_path": "a", "dataset_path": "b", "output_dir": str(tmp_path / "out"), key: None}
    (tmp_path / "null.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit):
        parse_recipe((RecipeArguments, AuroraSFTConfig), ["--config", str(tmp_path / "null.yaml")])
    assert f"null.yaml: `{key}` is empty; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_truncated_completions": True},
        {"loss_type": "dapo"},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"importance_sampling_level": "sequence", "num_iterations": 2},
        {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2, "generation_kwargs": {"no_repeat_ngram_size": 3}},
        {"top_entropy_quantile": 0.5},
        {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
        {"reward_weights": [1.0, 0.5, 0.5, 2.0], "multi_objective_aggregation": "normalize_then_sum"},
        {"eval_strategy": "steps", "eval_steps": 1, "num_generations": 3, "per_device_train_batch_size": 3},
        {"log_completions": True, "num_completions_to_print": 1, "log_unique_prompts": True},
        {"disable_dropout": True, "pad_to_multiple_of": 8},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    ],
    ids=str,
)
def test_what_works_in_grpo_trains(settings, checkpoint, cot_rows, processor, tmp_path):
    model = AuroraModel.from_pretrained(checkpoint)
    extra = {"eval_dataset": cot_rows.select(range(3))} if "eval_strategy" in settings else {}
    trainer = build_grpo(model, cot_rows, processor, tmp_path, max_steps=1, **settings, **extra)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert torch.isfinite(torch.tensor([entry["loss"], entry["grad_norm"], entry["iou"]])).all()
    assert ("eval_loss" in str(trainer.state.log_history)) == ("eval_strategy" in settings)


def test_evaluation_holds_whole_groups(tmp_path):
    """For any number of generations, and as a flag `generation_kwargs` is text."""
    for group in (2, 3, 4, 5):
        config = make("grpo", tmp_path, num_generations=group, per_device_train_batch_size=group, eval_strategy="no")
        assert config.per_device_eval_batch_size % group == 0
    assert make("grpo", tmp_path, generation_kwargs='{"top_k": 5}').generation_kwargs == {"top_k": 5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--max_length", "1024"], "`max_length: 1024` is refused: a row is never cut"),
        ({"max_length": 1024}, "`max_length: 1024` is refused: a row is never cut"),
        ({"dataset_text_field": "text"}, "`dataset_text_field: text` is refused"),
        ({"packing": False, "fp16": False, "pad_token": None}, None),
    ],
    ids=str,
)
def test_what_is_asked_for_is_no_default(given, said, tmp_path, capsys):
    """TRL's own value of an option that can not work passes in silence where nobody asked for it alone."""
    values = {"model_name_or_path": "a", "dataset_path": "b", "output_dir": str(tmp_path / "out"), "bf16": False}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values | (given if isinstance(given, dict) else {})))
    argv = ["--config", str(file), *(given if isinstance(given, list) else [])]
    if said is None:
        parse_recipe((RecipeArguments, AuroraSFTConfig), argv)
        return
    with pytest.raises(SystemExit):
        parse_recipe((RecipeArguments, AuroraSFTConfig), argv)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "settings", "said"),
    [
        ("USE_FSDP", "true", {}, "the launch asks for FSDP, and rollouts and rewards call parts of the model"),
        (
            "USE_PARALLELISM_CONFIG",
            "true",
            {},
            "the launch asks for a `parallelism_config`, and the model",
        ),
        ("USE_MEGATRON_LM", "true", {}, "the launch asks for Megatron-LM, and the model is not split"),
        ("DYNAMO_BACKEND", "INDUCTOR", {}, "the launch asks for `dynamo_backend: INDUCTOR`, and it was not tried"),
        ("DYNAMO_BACKEND", "NO", {}, None),
        (
            "MIXED_PRECISION",
            "fp16",
            {"bf16": False},
            "asks for `mixed_precision: fp16`, and the recipe for `bf16",
        ),
        (
            "MIXED_PRECISION",
            "bf16",
            {"bf16": False},
            "asks for `mixed_precision: bf16`, and the recipe for `bf16",
        ),
        ("MIXED_PRECISION", "fp16", {"bf16": True, "use_cpu": True}, None),
        ("MIXED_PRECISION", "no", {"bf16": False}, None),
    ],
)
def test_what_a_launch_asks_for(variable, value, settings, said, tmp_path, monkeypatch):
    """`accelerate config` writes what the Trainer takes over, whatever the recipe says."""
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    with nullcontext() if said is None else pytest.raises(ValueError, match=said):
        made = make("sft", tmp_path, **settings)
        assert made.mixed_precision == ("bf16" if made.bf16 else "no")


@pytest.mark.parametrize("name", ["revision", "subfolder"])
def test_what_names_other_weights_than_the_processors(name, checkpoint):
    with pytest.raises(ValueError, match=f"`model_init_kwargs: {name}` is refused"):
        load_model(str(checkpoint), {name: "v2"}, None)


def test_a_loading_argument_that_is_none(checkpoint):
    with pytest.raises(ValueError, match="`model_init_kwargs`: .* unexpected keyword argument 'qqq'"):
        load_model(str(checkpoint), {"qqq": 1}, None)


def test_rows_in_their_order(checkpoint, cot_rows, processor, tmp_path):
    model = AuroraModel.from_pretrained(checkpoint)
    trainer = build_sft(model, cot_rows, processor, tmp_path, train_sampling_strategy="sequential")
    assert list(trainer._get_train_sampler()) == list(range(len(cot_rows)))
