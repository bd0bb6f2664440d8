"""What reward functions are given and may give, in training."""

from functools import partial

import numpy as np
import pytest
import torch
from grpo_helpers import build, logged

from aurora_trl.models.modeling_aurora import AuroraModel
from aurora_trl.training.grpo_config import AuroraGRPOConfig
from aurora_trl.training.reward_calls import find_rewards, read_rewards

COLUMNS = {"completions": ["a", "b"], "id": ["x", "y"]}


@pytest.mark.parametrize(
    "given",
    [
        [1, 0],
        (True, False),
        torch.tensor([1.0, 0.0]),
        torch.tensor([[1.0], [0.0]]),
        np.array([1, 0]),
        [torch.tensor(1.0), np.float32(0)],
        iter([1.0, 0.0]),
    ],
)
def test_one_number_per_completion(given):
    assert read_rewards("mine", given, COLUMNS) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (1.0, "`mine` returned a float; it has to return a list with one number, or None, for each of the 2"),
        (None, "`mine` returned a NoneType"),
        ({"a": 1.0, "b": 0.0}, "`mine` returned a dict"),
        ("10", "`mine` returned a str"),
        ([1.0], "`mine` returned 1 rewards"),
        ([1.0, "0.5"], "`mine` gave row 'y' '0.5', which is no number"),
        ([[1.0, 2.0], [0.0, 1.0]], "`mine` gave row 'x'"),
        ([0.0, float("inf")], "`mine` gave row 'y' inf, which can not be compared"),
        ([1e39, 0.0], "`mine` gave row 'x' 1e.39"),
    ],
)
def test_anything_else_is_one_line(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_rewards("mine", given, COLUMNS)
    assert "\n" not in str(caught.value)


def test_nan_is_left_out_and_said_once(caplog):
    for _ in range(2):
        assert read_rewards("gives_nan", [float("nan"), None], COLUMNS) == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "reward function `gives_nan` gave row 'x' nan: such rows are left out, as with None"
    ]


class Judge:
    def __call__(self, completions, **columns):
        return [0.0] * len(completions)


def narrow(prompts, completions):
    return [0.0] * len(completions)


def wants_more(completions, difficulty, **columns):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Judge, r"`Judge` is a class: give `Judge\(\)`"),
        (narrow, r"`narrow` takes prompts, completions alone, and is called with every column: add `\*\*columns`"),
        (wants_more, "`wants_more` asks for a column `difficulty`, which `train_dataset` has not; it has id, class_n"),
        (0.5, "0.5 is a float, and can not be called"),
    ],
)
def test_a_function_that_can_not_be_called_is_known_before_training(reward, message, model):
    with pytest.raises(ValueError, match=message):
        find_rewards([reward], [], model, ["id", "class_name"])
    names = [one.__name__ for one in find_rewards([Judge(), partial(wants_more, difficulty=[])], [], model, ["id"])]
    assert names == ["Judge", "wants_more"]


def test_rewards_may_change_what_they_are_shown(drawing_checkpoint, cot_rows, processor, tmp_path):
    """The next function, and the losses, see it as it was; one that waits, too; and one name twice is two columns."""

    def careless(completions, masks, pred_masks, **columns):
        for mask, drawn in zip(masks, pred_masks, strict=True):
            mask.numpy()[:] = 1
            if drawn is not None:
                drawn.fill_(9.0)
        return [0.0] * len(completions)

    async def waiting(**columns):
        return careless(**columns)

    def careful(completions, **columns):
        return [0.0] * len(completions)

    parts = ("mask_bce_loss", "mask_dice_loss", "rewards/iou_reward/mean")
    seen = []
    for first in ([careless, waiting], [careful, careful]):
        model = AuroraModel.from_pretrained(drawing_checkpoint)
        rewards = [*first, "iou_reward"]
        trainer = build(model, cot_rows, processor, tmp_path, rewards=rewards, max_steps=1)
        trainer.train()
        seen.append(logged(trainer, *parts))
    assert seen[0] == seen[1]
    assert trainer.reward_func_names == ["careful", "careful_2", "iou_reward"]


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0], [1.0, float("nan"), 1.0], [1.0, float("inf"), 1.0]])
def test_weights_with_which_nothing_is_compared(weights, tmp_path):
    with pytest.raises(ValueError, match="`reward_weights` must be numbers of which one is not 0"):
        AuroraGRPOConfig(str(tmp_path), reward_weights=weights, bf16=False, use_cpu=True)
