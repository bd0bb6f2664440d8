"""Boxes and points in the text of an answer: what is read, what is not, and what is written."""

import pytest

from aurora_trl.box_text import WrittenBox, read_boxes, strip_boxes, write_boxes
from aurora_trl.prompts import box_instruction, box_target, strip_answer

ONE = '[{"bbox_2d": [8, 16, 40, 60], "point_2d": [20, 30], "label": "dog"}]'
BOX, POINT = (8.0, 16.0, 40.0, 60.0), (20.0, 30.0)


@pytest.mark.parametrize(
    "text",
    [
        ONE,
        f"It barks, so the target is the dog. {ONE}",
        f"```json\n{ONE}\n```",
        f"Of {{both}} and [these] one.\n```json\n[\n\t{ONE[1:-1]}\n]\n```\n",
        f"<think>It barks.</think><answer>{ONE}</answer>",
        ONE[1:-1],  # an entry that stands alone
        ONE.replace("8,", "8.0,").replace("}", ', "score": 0.9}'),
        f'First I took it for [{{"bbox_2d": [1, 2, 3, 4]}}]. Wait. {ONE}',
    ],
)
def test_one_object_is_read(text):
    assert read_boxes(text) == [(WrittenBox(BOX, POINT, "dog"),)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is [SEG].",
        "Nothing fits.",
        "[]",
        "[[1, 2, 3, 4]]",
        f"{ONE} That is it.",
        ONE[:-1],
        ONE[:-2],
        '[{"label": "dog"}]',
        '[{"bbox_2d": [8, 16, 40]}]',
        '[{"bbox_2d": [40, 16, 8, 60]}]',
        '[{"bbox_2d": [8, 16, 8, 60]}]',
        '[{"bbox_2d": [8, 16, 40, "60"]}]',
        '[{"bbox_2d": [8, 16, 40, true]}]',
        '[{"bbox_2d": [8, 16, 40, NaN]}]',
        '[{"bbox_2d": [8, 16, 40, Infinity]}]',
        '[{"bbox_2d": [8, 16, 40, 1e300]}]',
        '[{"bbox_2d": [8, 16, 40, ' + "9" * 5000 + "]}]",
        '[{"point_2d": [8]}]',
        '[{"bbox_2d": {"x": 1}}]',
        '[{"frame": 3, "bbox_2d": [8, 16, 40, 60]}]',
        '[{"frame": -1, "bbox_2d": [8, 16, 40, 60]}]',
        '[{"frame": true, "bbox_2d": [8, 16, 40, 60]}]',
        '[{"frame": 1.0, "bbox_2d": [8, 16, 40, 60]}]',
        "[" * 100_000 + "]",
        '[{"a":' * 2_000 + "]",
        f"[{ONE[1:-1]}, {ONE[1:-1]}]",  # two objects, where one is asked for
        f"[{ONE[1:-1]}, 3]",
    ],
)
def test_what_is_not_well_formed_is_not_read(text):
    assert read_boxes(text, num_frames=3) is None


def entry(frame=None, label="dog", box="[8, 16, 40, 60]"):
    named = "" if frame is None else f'"frame": {frame}, '
    return f'{{{named}"bbox_2d": {box}, "label": "{label}"}}'


@pytest.mark.parametrize(
    ("entries", "frames"),
    [
        ([entry(2), entry(0)], [(2, 0)]),  # one dog, twice
        ([entry(2), entry(2)], [(2,), (2,)]),  # two dogs
        ([entry(2), entry(2), entry(4), entry(4)], [(2, 4), (2, 4)]),
        ([entry(2), entry(4, "cat")], [(2,), (4,)]),
        ([entry(), entry()], [(None,), (None,)]),
        ([entry(), entry(3)], [(None,), (3,)]),
        ([entry(1), '{"frame": 2, "point_2d": [1, 2], "label": "dog"}'], [(1,), (2,)]),  # another kind of place
    ],
)
def test_which_entries_are_one_object(entries, frames):
    objects = read_boxes(f"[{', '.join(entries)}]", num_frames=5, max_objects=2)
    assert [tuple(one.frame for one in entries) for entries in objects] == frames


def test_what_is_written_is_read_again():
    entries = [WrittenBox((7.6, 16.2, 40.0, 60.4), POINT, "dog", 3), WrittenBox(None, (1.0, 2.0), "cat")]
    text = write_boxes(entries)
    assert text == (
        '[{"frame": 3, "bbox_2d": [8, 16, 40, 60], "point_2d": [20, 30], "label": "dog"}, '
        '{"point_2d": [1, 2], "label": "cat"}]'
    )
    objects = read_boxes(text, 4, 2)
    assert objects == [(WrittenBox(BOX, POINT, "dog", 3),), (WrittenBox(None, (1.0, 2.0), "cat"),)]


def test_answers_without_their_boxes():
    assert strip_boxes(f"It barks. {ONE}") == "It barks."
    assert strip_boxes(f"It barks.\n```json\n{ONE}\n```") == "It barks."
    assert strip_boxes("It barks. [SEG]") == "It barks. [SEG]"
    assert strip_answer(f"It barks. {ONE}") == strip_answer("It barks. It is [SEG].") == "It barks."
    assert box_target("It barks. It is [SEG].", ONE) == f"It barks. {ONE}"
    assert box_target("It is [SEG].", "Nothing fits.") == "Nothing fits."


def test_what_is_asked():
    for num_frames, frame in ((1, ""), (10, '"frame": n, ')):
        asked = box_instruction(num_frames).format(reference="The dog.")
        assert asked.startswith("The dog. Which object is it?")
        assert f'[{{{frame}"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y], "label": "name"}}]' in asked
        assert ("from 0 to 9" in asked) == (num_frames == 10)
