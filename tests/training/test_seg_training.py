"""What strengthens `[SEG]` is learned in every phase, and kept by every checkpoint."""

import pytest
import torch
from grpo_helpers import build as build_grpo
from grpo_helpers import logged
from seg_helpers import PARTS, strong_model
from sft_helpers import build as build_sft

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraPipeline, AuroraSFTConfig
from aurora_trl.data.relations import relate_objects
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.checkpoints.adapters import load_adapter
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config, unwrap_aurora

ALL = {**PARTS, "alignment_loss_weight": 0.1}
NAMES = ("seg_layer_mix", "seg_spatial", "seg_existence")


@torch.no_grad()
def draw(model, rows, processor):
    batch = SFTCollator(ClipLoader(processor), with_masks=False)(rows)
    batch.pop("labels")
    output = model.eval()(**batch)
    return output["mask_logits"], output["existence_logits"]


def test_relations_by_hand():
    """Two references to a drum, one to a piano beside it, one that matches nothing, and a drum elsewhere."""
    drum = {"frames": ["a/0.jpg"], "masks": ["a/drum.png"], "class_name": "drum"}
    rows = [
        drum,
        drum,
        {"frames": ["a/0.jpg"], "masks": ["a/piano.png"], "class_name": "piano"},
        {"frames": ["a/0.jpg"], "masks": ["a/empty.png"], "class_name": "null", "is_null": True},
        {"frames": ["b/0.jpg"], "masks": ["b/drum.png"], "class_name": "drum"},
        {"frames": ["a/0.jpg"], "masks": None, "class_name": "drum"},
    ]
    assert relate_objects(rows).tolist() == [
        [0, 1, -1, -1, 0, 0],
        [1, 0, -1, -1, 0, 0],
        [-1, -1, 0, -1, -1, 0],
        [-1, -1, -1, 0, -1, 0],
        [0, 0, -1, -1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    numbered = [{**drum, "mask_value": number} for number in (1, 2, 2)]
    assert relate_objects(numbered).tolist() == [[0, -1, -1], [-1, 0, 1], [-1, 1, 0]]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_all_parts_train_and_are_kept(lora, checkpoint, cot_rows, processor, tmp_path):
    """SFT adds them, its checkpoint has them, GRPO goes on with them and needs no further word."""
    settings = {**ALL, "group_by_clip": True, "max_steps": 2, "learning_rate": 1e-2}
    model = AuroraModel.from_pretrained(checkpoint)
    if lora:
        groups = AuroraSFTConfig(str(tmp_path), use_cpu=True, bf16=False).trainable_groups()
        settings["peft_config"] = lora_config(model, LoraArguments(use_lora=True), groups)
    trainer = build_sft(model, cot_rows, processor, tmp_path / "sft", **settings)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert torch.equal(before[name], value) != value.requires_grad, name
    parts = {name for name, value in trainer.model.named_parameters() if value.requires_grad and "seg_" in name}
    assert all(any(part in name for name in parts) for part in NAMES)
    entry = trainer.state.log_history[0]
    assert {"existence_loss", "existence_accuracy", "alignment_loss"} <= entry.keys()
    trainer.save_model()
    rows = cot_rows.to_list()[:2]
    drawn = draw(unwrap_aurora(trainer.model), rows, processor)

    again = AuroraModel.from_pretrained(tmp_path / "sft")  # merged, where it is an adapter
    assert all(getattr(again.config, name) == value for name, value in PARTS.items())
    for value, expected in zip(draw(again, rows, processor), drawn, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)
    if lora:
        unmerged = unwrap_aurora(load_adapter(tmp_path / "sft"))
        for value, expected in zip(draw(unmerged, rows, processor), drawn, strict=True):
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
    grpo = build_grpo(again, cot_rows, processor, tmp_path / "grpo", max_steps=1, alignment_loss_weight=0.1)
    grpo.train()
    grpo.save_model()
    last = AuroraPipeline.from_pretrained(tmp_path / "grpo", device="cpu")
    assert last.model.seg_layer_mix is not None
    row = rows[0]
    assert last(row["reference"], frames=row["frames"], audio=row["audio"], max_new_tokens=4).reasoning is not None


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}], ids=["plain", "gradient checkpointing"])
def test_a_prompt_read_once_teaches_the_same(settings, drawing_checkpoint, cot_rows, processor, tmp_path):
    results = []
    for shared in (True, False):
        model = strong_model(drawing_checkpoint)
        trainer = build_grpo(
            model,
            cot_rows,
            processor,
            tmp_path / str(shared),
            shared_prefix=shared,
            learning_rate=1e-4,
            alignment_loss_weight=0.1,
            temperature=2.0,
            **settings,
        )
        trainer.train()
        names = ("loss", "reward", "grad_norm", "iou", "seg_share", "mask_bce_loss", "existence_loss")
        results.append(torch.tensor(logged(trainer, *names, "alignment_loss"), dtype=torch.float64))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
    assert (results[0][:, -2:] > 0).any(dim=0).all()


def test_rewards_see_what_is_said_not_to_be_there(drawing_checkpoint, cot_rows, processor, tmp_path):
    model = strong_model(drawing_checkpoint)
    model.seg_existence.bias.data.fill_(-1e3)
    seen = []

    def area_reward(prompts, completions, pred_masks, **columns):
        seen.extend(float((mask > 0).sum()) for mask in pred_masks if mask is not None)
        return [0.0] * len(prompts)

    build_grpo(model, cot_rows, processor, tmp_path, rewards=[area_reward], max_steps=1).train()
    assert seen
    assert not any(seen)


def test_null_rows_teach_the_existence_output(checkpoint, cot_rows, processor, tmp_path):
    """The loss by hand for a zero output: log 2 per row with a `[SEG]`; and its gradient has the sign of the rows."""
    null = [row for row in cot_rows if row["is_null"]][:1]
    drawn = [row for row in cot_rows if not row["is_null"]][:1]
    model = AuroraModel.from_pretrained(checkpoint)
    trainer = build_sft(model, cot_rows, processor, tmp_path, existence_output=True)
    for rows, sign in ((null, 1.0), (drawn, -1.0)):
        model.zero_grad()
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows))).backward()
        assert torch.sign(model.seg_existence.bias.grad).item() == sign
        assert abs(model.seg_existence.bias.grad.item()) == pytest.approx(0.5)


def test_the_teachers_spatial_prompt_comes_with_its_decoder(checkpoint, cot_rows, processor, tmp_path):
    teacher, student = strong_model(checkpoint), AuroraModel.from_pretrained(checkpoint)
    build_sft(student, cot_rows, processor, tmp_path, teacher=teacher, **PARTS)
    assert torch.equal(student.seg_spatial.mark, teacher.seg_spatial.mark)
    assert "seg_spatial.mark" in student.replaced_weights
    assert not student.seg_existence.weight.any()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"seg_layers": 0}, "`seg_layers` must be at least 1, got 0"),
        ({"existence_loss_weight": -1.0}, "`existence_loss_weight` must not be negative"),
        ({"alignment_temperature": 0.0}, "`alignment_temperature` must be above 0"),
        ({"alignment_loss_weight": 0.1, "per_device_train_batch_size": 1}, "`per_device_train_batch_size` is 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("config_class", [AuroraSFTConfig, AuroraGRPOConfig])
def test_bad_settings(config_class, settings, fault, tmp_path):
    if config_class is AuroraGRPOConfig and "per_device_train_batch_size" in settings:
        settings = {**settings, "gradient_accumulation_steps": 3}
    with pytest.raises(ValueError, match=fault):
        config_class(str(tmp_path), use_cpu=True, bf16=False, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"freeze_seg_projector": True}, {"mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0}],
    ids=["frozen", "text alone"],
)
def test_a_part_that_would_not_be_trained_is_refused(settings, model, cot_rows, processor, tmp_path):
    with pytest.raises(ValueError, match="leave `freeze_seg_projector` off and a mask loss on"):
        build_sft(model, cot_rows, processor, tmp_path, spatial_prompt=True, **settings)
