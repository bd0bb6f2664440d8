"""A teacher is asked as it was taught."""

import json
import shutil

import pytest
import yaml
from sft_helpers import build

from aurora_trl import AuroraModel


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        (
            {"targets": "class"},
            {},
            "was trained with `targets: class`, and would be asked with",
        ),
        (
            {"targets": "answer"},
            {"instruction": "{reference}?"},
            "with `instruction` '{reference}\\?', and",
        ),
        ({}, {"policy_frames": 3}, "with `policy_frames` 3, and the student has 2: train both with the same"),
        ({"targets": "answer"}, {}, None),
        ({"targets": "row"}, {"max_answer_tokens": 7}, None),
        (None, None, None),  # another library's
    ],
    ids=str,
)
def test_a_teacher_of_other_texts_or_frames(recipe, settings, message, checkpoint, cot_rows, processor, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "teacher")
    file = folder / "aurora_processor.json"
    if recipe is None:
        file.unlink()
    else:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    teacher = AuroraModel.from_pretrained(folder)
    arguments = (AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path / "run")
    if message is None:
        build(*arguments, teacher=teacher)
        return
    with pytest.raises(ValueError, match=message):
        build(*arguments, teacher=teacher)
    build(*arguments, teacher=teacher, distillation_loss_weight=0.0)  # it gives its decoder alone
