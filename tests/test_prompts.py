"""Texts that models read and write."""

import pytest

from aurora_trl.prompts import (
    NULL_ANSWER,
    REFLECTION_TRIGGERS,
    answer_sentence,
    build_prompt,
    cot_target,
    ends_with_answer,
    escape_tokens,
    extract_class,
    is_null_answer,
    normalize_class,
    reflective_target,
    says_nothing_fits,
    strip_answer,
    teacher_target,
    text_after_class,
)
from aurora_trl.training.rewards import class_reward

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


def test_several_objects():
    assert [answer_sentence(count) for count in (1, 2, 3)] == [
        "It is [SEG].",
        "It is [SEG] and [SEG].",
        "It is [SEG], [SEG] and [SEG].",
    ]
    assert teacher_target(ROW, "class", 2) == "So the target is the hand bell. It is [SEG] and [SEG]."
    for count in (1, 2, 3):
        text = f"So the target is the drum. {answer_sentence(count)}"
        assert [ends_with_answer(text, most) for most in (1, 2, 3)] == [count <= most for most in (1, 2, 3)]
        assert strip_answer(text) == "So the target is the drum."
    assert ends_with_answer("It is [SEG], [SEG], and [SEG]", 3)
    assert not ends_with_answer("It is [SEG] [SEG].", 3)
    assert not ends_with_answer("It is [SEG] and.", 3)
    text = reflective_target("A drum. It is [SEG] and [SEG].", "Wait.", "A bell. It is [SEG].", answer_sentence(2))
    assert text == "A drum. Wait. A bell. It is [SEG] and [SEG]."


NULL = "I see a drum. No object is red. So the target is null."


@pytest.mark.parametrize(
    ("text", "answers_null", "says_null"),
    [
        (f"{NULL} Nothing fits.", True, True),
        (f"{NULL}\nNothing fits", True, True),
        ("Nothing fits.", True, True),
        (f"{NULL} It is [SEG].", False, True),  # the paper's way: an empty mask
        (f"{NULL} It is [SEG]. Nothing fits.", False, True),
        ("I see a drum. So nothing fits.", False, False),
        ("Nothing fits. So the target is the drum. It is [SEG].", False, False),
        ("Nothing fits. I see.", False, False),
        ("", False, False),
    ],
)
def test_null_answers(text, answers_null, says_null):
    assert is_null_answer(text) is answers_null
    assert says_nothing_fits(text) is says_null


def test_a_null_target():
    target = cot_target(NULL, NULL_ANSWER)
    assert is_null_answer(target)
    assert strip_answer(target) == NULL


def test_a_class_target_needs_a_class():
    assert teacher_target({"class_name": None}) == "It is [SEG]."
    with pytest.raises(ValueError, match="need the class of every row"):
        teacher_target({"class_name": None}, "class")


@pytest.mark.parametrize(
    "said",
    [
        "So the target is the cello.",
        "the target is “cello”, since it sounds.",
        "the target is: cello.",
        "the target is **cello**",
        "**the target is** the cello.",
        "the **target** is the **cello**.",
        "The target is `the cello`, which",
        "the target is the 'cello' because it is loud.",
        "the target is «cello».",
        "the target is: “the cello”.",
        "the target is cello — it sounds",
        "the target is the cello (on the left).",
        "the target is the ‘cello’.",
        "the target is a cello.",
        "the target is an “cello”.",
    ],
)
def test_a_class_in_quotes_or_marks(said):
    assert extract_class(f"I hear it. {said} It is [SEG].") == "cello"


@pytest.mark.parametrize(
    ("true", "written"),
    [
        ("violin, fiddle", "the violin, fiddle"),
        ("car (automobile)", "Car (automobile)"),
        ("t.v.", "“t.v.”"),
        ("child's toy", "the child’s toy"),
        ("guitarra el\u00e9ctrica", "Guitarra el\u00e9ctrica"),
        ("guitarra ele\u0301ctrica", "guitarra el\u00e9ctrica"),
        ("drum", "drum, or so"),
    ],
)
def test_a_class_that_holds_a_mark_can_be_named(true, written):
    for text in (f"So the target is {written}. It is [SEG].", f"the target is {written}"):
        assert extract_class(text, true) == normalize_class(true)
        assert class_reward([""], [text], [true]) == [1.0]
    for other in ("violin", "violin, fiddle player", "car (toy)", "guitar"):
        assert class_reward([""], [f"the target is {other}."], [true]) == [0.0]


def names(text, name):
    return extract_class(text, name) == normalize_class(name)


NAMES = (
    "Ambulance (siren)",
    "Chirp, tweet",
    "St. Bernard",
    "mother’s voice",
    "rock-n-roll",
    "AC/DC",
    "T.V.",
    "a: c",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_hold_what_ends_other_names(name):
    """As AudioSet's do: what the class sentence says of a row is right about it, and about no other."""
    text = f"I hear it. {teacher_target({'class_name': name}, 'class')}"
    assert names(text, name)
    assert names(text.upper().replace("IT IS [SEG]", "It is [SEG]"), name)
    assert not any(names(text, other) for other in NAMES if other != name)
    assert not names(f"{text[:-14]} player. It is [SEG].", name)
    assert not names(f"I hear it. The target is the drum, and no {name}.", name)
    assert text_after_class(text, name) == ". It is [SEG]."


def test_an_apostrophe_is_part_of_a_name():
    text = "So the target is the man's guitar. It is [SEG]."
    assert extract_class(text) == "man's guitar"
    assert names(text, "man’s guitar")
    assert not names(text, "man")
    assert extract_class("the target is the 'man's guitar'.") == "man's guitar"


def test_escaped_tokens_are_words():
    tokens = ["<video>", "[SEG]", "<|im_end|>", "<", "<video"]
    assert escape_tokens("the <video> tag, [SEG] and <|im_end|> < 3", tokens) == (
        "the < video> tag, [ SEG] and < |im_end|> < 3"
    )
    assert escape_tokens("the red one", tokens) == "the red one"
