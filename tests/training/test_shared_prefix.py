"""The prompt read once for all its completions: the same numbers, for fewer tokens."""

from collections import Counter

import pytest
import torch
from datasets import Dataset
from grpo_helpers import build, logged

from aurora_trl import AuroraGRPOConfig, AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data.schema import clip_key
from aurora_trl.generation.clip_bank import regroup
from aurora_trl.generation.clip_loader import ClipLoader, pad_ids
from aurora_trl.generation.collators import SFTCollator, _prefix_lengths
from aurora_trl.models.objects import find_seg_positions
from aurora_trl.models.shared_prefix import allow_shared_prefix, first_of_each, shared_rows
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config

SETTINGS = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}


def test_rows_by_hand():
    """Two beginnings of different length; the second has one sequence less."""
    beginnings, after = [[1, 2], [8]], [[3, 4, 5], [3, 6], [9, 7, 7]]
    prefix, segments = pad_ids(beginnings, 0, side="left"), pad_ids(after, 0)
    rows = shared_rows((prefix != 0).long(), (segments != 0).long(), torch.tensor([0, 0, 1]))
    assert rows.join(prefix, segments).tolist() == [[1, 2, 3, 4, 5, 3, 6, 0], [0, 8, 9, 7, 7, 0, 0, 0]]
    # As a policy with time, height and width has positions.
    three = rows.join(torch.stack([prefix] * 3), torch.stack([segments] * 3))
    assert torch.equal(three[1], rows.join(prefix, segments))
    assert (rows.row.tolist(), rows.slot.tolist()) == ([0, 0, 1], [0, 1, 0])
    # The first sequence sees two places of its beginning and, one by one, its own.
    assert rows.layout.segment_mask[0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    # The second is shorter; its padding sees itself. The padding of the other beginning is seen by none.
    assert rows.layout.segment_mask[1, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert rows.layout.segment_mask[2, 0, :, 0].tolist() == [False] * 3
    assert rows.layout.prefix_mask[1, 0].int().tolist() == [[1, 0], [0, 1]]
    assert rows.collect(rows.spread(torch.arange(9).view(3, 3), -1)).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    # Places among the segments of a row.
    assert rows.place(torch.tensor([2, 1, -1])).tolist() == [2, 4, -1]


def test_regroup_keeps_groups_whole():
    samples = [torch.tensor([5, 0, 3]), torch.tensor([1, 4, 2])]
    batches = [{"sample_index": part, "x": part * 10, "total": torch.tensor(7), "none": None} for part in samples]
    regrouped = regroup(batches, torch.tensor([0, 0, 1, 1, 2, 2]))
    # Prompt 2 comes first, then 0, then 1.
    assert [batch["sample_index"].tolist() for batch in regrouped] == [[5, 4, 0], [1, 3, 2]]
    assert [batch["x"].tolist() for batch in regrouped] == [[50, 40, 0], [10, 30, 20]]
    assert regrouped[0]["total"] == 7
    assert regrouped[0]["none"] is None


@pytest.mark.parametrize("uneven", [False, True], ids=["whole groups", "parts of groups"])
def test_log_probs_states_and_gradients(uneven, checkpoint, cot_rows, processor):
    """One forward over shared rows gives what one over plain rows does, in every parameter's gradient."""
    model = AuroraModel.from_pretrained(checkpoint).train()
    assert allow_shared_prefix(model.policy) is None
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(300, 400, (length,), generator=generator).tolist() for length in (9, 14, 14)]
    index = [0, 0, 1, 1, 2, 2] if not uneven else [1, 0, 1, 2, 1, 0]
    completions = [torch.randint(300, 400, (length,), generator=generator).tolist() for length in (5, 7, 3, 7, 6, 2)]
    for completion in completions[:4]:
        completion[-2] = processor.seg_token_id
    input_ids = torch.cat([pad_ids([prompts[i] for i in index], 0, side="left"), pad_ids(completions, 0)], dim=1)
    mask = (input_ids != 0).long()
    labels = input_ids[:, -7:].masked_fill(mask[:, -7:] == 0, -100)

    def gradients(log_probs, states):
        model.zero_grad()
        ((log_probs * torch.linspace(1, 2, 7)).sum() + states.pow(2).sum()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    def log_probs_of(hidden, labels):
        scores = model.get_output_embeddings()(hidden).log_softmax(-1)
        return scores.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels == -100, 0)

    hidden = model.base_model(input_ids=input_ids, attention_mask=mask).last_hidden_state
    plain = log_probs_of(hidden[:, -8:-1], labels)
    at = find_seg_positions(input_ids, mask, processor.seg_token_id)
    plain_states = hidden[torch.arange(6), at.clamp(min=0)][at >= 0]
    expected = gradients(plain, plain_states)

    first, row = first_of_each(torch.tensor(index))
    rows = shared_rows(mask[first, :-8], mask[:, -8:], row)
    positions = model.policy.position_ids(input_ids, mask)
    hidden = model.base_model(
        input_ids=rows.join(input_ids[first, :-8], input_ids[:, -8:]),
        position_ids=rows.join(positions[first, :-8], positions[:, -8:]),
        attention_mask=rows.layout.segment_mask,
        shared_prefix=rows.layout,
    ).last_hidden_state[:, rows.layout.prefix_length :]
    shared = log_probs_of(torch.stack([rows.collect(plane) for plane in hidden.unbind(-1)], -1)[:, :-1], labels)
    places = rows.place(find_seg_positions(input_ids[:, -8:], mask[:, -8:], processor.seg_token_id))
    shared_states = hidden[rows.row, places.clamp(min=0)][places >= 0]
    torch.testing.assert_close(shared, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared_states, plain_states, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients(shared, shared_states).items():
        torch.testing.assert_close(
            gradient, expected[name], atol=1e-4, rtol=1e-4, msg=lambda text, n=name: f"{n} {text}"
        )


COMBINATIONS = {
    "plain": {},
    "lora": {"lora": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "two iterations": {"num_iterations": 2, "gradient_accumulation_steps": 2},
    "reference model": {"beta": 0.1},
    "lora, reference": {"beta": 0.1, "lora": True},
    "parts of groups": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
    "connector trains": {"freeze_connector": False, "freeze_mask_encoder": False},
    "few draw": {"temperature": 8.0, "top_p": 1.0},
}


@pytest.mark.parametrize("settings", COMBINATIONS.values(), ids=COMBINATIONS)
def test_training_equals_the_plain_path(settings, drawing_checkpoint, cot_rows, processor, tmp_path):
    """Rewards, losses and gradients of three steps, prompts of different length among them."""
    rows = Dataset.from_list(
        [{**row, "reference": row["reference"] + " now" * (i % 3)} for i, row in enumerate(cot_rows)],
        features=cot_rows.features,
    )
    settings = {"max_steps": 3, "temperature": 2.0, "learning_rate": 1e-4, **settings}
    lora = settings.pop("lora", False)
    results = []
    for shared in (True, False):
        model = AuroraModel.from_pretrained(drawing_checkpoint)
        model.config._name_or_path = str(drawing_checkpoint)
        if lora:
            groups = AuroraGRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True).trainable_groups()
            torch.manual_seed(0)
            arguments = LoraArguments(use_lora=True, lora_dropout=0.0)
            settings["peft_config"] = lora_config(model, arguments, groups)
        trainer = build(model, rows, processor, tmp_path / str(shared), shared_prefix=shared, **settings)
        assert trainer._shares_prefix == shared
        trainer.train()
        names = ("loss", "reward", "reward_std", "grad_norm", "iou", "seg_share", "mask_bce_loss")
        results.append(torch.tensor(logged(trainer, *names), dtype=torch.float64))
    assert len(results[0]) >= 2  # a rollout each; `num_iterations` uses one twice
    assert (results[1][:, 3] > 0).all()
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_tokens_and_passes(drawing_checkpoint, cot_rows, processor, tmp_path):
    """Per rollout each distinct prompt is prefilled once, and a step reads P + G * C tokens of each group."""
    model = AuroraModel.from_pretrained(drawing_checkpoint)
    trainer = build(
        model,
        cot_rows,
        processor,
        tmp_path,
        max_steps=2,
        num_generations=4,
        gradient_accumulation_steps=2,
        num_iterations=2,
    )
    read = {"generation": [], "training": []}

    def count(module, args, kwargs):
        kind = "training" if torch.is_grad_enabled() else "generation"
        read[kind].append(kwargs["inputs_embeds"].shape[:2])

    model.policy.model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    prompts = trainer._bank.prompt_ids
    longest, distinct = max(map(len, prompts)), len(set(map(tuple, prompts)))
    assert distinct == 2
    prefills = [shape for shape in read["generation"] if shape[1] > 1 and shape[0] == distinct]
    assert prefills == [(2, longest - 1)]
    # Every other forward of generation reads one token of each of the 8 completions, or is TRL's old log-probs pass.
    others = [shape for shape in read["generation"] if shape not in prefills and shape != (8, 1)]
    segment = 1 + max(batch["completion_ids"].size(1) for batch in trainer._buffered_inputs)
    group = (1, longest - 1 + 4 * segment)
    # `num_iterations` needs the old log-probabilities: two micro-batches of one group each.
    assert others == [group, group]
    assert read["training"] == [group] * 4


SUPERVISED = {
    "plain": {},
    "lora": {"lora": True},
    "teacher": {"distillation_loss_weight": 1.0},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "text alone": {"mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0},
    "connector trains": {"freeze_connector": False},
}


@pytest.mark.parametrize("settings", SUPERVISED.values(), ids=SUPERVISED)
def test_supervised_training_equals_the_plain_path(settings, checkpoint, cot_rows, processor, tmp_path):
    """Losses and gradients of two steps over references that share clips, which are read once."""
    settings = dict(settings)
    lora = settings.pop("lora", False)
    counts = Counter(map(clip_key, cot_rows))
    rows = cot_rows.filter(lambda row: counts[clip_key(row)] == 4)
    results, shapes = [], []
    for shared in (True, False):
        model = AuroraModel.from_pretrained(checkpoint)
        args = AuroraSFTConfig(
            output_dir=str(tmp_path / str(shared)),
            **{**SETTINGS, "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3},
            group_by_clip=True,
            shared_prefix=shared,
            **settings,
        )
        torch.manual_seed(0)
        arguments = LoraArguments(use_lora=lora, lora_dropout=0.0)
        trainer = AuroraSFTTrainer(
            model,
            args,
            train_dataset=rows,
            processing_class=processor,
            teacher=AuroraModel.from_pretrained(checkpoint) if "distillation_loss_weight" in settings else None,
            peft_config=lora_config(model, arguments, args.trainable_groups()),
        )
        read = []
        model.policy.model.language_model.register_forward_pre_hook(
            lambda _module, _args, kwargs, read=read: read.append(tuple(kwargs["inputs_embeds"].shape[:2])),
            with_kwargs=True,
        )
        trainer.train()
        names = ["loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens"]
        names += [] if settings.get("mask_bce_loss_weight") == 0.0 else ["iou", "mask_bce_loss", "mask_dice_loss"]
        names += ["distillation_loss"] if "distillation_loss_weight" in settings else []
        entries = [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]
        results.append(torch.tensor(entries, dtype=torch.float64))
        shapes.append(read)
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
    # Eight references are about two clips.
    assert {rows for rows, _ in shapes[1]} == {8}
    assert {rows for rows, _ in shapes[0]} == {2}
    assert sum(rows * length for rows, length in shapes[0]) < 0.9 * sum(rows * length for rows, length in shapes[1])


def test_common_beginning(processor, cot_rows):
    """It ends where prompts differ, and before their last tokens, which write the first of what is learned."""
    prompts = [[1, 2, 3, 4], [1, 2, 9, 4], [5, 6, 7], [5, 6, 7, 8], [5, 6, 7], [1]]
    assert _prefix_lengths(prompts, [0, 0, 1, 1, 2, 3]) == [2, 2, 2, 0]
    rows = cot_rows.to_list()
    batch = SFTCollator(ClipLoader(processor), share_prefix=True)(rows[:4])
    assert len(batch["prefix_lengths"]) == 1
    assert (batch["labels"][:, : int(batch["prefix_lengths"]) + 1] == -100).all()
    # One segment alone in a row of four: plain rows are fewer tokens.
    uneven = [row for row in rows if clip_key(row) != clip_key(rows[0])][:1] + rows[:2]
    assert "prefix_lengths" not in SFTCollator(ClipLoader(processor), share_prefix=True)(uneven)


def test_a_policy_may_say_no(drawing_checkpoint, cot_rows, processor, tmp_path, caplog):
    model = AuroraModel.from_pretrained(drawing_checkpoint)
    model.policy.supports_shared_prefix = False
    trainer = build(model, cot_rows, processor, tmp_path, max_steps=1)
    assert not trainer._shares_prefix
    assert "does not support it" in caplog.text
    trainer.train()


@pytest.mark.parametrize("settings", [{"label_smoothing_factor": 0.1}, {"neftune_noise_alpha": 5.0}], ids=str)
def test_what_looks_at_whole_rows_reads_whole_rows(settings, checkpoint, cot_rows, processor, tmp_path):
    """A random batch may hold rows of one clip, too: it is the batch of `shared_prefix: false`."""
    counts = Counter(map(clip_key, cot_rows))
    rows = cot_rows.filter(lambda row: clip_key(row) == counts.most_common(1)[0][0]).select(range(4))
    logs = []
    for shared in (True, False):
        model = AuroraModel.from_pretrained(checkpoint)
        args = AuroraSFTConfig(
            str(tmp_path),
            **{**SETTINGS, "max_steps": 1, "per_device_train_batch_size": 4},
            shared_prefix=shared,
            **settings,
        )
        trainer = AuroraSFTTrainer(model, args, train_dataset=rows, processing_class=processor)
        trainer.train()
        logs.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm", "entropy")])
    assert logs[0] == logs[1]
