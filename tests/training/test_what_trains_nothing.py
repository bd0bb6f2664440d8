"""What would train nothing, or something else, without a word: each is one line before training, or right."""

import pytest
import torch
from grpo_helpers import SETTINGS as GRPO_SETTINGS
from peft import LoraConfig
from sft_helpers import SETTINGS

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraModel, AuroraSFTConfig, AuroraSFTTrainer


def sft_args(folder, **settings):
    return AuroraSFTConfig(str(folder), **{**SETTINGS, "max_steps": 1, **settings})


def grpo_args(folder, **settings):
    return AuroraGRPOConfig(str(folder), **{**GRPO_SETTINGS, "max_steps": 1, "max_completion_length": 4, **settings})


@pytest.mark.parametrize("build_args", [sft_args, grpo_args])
def test_an_optimizer_of_what_does_not_train(build_args, model, processor, cot_rows, tmp_path):
    """It was made before the adapter, whose weights it has not: no step would change any."""
    trainer = AuroraSFTTrainer if build_args is sft_args else AuroraGRPOTrainer
    values = {"model": model, "args": build_args(tmp_path), "train_dataset": cot_rows, "processing_class": processor}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`optimizers`: the optimizer has nothing of what is to be trained"):
        trainer(**values, optimizers=(optimizer, None), peft_config=LoraConfig(target_modules=["q_proj"]))


def test_an_optimizer_without_a_part_that_the_phase_adds(model, processor, cot_rows, tmp_path, caplog):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    args = sft_args(tmp_path, existence_output=True)
    AuroraSFTTrainer(model, args, None, cot_rows, processing_class=processor, optimizers=(optimizer, None))
    assert "has not all, 2 weights stay as they are, of what is to be trained (seg_existence.weight, …)" in caplog.text


def test_a_teacher_by_its_name(checkpoint, drawing_checkpoint, processor, cot_rows, tmp_path):
    """As an argument, and from the config alone, as a recipe has it."""
    distances = []
    for given, named in ((str(drawing_checkpoint), None), (None, str(drawing_checkpoint))):
        args = sft_args(tmp_path, teacher_model_name_or_path=named)
        student = AuroraModel.from_pretrained(checkpoint)
        trainer = AuroraSFTTrainer(student, args, None, cot_rows, processing_class=processor, teacher=given)
        trainer.train()
        distances.append(trainer.state.log_history[0]["distillation_loss"])
    assert distances[0] == distances[1] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ce_loss_weight": 0.0, "mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0},
            "all weights of the loss",
        ),
        (
            {"freeze_language_model": True, "mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0},
            "the text alone has a loss, and all that writes it is frozen: set one of `freeze_vision_tower`",
        ),
        ({"mask_dice_loss_weight": float("inf")}, "`mask_dice_loss_weight` must be finite, got inf"),
        ({"ce_loss_weight": float("inf")}, "`ce_loss_weight` must be finite, got inf"),
    ],
)
def test_a_loss_that_teaches_nothing(settings, message, model, processor, cot_rows, tmp_path):
    with pytest.raises(ValueError, match=message):
        AuroraSFTTrainer(model, sft_args(tmp_path, **settings), None, cot_rows, processing_class=processor)
    if "freeze_language_model" in settings:
        with pytest.raises(ValueError, match=message):
            AuroraGRPOTrainer(
                model, "iou_reward", grpo_args(tmp_path, **settings), cot_rows, processing_class=processor
            )


def test_what_is_given_and_is_empty(model, processor, cot_rows, tmp_path):
    values = {"model": model, "args": sft_args(tmp_path), "processing_class": processor}
    with pytest.raises(ValueError, match="`train_dataset` has no rows"):
        AuroraSFTTrainer(**values, train_dataset=cot_rows.select([]))
    with pytest.raises(ValueError, match="`eval_dataset` has no rows"):
        AuroraSFTTrainer(**values, train_dataset=cot_rows, eval_dataset={"a": cot_rows.select([])})
    with pytest.raises(ValueError, match="`teacher` is the model that is trained"):
        AuroraSFTTrainer(**values, train_dataset=cot_rows, teacher=model)

    def without_masks(rows):
        return {name: value for name, value in own(rows).items() if name != "masks"}

    own = AuroraSFTTrainer(**values, train_dataset=cot_rows).data_collator
    trainer = AuroraSFTTrainer(**values, data_collator=without_masks, train_dataset=cot_rows)
    with pytest.raises(ValueError, match="`data_collator` gives no `masks`"):
        trainer.train()


def test_rows_count_as_much_in_a_last_batch_that_is_not_full(model, processor, cot_rows, tmp_path):
    """The mean of the batches' means would give the last rows of an evaluation more weight than the others."""
    found = []
    for size in (1, 4):
        args = sft_args(tmp_path, per_device_eval_batch_size=size)
        trainer = AuroraSFTTrainer(model, args, None, cot_rows, processing_class=processor)
        metrics = trainer.evaluate(cot_rows.select(range(5)))
        found.append([metrics["eval_iou"], metrics["eval_mask_dice_loss"]])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"generation_kwargs": {"do_sample": False}},
            "`generation_kwargs: do_sample: False` is refused: every",
        ),
        ({"generation_kwargs": {"do_sample": "false"}}, "`generation_kwargs: do_sample: false` is refused"),
        ({"generation_kwargs": {"top_k": 1}}, "`top_k: 1` is refused: every answer of a group would be the same"),
        ({"top_k": 1}, "`top_k: 1` is refused"),
        ({"min_p": 1.0}, "`min_p: 1` is refused"),
        (
            {"generation_kwargs": {"stop_strings": ["."]}},
            "`generation_kwargs: stop_strings` is refused: an",
        ),
        ({"generation_kwargs": {"eos_token_id": 5}}, "`eos_token_id` is not taken by `generate` here"),
        ({"generation_kwargs": {"use_cache": False}}, "`use_cache` is not taken by `generate` here"),
        ({"generation_kwargs": {"cache_implementation": "static"}}, "`cache_implementation` is not taken"),
        ({"generation_kwargs": {"guidance_scale": 1.5}}, "`guidance_scale` is not taken"),
    ],
)
def test_sampling_that_can_not_be_learnt_from(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        grpo_args(tmp_path, **settings)
    grpo_args(tmp_path, top_k=2, generation_kwargs={"do_sample": True, "use_cache": True, "guidance_scale": None})
