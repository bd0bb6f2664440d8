"""What all policies share."""

import re

import pytest
import torch
from conftest import REPOSITORY
from transformers import Qwen2Config

from aurora_trl import AuroraConfig, AuroraModel
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.models.policies.base import place_features, stack_media, text_position_ids


def test_clips_of_different_sizes_are_padded():
    clips = [
        {"a": torch.ones(2, 3), "size": torch.tensor(2)},
        {"a": torch.ones(4, 1), "size": torch.tensor(4), "sound": torch.ones(5)},
    ]
    stacked = stack_media(clips)
    assert stacked["a"].shape == (2, 4, 3)
    assert stacked["a"].sum(dim=(1, 2)).tolist() == [6, 4]
    assert stacked["a"][1, :, 0].tolist() == [1, 1, 1, 1]
    assert stacked["size"].tolist() == [2, 4]
    assert stacked["size"].dtype == torch.long
    assert stacked["sound"].tolist() == [[0] * 5, [1] * 5]


def test_features_take_their_places():
    embeds, features = torch.zeros(3, 4, 1), torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])[..., None]
    places = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    placed = place_features(embeds, places, features, torch.tensor([2, 2, 3]), "video")
    assert placed[..., 0].tolist() == [[0, 1, 2, 0], [0, 0, 0, 0], [7, 8, 9, 0]]
    with pytest.raises(ValueError, match=r"\[2, 0, 3\] <video> places do not fit"):
        place_features(embeds, places, features, torch.tensor([3, 2, 3]), "video")


def test_text_positions_leave_padding_out():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    positions = text_position_ids(torch.zeros(2, 4, dtype=torch.long), mask)
    assert positions[0, 2:].tolist() == [0, 1]
    assert positions[1, :3].tolist() == [0, 1, 2]


def test_a_model_that_is_no_policy_is_named():
    config = AuroraConfig(Qwen2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16))
    with pytest.raises(ValueError, match="Qwen2ForCausalLM is not a policy: it has no .*`media_inputs`"):
        AuroraModel(config)


@torch.no_grad()
def test_positions_are_those_of_a_plain_forward(model, cot_rows, processor):
    """For VideoLLaMA2 counting the tokens is what its language model does by itself."""
    model.eval()
    batch = SFTCollator(ClipLoader(processor))(cot_rows.to_list()[:2])
    names = ("input_ids", "attention_mask", "clip_index", *model.policy.media_inputs)
    inputs = {name: batch[name] for name in names if name in batch}
    positions = model.policy.position_ids(inputs["input_ids"], inputs["attention_mask"])
    mask = inputs["attention_mask"].bool()
    plain, given = model(**inputs).logits, model(**inputs, position_ids=positions).logits
    torch.testing.assert_close(given[mask], plain[mask], atol=1e-5, rtol=1e-5)


SHARED = (
    "generation/answers.py",
    "generation/clip_loader.py",
    "generation/collators.py",
    "models/modeling_aurora.py",
    "models/processing_aurora.py",
    "models/shared_prefix.py",
    "training/clip_forwards.py",
    "training/grpo_trainer.py",
    "training/lora.py",
    "training/mask_losses.py",
    "training/sft_trainer.py",
)


@pytest.mark.parametrize("name", SHARED)
def test_what_all_policies_share_knows_none(name):
    """No question after the model's type, and no policy's own inputs."""
    text = (REPOSITORY / "aurora_trl" / name).read_text()
    pattern = r"model_type|VideoLlama2|[Qq]wen|pixel_(?!mean|std)\w+|audio_values|_grid\b"
    assert not re.findall(pattern, text)
