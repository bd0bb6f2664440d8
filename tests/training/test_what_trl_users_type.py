"""Trainers are called as TRL's are: each argument works as there, or one line says why it does not."""

import inspect

import pytest
import torch
from datasets import IterableDataset
from grpo_helpers import SETTINGS as GRPO_SETTINGS
from peft import IA3Config, LoHaConfig, LoraConfig, PromptTuningConfig
from sft_helpers import SETTINGS
from torch import nn
from transformers import BitsAndBytesConfig, TrainerCallback
from trl import GRPOTrainer, SFTTrainer

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.models.checkpoints.quantization import WHOLE_PARTS, with_whole_mask_parts
from aurora_trl.models.mask_head import without_dropout
from aurora_trl.training import trainer_inputs
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import complete_adapter, lora_config

GROUPS = {"language_model", "seg_projector", "mask_decoder"}


def sft_args(folder, **settings):
    return AuroraSFTConfig(str(folder), **{**SETTINGS, "max_steps": 1, **settings})


def grpo_args(folder, **settings):
    return AuroraGRPOConfig(str(folder), **{**GRPO_SETTINGS, "max_steps": 1, "max_completion_length": 4, **settings})


@pytest.mark.parametrize(("ours", "theirs"), [(AuroraSFTTrainer, SFTTrainer), (AuroraGRPOTrainer, GRPOTrainer)])
def test_arguments_stand_in_trls_order(ours, theirs):
    names = list(inspect.signature(theirs.__init__).parameters)
    assert list(inspect.signature(ours.__init__).parameters)[: len(names)] == names


def test_a_name_in_place_of_a_model(checkpoint, cot_rows, tmp_path):
    """No processor, settings by default but for the few that a CPU needs, evaluation sets by name."""
    sets = {"seen": cot_rows.select(range(2)), "other": cot_rows.select(range(2, 4))}
    args = sft_args(tmp_path / "sft", eval_strategy="steps", eval_steps=1)
    trainer = AuroraSFTTrainer(str(checkpoint), args, None, cot_rows, sets)
    trainer.train()
    logged = {key for entry in trainer.state.log_history for key in entry}
    assert {"eval_seen_loss", "eval_other_loss"} <= logged
    grpo = AuroraGRPOTrainer(str(checkpoint), "iou_reward", grpo_args(tmp_path / "grpo"), cot_rows)
    grpo.train()
    assert "rewards/iou_reward/mean" in grpo.state.log_history[0]


def test_predict_gives_masks(model, processor, cot_rows, tmp_path):
    trainer = AuroraSFTTrainer(model, sft_args(tmp_path, targets="answer"), None, cot_rows, processing_class=processor)
    raw = cot_rows.remove_columns(["target"]).select(range(6))
    found = trainer.predict(raw)
    assert found.predictions.shape[:2] == (6, processor.num_frames)
    assert found.label_ids.shape == (6, processor.num_frames, 32, 32)
    assert found.metrics["test_loss"] > 0
    assert trainer.evaluate(raw)["eval_loss"] == pytest.approx(found.metrics["test_loss"], abs=1e-4)


def test_predict_without_masks(model, processor, cot_rows, tmp_path):
    args = sft_args(tmp_path, mask_bce_loss_weight=0.0, mask_dice_loss_weight=0.0)
    trainer = AuroraSFTTrainer(model, args, None, cot_rows, processing_class=processor)
    assert trainer.predict(cot_rows.select(range(4))).predictions is None


def test_a_collator_of_ones_own(model, processor, cot_rows, tmp_path):
    seen = []

    def collate(rows):
        seen.append(len(rows))
        return own(rows)

    trainer = AuroraSFTTrainer(model, sft_args(tmp_path), collate, cot_rows, processing_class=processor)
    own = AuroraSFTTrainer(model, sft_args(tmp_path), None, cot_rows, processing_class=processor).data_collator
    trainer.train()
    assert set(seen) == {4}


@pytest.mark.parametrize(
    ("trainer", "given", "message"),
    [
        (AuroraSFTTrainer, {"compute_metrics": len}, "`compute_metrics` does not go with clips: no logits of a whole"),
        (AuroraSFTTrainer, {"compute_loss_func": len}, "`compute_loss_func` does not go with clips"),
        (AuroraSFTTrainer, {"preprocess_logits_for_metrics": len}, "`preprocess_logits_for_metrics` does not go"),
        (AuroraSFTTrainer, {"formatting_func": len}, "`formatting_func` does not go with clips: `prompts.py`"),
        (AuroraSFTTrainer, {"train_dataset": None}, "`train_dataset` is missing"),
        (AuroraSFTTrainer, {"train_dataset": iter(())}, "`train_dataset` is a tuple_iterator; give a"),
        (AuroraSFTTrainer, {"eval_dataset": {"a": [1]}}, "`eval_dataset` is a list"),
        (
            AuroraSFTTrainer,
            {"quantization_config": object()},
            "`quantization_config` is for loading, and",
        ),
        (AuroraSFTTrainer, {"processing_class": nn.Identity()}, "`processing_class` is a Identity"),
        (AuroraSFTTrainer, {"model": nn.Linear(1, 1)}, "needs an AuroraModel, got Linear"),
        (AuroraGRPOTrainer, {"tools": [len]}, "`tools` does not go with clips: a rollout of several turns"),
        (AuroraGRPOTrainer, {"rollout_func": len}, "`rollout_func` does not go with clips"),
        (AuroraGRPOTrainer, {"environment_factory": len}, "`environment_factory` does not go with clips"),
        (AuroraGRPOTrainer, {"train_dataset": None}, "`train_dataset` is missing"),
    ],
)
def test_what_clips_can_not_have_is_one_line(trainer, given, message, model, processor, cot_rows, tmp_path):
    args = sft_args(tmp_path) if trainer is AuroraSFTTrainer else grpo_args(tmp_path)
    values = {"model": model, "args": args, "train_dataset": cot_rows, "processing_class": processor, **given}
    with pytest.raises(ValueError, match=message) as caught:
        trainer(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reward", ["fromat_reward", ["iou_reward", "no_module_of_mine:small"]])
def test_a_reward_by_a_name_that_is_none(reward, model, processor, cot_rows, tmp_path):
    """TRL would ask the Hub for a model of that name."""
    with pytest.raises(ValueError, match=r"reward function `(fromat_reward|no_module_of_mine:small)`"):
        AuroraGRPOTrainer(model, reward, grpo_args(tmp_path), cot_rows, processing_class=processor)


def test_a_reward_of_a_module_of_ones_own(model, processor, cot_rows, tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def small(completions, **columns):\n    return [0.5] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    args = grpo_args(tmp_path / "out", reward_functions=["my_rewards:small"])
    trainer = AuroraGRPOTrainer(model, args=args, train_dataset=cot_rows, processing_class=processor)
    assert [function.__name__ for function in trainer.reward_funcs] == ["small"]


def adapter_parts(trainer):
    """Names of the adapted layers, and of what trains in full."""
    named = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    layers = {name.split(".lora_")[0] for name in named if ".lora_" in name}
    return layers, {name.split(".modules_to_save")[0] for name in named if "modules_to_save" in name}


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], "all-linear", None, r".*language_model\.layers\.0\.self_attn\.q_proj"]
)
def test_an_adapter_of_ones_own_is_completed(targets, model, processor, cot_rows, tmp_path):
    """It stays in the language model; the projector and the mask decoder train in full, as `[SEG]`'s rows do."""
    peft_config = LoraConfig(r=4, target_modules=targets)
    trainer = AuroraSFTTrainer(
        model, sft_args(tmp_path, max_steps=3), None, cot_rows, processing_class=processor, peft_config=peft_config
    )
    layers, whole = adapter_parts(trainer)
    assert layers
    assert all("language_model.layers" in name for name in layers)
    assert {"q_proj", "down_proj"} & {name.rsplit(".", 1)[1] for name in layers}
    for part in ("seg_projector", "mask_decoder", "lm_head", "embed_tokens"):
        assert any(part in name for name in whole), part
    assert not any("image_encoder" in name for name in whole)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    moved = {
        name for name, p in trainer.model.named_parameters() if name in before and not torch.equal(p, before[name])
    }
    assert any("seg_projector" in name for name in moved)
    assert peft_config.modules_to_save is None  # the caller's own stays as it was
    trainer.save_model()
    AuroraModel.from_pretrained(tmp_path)


def test_our_own_adapter_stays_as_it_is(model):
    ours = lora_config(model, LoraArguments(use_lora=True), GROUPS)
    assert complete_adapter(model, ours, GROUPS).to_dict() == ours.to_dict()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "image_encoder"], "names 'image_encoder', which is no layer of the language model"),
        (r".*(q_proj|lin1)", "hits mask_decoder.*which is not the language model's"),
        (r"nothing", "hits no layer"),
    ],
)
def test_an_adapter_elsewhere_is_refused(targets, message, model):
    with pytest.raises(ValueError, match=message):
        complete_adapter(model, LoraConfig(target_modules=targets), GROUPS)
    with pytest.raises(ValueError, match="leave `freeze_language_model` off"):
        complete_adapter(model, LoraConfig(target_modules=targets), {"mask_decoder"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoHaConfig(target_modules=["q_proj"]), "an adapter of the kind LOHA would not be read again: use a `peft.L"),
        (IA3Config(), "an adapter of the kind IA3 would not be read again"),
        (PromptTuningConfig(task_type="CAUSAL_LM"), "an adapter of the kind PROMPT_TUNING would not be read again"),
        (LoraConfig(bias="all"), "`bias: all` would train biases of what `freeze_.*` freezes: use `lora_only`"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(config, message, model):
    with pytest.raises(ValueError, match=message):
        complete_adapter(model, config, GROUPS)


def test_quantisation_leaves_what_draws_masks_whole():
    class Bits:
        def __init__(self):
            self.load_in_4bit, self.llm_int8_skip_modules = True, None

    given = Bits()
    assert with_whole_mask_parts(given).llm_int8_skip_modules == list(WHOLE_PARTS)
    assert given.llm_int8_skip_modules is None
    mapping = {"quant_method": "torchao", "modules_to_not_convert": ["vision_tower"]}
    assert with_whole_mask_parts(mapping)["modules_to_not_convert"] == ["vision_tower", *WHOLE_PARTS]


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_few_bits_without_their_package_are_one_line(bits, checkpoint, cot_rows, tmp_path, monkeypatch):
    """As a trainer's argument and in a YAML, before the weights are read."""
    monkeypatch.setattr(trainer_inputs, "is_bitsandbytes_available", lambda: False)
    config = {"quant_method": "bitsandbytes", bits: True}
    message = f"`{bits}` needs the package bitsandbytes: `pip install bitsandbytes`, or leave it out"
    with pytest.raises(ValueError, match=message):
        AuroraSFTTrainer(str(checkpoint), sft_args(tmp_path), train_dataset=cot_rows, quantization_config=config)
    args = grpo_args(tmp_path, model_init_kwargs={"quantization_config": config})
    with pytest.raises(ValueError, match=message):
        AuroraGRPOTrainer(str(checkpoint), "iou_reward", args, cot_rows)


def test_an_adapter_on_four_bits(checkpoint, cot_rows, tmp_path, monkeypatch):
    """QLoRA: the layers of the language model have 4 bits, what draws masks and the tables are whole and train."""
    layers = pytest.importorskip("bitsandbytes.nn.modules")
    # Where a CPU knows bfloat16, bitsandbytes 0.49 packs weights by 64, and a tiny layer has 96 or 144 columns.
    monkeypatch.setattr(layers, "has_avx512bf16", lambda: False)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    trainer = AuroraSFTTrainer(
        str(checkpoint),
        sft_args(tmp_path, targets="answer", max_steps=2),
        train_dataset=cot_rows,
        quantization_config=config,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    small = [name for name, module in trainer.model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert any("language_model.layers.0.mlp" in name for name in small)
    assert not any(part in name for name in small for part in WHOLE_PARTS)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    there = [part for part in WHOLE_PARTS if any(part in name for name in before)]
    assert {"seg_projector", "mask_decoder", "lm_head"} <= set(there)
    assert all(any(part in name for name in moved) for part in ("lora_B", *there))
    frozen = ("language_model.layers", "vision_tower", "audio_tower")
    assert not any("lora" not in name and part in name for name in moved for part in frozen)
    trainer.save_model()
    AuroraModel.from_pretrained(tmp_path)


def test_how_a_model_is_loaded_by_name(checkpoint, cot_rows, tmp_path):
    """`dtype` and `device_map` of `model_init_kwargs`, as TRL takes them."""
    args = sft_args(tmp_path, model_init_kwargs={"dtype": "float32", "device_map": "cpu"})
    trainer = AuroraSFTTrainer(str(checkpoint), args, train_dataset=cot_rows)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    trainer.train()
    assert trainer.evaluate(cot_rows.select(range(2)))["eval_loss"] > 0


def test_a_stream_is_trained_on(model, processor, cot_rows, tmp_path):
    """The same steps as from the whole dataset in that order; its rows are checked as they come."""
    args = {"max_steps": 3, "train_sampling_strategy": "sequential"}
    losses = []
    for rows in (cot_rows, cot_rows.to_iterable_dataset()):
        trainer = AuroraSFTTrainer(
            AuroraModel.from_pretrained(model.name_or_path),
            sft_args(tmp_path, **args),
            train_dataset=rows,
            processing_class=processor,
        )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"group_by_clip": True}, {}, "`group_by_clip` has to know all rows before training; leave it out, or do not"),
        ({}, {"target": "nothing"}, "row 'a': its target holds no"),
        ({}, {"reference": " "}, "row 'a': the reference is empty"),
        ({}, {"masks": ["a.png"]}, "row 'a': 1 masks for 10 frames"),
    ],
)
def test_what_a_stream_can_not_have(settings, change, message, model, processor, cot_rows, tmp_path):
    rows = IterableDataset.from_generator(lambda: iter([{**cot_rows[0], "id": "a", **change}] * 4))

    def train():
        args = sft_args(tmp_path, **settings)
        AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor).train()

    with pytest.raises(ValueError, match=message):
        train()


def test_callbacks_are_called(model, processor, cot_rows, tmp_path):
    class Counter(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    counter = Counter()
    args = sft_args(tmp_path, max_steps=2)
    AuroraSFTTrainer(model, args, None, cot_rows, processing_class=processor, callbacks=[counter]).train()
    assert counter.steps == 2


def test_dropout_is_off_while_sampling(model, processor, cot_rows, tmp_path):
    """Completions of a prompt, and their masks, come from one model: with dropout at .9 they would not."""
    peft_config = lora_config(model, LoraArguments(use_lora=True, lora_dropout=0.9), GROUPS)
    args = grpo_args(tmp_path, temperature=1e-4, top_p=1.0, num_generations=4, max_steps=2, learning_rate=0.5)
    said = []

    def listen(prompts, completions, **columns):
        said.append([completion[0]["content"] for completion in completions])
        return [float(len(text) % 3) for text in said[-1]]

    trainer = AuroraGRPOTrainer(model, [listen], args, cot_rows, processing_class=processor, peft_config=peft_config)
    trainer.train()
    assert all(len(set(texts)) == 1 for texts in said)
    dropouts = [m for m in trainer.model.modules() if isinstance(m, nn.Dropout) and m.p == 0.9]
    assert dropouts
    assert all(layer.training for layer in dropouts)  # on again where it is learnt from
    trainer.model.train()
    trains = [module for module in trainer.model.modules() if module.training]
    with without_dropout(trainer.model):  # nor is a layer left out, as BEATs does where it trains
        assert [module for module in trains if module.training] == [trainer.model]
    assert all(module.training for module in trains)


def test_deviation_within_groups(model, processor, cot_rows, tmp_path):
    """Groups of rewards (0, 1) and (5, 6): .71 within each, and 3.2 over the batch, which is TRL's figure."""
    rewards = iter([[0.0, 1.0, 5.0, 6.0]] * 2)

    def given(prompts, completions, **columns):
        return next(rewards)

    trainer = AuroraGRPOTrainer(model, [given], grpo_args(tmp_path), cot_rows, processing_class=processor)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["reward_std_in_group"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert entry["reward_std"] > 2


def test_logged_prompts_are_text(model, processor, cot_rows, tmp_path):
    """A tracker's table ends the run at a message of several parts."""
    trainer = AuroraGRPOTrainer(model, "iou_reward", grpo_args(tmp_path, log_completions=True), cot_rows)
    trainer.train()
    assert trainer._logs["prompt"]
    for messages in trainer._logs["prompt"]:
        (message,) = messages
        assert message["content"].startswith("<video> <audio> ")
