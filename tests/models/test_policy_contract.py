"""What all policies share."""

import pytest
import torch

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
