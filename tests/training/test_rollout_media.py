"""What a rollout shows is read once and held once, whatever G and the number of micro-steps are."""

import weakref

import pytest
import torch
from datasets import concatenate_datasets
from grpo_helpers import build, logged
from sft_helpers import build as build_sft
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

from aurora_trl import AuroraModel
from aurora_trl.data.schema import clip_key
from aurora_trl.generation.group_sampler import ClipGroupSampler
from aurora_trl.training.rollout_sampler import RolloutSampler


@pytest.fixture(scope="module")
def one_per_clip(cot_rows):
    """Eight rows about eight clips."""
    first = {}
    for position, row in enumerate(cot_rows):
        first.setdefault(clip_key(row), position)
    return cot_rows.select(sorted(first.values())[:8])


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize(("questions", "group"), [(1, 3), (4, 3), (8, 3), (4, 8)])
def test_each_clip_is_read_once_and_held_once(questions, group, one_per_clip, checkpoint, processor, tmp_path):
    """Two rollouts of `questions` questions in as many micro-steps; clips alive are those of one, or the next's."""
    alive, most = [], []

    def count(prompts, completions, **columns):
        assert "media" not in columns
        most.append(sum(frames() is not None for frames in alive))
        return [float(len(prompt)) for prompt in prompts]

    settings = {"per_device_train_batch_size": group, "num_generations": group, "max_steps": 2}
    settings |= {"gradient_accumulation_steps": questions, "max_completion_length": 4, "rewards": [count]}
    trainer = build(AuroraModel.from_pretrained(checkpoint), one_per_clip, processor, tmp_path, **settings)
    load, read = trainer.loader._load_clip, []

    def watch(row):
        clip = load(row)
        read.append(clip_key(row))
        alive.append(weakref.ref(clip["mask_frames"]))
        return clip

    trainer.loader._load_clip = watch
    trainer.train()
    assert 2 * questions <= len(read) <= 3 * questions  # the loader may be one rollout ahead
    assert max(most) <= questions
    assert len(set(read[:questions])) == questions


@pytest.mark.parametrize("settings", [{}, {"dataloader_num_workers": 2}, {"num_iterations": 2}], ids=str)
def test_resumed_it_is_the_same_to_the_bit(settings, cot_rows, checkpoint, processor, tmp_path):
    """Also in a later epoch, which has questions of its own."""
    rows, runs = cot_rows.select(range(8)), []
    settings = {**settings, "gradient_accumulation_steps": 2, "max_steps": 6, "num_train_epochs": 3}
    settings |= {"save_strategy": "steps", "save_steps": 4, "max_completion_length": 6}
    for cut in (False, True):
        folder = tmp_path / str(cut)
        if cut:
            first = build(AuroraModel.from_pretrained(checkpoint), rows, processor, folder, **settings)
            first.add_callback(StopAt(4))
            first.train()
        trainer = build(AuroraModel.from_pretrained(checkpoint), rows, processor, folder, **settings)
        trainer.train(resume_from_checkpoint=cut or None)
        runs.append((logged(trainer, "loss", "reward", "iou"), trainer.aurora.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


def test_resumed_in_the_middle_of_a_rollout(cot_rows, checkpoint, processor, tmp_path):
    """The clips that the rest of it needs are read again."""
    settings = {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "max_completion_length": 6}
    settings |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    first = build(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, **settings)
    first.add_callback(StopAt(1))
    first.train()
    trainer = build(AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


def test_the_order_is_trls_in_the_first_epoch_and_each_epochs_own():
    stock = RepeatSampler(range(11), mini_repeat_count=2, batch_size=3, repeat_count=4, seed=7)
    ours = RolloutSampler.like(RepeatSampler(range(11), mini_repeat_count=2, batch_size=3, repeat_count=4, seed=7))
    ours.set_epoch(0)
    order = list(ours)
    assert [index if index >= 0 else ~index for index in order] == list(stock)
    assert [index >= 0 for index in order] == ([True] * 6 + [False] * 18) * 3
    list(stock)
    later_in_stock = list(stock)  # its third epoch
    ours.set_epoch(2)
    later = list(ours)
    assert [index if index >= 0 else ~index for index in later] == later_in_stock
    resumed = RolloutSampler.like(stock)
    resumed.set_epoch(2)
    assert list(resumed) == later != order


def test_the_order_follows_the_seed_of_the_data(cot_rows, model, processor, tmp_path):
    """TRL's GRPO looks at `seed` alone."""
    settings = {"data_seed": 7, "max_completion_length": 4}
    trainer = build(model, cot_rows, processor, tmp_path, **settings)
    stock = RepeatSampler(cot_rows, mini_repeat_count=2, batch_size=2, repeat_count=1, seed=7)
    assert list(trainer._get_train_sampler()) == list(stock)


def test_too_few_questions_are_said_before_training(cot_rows, model, processor, tmp_path):
    with pytest.raises(ValueError, match=r"a rollout takes 4 questions \(8 completions of all processes, 2 to a"):
        build(model, cot_rows.select(range(3)), processor, tmp_path, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="a batch takes 4 rows of all processes, and `train_dataset` has 3"):
        build_sft(model, cot_rows.select(range(3)), processor, tmp_path, dataloader_drop_last=True)


def test_copies_of_a_row_come_apart(cot_rows):
    """Repeated eight times, a row is seen with its clip's others once, and seven times alone."""
    null = next(position for position, row in enumerate(cot_rows) if row["is_null"])
    rows = concatenate_datasets([cot_rows, *[cot_rows.select([null])] * 7])
    order = [rows[index]["id"] for index in ClipGroupSampler(rows, seed=1)]
    places = [position for position, name in enumerate(order) if name == rows[null]["id"]]
    assert len(places) == 8
    assert len(order) == len(rows)
    parts = [position * 8 // len(order) for position in places]
    assert len(set(parts)) >= 6, parts  # over the whole epoch
