"""Batches."""

import json

import pytest
import torch
from datasets import Dataset
from layouts import write_s4
from PIL import Image

from aurora_trl.data import DataError, load_avsbench, load_json
from aurora_trl.data.masks import NO_TARGET, has_target
from aurora_trl.data.schema import clip_key
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import AGAIN, RolloutCollator, SFTCollator, TeacherCollator
from aurora_trl.generation.group_sampler import ClipGroupSampler


def test_sft_batch(cot_rows, processor):
    rows = cot_rows.to_list()[:5]
    batch = SFTCollator(ClipLoader(processor))(rows)
    clips = len({clip_key(row) for row in rows})
    assert 1 < clips < 5
    assert batch["pixel_values_videos"].shape == (clips, 2, 3, 32, 32)  # the policy sees 2 of the 10
    assert batch["mask_frames"].shape == (clips, 10, 3, 32, 32)
    assert batch["masks"].shape == (5, 10, 32, 32)
    assert batch["masks"].dtype == torch.uint8
    tokenizer = processor.tokenizer
    for i, row in enumerate(rows):
        labels = batch["labels"][i]
        text = tokenizer.decode(labels[labels >= 0], skip_special_tokens=False)
        assert text == row["target"] + tokenizer.eos_token  # the answer alone, with its end of turn
        assert batch["input_ids"][i, batch["seg_positions"][i]] == processor.seg_token_id
        places = (batch["input_ids"][i] == processor.policy_processor.video_token_id).sum()
        assert places == 4
    assert torch.equal(batch["attention_mask"].bool(), batch["input_ids"] != tokenizer.pad_token_id)


def test_a_prefill_is_read_and_not_learnt(cot_rows, processor):
    """The ids are those of the whole answer; labels and `[SEG]` are the target's alone."""
    row = cot_rows[0]
    said = "I hear the drum. Therefore the target is the drum. It is [SEG]."
    collate = SFTCollator(ClipLoader(processor))
    batch = collate([{**row, "prefill": f"{said} ", "target": f"Wait. {row['target']}"}])
    whole = collate([{**row, "target": f"{said} Wait. {row['target']}"}])
    assert torch.equal(batch["input_ids"], whole["input_ids"])
    labels = batch["labels"][0]
    learnt = processor.tokenizer.decode(labels[labels >= 0])
    assert learnt == f" Wait. {row['target']}{processor.tokenizer.eos_token}"
    assert torch.equal(batch["seg_positions"], whole["seg_positions"])
    batch = collate([{**row, "prefill": said, "target": "Wait."}])
    assert batch["seg_positions"].tolist() == [-1]
    teacher = TeacherCollator(ClipLoader(processor))
    assert torch.equal(teacher([{**row, "prefill": said}])["input_ids"], teacher([row])["input_ids"])


def test_null_rows_have_empty_masks(rows, processor, world):
    from aurora_trl.data import load_refavs

    row = load_refavs(world, "test_n")[0]
    masks = ClipLoader(processor).masks(row)
    assert masks.shape == (10, 32, 32)
    assert not masks.any()
    full = next(row for row in rows if not row["is_null"])
    assert ClipLoader(processor).masks(full).any()


def test_equal_polygons_in_frames_of_another_size_are_other_masks(processor, tmp_path):
    """Also where masks are kept, which rows about one clip share."""
    masks, rows = [{"polygons": [[8, 8, 40, 8, 40, 40, 8, 40]]}], []
    for name, size in (("wide", (96, 48)), ("tall", (48, 96)), ("big", (400, 400))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
        rows.append(json.dumps({"id": name, "reference": "x", "frames": [f"{name}.png"], "masks": masks}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    read, kept = ClipLoader(processor), ClipLoader(processor, cache_clips=10)
    for row in load_json(tmp_path / "rows.jsonl"):
        assert torch.equal(kept.masks(row), read.masks(row))
        assert torch.equal(kept.object_masks(row), read.object_masks(row))
    assert kept.masks(row) is kept.masks(row)


def test_masks_of_another_size_than_their_frames_are_named(processor, tmp_path):
    """Also where nothing has checked the rows: a mask on its side would be stretched over the frame."""
    Image.new("RGB", (96, 48)).save(tmp_path / "wide.png")
    row = {"id": "1", "reference": "x", "frames": [str(tmp_path / "wide.png")]}
    for masks in (['{"size": [96, 48], "counts": [0, 4608]}'], ['[{"size": [96, 48], "counts": [0, 4608]}]']):
        with pytest.raises(DataError, match="row '1': its masks have 48x96 pixels, but the clip's frames have 96x48"):
            ClipLoader(processor).masks({**row, "masks": masks})
        assert (ClipLoader(processor).masks({**row, "is_null": True, "masks": masks})[0, :16] == 0).all()
    with pytest.raises(DataError, match="its masks have 48x96 pixels"):
        ClipLoader(processor.with_max_objects(2)).object_masks({**row, "masks": masks})


def test_teacher_reads_its_own_answer(cot_rows, processor):
    rows = cot_rows.to_list()[:2]
    for targets, length in (("answer", 5), ("class", 11)):
        batch = TeacherCollator(ClipLoader(processor), targets)(rows)
        assert "labels" not in batch
        ids = batch["input_ids"][0][batch["attention_mask"][0].bool()]
        text = processor.tokenizer.decode(ids[-length - 1 :])
        assert "It is [SEG]." in text
        assert ("target is" in text) == (targets == "class")


def test_rows_of_two_datasets_with_one_id_have_their_own_target(cot_rows, processor):
    first, second = [row for row in cot_rows if not row["is_null"]][:6:5]
    assert clip_key(first) != clip_key(second)
    loader = ClipLoader(processor)
    for row, read in zip(
        (first, second), RolloutCollator(loader)([first, {**second, "id": first["id"]}]), strict=True
    ):
        assert torch.equal(read["media"].masks, loader.masks(row))
        assert torch.equal(read["media"].clip["mask_frames"], loader.clip(row)["mask_frames"])


def test_rollout_rows_share_a_clips_tensors(cot_rows, processor):
    row = cot_rows[0]
    out = RolloutCollator(ClipLoader(processor))([row, row])
    assert out[0]["media"] is out[1]["media"]
    assert out[0]["prompt"][0]["role"] == "user"
    assert out[0]["media"].masks.shape == (10, 32, 32)
    (again,) = RolloutCollator(ClipLoader(processor))([{**row, AGAIN: True}])
    assert again == {**row, "prompt": out[0]["prompt"], "media": None}


def test_media_are_read_once_where_they_are_kept(cot_rows, processor):
    loader = ClipLoader(processor, cache_clips=100)
    assert loader.clip(cot_rows[0]) is loader.clip(cot_rows[0])
    plain = ClipLoader(processor)
    assert plain.clip(cot_rows[0]) is not plain.clip(cot_rows[0])


def test_clip_sampler_keeps_references_together(cot_rows):
    dataset = Dataset.from_list(cot_rows.to_list())
    sampler = ClipGroupSampler(dataset, seed=1)
    keys = [clip_key(row) for row in dataset]
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(len(dataset)))
        seen = [keys[i] for i in order]
        changes = sum(a != b for a, b in zip(seen, seen[1:], strict=False))
        assert changes == len(set(keys)) - 1
        orders.append(order)
    assert orders[0] != orders[1]
    again = ClipGroupSampler(dataset, seed=1)
    assert list(again) == orders[0]


def test_frames_without_annotation_and_past_the_end_have_no_target(processor, tmp_path):
    masks = ClipLoader(processor).masks(load_avsbench(write_s4(tmp_path), "s4", "train")[0])
    assert has_target(masks).tolist() == [True] + [False] * 9  # 5 frames of the model's 10, the first annotated
    assert set(masks[0].unique().tolist()) == {0, 1, NO_TARGET}  # the frame, and the padding of a square
    assert (masks[1:] == NO_TARGET).all()
    val = ClipLoader(processor).masks(load_avsbench(tmp_path, "s4", "val")[0])
    assert has_target(val).sum() == 5
