"""Texts that models read and write."""

import pytest

from aurora_trl.prompts import (
    REFLECTION_TRIGGERS,
    build_prompt,
    cot_target,
    ends_with_answer,
    extract_class,
    reflective_target,
    strip_answer,
    teacher_target,
)

ROW = {"reference": "the loudest object", "class_name": "hand-bell", "audio": "a.wav", "is_null": False}


def test_prompt_has_a_place_per_modality():
    content = build_prompt(ROW)[0]["content"]
    assert [block["type"] for block in content] == ["video", "audio", "text"]
    assert content[-1]["text"].startswith("the loudest object. ")
    assert [block["type"] for block in build_prompt({**ROW, "audio": None})[0]["content"]] == ["video", "text"]


def test_targets():
    assert teacher_target(ROW) == "It is [SEG]."
    assert teacher_target(ROW, "class") == "So the target is the hand bell. It is [SEG]."
    null = {**ROW, "class_name": "null", "is_null": True}
    assert teacher_target(null, "class") == "So the target is null. It is [SEG]."
    assert cot_target(" I see a drum. ") == "I see a drum. It is [SEG]."


def test_reflective_target_has_one_answer():
    text = reflective_target(
        "So the target is the drum. It is [SEG].", REFLECTION_TRIGGERS[0], "So the target is the piano. It is [SEG]."
    )
    assert text.count("[SEG]") == 1
    assert ends_with_answer(text)
    assert extract_class(text) == "piano"
    assert text.index(REFLECTION_TRIGGERS[0]) > text.index("drum")


def test_strip_answer_leaves_the_reasoning():
    assert strip_answer("So the target is the drum. It is [SEG].") == "So the target is the drum."
    assert strip_answer("It is [SEG]. [SEG]") == ""


def test_a_class_target_needs_a_class():
    assert teacher_target({"class_name": None}) == "It is [SEG]."
    with pytest.raises(ValueError, match="need the class of every row"):
        teacher_target({"class_name": None}, "class")
