"""Groups whose rewards are all equal are sampled again: which rows, on which process, and what comes of them."""

import pytest
import torch
from grpo_helpers import build, letter_reward

from aurora_trl import AuroraGRPOConfig
from aurora_trl.training.resampling import _deviation_after, rows_to_draw, take_drawn


def test_rows_by_hand():
    """Two processes of three groups of two: one group of the first and two of the second are all equal."""
    deviation = torch.tensor([0.3, 0.0, 0.1, 0.0, 0.2, 0.0])
    assert rows_to_draw(deviation, 2, 6, process=0) == [0, 1, 2, 3]  # its first group comes along
    assert rows_to_draw(deviation, 2, 6, process=1) == [0, 1, 4, 5]
    assert rows_to_draw(torch.tensor([0.3, 0.1]), 2, 2, process=0) == []
    # Groups of two over processes of three rows.
    assert rows_to_draw(torch.tensor([0.3, 0.0, 0.1]), 2, 3, process=1) == [0, 1, 2]
    after = _deviation_after(deviation, torch.tensor([9.0, 0.5, 0.0, 0.7]), 2, 6)
    assert after.tolist() == pytest.approx([0.3, 0.5, 0.1, 0.0, 0.2, 0.7])
    assert _deviation_after(torch.tensor([0.3, 0.0]), torch.tensor([1.0, 2.0]), 2, 3).tolist() == pytest.approx(
        [0.3, 2.0]
    )


def test_a_second_draw_takes_its_place():
    output = {
        "prompt_ids": torch.tensor([[0, 7], [8, 9]]),
        "completion_ids": torch.tensor([[1, 2], [3, 4]]),
        "completion_mask": torch.ones(2, 2, dtype=torch.long),
        "advantages": torch.tensor([0.0, 0.5]),
        "num_items_in_batch": torch.tensor(4),
        "nothing": None,
    }
    again = {
        "prompt_ids": torch.tensor([[7]]),
        "completion_ids": torch.tensor([[5, 6, 6]]),
        "completion_mask": torch.ones(1, 3, dtype=torch.long),
        "advantages": torch.tensor([1.0]),
        "num_items_in_batch": torch.tensor(3),
        "nothing": None,
    }
    merged = take_drawn(output, again, [0], torch.tensor([True]), pad_token_id=-1)
    assert merged["completion_ids"].tolist() == [[5, 6, 6], [3, 4, -1]]
    assert merged["completion_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert merged["advantages"].tolist() == [1.0, 0.5]
    assert torch.equal(merged["prompt_ids"], output["prompt_ids"])
    assert output["completion_ids"].tolist() == [[1, 2], [3, 4]]
    kept = take_drawn(output, again, [0], torch.tensor([False]), pad_token_id=-1)
    assert kept["advantages"].tolist() == [0.0, 0.5]


@pytest.mark.parametrize("shared", [True, False], ids=["shared prefix", "plain"])
def test_equal_groups_get_another_chance(shared, model, cot_rows, processor, tmp_path):
    """The first draw earns nothing, the second differs: only then is there something to learn, of new completions."""
    draws = []

    def second_time_reward(prompts, completions, **columns):
        draws.append(completions)
        first_group = [1.0, 0.0] + [0.0] * (len(completions) - 2)
        return first_group if len(draws) % 2 else letter_reward(prompts, completions)

    trainer = build(
        model,
        cot_rows,
        processor,
        tmp_path,
        rewards=[second_time_reward],
        resample_equal_groups=1,
        shared_prefix=shared,
        max_steps=1,
        temperature=3.0,
        top_p=1.0,
    )
    trainer.train()
    assert [len(draw) for draw in draws] == [4, 2]
    entry = trainer.state.log_history[0]
    assert entry["resampled_share"] == 0.5
    assert entry["mask_bce_loss"] is not None
    (batch,) = trainer._buffered_inputs
    completions = zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    texts = [processor.decode(ids[mask.bool()], skip_special_tokens=True) for ids, mask in completions]
    # The first group as it was, the second anew.
    assert sorted(texts) == sorted(completion[0]["content"] for completion in [*draws[0][:2], *draws[1]])
    assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    assert batch["sample_index"].sort().values.tolist() == [0, 1, 2, 3]


def test_nothing_is_drawn_where_all_groups_differ(model, cot_rows, processor, tmp_path):
    draws = []

    def reward(prompts, completions, **columns):
        draws.append(len(completions))
        return [float(i) for i in range(len(completions))]

    build(
        model,
        cot_rows,
        processor,
        tmp_path,
        rewards=[reward],
        resample_equal_groups=3,
        max_steps=1,
    ).train()
    assert draws == [4]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"resample_equal_groups": -1}, "must not be negative"),
        ({"resample_equal_groups": 1, "scale_rewards": "batch"}, "leave it out, or these"),
        ({"resample_equal_groups": 1, "multi_objective_aggregation": "normalize_then_sum"}, "leave it out, or these"),
    ],
    ids=str,
)
def test_bad_settings(settings, fault, tmp_path):
    with pytest.raises(ValueError, match=fault):
        AuroraGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **settings)
