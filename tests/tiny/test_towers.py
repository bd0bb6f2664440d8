"""The lesson that the demo's towers get before the first phase."""

import pytest
import torch

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.cli import main
from aurora_trl.data.synthetic.labels import IGNORED, place_labels, sound_labels
from aurora_trl.data.synthetic.scene import SEEN_CLASSES, SceneObject, Sound
from aurora_trl.tiny.towers import train_towers


def instrument(class_name, colour, x, y, sound=None, size="small", radius=0.11):
    return SceneObject(1, class_name, colour, size, radius, x, y, ((x, y),) * 10, sound)


def test_places_by_hand():
    """A 4 x 4 grid: centres at 0.125, 0.375, …; a radius of 0.11 reaches 0.125 + 0.055 from a centre."""
    objects = [instrument("drum", "green", x=0.375, y=0.125), instrument("harp", "red", x=0.75, y=0.875, size="large")]
    colour, name, size = place_labels(objects, side=4)
    assert colour.tolist() == [[0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]  # 0.75 is between two columns
    # A harp is never trained on: nothing is asked about its class.
    assert name.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, IGNORED, IGNORED]]
    assert (size[0, 1], size[3, 2]) == (1, 2)


def test_sounds_by_hand():
    sound = Sound("loud", "early", "steady", "long", 0.15, 0.1, 5.5, 2.0)
    objects = [instrument("piano", "red", 0.5, 0.5, sound), instrument("drum", "blue", 0.2, 0.2)]
    labels = sound_labels(objects)
    piano = SEEN_CLASSES.index("piano")
    assert labels[piano].tolist() == [1, 2, 0, 1, 2]  # loudness, onset, rhythm, duration
    assert labels[:, 0].sum() == 1
    assert (labels[torch.arange(len(labels)) != piano][:, 1:] == IGNORED).all()


def test_towers_and_connectors_learn_and_nothing_else(checkpoint, world):
    processor = AuroraProcessor.from_pretrained(checkpoint)
    model, before = (AuroraModel.from_pretrained(checkpoint) for _ in range(2))
    right = train_towers(model, processor, world, steps=40, seed=1)
    assert set(right) == {"colour", "class", "size", "heard", "loudness", "onset", "rhythm", "duration"}
    assert right["heard"] > 0.7
    taught = ("policy.model.vision_tower", "policy.model.audio_tower", "policy.model.mm_projector")
    changed = {
        name
        for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert all(name.startswith(taught) for name in changed)
    for prefix in taught:
        assert any(name.startswith(prefix) for name in changed)


def test_bad_worlds_and_steps(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["tiny-model", str(tmp_path / "new"), "--tower-steps", "0", "--world", str(tmp_path)])
    assert "--tower-steps: must be at least 1" in capsys.readouterr().err
    assert main(["tiny-model", str(tmp_path / "new"), "--tower-steps", "5"]) == 1
    assert "--tower-steps" in capsys.readouterr().err
    assert main(["tiny-model", str(tmp_path / "new"), "--world", str(tmp_path)]) == 1
    assert "no synthetic world" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
