"""What comes back from an annotator, accepted or not, and what a correction says."""

import pytest

from aurora_trl.annotation.checks import MAX_CHARACTERS, clean_text, find_problem
from aurora_trl.annotation.instructions import FAILURE_KINDS
from aurora_trl.annotation.parsing import parse_correction, without_marks, word_edit_distance

ROW = {"id": "1", "reference": "the loudest", "class_name": "hand-bell", "is_null": False}
GOOD = "A man shakes a hand bell beside a drum. It rings out above the soft drum. So the target is the hand bell."


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("So the target is the hand bell.", "Therefore, the target is the Hand-Bell!"),
        "1) Video: A hand bell and a drum.\n2) Audio: The bell is louder.\n4) Answer: the target is the hand bell.",
        # The words alone are no refusal and no leak.
        GOOD.replace("A man", "The student"),
        "I cannot see who plays it, but a bell is heard. Its given pitch is high. So the target is the hand bell.",
    ],
)
def test_good_texts(text):
    assert find_problem(ROW, text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD.replace("the hand bell.", "the drum."), "names `drum`"),
        (GOOD.replace("So the target is the hand bell.", "It is the hand bell."), "does not say"),
        (GOOD + " It rings at the left.", "goes on after"),
        (GOOD.removesuffix("."), "no end"),
        ("So the target is the hand bell.", "no reasoning"),
        ("So the target is the hand bell. " + GOOD.replace("hand bell.", "drum."), "names `drum`"),
        ("The sound rings. " * 120 + GOOD, "characters"),
        (GOOD.replace("It rings", "Since the correct answer is known, it rings"), "correct answer"),
        (GOOD.replace("It rings", "As the given target fits, it rings"), "given target"),
        (GOOD.replace("It rings", "I was told that the target is loud. It rings"), "told that the target"),
        (GOOD.replace("It rings", "Following your instructions, it rings"), "instructions"),
        (GOOD.replace("It rings", "The student's text is wrong: it rings"), "student's text"),
        ("I'm sorry, but I can't help with that. " + GOOD, "refuses"),
        ("I cannot process audio, but I guess. " + GOOD, "refuses"),
        ("As an AI language model I have no ears. " + GOOD, "refuses"),
    ],
)
def test_bad_texts(text, problem):
    assert problem in find_problem(ROW, text)


@pytest.mark.parametrize("name", ["Ambulance (siren)", "Chirp, tweet", "St. Bernard", "mother's voice"])
def test_a_class_may_hold_what_ends_a_sentence(name):
    """Or every answer to such a row would be asked for again, and none be good."""
    row, text = {**ROW, "class_name": name}, GOOD.replace("hand bell.", f"{name}.")
    assert find_problem(row, clean_text(text)) is None
    assert "goes on after" in find_problem(row, f"{text} It rings.")
    assert "names `" in find_problem(row, GOOD)


def test_the_limit_is_the_papers():
    filler = "x" * (MAX_CHARACTERS - 2 - len(GOOD))
    assert find_problem(ROW, f"{filler} {GOOD}") is None
    assert "2000 characters" in find_problem(ROW, f"x{filler} {GOOD}")


def test_a_null_row_names_null():
    row = {**ROW, "class_name": "null", "is_null": True}
    assert find_problem(row, GOOD.replace("the hand bell.", "null.")) is None
    assert "names `hand bell`" in find_problem(row, GOOD)


def test_clean_text():
    raw = '```\nReasoning: **A bell** is   heard.\n\nSo the target is a "hand bell". It is [SEG].\n```'
    assert clean_text(raw) == "A bell is heard.\nSo the target is the hand bell."
    assert clean_text("So the target is “violin.”") == "So the target is violin."
    assert clean_text(GOOD) == GOOD


@pytest.mark.parametrize(
    "raw",
    [
        f"<think>\nSo the target is the drum.\n</think>\n\n{GOOD}",
        f"The user wants an example. So the target is the drum.\n</think>\n{GOOD}",
        f"<|channel|>analysis<|message|>We write.<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}<|return|>",
        f"Sure! Here's a worked example for the model:\n\n{GOOD}",
        f"Here is the text:\n{GOOD}",
        f"Certainly!\n\n### Reasoning\n\n{GOOD}",
        f"**Worked example:** {GOOD}",
        f"{GOOD}<|im_end|>",
        f"\ufeff{GOOD}".replace("hand bell.", "hand\u200b bell."),
    ],
)
def test_what_is_said_to_whoever_asked_is_not_learnt(raw):
    assert clean_text(raw) == GOOD


def test_a_text_that_begins_with_such_a_word_stays_whole():
    for text in (
        f"Okay, a bell is heard. {GOOD}",
        f"Here a bell rings: it is loud. {GOOD}",
        f"Sure enough: it rings. {GOOD}",
    ):
        assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"<think>I see a bell. {GOOD}", "it thinks, and comes to no answer"),
        (GOOD.replace("It rings", "In the <video> it rings"), "it holds `<video>`"),
        (GOOD.replace("It rings", "<|im_end|> It rings"), "it holds `<|im_end|>`"),
        (GOOD.replace(" It", "<br>It"), "it holds `<br>`"),
        (GOOD.replace(" It", "\n## Audio\nIt"), "it has a heading"),
    ],
)
def test_what_is_no_plain_text_is_asked_for_again(text, problem):
    """A token in an answer would be an error before training, when all has been paid for."""
    assert problem in find_problem(ROW, clean_text(text))
    assert find_problem(ROW, GOOD.replace("It rings", "Its pitch is < 2 kHz and > 1 kHz. It rings")) is None


WRONG = "VERDICT: wrong\nKIND: temporal\nMARKED: A [[late]] bell.\nCORRECTED: An [[early]] bell.\nSo [[ ]]it is."


def test_a_correction_is_parsed():
    correction = parse_correction(WRONG)
    assert (correction.right, correction.kind) == (False, "temporal")
    assert correction.marked == "A [[late]] bell."
    assert correction.text == "An early bell.\nSo it is."
    dressed = WRONG.replace("VERDICT:", "**Verdict:**").replace("KIND:", "- **Kind**:").replace("wrong", "**Wrong.**")
    assert parse_correction(f"Let me see.\n\n{dressed}") == correction
    assert parse_correction(f"```text\n{WRONG}\n```") == correction
    thoughts = "<think>VERDICT: wrong\nKIND: contradiction\nCORRECTED: A draft.\n</think>"
    assert parse_correction(f"{thoughts}\n{WRONG}<|im_end|>") == correction
    assert parse_correction(f"{thoughts}\nVERDICT: right").right
    with pytest.raises(ValueError, match="no text after `CORRECTED:`"):
        parse_correction(f"{thoughts}\nVERDICT: wrong\nKIND: temporal")
    single = parse_correction(WRONG.replace("[[", "[").replace("]]", "]") + " It is [SEG].")
    assert single.text == f"{correction.text} It is [SEG]."


@pytest.mark.parametrize("answer", ["right", " Right.\n", "VERDICT: right", "**VERDICT: right**", '"right"'])
def test_right_passes(answer):
    assert parse_correction(answer).right


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_kinds_are_known_in_several_spellings(kind):
    for spelling in (kind, kind.replace("_", " ").title(), f"{kind}: because", f"`{kind}`"):
        assert parse_correction(WRONG.replace("temporal", spelling)).kind == kind


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("It is right that the bell rings.", "no line `VERDICT"),
        (WRONG.replace("wrong", "perhaps"), "no line `VERDICT"),
        (WRONG.split("CORRECTED")[0], "no text after `CORRECTED:`"),
        (WRONG.replace("temporal", "a mistake"), "none of general_knowledge"),
    ],
)
def test_what_a_correction_lacks(answer, problem):
    with pytest.raises(ValueError, match=problem):
        parse_correction(answer)


def test_edit_distance():
    assert without_marks("a [[b]] [[]] c") == "a b c"
    assert word_edit_distance("a b c", "a b c") == 0
    assert word_edit_distance("the bell is loud", "the drum is very loud") == 2  # one replaced, one inserted
    assert word_edit_distance("", "a b") == 2
    assert word_edit_distance("kitten sat on it", "it sat") == 3
