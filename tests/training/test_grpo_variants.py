"""The variants of GRPO that TRL has, with masks: each one's own loss, and the masks' beside it."""

import pytest
import torch
from grpo_helpers import build

from aurora_trl import AuroraModel

VARIANTS = {
    "GSPO": {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "Dr. GRPO": {"loss_type": "dr_grpo", "scale_rewards": False},
    "DAPO": {"loss_type": "dapo", "epsilon_high": 0.28, "resample_equal_groups": 1},
    "CISPO": {"loss_type": "cispo", "epsilon_high": 5.0},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_masks_come_beside_it(settings, drawing_checkpoint, cot_rows, processor, tmp_path):
    entries = []
    for weight in (0.0, 0.7):
        model = AuroraModel.from_pretrained(drawing_checkpoint)
        before = {name: value.clone() for name, value in model.mask_decoder.state_dict().items()}
        trainer = build(
            model,
            cot_rows,
            processor,
            tmp_path / str(weight),
            mask_bce_loss_weight=weight,
            mask_dice_loss_weight=weight,
            max_steps=1,
            temperature=2.0,
            **settings,
        )
        trainer.train()
        entries.append(next(entry for entry in trainer.state.log_history if "loss" in entry))
        after = model.mask_decoder.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before) == (weight > 0)
    text, both = entries
    assert both["seg_share"] == text["seg_share"] > 0
    masks = 0.7 * (both["mask_bce_loss"] + both["mask_dice_loss"])
    assert both["loss"] == pytest.approx(text["loss"] + masks, abs=1e-5)
