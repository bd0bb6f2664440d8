"""A prompt that is longer than the language model can read is an error, not nonsense."""

import pytest
import torch
from sft_helpers import build

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.generation.answers import answer_rows
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.positions import max_positions
from aurora_trl.models.shared_prefix import shares_prefix


def with_positions(checkpoint, positions):
    model = AuroraModel.from_pretrained(checkpoint).eval()
    model.config.get_text_config().max_position_embeddings = positions
    return model


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared prefix"])
def test_a_training_text_that_is_too_long(shared, checkpoint, cot_rows, processor):
    rows = cot_rows.to_list()[:3]
    batch = SFTCollator(ClipLoader(processor), share_prefix=shared, with_masks=False)(rows)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "masks")}
    places = batch["input_ids"].size(1)
    enough, few = (with_positions(checkpoint, number) for number in (places, places - 1))
    assert shares_prefix([enough, few], shared) == shared
    with torch.no_grad():
        enough(**inputs)
        with pytest.raises(ValueError, match=f"takes up to {places} positions, and VideoLlama2.* has {places - 1} "):
            few(**inputs)


def test_an_answer_that_could_be_too_long(checkpoint, cot_rows, processor):
    row = cot_rows[0]
    prompt = len(processor.prompt_ids(row, ClipLoader(processor).clip(row)))
    rows = [row, {**row, "id": "again"}]
    assert len(list(answer_rows(with_positions(checkpoint, prompt + 5), processor, rows, max_new_tokens=5))) == 2
    with pytest.raises(ValueError, match=f"takes up to {prompt + 6} positions.*take fewer frames"):
        list(answer_rows(with_positions(checkpoint, prompt + 5), processor, rows, max_new_tokens=6))
    with pytest.raises(ValueError, match="take fewer frames"):
        list(answer_rows(with_positions(checkpoint, prompt + 5), processor, rows, max_new_tokens=6, num_beams=2))


def test_places_that_share_a_position_count_once(qwen_checkpoints, cot_rows):
    """Qwen3-VL gives the places of a frame fewer positions than they are."""
    model = with_positions(qwen_checkpoints["qwen3"], 2048)
    processor = AuroraProcessor.from_pretrained(qwen_checkpoints["qwen3"])
    batch = SFTCollator(ClipLoader(processor), with_masks=False)(cot_rows.to_list()[:1])
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "masks")}
    media = model.media_of_rows(
        {n: v for n, v in inputs.items() if n in model.policy.media_inputs}, inputs["clip_index"]
    )
    needed = int(model.policy.position_ids(inputs["input_ids"], inputs["attention_mask"], **media).max()) + 1
    assert needed < inputs["input_ids"].size(1)
    with torch.no_grad():
        with_positions(qwen_checkpoints["qwen3"], needed)(**inputs)
        with pytest.raises(ValueError, match=f"takes up to {needed} positions"):
            with_positions(qwen_checkpoints["qwen3"], needed - 1)(**inputs)


def test_a_step_says_it(checkpoint, cot_rows, processor, tmp_path):
    with pytest.raises(ValueError, match="take fewer frames"):
        build(with_positions(checkpoint, 20), cot_rows, processor, tmp_path, max_steps=1).train()


def test_a_table_of_positions_ends_by_itself(checkpoint):
    model = AuroraModel.from_pretrained(checkpoint)
    assert max_positions(model.config) == 2048
    model.config.get_text_config().rope_parameters = None
    assert max_positions(model.config) is None
