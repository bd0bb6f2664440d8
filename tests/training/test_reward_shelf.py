"""Rewards beyond the paper's: numbers by hand, and against the metric of evaluation."""

import json

import numpy as np
import pytest
import torch

from aurora_trl.data.masks import NO_TARGET
from aurora_trl.evaluation.class_synonyms import TABLE, TABLE_NAME, index_synonyms
from aurora_trl.evaluation.metrics.frames import boundary_f
from aurora_trl.evaluation.report import _synonym_section
from aurora_trl.training.rewards import (
    REWARDS,
    boundary_reward,
    consistency_reward,
    get_reward,
    length_reward,
    synonym_class_reward,
)


def logits_of(masks):
    return masks.float() * 2 - 1


def blobs(seed, size=96):
    """A rectangle in each of three frames, with a ragged edge."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((3, size, size), bool)
    for mask in masks:
        y, x = rng.integers(5, 40, 2)
        mask[y : y + 30, x : x + 25] = True
        mask ^= rng.random(mask.shape) < 0.002
    return torch.from_numpy(masks)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_is_the_metric(seed):
    """All frames at once give what the outlines' distances give, one by one."""
    drawn, target = blobs(seed), blobs(seed + 10)
    drawn[2], target[2] = False, False  # two empty masks agree
    expected = np.mean([boundary_f(ours, theirs) for ours, theirs in zip(drawn.numpy(), target.numpy(), strict=True)])
    assert 1 / 3 < expected < 1
    value = boundary_reward([None], [""], [logits_of(drawn)], [target.to(torch.uint8)])
    assert value == [pytest.approx(expected, abs=1e-6)]


def test_boundary_by_hand():
    """An outline one pixel beside another is found; one that is far off is not."""
    target = torch.zeros(1, 20, 20, dtype=torch.uint8)
    target[0, 5:10, 5:10] = 1
    near, far = target.roll(1, dims=2), target.roll(9, dims=2)
    values = boundary_reward([None] * 3, [""] * 3, [logits_of(near), logits_of(far), None], [target] * 3)
    assert values == [1.0, 0.0, 0.0]
    unknown = torch.full_like(target, NO_TARGET)
    assert boundary_reward([None], [""], [logits_of(near)], [unknown]) == [None]


def test_consistency_by_hand():
    """The object stays; the mask stays once, and then half of it moves on: IoUs 1 and 1/3."""
    target = torch.zeros(3, 1, 4, dtype=torch.uint8)
    target[..., :2] = 1
    drawn = target.clone()
    drawn[2] = torch.tensor([0, 1, 1, 0])
    steady, jumping = logits_of(target), logits_of(drawn)
    values = consistency_reward([None] * 3, [""] * 3, [steady, jumping, None], [target] * 3)
    assert values == [1.0, pytest.approx(1 - (2 / 3) / 2), 0.0]
    # A mask that moves as the object does loses nothing; a frame that nobody annotated has no neighbour.
    assert consistency_reward([None], [""], [jumping], [drawn]) == [1.0]
    gap = target.clone()
    gap[1] = NO_TARGET
    assert consistency_reward([None], [""], [jumping], [gap]) == [None]


def test_length_costs_where_a_question_is_easy():
    """Question a: two of two right, of 2 and 4 tokens. Question b: one of two right. Question c: none."""
    full = torch.ones(1, 2, 2, dtype=torch.uint8)
    right, wrong = logits_of(full), logits_of(full * 0)
    ids = [[0] * n for n in (2, 4, 8, 4, 5, 10)]
    drawn = [right, right, right, wrong, None, wrong]
    columns = {"completion_ids": ids, "pred_masks": drawn, "masks": [full] * 6}
    values = length_reward([None] * 6, [""] * 6, id=list("aabbcc"), **columns)
    assert values == pytest.approx([-0.5, -1.0, -0.5, -0.25, -0.25, -0.5])
    # Nobody has drawn what question b is about.
    partly = {**columns, "masks": [full] * 2 + [full * NO_TARGET] * 2 + [full] * 2}
    assert length_reward([None] * 6, [""] * 6, id=list("aabbcc"), **partly)[2:4] == [None, None]
    # Without names equal prompts are one question.
    assert length_reward(list("aabbcc"), [""] * 6, **columns) == values


@pytest.mark.parametrize(
    ("said", "true", "expected"),
    [
        ("the fiddle", "violin", 1.0),
        ("the violin", "violin", 1.0),
        ("the Mobile Phone", "cell-phone", 1.0),
        ("the harp", "violin", 0.0),
        ("the lyre", "lute", 0.0),  # neither is in the table
        ("the man", "boy", 0.0),
        ("the man", None, None),
    ],
)
def test_another_name_of_the_class(said, true, expected):
    assert synonym_class_reward([None], [f"So the target is {said}. It is [SEG]."], class_name=[true]) == [expected]


def test_a_name_names_one_thing():
    assert len(index_synonyms()) == sum(map(len, TABLE))
    with pytest.raises(ValueError, match="'drum' stands in two rows"):
        index_synonyms([["drum", "bass"], ["tabla", "drum"]])


def test_the_report_names_the_table(tmp_path):
    for name in ("class", "synonym_class"):
        history = [{"step": step, "reward": 0.5, f"rewards/{name}_reward/mean": 0.5} for step in (1, 2)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        text = "".join(_synonym_section({"grpo": tmp_path / name}))
        assert (TABLE_NAME in text) == (name == "synonym_class")


def test_never_raise_whatever_the_text():
    completions = ["", None, [{}], 3, "the target is the"]
    for values in (
        synonym_class_reward(completions, completions, class_name=["drum", None, "", "drum", "x"]),
        boundary_reward(completions, completions, [None] * 5, [torch.zeros(1, 2, 2)] * 5),
        length_reward(completions, completions, [[]] * 5, [None] * 5, [torch.zeros(1, 2, 2)] * 5),
    ):
        assert len(values) == 5


def test_by_name():
    assert {get_reward(name).__name__ for name in REWARDS} == set(REWARDS)
