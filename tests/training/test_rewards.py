"""Rewards: numbers by hand, and no text that makes them raise."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora_trl.training.rewards import (
    class_reward,
    format_or_null_reward,
    format_reward,
    get_reward,
    iou_or_null_reward,
    iou_reward,
)


def chat(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The red one is a drum. It is [SEG].", 1.0),
        ("The red one is a drum. It is [SEG]", 1.0),
        ("It is [SEG].", 1.0),
        ("It is [SEG].\n", 1.0),
        ("It is [SEG]. And more.", 0.0),
        ("The drum. it is SEG.", 0.0),
        ("So it is [SEG].", 0.0),
        ("It is [SEG].[SEG]", 0.0),
        ("", 0.0),
    ],
)
def test_format(text, expected):
    assert format_reward([None], [text]) == [expected]
    assert format_reward([None], [chat(text)]) == [expected]


def test_format_of_several_objects():
    """As many `[SEG]` as the trainer says, in one sentence."""
    texts = ["It is [SEG].", "Two. It is [SEG] and [SEG].", "It is [SEG], [SEG] and [SEG].", "It is [SEG] [SEG].", ""]
    for allowed, expected in ((1, [1, 0, 0, 0, 0]), (2, [1, 1, 0, 0, 0]), (3, [1, 1, 1, 0, 0])):
        assert format_reward(texts, texts, max_objects=[allowed] * 5) == expected
        assert format_or_null_reward(texts, texts, max_objects=[allowed] * 5) == expected
    assert format_reward(texts, texts) == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("So the target is the drum. It is [SEG].", "drum", 1.0),
        ("So the target is drum. It is [SEG].", "drum", 1.0),
        ("So the target is the hand bell. It is [SEG].", "hand-bell", 1.0),
        ("So the target is the hand-bell. It is [SEG].", "hand-bell", 1.0),
        ("So the target is the bell. It is [SEG].", "hand-bell", 0.0),
        ("So the target is the Hair Dryer, It is [SEG].", "hair-dryer", 1.0),
        # A reflective answer names two classes; the corrected one counts.
        ("the target is the drum. Wait, let me check this again. So the target is the piano.", "piano", 1.0),
        ("the target is the drum. Wait, let me check this again. So the target is the piano.", "drum", 0.0),
        ("the drum is the target", "drum", 0.0),
        ("So the target is null. It is [SEG].", "null", 1.0),
        ("", "drum", 0.0),
        # A row that names no class has nothing to compare with.
        ("the target is the drum", None, None),
        ("", "", None),
    ],
)
def test_class(text, name, expected):
    assert class_reward([None], [chat(text)], class_name=[name]) == [expected]


def test_iou_by_hand():
    target = torch.zeros(2, 2, 2)
    target[0, 0] = 1  # frame 0: the upper two pixels; frame 1: nothing
    logits = torch.full((2, 2, 2), -1.0)
    logits[0, :, 0] = 1  # frame 0: the left two: one shared of three
    assert iou_reward([None], [""], [logits], [target]) == [pytest.approx((1 / 3 + 1.0) / 2)]
    assert iou_reward([None], [""], [None], [target]) == [0.0]


def test_iou_scales_the_prediction_to_the_target():
    target = torch.zeros(1, 8, 8)
    target[:, :4] = 1
    logits = torch.tensor([[[9.0, 9.0], [-9.0, -9.0]]])
    assert iou_reward([None], [""], [logits], [target]) == [1.0]


anything = st.one_of(st.text(), st.none(), st.integers(), st.lists(st.none()), st.text().map(chat), st.just([{}]))


@settings(max_examples=200, deadline=None)
@given(st.lists(anything, max_size=4))
def test_never_raise_whatever_the_text(completions):
    count = len(completions)
    prompts = [None] * count
    names = ["hand-bell"] * count
    masks = [torch.zeros(1, 2, 2)] * count
    for values in (
        format_reward(prompts, completions),
        class_reward(prompts, completions, class_name=names),
        iou_reward(prompts, completions, pred_masks=[None] * count, masks=masks),
    ):
        assert len(values) == count
        assert all(0.0 <= value <= 1.0 for value in values)


def test_by_name():
    assert get_reward("iou_reward") is iou_reward
    assert get_reward("aurora_trl.training.rewards:format_reward") is format_reward
    for name in ("no_reward", "torch", "no.such.module:f", "math:no_such_function"):
        with pytest.raises(ValueError, match=name.split(":")[0]):
            get_reward(name)


NULL = "So the target is null. Nothing fits."


def test_null_answers_count_where_the_recipe_says_so():
    """Two frames of four pixels. The paper's rewards give nothing for an answer without `[SEG]`."""
    empty, full = torch.zeros(2, 2, 2), torch.ones(2, 2, 2)
    half = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    texts = [NULL, chat(NULL), NULL, NULL, "I do not know.", "It is [SEG].", "It is [SEG]."]
    drawn = [None, None, None, None, None, 2 * full - 1, -full]
    targets = [empty, empty, full, half, empty, full, empty]
    columns = {"pred_masks": drawn, "masks": targets}
    assert format_or_null_reward(texts, texts) == [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert format_reward(texts, texts) == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert iou_or_null_reward(texts, texts, **columns) == [1.0, 1.0, 0.0, 0.5, 0.0, 1.0, 1.0]
    assert iou_reward(texts, texts, **columns) == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert class_reward(texts[:3], texts[:3], class_name=["null", "null", "drum"]) == [1.0, 1.0, 0.0]
    assert get_reward("iou_or_null_reward") is iou_or_null_reward
    assert get_reward("format_or_null_reward") is format_or_null_reward


def test_a_module_in_the_current_folder(tmp_path, monkeypatch):
    """`accelerate launch recipes/grpo.py` has `recipes` on its path, and not the folder that it is called in."""
    (tmp_path / "my_rewards_here.py").write_text("def fixed(prompts, completions, **columns):\n    return [0.5]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert get_reward("my_rewards_here:fixed")([], []) == [0.5]
    assert str(tmp_path) not in sys.path
    with pytest.raises(ValueError, match=rf"looked in {tmp_path} and among the installed packages"):
        get_reward("my_rewards_elsewhere:fixed")
