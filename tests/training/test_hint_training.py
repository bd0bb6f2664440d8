"""Learning without masks: rows with a box, with points, with a class alone and with masks in one mixture."""

import math

import pytest
import torch
from datasets import Dataset
from grpo_helpers import build as build_grpo
from sft_helpers import build as build_sft

from aurora_trl import AuroraModel
from aurora_trl.data.masks import NO_TARGET, load_masks
from aurora_trl.data.schema import as_dataset
from aurora_trl.errors import DataError
from aurora_trl.training.losses import box_projection_loss
from aurora_trl.training.mask_targets import MaskTargets
from aurora_trl.training.rewards import box_reward, iou_reward, point_reward


def test_projections_by_hand():
    """
    Probability 1/2 in the left column of 2 x 2 and none elsewhere, a box of the upper row: along the columns (1/2, 0)
    against (1, 1), along the rows (1/2, 1/2) against (1, 0).
    """
    logits = torch.tensor([[[0.0, -50.0], [0.0, -50.0]]])
    box = torch.tensor([[[1, 1], [0, 0]]])
    inside = torch.ones(1, 2, 2, dtype=torch.bool)
    columns, rows = 1 - 2 * 0.5 / (0.25 + 2), 1 - 2 * 0.5 / (0.5 + 1)
    loss = box_projection_loss(logits, box, weights=torch.ones(1), inside=inside)
    assert loss.item() == pytest.approx(columns + rows, rel=1e-6)
    fits = torch.where(box.bool(), 50.0, -50.0)
    assert box_projection_loss(fits, box, weights=torch.ones(1), inside=inside).item() == pytest.approx(0.0, abs=1e-6)
    assert box_projection_loss(logits, box, weights=torch.zeros(1), inside=inside).item() == 0.0


def test_rewards_by_hand():
    """A mask of one pixel in a box of two, and a frame that nobody marked; a mask around two points."""
    drawn = torch.full((2, 2, 2), -1.0)
    drawn[:, 0, 0] = 1
    box = torch.tensor([[[1, 1], [0, 0]], [[NO_TARGET] * 2] * 2], dtype=torch.uint8)
    points = torch.full((2, 2, 2), NO_TARGET, dtype=torch.uint8)
    points[0, 0, 0], points[0, 1, 1], points[1, 1, 0] = 1, 0, 1
    unknown = torch.full_like(box, NO_TARGET)
    texts = [""] * 3
    assert box_reward(texts, texts, [drawn, None, drawn], [box, box, unknown]) == [0.5, 0.0, None]
    assert point_reward(texts, texts, [drawn, None, drawn], [points, points, unknown]) == [
        pytest.approx(2 / 3),
        0,
        None,
    ]
    assert iou_reward(texts, texts, [drawn, None, drawn], [unknown] * 3) == [None] * 3
    # No row of the rollout has any.
    assert box_reward(texts, texts, [drawn] * 3) == point_reward(texts, texts, [None] * 3) == [None] * 3
    # The box around scattered pixels, and around none.
    corners = torch.tensor([[[1.0, -1], [-1, 1]], [[-1, -1], [-1, -1]]])
    full = torch.ones(2, 2, 2, dtype=torch.uint8)
    assert box_reward([""], [""], [corners], [full]) == [0.5]


def test_targets_know_what_is_there():
    unknown = torch.full((3, 2, 2, 2), NO_TARGET, dtype=torch.uint8)
    boxes, points = unknown.clone(), unknown.clone()
    boxes[0, 1] = torch.tensor([[1, 0], [0, 0]])
    points[1, 0, 1, 1] = 0
    targets = MaskTargets(unknown, box_masks=boxes, point_masks=points)
    assert targets.annotated.tolist() == [[False, True], [True, False], [False, False]]
    present, known = targets.find_present()
    assert (present.tolist(), known.tolist()) == ([True, False, False], [True, True, False])
    kept = targets.of_frames(torch.tensor([0]))
    assert kept.annotated.tolist() == [[False], [True], [False]]


@pytest.fixture
def mixture(cot_rows):
    """A row of each kind about what the world has drawn, each four times in turn."""
    rows = []
    for number, row in enumerate([row for row in cot_rows if not row["is_null"]][:4]):
        row, masks = dict(row), load_masks(row)
        if number:
            row["masks"] = None
        if number == 1:
            row["boxes"] = [_box(mask) for mask in masks]
        if number == 2:
            row["points"] = [
                [[int(x), int(y)] for y, x in zip(*mask.nonzero(), strict=True)][:1] or None for mask in masks
            ]
        rows.append(row)
    return rows


def _box(mask):
    rows, columns = mask.nonzero()
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if len(rows) else []


def _point(mask):
    places = [[int(x), int(y)] for y, x in zip(*mask.nonzero(), strict=True)]
    return places[:1] or None


def dataset(rows) -> Dataset:
    return as_dataset([{**row, "id": f"{row['id']}-{i}"} for i in range(4) for row in rows], "the mixture")


def test_all_kinds_in_one_batch(model, mixture, processor, tmp_path):
    """Each row's loss is that of what it has; the class alone adds text only."""
    settings = {"allow_unmarked_rows": True, "max_steps": 2, "train_sampling_strategy": "sequential"}
    trainer = build_sft(model, dataset(mixture), processor, tmp_path, **settings)
    before = {name: value.clone() for name, value in model.mask_decoder.state_dict().items()}
    trainer.train()
    entry = trainer.state.log_history[0]
    assert all(entry[name] > 0 for name in ("mask_bce_loss", "mask_dice_loss", "box_loss", "point_loss"))
    assert any(not torch.equal(before[name], value) for name, value in model.mask_decoder.state_dict().items())
    for number, names in enumerate(({"mask_bce_loss"}, {"box_loss"}, {"point_loss"}, set())):
        batch = trainer._prepare_inputs(trainer.data_collator([mixture[number]]))
        model.zero_grad()
        trainer._metrics["train"].clear()
        trainer.compute_loss(trainer.model, batch).backward()
        gradient = model.seg_projector[0].weight.grad
        assert bool(gradient.any()) == bool(names), number
        assert gradient.isfinite().all()


def test_a_box_teaches_a_mask(checkpoint, mixture, processor, tmp_path):
    """The projections of what is drawn come nearer to the box's."""
    model = AuroraModel.from_pretrained(checkpoint)
    rows = dataset([mixture[1]])
    settings = {"max_steps": 25, "learning_rate": 3e-3, "ce_loss_weight": 0.0, "targets": "answer"}
    trainer = build_sft(model, rows, processor, tmp_path, **settings)
    trainer.train()
    losses = [entry["box_loss"] for entry in trainer.state.log_history if "box_loss" in entry]
    assert math.isfinite(losses[-1])
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("kind", [1, 2])
def test_hints_alone_teach_masks(kind, model, mixture, processor, tmp_path):
    """With both mask losses at 0 boxes and points are learnt from by their own weights, in a stream, too."""
    alone = {"mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0, "max_steps": 1}
    rows = dataset([mixture[kind]])
    stream = rows.to_iterable_dataset() if kind == 1 else rows
    trainer = build_sft(model, stream, processor, tmp_path, **alone, box_loss_weight=5.0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer.train()
    changed = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    assert {"seg_projector", "mask_decoder"} <= changed
    entry = trainer.state.log_history[0]
    weight = 5.0 if kind == 1 else 1.0
    text = entry["loss"] - weight * entry["box_loss" if kind == 1 else "point_loss"]
    unweighted = {**alone, "box_loss_weight": 0.0, "point_loss_weight": 0.0}
    plain = build_sft(AuroraModel.from_pretrained(model.name_or_path), rows, processor, tmp_path, **unweighted)
    plain.train()
    assert not plain._runs_mask_head, "nobody asks for masks"
    if kind == 2:  # a stream has another order
        assert text == pytest.approx(plain.state.log_history[0]["loss"], abs=1e-4)


def test_no_hint_costs_no_mask(model, mixture, processor, tmp_path):
    alone = {"mask_bce_loss_weight": 0.0, "mask_dice_loss_weight": 0.0, "allow_unmarked_rows": True}
    for build in (build_sft, build_grpo):
        for number, learns in ((0, False), (1, True), (2, True), (3, False)):
            trainer = build(model, dataset([mixture[number]]), processor, tmp_path, **alone)
            assert trainer.args.uses_mask_losses == learns


def test_grpo_learns_from_what_there_is(drawing_checkpoint, mixture, processor, tmp_path):
    """Each reward is about the rows that have what it compares with; the step's losses, too."""
    seen = {"box": set(), "point": set(), "iou": set()}

    def spy(name, reward):
        def watched_reward(*args, **columns):
            values = reward(*args, **columns)
            seen[name] |= {i.rsplit("-", 1)[0] for i, v in zip(columns["id"], values, strict=True) if v is not None}
            return values

        watched_reward.__name__ = f"{name}_spy"
        return watched_reward

    rewards = [spy("box", box_reward), spy("point", point_reward), spy("iou", iou_reward)]
    trainer = build_grpo(
        AuroraModel.from_pretrained(drawing_checkpoint),
        dataset(mixture),
        processor,
        tmp_path,
        rewards=[*rewards, lambda prompts, completions, **columns: [0.0] * len(prompts)],
        allow_unmarked_rows=True,
        per_device_train_batch_size=8,
        num_generations=2,
        max_steps=3,
        mask_frames_per_step=3,
    )
    trainer.train()
    ids = [row["id"] for row in mixture]
    assert seen == {"iou": {ids[0]} & seen["iou"], "box": {ids[1]} & seen["box"], "point": {ids[2]} & seen["point"]}
    assert sum(map(len, seen.values())) >= 2
    assert any("box_loss" in entry for entry in trainer.state.log_history)


def test_an_unmarked_row_is_an_error_unless_it_is_meant(model, mixture, processor, tmp_path):
    for build in (build_sft, build_grpo):
        with pytest.raises(DataError, match="it has no masks, boxes or points; .*`allow_unmarked_rows`"):
            build(model, dataset(mixture), processor, tmp_path)
