"""A teacher is asked as it was taught."""

import json
import shutil

import pytest
import yaml
from sft_helpers import SETTINGS, build

from aurora_trl import AuroraModel, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data.schema import as_dataset
from aurora_trl.errors import DataError


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


def test_a_teacher_that_heard_another_part_of_the_sound(checkpoint, cot_rows, processor, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "teacher")
    other = type(processor).from_pretrained(folder)
    other.policy_processor.audio_seconds = 3.0
    other.save_pretrained(folder)
    arguments = (AuroraModel.from_pretrained(checkpoint), cot_rows, processor, tmp_path / "run")
    with pytest.raises(ValueError, match=r"with `audio_seconds` 3.0, and the student has \d"):
        build(*arguments, teacher=AuroraModel.from_pretrained(folder))


@pytest.mark.parametrize("settings", [{"teacher_targets": "class"}, {"targets": "class"}], ids=str)
def test_a_row_without_a_class_is_named_before_training(settings, model, checkpoint, cot_rows, processor, tmp_path):
    """Also one that is only evaluated on; where the teacher gives no feature its text does not matter."""
    nameless = cot_rows.to_list()
    nameless[7]["class_name"] = None
    rows, teacher = as_dataset(nameless, "rows"), AuroraModel.from_pretrained(checkpoint)
    message = f"row '{rows[7]['id']}': it has no `class_name`, and .*`{next(iter(settings))}: class`"
    with pytest.raises(DataError, match=message):
        build(model, rows, processor, tmp_path, teacher=teacher, **settings)
    args = AuroraSFTConfig(str(tmp_path), **SETTINGS, **settings)
    with pytest.raises(DataError, match=message):
        AuroraSFTTrainer(model, args, None, cot_rows, rows, processor, teacher=teacher)
    build(model, cot_rows, processor, tmp_path, teacher=teacher, **settings)
    if "teacher_targets" in settings:
        build(model, rows, processor, tmp_path, teacher=teacher, distillation_loss_weight=0.0, **settings)
