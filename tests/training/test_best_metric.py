"""`metric_for_best_model`: what no evaluation holds is said before the first step."""

import grpo_helpers
import pytest
import sft_helpers
from transformers import TrainerCallback

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.errors import DataError
from aurora_trl.training.best_metric import _known_metrics


@pytest.mark.parametrize(
    ("method", "several", "metric", "message"),
    [
        (
            "sft",
            True,
            None,
            "`metric_for_best_model: loss` is none of an evaluation of a, b, .* such as `eval_a_loss`",
        ),
        ("grpo", True, "eval_reward", "such as `eval_a_reward`"),
        ("sft", True, "eval_a_iuo", "did you mean `iou`"),
        (
            "sft",
            False,
            "eval_iuo",
            "`metric_for_best_model: eval_iuo` is no metric of an evaluation; did you mean `iou`",
        ),
        ("sft", False, "reward", "is no metric of an evaluation"),
        ("grpo", False, "rewards/iou_rewrd/mean", "did you mean `rewards/iou_reward/mean`"),
        ("grpo", False, "mask_dice_loss", "is no metric of an evaluation"),
        ("sft", True, "b_iou", None),
        ("sft", False, None, None),
        ("grpo", True, "eval_a_rewards/iou_reward/mean", None),
    ],
)
def test_the_best_checkpoint_is_chosen_by_a_metric_that_there_is(
    method, several, metric, message, model, cot_rows, processor, tmp_path
):
    """It is said before the first step, and no evaluation is missed."""
    rows = cot_rows.select(range(2))
    config, trainer = (AuroraSFTConfig, AuroraSFTTrainer) if method == "sft" else (AuroraGRPOConfig, AuroraGRPOTrainer)
    shared = {"load_best_model_at_end": True, "metric_for_best_model": metric, "eval_steps": 1, "save_steps": 1}
    settings = sft_helpers.SETTINGS if method == "sft" else grpo_helpers.SETTINGS
    settings = {**settings, **shared, "eval_strategy": "steps", "save_strategy": "steps", "max_steps": 1}
    trainer = trainer(
        model=model,
        args=config(str(tmp_path), **settings, per_device_eval_batch_size=2),
        train_dataset=cot_rows,
        eval_dataset={"a": rows, "b": rows} if several else rows,
        processing_class=processor,
        **({} if method == "sft" else {"reward_funcs": ["format_reward", "iou_reward"]}),
    )
    if message is None:
        trainer.train()
        held = {
            name.removeprefix("eval_") for entry in trainer.state.log_history for name in entry if name[:5] == "eval_"
        }
        held = {name.removeprefix("a_").removeprefix("b_") for name in held}
        assert {name for name in held if "/" not in name or name.startswith("rewards/")} <= set(
            _known_metrics(trainer)
        )
        wanted = trainer.args.metric_for_best_model.removeprefix("eval_")
        assert trainer.state.best_metric == trainer.state.log_history[1 if wanted[:2] != "b_" else 2][f"eval_{wanted}"]
        return
    with pytest.raises(DataError, match=message) as caught:
        trainer.train()
    assert trainer.state.global_step == 0
    assert "\n" not in str(caught.value)


def test_a_metric_of_ones_own_is_taken(model, cot_rows, processor, tmp_path):
    """A callback may add to what an evaluation gives."""

    class Adds(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_mine"] = 0.5

    settings = {"load_best_model_at_end": True, "metric_for_best_model": "mine", "eval_steps": 1, "save_steps": 1}
    settings |= {"eval_strategy": "steps", "save_strategy": "steps", "max_steps": 1}
    trainer = AuroraSFTTrainer(
        model,
        AuroraSFTConfig(str(tmp_path), **{**sft_helpers.SETTINGS, **settings}),
        train_dataset=cot_rows,
        eval_dataset=cot_rows.select(range(2)),
        processing_class=processor,
        callbacks=[Adds()],
    )
    trainer.train()
    assert trainer.state.best_metric == 0.5
